"""The warden: one small process beside a host, which ends the host's plugins when the host is killed.

The kernel ends each plugin's main process together with the host, but not the children that a plugin forked. The next host would sweep
them away; the warden does so at once, by the same records.

Blocking; used on the spawner's thread.

Source: feature LC8; docs/adr/0060-a-warden-outlives-the-host.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import final

from annexe.launch import warden_main
from annexe.launch.uids import UidAllocator

__all__ = ["Warden"]


@final
class Warden:
    """A running warden.

    Args:
        records: Folder of the launch records.
        uids: The allocator of a root host.
    """

    def __init__(self, records: Path, uids: UidAllocator | None) -> None:
        users = ("", "0", "0") if uids is None else (str(uids.folder), str(uids.uids.start), str(uids.uids.stop - 1))
        # A session of its own: what is sent to the host's terminal or group is not for it.
        self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", warden_main.__file__, str(os.getpid()), str(records), *users, *filter(None, sys.path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env={}, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether somebody killed it."""
        return self._child.poll() is not None

    def close(self) -> None:
        """End it; the host has cleared everything away itself."""
        self._child.kill()
        self._child.wait()
