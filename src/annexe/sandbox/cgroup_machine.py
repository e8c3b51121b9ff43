"""The kernel's control group files, processes and programs, as far as control groups need them: what tests replace.

Decides nothing. Blocking.

Invariants:

* No file is ever made: the kernel makes them with the folder, and one that is missing is an error.
* A process is killed through a pidfd, and only if it is still a member once the pidfd is open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

__all__ = ["LinuxMachine", "Machine", "Trial"]

_MAX_FILE_BYTES = 1 << 20
_DELEGATED = ("user.delegate", "trusted.delegate")  # how systemd marks what it gave away; the second is for root to read
_ANSWER_S = 5.0


class Trial(ABC):
    """A process of ours that does nothing, to be put into a group."""

    pid: int

    @abstractmethod
    def end(self) -> None:
        """Kill it, unless it has ended, and reap it."""


class Machine(ABC):
    """What control groups need of the machine.

    Attributes:
        proc: Where ``/proc`` is.
        has_systemd: Whether systemd runs this machine, and so owns its control groups.
        uid: Our user.
    """

    proc: Path
    has_systemd: bool
    uid: int

    @abstractmethod
    def own_pid(self) -> int:
        """Return our own number."""

    @abstractmethod
    def read(self, path: Path) -> str:
        """Return a small file. Raises ``OSError``."""

    @abstractmethod
    def write(self, path: Path, text: str) -> None:
        """Write to a file that exists, in one system call. Raises ``OSError``."""

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Make a folder. Raises ``OSError``."""

    @abstractmethod
    def remove(self, folder: Path) -> None:
        """Remove a folder; the files in it are the kernel's. Raises ``OSError``."""

    @abstractmethod
    def folders(self, folder: Path) -> list[Path]:
        """Return the folders in a folder; none if it is gone or closed to us."""

    @abstractmethod
    def exists(self, path: Path) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def is_delegated(self, folder: Path) -> bool:
        """Return whether systemd says of a group that it was given away."""

    @abstractmethod
    def end(self, pid: int, is_member: Callable[[int], bool]) -> None:
        """Kill a process if it is, once pinned, still a member. Failing is no error: the caller looks again."""

    @abstractmethod
    def find_program(self, name: str) -> str | None:
        """Return the full path of a program."""

    @abstractmethod
    def start(self, command: Sequence[str]) -> Trial:
        """Start a program that waits for its standard input to end. Raises ``OSError``."""

    @abstractmethod
    def now(self) -> float:
        """Return seconds since some fixed point."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Wait."""


@final
class LinuxMachine(Machine):
    """This machine. On other systems nothing is found in it."""

    def __init__(self) -> None:
        self.proc = Path("/proc")
        self.has_systemd = Path("/run/systemd/system").is_dir()
        self.uid = os.geteuid() if hasattr(os, "geteuid") else -1

    def own_pid(self) -> int:
        return os.getpid()

    def read(self, path: Path) -> str:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The kernel gives such files in pages: a long list of processes takes several reads.
            parts = []
            while part := os.read(fd, _MAX_FILE_BYTES):
                parts.append(part)
            return b"".join(parts).decode(errors="replace")
        finally:
            os.close(fd)

    def write(self, path: Path, text: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def make(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)

    def remove(self, folder: Path) -> None:
        folder.rmdir()

    def folders(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as found:
                return [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_delegated(self, folder: Path) -> bool:
        for name in _DELEGATED:
            with contextlib.suppress(OSError):
                if os.getxattr(folder, name) == b"1":
                    return True
        return self._is_given_by_own_systemd(folder)

    def _is_given_by_own_systemd(self, folder: Path) -> bool:
        """Ask the user's own systemd, which marks nothing: no version of it does, unlike the machine's."""
        systemctl = shutil.which("systemctl")
        if f"user@{self.uid}.service" not in folder.parts[:-1] or folder.suffix not in (".service", ".scope") or systemctl is None:
            return False
        command = [systemctl, "--user", "show", "--property=Delegate", "--property=ControlGroup", "--", folder.name]
        environ = {**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{self.uid}"}
        try:
            done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False)  # noqa: S603 - our own words alone
        except (OSError, subprocess.SubprocessError):
            return False
        told = dict(line.partition("=")[::2] for line in done.stdout.decode(errors="replace").splitlines())
        group = told.get("ControlGroup")
        # The group as well: some other folder may be called as a unit is.
        return told.get("Delegate") == "yes" and bool(group) and str(folder).endswith(str(group))

    def end(self, pid: int, is_member: Callable[[int], bool]) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it is gone or not ours; or a kernel, or Python, without pidfds
            fd = os.pidfd_open(pid)
            try:
                if is_member(pid):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)

    def find_program(self, name: str) -> str | None:
        return shutil.which(name)

    def start(self, command: Sequence[str]) -> Trial:
        return _Process(command)

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class _Process(Trial):
    def __init__(self, command: Sequence[str]) -> None:
        self._child = subprocess.Popen(  # noqa: S603 - our own words alone
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        self.pid = self._child.pid

    def end(self) -> None:
        with self._child:
            self._child.kill()
