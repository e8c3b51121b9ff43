"""Open what lies in a folder that a plugin can write to.

A name in such a folder may be anything, and something else a moment later: a link to the host's secrets, a pipe that nobody ever writes
to, a device, a sparse file of terabytes, a second name of a file of somebody else's, a file that the plugin holds a lease on. The host
opens nothing there but through this module.

Invariants:

* No link is followed, neither at the end of the path nor in its middle, and what is opened lies beneath the folder: the kernel is asked
  for that (``openat2``); where it cannot do so, each component is opened by itself.
* Opening never waits (``O_NONBLOCK``), also not for a lease that the plugin holds.
* What was opened is judged by its descriptor, never by its name, so that no exchange of names lies between.
* Nothing is created and nothing cut off: both would happen before the judgement.

Source: docs/adr/0074-data-folders.md; ``man 2 openat2``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annexe.errors import SandboxError, UnsupportedPlatformError

__all__ = ["open_beneath", "read_beneath"]

_SYS_OPENAT2 = 437  # on every processor but Alpha
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
# An old kernel; a container's filter, which may answer either way.
_CANNOT = frozenset({errno.ENOSYS, errno.EPERM})

_REASONS = {
    errno.ENOENT: "missing",
    errno.ELOOP: "link",
    errno.EXDEV: "outside",
    errno.ENOTDIR: "not-a-folder",
    errno.EISDIR: "not-a-file",
    errno.ENXIO: "not-a-file",  # a socket, or a pipe that nobody reads
    errno.EAGAIN: "held",  # a lease
    errno.EACCES: "closed",
    errno.EPERM: "closed",
    errno.ENAMETOOLONG: "name-too-long",
}


def open_beneath(
    folder: int | Path,
    relative: str,
    *,
    flags: int = os.O_RDONLY,
    directory: bool = False,
    max_bytes: int | None = None,
    owner: int | None = None,
    by_components: bool = False,
) -> int:
    """Open a regular file, or a folder, beneath a folder.

    Args:
        folder: Descriptor of the folder, which stays open, or its path, which must not be a link itself.
        relative: Path beneath it, with ``/``; no part of it may be ``..``.
        flags: How: one of ``O_RDONLY``, ``O_WRONLY``, ``O_RDWR``, and ``O_APPEND``.
        directory: Expect a folder instead of a file.
        max_bytes: Refuse a file that is longer. It may grow afterwards: read no more than this.
        owner: Refuse what belongs to another user. A plugin that may make hard links can put any file of its file system there.
        by_components: Do without ``openat2``.

    Returns:
        A descriptor that is closed on exec; the caller closes it.

    Raises:
        SandboxError: It is refused or cannot be opened. Attribute ``reason``: ``missing``, ``link``, ``outside``, ``not-a-folder``,
            ``not-a-file``, ``too-big``, ``other-owner``, ``held``, ``closed``, ``name-too-long`` or ``failed``; and ``path``.
        UnsupportedPlatformError: This system cannot open without following links.
        ValueError: ``flags`` has more in it.
    """
    if flags & ~(os.O_ACCMODE | getattr(os, "O_APPEND", 0)):
        raise ValueError(f"expected an access mode and O_APPEND, got {flags:#x}: nothing may be created or cut off before it is judged")
    if not hasattr(os, "O_NOFOLLOW"):
        raise UnsupportedPlatformError(f"{sys.platform} cannot open {relative!r} without following links.", path=relative)
    parts = _parts(relative)
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (os.O_DIRECTORY if directory else 0)
    try:
        with _opened(folder) as top:
            fd = None if by_components else _openat2(top, "/".join(parts), flags)
            fd = _walk(top, parts, flags) if fd is None else fd
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, "failed")
        raise _refusal(relative, reason, f"it cannot be opened safely: {error.strerror}") from error
    try:
        _judge(os.fstat(fd), relative, directory=directory, max_bytes=max_bytes, owner=owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_beneath(folder: int | Path, relative: str, *, max_bytes: int, owner: int | None = None) -> bytes:
    """Return what a regular file beneath a folder holds.

    Args:
        folder: As for ``open_beneath``.
        relative: As for ``open_beneath``.
        max_bytes: Refuse a file that is longer, also one that grows while it is read.
        owner: As for ``open_beneath``.

    Raises:
        SandboxError: As ``open_beneath``.
        UnsupportedPlatformError: As ``open_beneath``.
    """
    with os.fdopen(open_beneath(folder, relative, max_bytes=max_bytes, owner=owner), "rb", buffering=0) as reader:
        content = bytearray()
        while len(content) <= max_bytes and (chunk := reader.read(max_bytes + 1 - len(content))):
            content += chunk
    if len(content) > max_bytes:
        raise _refusal(relative, "too-big", f"expected at most {max_bytes} bytes, and it grew while it was read", limit_bytes=max_bytes)
    return bytes(content)


def _refusal(relative: str, reason: str, text: str, **data: Any) -> SandboxError:
    shown = relative.encode(errors="backslashreplace").decode()[:256]
    return SandboxError(f"{shown!r} in a plugin's folder is refused: {text}.", path=shown, reason=reason, **data)


def _parts(relative: str) -> list[str]:
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if relative.startswith("/") or ".." in parts or "\0" in relative or not parts:
        raise _refusal(relative, "outside", "expected a path beneath the folder")
    return parts


@contextlib.contextmanager
def _opened(folder: int | Path) -> Iterator[int]:
    if isinstance(folder, int):
        yield folder
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _openat2(top: int, path: str, flags: int) -> int | None:
    """Ask the kernel; None where it, or a filter before it, does not know the call."""
    import ctypes

    if sys.platform != "linux":
        return None
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    while True:
        fd: int = _libc().syscall(ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(top), os.fsencode(path), how, ctypes.c_size_t(len(how)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code in _CANNOT:
            return None
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def _walk(top: int, parts: list[str], flags: int) -> int:
    """Open each component by itself. A folder that is moved away meanwhile is still the plugin's own."""
    here = os.dup(top)
    try:
        for name in parts[:-1]:
            # Without O_DIRECTORY, which would call a link "not a folder".
            below = os.open(name, getattr(os, "O_PATH", os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
            _require_folder(os.fstat(here).st_mode, name)
        if flags & os.O_DIRECTORY and stat.S_ISLNK(os.stat(parts[-1], dir_fd=here, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), parts[-1])
        return os.open(parts[-1], flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _require_folder(mode: int, name: str) -> None:
    if not stat.S_ISDIR(mode):
        code = errno.ELOOP if stat.S_ISLNK(mode) else errno.ENOTDIR
        raise OSError(code, os.strerror(code), name)


def _judge(found: os.stat_result, relative: str, *, directory: bool, max_bytes: int | None, owner: int | None) -> None:
    if not directory and not stat.S_ISREG(found.st_mode):
        raise _refusal(relative, "not-a-file", f"expected a regular file, got mode {found.st_mode:o}")
    if owner is not None and found.st_uid != owner:
        raise _refusal(
            relative, "other-owner", f"expected it to belong to uid {owner}, got {found.st_uid}", expected=owner, actual=found.st_uid
        )
    if not directory and max_bytes is not None and found.st_size > max_bytes:
        text = f"expected at most {max_bytes} bytes, got {found.st_size}"
        raise _refusal(relative, "too-big", text, limit_bytes=max_bytes, actual_bytes=found.st_size)
