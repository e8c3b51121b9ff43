"""Folders that hold what plugins run: nobody but the host may be able to write there, and the plugin's user must be able to read.

Blocking.

Invariants:

* A folder that somebody else made, or could write to, is refused: what lies in it would run as a plugin, or steer the host.
* What is written there appears whole or not at all (``publish``).
* Hosts may share these folders. What one of them uses it holds (``hold``), by a lock that the kernel gives back when the host dies; only
  what nobody holds is removed (``remove_unused``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from annexe.errors import LaunchError

__all__ = ["hold", "let_go", "owned_folder", "publish", "remove_unused", "unreachable_at"]

_logger = logging.getLogger(__name__)


def owned_folder(path: Path, *, mode: int = 0o755) -> Path:
    """Return ``path`` as a folder of our own, made if missing (its parents too).

    Raises:
        LaunchError: It is a symbolic link or no folder, belongs to somebody else, or others may write to it; or a folder above it does.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
            path.chmod(mode)  # whatever the umask took away
        for folder in (path, *path.parents):
            _verify_ours(folder, is_parent=folder != path)
    except OSError as error:
        raise LaunchError(
            f"cannot use the folder {path}: {error}; give annexe another one (cache_dir) or mend its permissions.", path=str(path)
        ) from error
    return path


def _verify_ours(folder: Path, *, is_parent: bool) -> None:
    found = folder.lstat() if not is_parent else folder.stat()
    ours = found.st_uid == os.geteuid() or (is_parent and found.st_uid == 0)
    # In a sticky folder (/tmp) others may add names, but not replace ours.
    others_may_write = bool(found.st_mode & 0o022) and not (is_parent and found.st_mode & stat.S_ISVTX)
    if not stat.S_ISDIR(found.st_mode) or not ours or others_may_write:
        raise LaunchError(
            f"{folder} must be a folder that only uid {os.geteuid()} can write to, got owner {found.st_uid} and mode "
            f"{stat.S_IMODE(found.st_mode):04o}; remove it, or mend owner and mode.",
            path=str(folder),
            owner=found.st_uid,
            mode=stat.S_IMODE(found.st_mode),
        )


def publish(target: Path, build: Callable[[Path], None]) -> Path:
    """Return ``target``, built by ``build`` in a temporary folder beside it and renamed into place, unless it is there already.

    Two hosts may do this at once: whoever is second throws its own away.
    """
    if target.is_dir():
        return target
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    try:
        build(draft)
        draft.chmod(0o755)
        with contextlib.suppress(OSError):
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is left of it when the rename worked
    if not target.is_dir():
        raise LaunchError(f"cannot create {target}; mend its parent's permissions or free some space.", path=str(target))
    return target


def hold(folder: Path) -> int | None:
    """Keep a folder from being removed as unused, and note that it is used now.

    Returns:
        What ``let_go`` takes when the folder is used no more; None if it has just been removed, or replaced, and must be made anew.
    """
    import fcntl  # not on Windows, where this module must still be importable

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        with contextlib.suppress(OSError):  # a file system without such locks: nothing in it is removed either
            fcntl.flock(fd, fcntl.LOCK_SH)
        os.utime(fd)
        if os.path.samestat(os.fstat(fd), folder.stat()):
            return fd
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def let_go(held: int) -> None:
    """Give back what ``hold`` returned; the folder counts as used until now."""
    with contextlib.suppress(OSError):
        os.utime(held)
    os.close(held)


def remove_unused(parent: Path, *, before: float) -> None:
    """Remove the files and folders in ``parent`` that were last used before that time (seconds since 1970) and that no host holds.

    Raises:
        LaunchError: ``parent`` is not ours alone.
    """
    for path in list(owned_folder(parent).iterdir()) if parent.is_dir() else ():
        try:
            if path.lstat().st_mtime < before:
                _remove_unless_held(path, before)
        except (FileNotFoundError, BlockingIOError):  # another host was quicker, or holds it
            continue
        except OSError as error:
            _logger.warning("%s is used no more, but cannot be removed: %s", path, error)


def _remove_unless_held(path: Path, before: float) -> None:
    import fcntl  # not on Windows

    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if found.st_mtime >= before:  # used, and let go of, meanwhile
            return
        if not stat.S_ISDIR(found.st_mode):
            path.unlink()
            return
        doomed = path.with_name(f".unused-{secrets.token_hex(8)}")
        path.rename(doomed)  # under the lock: who waits for it in ``hold`` sees that the folder is gone
    finally:
        os.close(fd)
    shutil.rmtree(doomed)


def unreachable_at(path: Path, uid: int, *, for_writing: bool = False) -> Path | None:
    """Return the first folder on the way to ``path``, or ``path`` itself, that a user of this uid cannot pass or read; None if it can.

    Args:
        path: Is there.
        uid: Of the user, and of its group.
        for_writing: Whether ``path`` must be open for writing, too.

    Judged by permission bits, for messages and for choosing; access lists may make it stricter than the kernel is.
    """
    real = path.resolve()
    for folder in reversed(real.parents):
        if not _allows(folder, uid, 0o1):
            return folder
    wanted = (0o5 if real.is_dir() else 0o4) | (0o2 if for_writing else 0)
    return None if _allows(real, uid, wanted) else real


def _allows(path: Path, uid: int, wanted: int) -> bool:
    found = path.stat()
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == uid else 0
    return (found.st_mode >> shift) & wanted == wanted
