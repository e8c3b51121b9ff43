"""Where the control socket is, who may use it, and how a path of any length is reached.

The socket and its token lie in a folder of mode 0700 inside the state directory, and beside them the socket at which processes attach. Both
ends use this module.

* The token is new at each start of a host and is gone with it.
* The address of a Unix socket holds about 100 bytes. A longer path is reached through a link with a short name, in a private temporary
  folder, for the moment of binding or connecting.

Source: docs/reference/control.md; ADR-0050.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from annexe.errors import HostError

__all__ = ["bind_control", "connect_control", "peer_pid", "peer_uid", "read_token", "remove_control", "write_token"]

_MAX_ADDRESS_BYTES = 100  # 108 with the final zero on Linux, 104 on macOS
_MAX_TOKEN_BYTES = 256
_BACKLOG = 16
_RETRY_S = 0.01
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # macOS; the socket module does not name them


def bind_control(path: Path) -> socket.socket:
    """Return a listening socket at ``path``, whose folder is made if missing; what an earlier host left there is removed.

    Only for who holds the state directory.

    Raises:
        HostError: The folder is not ours alone, or nothing can be bound there.
    """
    try:
        _private_folder(path.parent)
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(path) as address:
                listening.bind(address)
            path.chmod(0o600)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise HostError(f"the socket {path} cannot be opened: {error}; choose another --state", path=str(path)) from error
    return listening


def connect_control(path: Path, *, timeout_s: float) -> socket.socket:
    """Return a connected socket.

    Raises:
        OSError: Nothing listens there; BlockingIOError: something does that takes nobody up.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout_s)
        with _short(path) as address:
            _connect(connected, address, deadline=time.monotonic() + timeout_s)
    except BaseException:
        connected.close()
        raise
    return connected


def _connect(connected: socket.socket, address: str, *, deadline: float) -> None:
    # A full backlog is an error at once where other kinds of sockets would wait.
    while (error := connected.connect_ex(address)) == errno.EAGAIN and time.monotonic() < deadline:
        time.sleep(_RETRY_S)
    if error:
        raise OSError(error, os.strerror(error))


def write_token(path: Path) -> str:
    """Make a new token and put it where only our user can read it; it appears whole or not at all."""
    token = os.urandom(32).hex()
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    draft.replace(path)
    return token


def read_token(path: Path) -> str:
    """Return the token.

    Raises:
        OSError: There is none that we may read.
    """
    with path.open("rb") as file:
        return file.read(_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()


def remove_control(socket_path: Path, token_path: Path) -> None:
    """Take socket and token away."""
    for path in (socket_path, token_path):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def peer_uid(connected: socket.socket) -> int | None:
    """Return the user at the other end as the kernel tells it; None when it does not."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return int(struct.unpack("3i", told)[1])
        told = connected.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)  # struct xucred: version, uid, groups
        return int(struct.unpack_from("=II", told)[1])
    except (OSError, struct.error):
        return None


def peer_pid(connected: socket.socket) -> int | None:
    """Return the process at the other end as it was when it connected; None where the kernel does not tell it."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", told)[0]) or None
    except (OSError, struct.error):
        return None


def _private_folder(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        text = f"{folder} must be a folder of uid {os.geteuid()}, got owner {found.st_uid} and mode {found.st_mode:o}; remove it"
        raise HostError(text, path=str(folder), owner=found.st_uid)
    folder.chmod(0o700)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give an address for a path, as long as it is needed."""
    if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
        yield str(path)
        return
    aside = Path(tempfile.mkdtemp(prefix="annexe-", dir="/tmp"))
    try:
        (aside / "c").symlink_to(path.parent.absolute(), target_is_directory=True)
        yield str(aside / "c" / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
