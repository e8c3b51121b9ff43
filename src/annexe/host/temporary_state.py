"""State of a host that is there for one test or trial: nothing of it stays.

* The private folders of its plugins go, too. A root host keeps them elsewhere, since users of plugins cannot pass a state directory.
* What stays when the process is killed is a folder with a name that is not used again.

Source: docs/reference/testing.md; docs/reference/state.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annexe.host.state_dir import default_data_dir
from annexe.launch.removal import remove_tree

__all__ = ["removing_data_of", "temporary_state"]


@contextmanager
def temporary_state(prefix: str) -> Iterator[Path]:
    """Give a state directory that is removed after the block, in which hosts are opened and closed.

    Args:
        prefix: Of its name.

    Raises:
        OSError: It cannot be made, or something in it cannot be removed.
    """
    with tempfile.TemporaryDirectory(prefix=prefix) as state, removing_data_of(Path(state)):
        yield Path(state)


@contextmanager
def removing_data_of(state_dir: Path) -> Iterator[None]:
    """Remove, after the block, the private folders of plugins of a host that keeps them where it does when nobody says otherwise.

    Args:
        state_dir: That host's, written as it is told.

    Raises:
        OSError: Something in them cannot be removed.
    """
    try:
        yield
    finally:
        remove_tree(default_data_dir(state_dir))
