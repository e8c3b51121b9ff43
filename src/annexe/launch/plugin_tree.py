"""Walk a folder that a plugin can write to, perhaps while it does.

Invariants:

* No link is followed and no other file system entered.
* Depth costs neither recursion nor path length nor descriptors: no more than two folders are open at a time, and the way back (``..``)
  counts only if it leads to where the walk came from. Whoever moves folders about meanwhile can end the walk, not lead it elsewhere.
* It ends: after so many entries it is given up, and says so.
* A folder that its owner closed is opened: it would hide what is in it.

Blocking.

Source: docs/adr/0074-data-folders.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

__all__ = ["TreeWalk", "open_folder"]

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def open_folder(name: str, *, parent: int) -> int:
    """Open a folder in another, following no link; one that gives its owner no right is given them all first.

    Args:
        name: Its name in ``parent``.
        parent: Descriptor of the folder it is in.

    Raises:
        OSError: It is a link or no folder, has gone, or is not ours to open.
    """
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _unlock(name, parent)
        fd = os.open(name, _FOLDER, dir_fd=parent)
    found = os.fstat(fd)
    if found.st_mode & 0o700 != 0o700 and found.st_uid == os.geteuid():
        os.fchmod(fd, found.st_mode & 0o777 | 0o700)
    return fd


def _unlock(name: str, parent: int) -> None:
    if not hasattr(os, "O_PATH"):
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return
    # By a handle: Linux has no chmod that follows no link, and the name may be one by now.
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - a descriptor, not a path
    finally:
        os.close(handle)


@final
@dataclass(slots=True)
class _Level:
    """A folder on the way down, and which of the folders in it are still to be walked."""

    identity: tuple[int, int]
    folders: list[str] = field(default_factory=list)


@final
class TreeWalk:
    """One walk; iterate over it once.

    Yields descriptor and entry: the folder that is open, and one thing in it. The descriptor is good until the next step.

    Args:
        top: Descriptor of the folder; stays open.
        max_entries: After so many it is given up.
    """

    def __init__(self, top: int, *, max_entries: int) -> None:
        self._top = top
        self._left = max_entries
        self._is_full = False
        self._is_partial = False

    @property
    def is_partial(self) -> bool:
        """Whether something was not seen: too many entries, folders that went or moved meanwhile or are not ours to open."""
        return self._is_partial

    def __iter__(self) -> Iterator[tuple[int, os.DirEntry[str]]]:
        here = os.open(".", _FOLDER, dir_fd=self._top)
        try:
            device = os.fstat(here).st_dev
            levels = [_Level(_identity(here))]
            yield from self._listed(here, levels[0])
            while levels and not self._is_full:
                if levels[-1].folders:
                    below = self._below(here, levels[-1].folders.pop(), device)
                    if below is not None:
                        os.close(here)
                        here = below
                        levels.append(_Level(_identity(here)))
                        yield from self._listed(here, levels[-1])
                    continue
                levels.pop()
                above = self._above(here, levels[-1]) if levels else None
                if above is None:
                    return
                os.close(here)
                here = above
        finally:
            os.close(here)

    def _listed(self, here: int, level: _Level) -> Iterator[tuple[int, os.DirEntry[str]]]:
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if self._left <= 0:
                        self._is_full = self._is_partial = True
                        return
                    self._left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        level.folders.append(entry.name)
                    yield here, entry
        except OSError:  # a folder that was removed while it was listed
            self._is_partial = True

    def _below(self, here: int, name: str, device: int) -> int | None:
        try:
            fd = open_folder(name, parent=here)
        except OSError:
            self._is_partial = True
            return None
        if os.fstat(fd).st_dev == device:
            return fd
        os.close(fd)
        return None

    def _above(self, here: int, level: _Level) -> int | None:
        try:
            fd = os.open("..", _FOLDER, dir_fd=here)
        except OSError:
            self._is_partial = True
            return None
        if _identity(fd) == level.identity:
            return fd
        os.close(fd)
        self._is_partial = True
        return None


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
