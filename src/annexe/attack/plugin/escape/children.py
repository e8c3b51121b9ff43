"""Children of an attack: bounded in number and in time, and gone when it is over.

* A child ends with its parent and, at the latest, after some seconds, whatever becomes of the rest.
* A child leaves by ``_exit``: nothing of the plugin's runs twice.
"""

from __future__ import annotations

import os
import signal

from .syscalls import prctl

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LIFE_S", "Crowd", "bound", "in_child", "run_program"]

LIFE_S = 8
_PR_SET_PDEATHSIG = 1
_REFUSED = 64


def bound(seconds: int = LIFE_S) -> None:
    """Make this child end by itself, with its parent or after so many seconds."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    except OSError:
        pass


def in_child(function: Callable[[], bytes]) -> bytes:
    """Run a function in a child and return what it returned.

    Raises:
        OSError: The function's own, or no child was to be had.
        ChildProcessError: It was killed; the text says by which signal.
    """
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise OSError(error.errno, error.strerror, "fork") from error
    if pid == 0:
        _answer(function, writer)
    os.close(writer)
    answer = b""
    while chunk := os.read(reader, 65536):
        answer += chunk
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == _REFUSED:
        number, _, text = answer.decode().partition(" ")
        raise OSError(int(number), os.strerror(int(number)), text)
    if status < 0:
        raise ChildProcessError(4, f"killed by {signal.Signals(-status).name}", f"a child was killed by {signal.Signals(-status).name}")
    return answer


def _answer(function: Callable[[], bytes], writer: int) -> None:
    status = 70
    try:
        bound()
        os.write(writer, function())
        status = 0
    except OSError as error:
        os.write(writer, f"{error.errno or 0} {error.filename or error.strerror}".encode())
        status = _REFUSED
    finally:
        os._exit(status)


def run_program(*command: str) -> bytes:
    """Run a program and return what it printed, on both of its streams.

    Raises:
        OSError: It cannot be run.
    """
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
    try:
        pid = os.posix_spawn(command[0], command, {"PATH": "/usr/bin:/bin", "LANG": "C"}, file_actions=actions)
    finally:
        os.close(writer)
    printed = b""
    while chunk := os.read(reader, 65536):
        printed += chunk
    os.close(reader)
    os.waitpid(pid, 0)
    return printed


class Crowd:
    """Children that wait until they are told to go.

    >>> with Crowd() as crowd:
    ...     crowd.add(lambda: None)
    """

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.disperse()

    def add(self, act: Callable[[], object] | None = None) -> int:
        """Start one more, which acts and then waits; return its number.

        Raises:
            OSError: It may not.
        """
        reader, writer = os.pipe() if act is not None else (-1, -1)
        try:
            pid = os.fork()
        except OSError as error:
            raise OSError(error.errno, error.strerror, "fork") from error
        if pid == 0:
            self._wait(act, writer)
        self.pids.append(pid)
        if act is not None:
            os.close(writer)
            answer = os.read(reader, 64)
            os.close(reader)
            if answer != b"done":
                raise OSError(int(answer or b"5"), os.strerror(int(answer or b"5")), "in a child")
        return pid

    def _wait(self, act: Callable[[], object] | None, writer: int) -> None:
        try:
            bound()
            for fd in range(4, 256):  # what its parent holds is not to count against its own limit
                if fd != writer:
                    try:
                        os.close(fd)
                    except OSError:
                        continue
            if act is not None:
                try:
                    held = act()  # what it opened stays open while it waits
                    os.write(writer, b"done")
                except OSError as error:
                    held = None
                    os.write(writer, str(error.errno).encode())
            while True:
                signal.pause()
        finally:
            del held
            os._exit(0)

    def count(self) -> int:
        """Return how many are still alive: the kernel may have taken some for want of memory."""
        self.pids = [pid for pid in self.pids if os.waitpid(pid, os.WNOHANG)[0] == 0]
        return len(self.pids)

    def disperse(self) -> None:
        """End and reap them all."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.pids.clear()
