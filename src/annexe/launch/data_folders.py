"""Private folders in which plugins keep files beyond their life.

What is in such a folder is hostile, and the host looks through it while the plugin writes to it. Blocking.

Invariants:

* A folder is its plugin's alone (mode 0700) and lies where only the host can rename it.
* A root host gives it to the user of each launch, and gives away nothing but what was a plugin's before: a hard link to a file of root's is
  left as it is. Owner and change go through one descriptor, so that no exchange of names lies between.
* What a plugin writes is bounded by the kernel where ``bound`` says so. Elsewhere ``usage`` tells, and whoever asked acts.

Source: features IS3, HS5; docs/adr/0074-data-folders.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from annexe.errors import LaunchError, UnsupportedPlatformError
from annexe.ids import is_plugin_id
from annexe.launch.folders import owned_folder
from annexe.launch.plugin_tree import TreeWalk, open_folder
from annexe.launch.project_quota import ProjectQuota, QuotaCalls, try_project_quota
from annexe.launch.removal import remove_tree

__all__ = ["MAX_DATA_ENTRIES", "DataFolders", "DataUsage"]

MAX_DATA_ENTRIES = 20_000
"""How many files and folders a plugin may keep, whatever its quota of bytes."""

_logger = logging.getLogger(__name__)

_MAX_COUNTED = 100_000
_MAX_GIVEN = 1_000_000
_ATTEMPTS = 3
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are
_AT_EMPTY_PATH = 0x1000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataUsage:
    """What a plugin keeps in its folder.

    A file that was removed but is still open takes room as well and is not seen.

    Attributes:
        allocated_bytes: On the disk; a file with several names once. This is what a quota counts.
        apparent_bytes: As its files claim; holes count.
        entries: Files, folders and whatever else.
        is_partial: There is more: too many entries, or things moved while they were counted.
    """

    allocated_bytes: int = 0
    apparent_bytes: int = 0
    entries: int = 0
    is_partial: bool = False


@final
class DataFolders:
    """The data folders of one host.

    Args:
        parent: Folder that holds them; made if missing, refused unless it is the host's alone. Users of plugins must be able to pass the
            folders above it.
        plugin_uids: The users that plugins of this machine get, when the host is root.
        quotas: The kernel that is asked to keep quotas; this machine's when left out.
    """

    def __init__(self, parent: Path, *, plugin_uids: range = range(0), quotas: QuotaCalls | None = None) -> None:
        self._parent = parent
        self._plugin_uids = plugin_uids
        self._quotas = quotas

    def folder_of(self, plugin: str) -> Path:
        """Return where a plugin's folder is, or would be.

        Raises:
            ValueError: That is no plugin id.
        """
        if not is_plugin_id(plugin):
            raise ValueError(f"expected a plugin id, got {plugin!r}")
        return self._parent / plugin

    def ensure(self, plugin: str, *, uid: int | None = None) -> Path:
        """Return a plugin's folder, made if missing, and given to the user it will run as.

        Called before a launch, when what the plugin ran as before has ended.

        Args:
            plugin: Its id.
            uid: The user of the coming launch, when the host is root; None: the host's own.

        Raises:
            LaunchError: The folder, or its parent, is not the host's to use, or cannot be given to that user.
            UnsupportedPlatformError: This system cannot change owners without following links.
        """
        path = self.folder_of(plugin)
        parent = owned_folder(self._parent, mode=0o700 if uid is None else 0o711)
        try:
            if uid is not None:
                parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o011)  # made by a host that was not root then
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            with _opened(path) as top:
                os.fchmod(top, 0o700)
                if uid is not None:
                    self._give(top, uid, plugin=plugin)
        except OSError as error:
            raise LaunchError(
                f"plugin {plugin!r} cannot have its data folder {path}: {error}; it must be a folder that uid {os.geteuid()} owns or, "
                "as root, may give away.",
                plugin=plugin,
                path=str(path),
            ) from error
        return path

    def bound(self, plugin: str, *, max_bytes: int) -> ProjectQuota:
        """Have the kernel bound what a plugin keeps, where it can; takes microseconds, and the same again changes nothing.

        Called after ``ensure``.

        Args:
            plugin: Its id.
            max_bytes: What all in its folder may take on the disk.

        Returns:
            Whether it does, and why or why not.
        """
        return try_project_quota(self.folder_of(plugin), max_bytes=max_bytes, max_entries=MAX_DATA_ENTRIES, calls=self._quotas)

    def usage(self, plugin: str, *, max_entries: int = _MAX_COUNTED) -> DataUsage:
        """Count what a plugin keeps, while it runs or not; 100,000 entries take about half a second.

        Args:
            plugin: Its id.
            max_entries: Count no more than this.

        Raises:
            OSError: The folder is there but is no folder, or not ours.
        """
        try:
            with _opened(self.folder_of(plugin)) as top:
                return _count(top, max_entries)
        except FileNotFoundError:
            return DataUsage()

    def remove(self, plugin: str) -> None:
        """Remove a plugin's folder and all in it; the plugin must have ended.

        Raises:
            OSError: Something in it cannot be removed; the rest may be gone.
        """
        remove_tree(self.folder_of(plugin))

    def _give(self, top: int, uid: int, *, plugin: str) -> None:
        before = os.fstat(top).st_uid
        for _ in range(_ATTEMPTS):
            walk = TreeWalk(top, max_entries=_MAX_GIVEN)
            kept = sum(not self._give_one(here, entry.name, before=before, uid=uid) for here, entry in walk)
            if not walk.is_partial:
                break
        else:
            raise OSError(errno.EAGAIN, f"it holds more than {_MAX_GIVEN} entries, or somebody still changes it")
        if kept:
            _logger.warning("in the data folder of plugin %r, %d things are somebody else's and were not given to it", plugin, kept)
        # Last, so that after a crash it still tells whose the rest was.
        os.fchown(top, uid, uid)

    def _give_one(self, here: int, name: str, *, before: int, uid: int) -> bool:
        """Give away one thing if it was a plugin's; say whether it was, or has gone."""
        if not hasattr(os, "O_PATH"):
            raise UnsupportedPlatformError("expected Linux: owners cannot be changed here without following links.")
        try:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        except FileNotFoundError:
            return True
        try:
            found = os.fstat(handle)
            if (found.st_uid, found.st_gid) == (uid, uid):
                return True
            if not self._was_a_plugins(found, before):
                return False
            _change_owner(handle, uid)
        finally:
            os.close(handle)
        return True

    def _was_a_plugins(self, found: os.stat_result, before: int) -> bool:
        """Say whether a plugin made it. Where the kernel lets it, it has given further names to what it did not make."""
        if found.st_uid in self._plugin_uids and found.st_uid == before:
            return True
        # Half given when a host died; or the folder of a host that was not root, whose user has other files than these.
        is_known = found.st_uid in self._plugin_uids or found.st_uid == before
        return is_known and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    parent = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_folder(path.name, parent=parent)
    finally:
        os.close(parent)
    try:
        yield fd
    finally:
        os.close(fd)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _change_owner(handle: int, uid: int) -> None:
    """Change the owner of what a handle (``O_PATH``) stands for; the kernel takes away set-user-id and file capabilities."""
    if _libc().fchownat(handle, b"", uid, uid, _AT_EMPTY_PATH) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _count(top: int, max_entries: int) -> DataUsage:
    walk = TreeWalk(top, max_entries=max_entries)
    allocated = apparent = entries = 0
    seen: set[int] = set()
    for _, entry in walk:
        entries += 1
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if found.st_ino in seen:
                continue
            seen.add(found.st_ino)
        allocated += found.st_blocks * _BLOCK_BYTES
        apparent += found.st_size
    return DataUsage(allocated_bytes=allocated, apparent_bytes=apparent, entries=entries, is_partial=walk.is_partial)
