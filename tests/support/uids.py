"""Users for plugins that no other test run on this machine gives out meanwhile.

Two that gave out the same ones, each by a table of its own, would hunt down each other's plugins. Files with ranges of their own:
``test_uids.py``, ``loaded_host.py``, ``test_careless_processes.py``.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_BLOCKS = [range(first, first + 100) for first in range(63200, 64100, 100)]  # below those of real hosts
_FOLDER = Path("/run/lock")
_claims: list[int] = []  # descriptors, open for as long as this process lives


def claim_uids() -> range:
    """Return a block that is this process's until it ends.

    Raises:
        OSError: All are taken.
    """
    if os.geteuid() != 0:
        return _BLOCKS[0]  # none is given out
    _FOLDER.mkdir(exist_ok=True)
    for block in _BLOCKS:
        lock = os.open(_FOLDER / f"annexe-tests-{block.start}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            _claims.append(lock)
            return block
    raise OSError(f"{len(_BLOCKS)} test runs go on at once, and there are no users for one more")
