"""What several attacks do alike."""

from __future__ import annotations

import os

from .outcome import stopped, through

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from socket import socket

    from .outcome import Outcome
    from .targets import Targets

__all__ = ["greet", "keep", "read", "reads_token", "remove", "room", "write"]

_KEPT: list[object] = []


def keep(*things: object) -> None:
    """Hold something until this process ends."""
    _KEPT.extend(things)


def read(path: str, *, limit: int = 1 << 20) -> bytes:
    """Return a file's content."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def write(path: str, content: bytes, *, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o600) -> None:
    """Write a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, mode)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def reads_token(targets: Targets, path: str) -> Outcome:
    """Return that the attack worked if the file holds what only the host's file holds."""
    content = read(path)
    return through(f"read {path}") if targets.has_token(content) else stopped(f"{path} is not the host's")


def remove(path: str) -> None:
    """Remove a file that may be gone."""
    try:
        os.unlink(path)
    except OSError:
        pass


def room(targets: Targets, name: str) -> str:
    """Return a new folder of the plugin's own."""
    folder = os.path.join(targets.work, name)
    os.makedirs(folder, exist_ok=True)
    return folder


def greet(targets: Targets, listener: socket) -> None:
    """Say the token to whoever connects, until this process ends."""
    import _thread

    token = targets.token.encode()

    def serve() -> None:
        while True:
            caller, _ = listener.accept()
            caller.sendall(token)
            caller.close()

    listener.settimeout(None)
    _thread.start_new_thread(serve, ())
