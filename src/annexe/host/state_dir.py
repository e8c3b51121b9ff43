"""The state directory: who holds it, and what lies where.

One host per directory, held by a lock that the kernel gives back when the host dies. Folders and files are the owner's alone.

Source: features LC8; docs/reference/state.md.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import final

import platformdirs

from annexe.errors import HostAlreadyRunningError, HostError

__all__ = ["StateDir", "control_socket_of", "control_token_of", "default_data_dir", "default_state_dir"]

_SYSTEM_DATA = Path("/var/lib/annexe")

_LOCK = "host.lock"


def default_state_dir() -> Path:
    """Return where state is kept when nobody says otherwise."""
    return platformdirs.user_state_path("annexe", appauthor=False)


def default_data_dir(state_dir: Path) -> Path:
    """Return where the private folders of plugins are kept when nobody says otherwise.

    Plugins that a root host gives users of their own must be able to get there, which they are not into a state directory.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return state_dir / "data"
    import hashlib  # a millisecond, for the host alone

    return _SYSTEM_DATA / hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:16]


@final
class StateDir:
    """A state directory that this process holds. Made by ``hold``.

    Attributes:
        path: The directory.
        logs: Where plugins' logs lie.
        kv: The key-value database.
        control_socket: Where the control socket is.
        control_token: Where its token is.
        attach_socket: Where processes that were invited attach.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.logs = path / "logs"
        self.kv = path / "kv.sqlite3"
        self.control_socket = control_socket_of(path)
        self.control_token = control_token_of(path)
        self.attach_socket = self.control_socket.with_name("attach")
        self._lock = lock

    @classmethod
    def hold(cls, path: Path) -> StateDir:
        """Make the directory if it is missing, and take its lock.

        Raises:
            HostAlreadyRunningError: Another process holds it; ``pid`` says which.
            HostError: It cannot be made, or is not ours alone.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = path.resolve()
            _check_private(path)
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"the state directory {path} cannot be used: {error.strerror}; choose another with state_dir= or --state"
            raise HostError(text, path=str(path)) from error
        if not _lock(lock):
            pid = os.read(lock, 32).decode("ascii", "replace").strip()
            os.close(lock)
            text = (
                f"a host (pid {pid or 'unknown'}) already runs in {path}; stop it, or choose another directory with state_dir= or --state"
            )
            raise HostAlreadyRunningError(text, path=str(path), pid=pid)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        held = cls(path, lock)
        _HELD.add(held)
        return held

    def release(self) -> None:
        """Let go of the lock: it ends with the last process that holds it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def control_socket_of(path: Path) -> Path:
    """Return where the control socket of a state directory is."""
    return path / "control" / "socket"


def control_token_of(path: Path) -> Path:
    """Return where the token of its control socket is."""
    return path / "control" / "token"


def _check_private(path: Path) -> None:
    if not hasattr(os, "getuid"):
        return
    found = path.stat()
    if found.st_uid != os.getuid():
        text = (
            f"the state directory {path} belongs to user {found.st_uid}, expected {os.getuid()}; choose another with state_dir= or --state"
        )
        raise HostError(text, path=str(path), owner=found.st_uid)
    if found.st_mode & 0o077:
        path.chmod(0o700)


def _lock(descriptor: int) -> bool:
    """Take the lock if nobody has it; it ends with the process."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_HELD: weakref.WeakSet[StateDir] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # A child shares the open file, and with it the lock: it would hold the directory of a host that has ended, or was killed.
    for held in list(_HELD):
        held.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
