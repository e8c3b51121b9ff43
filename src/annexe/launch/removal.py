"""Remove a folder that a plugin could write to.

Its content is hostile: symbolic links to elsewhere, folders nested deeper than paths or Python's recursion can go, folders without any
permission. Nothing is followed, and depth costs neither recursion nor path length: each folder is moved up to the top and given a name of
ours before it is emptied. So nothing that is mounted there is emptied either, since a mount point cannot be moved. What goes, comes or
turns into something else meanwhile is looked at again.

Blocking, and meant for folders whose plugin is gone.

Source: docs/adr/0074-data-folders.md.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import final

from annexe.launch.plugin_tree import open_folder

__all__ = ["remove_tree"]

_AT_ONCE = 10_000  # names held in memory: there may be millions
# Something else than it was a moment ago: EPERM is what macOS says of a folder that is unlinked.
_CHANGED = frozenset({errno.EISDIR, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EEXIST})
_MAX_CHANGES = 1000


def remove_tree(folder: Path) -> None:
    """Remove ``folder`` and all in it; a folder that is not there is fine.

    Raises:
        OSError: Something in it cannot be removed; the rest may be gone.
    """
    try:
        parent = os.open(folder.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        top = open_folder(folder.name, parent=parent)
        try:
            _Removal(top).run(lambda: os.rmdir(folder.name, dir_fd=parent))
        finally:
            os.close(top)
    except FileNotFoundError:  # of the folder itself: somebody else has removed it
        return
    finally:
        os.close(parent)


@final
class _Removal:
    """Removes what is in one folder, then the folder itself."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._prefix = f".annexe-{secrets.token_hex(8)}-"  # what is in there cannot have this name
        self._moved = 0
        self._changes = 0

    def run(self, remove_top: Callable[[], None]) -> None:
        while True:
            self._empty(self._top)
            try:
                remove_top()
            except OSError as error:
                self._note_change(error)
            else:
                return

    def _empty(self, folder: int) -> None:
        while entries := _some(folder):
            for entry in entries:
                try:
                    self._remove(entry, folder)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._note_change(error)

    def _note_change(self, error: OSError) -> None:
        """Have it looked at again, if it failed for having changed; not for ever."""
        self._changes += 1
        if error.errno not in _CHANGED or self._changes > _MAX_CHANGES:
            raise error

    def _remove(self, entry: os.DirEntry[str], parent: int) -> None:
        """Remove a file, lift a folder to the top, or empty one that was lifted and remove it."""
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=parent)
        elif not entry.name.startswith(self._prefix):
            os.close(open_folder(entry.name, parent=parent))  # a folder that is moved must itself be writable
            self._moved += 1
            os.rename(entry.name, f"{self._prefix}{self._moved}", src_dir_fd=parent, dst_dir_fd=self._top)
        else:
            child = open_folder(entry.name, parent=parent)
            try:
                self._empty(child)
            finally:
                os.close(child)
            os.rmdir(entry.name, dir_fd=parent)


def _some(folder: int) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(islice(entries, _AT_ONCE))
