"""A plugin's process that a fork server made, as the host sees it.

The host is not its parent and cannot wait for it. It holds a pidfd, to signal it and to see that it is gone, and a pipe in which the
server tells how it ended. When the server is gone, so is the process, by the parent-death signal.

Invariants:

* It is signalled through the pidfd alone; its process group is nobody's business, for it has no children: filters see to that.
* Its end is believed when the server, its parent, tells it, or when the pidfd does.

Source: feature IS2; docs/adr/0080-a-fork-server-per-plugin.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from annexe.channel.memory_files import MemoryFiles
from annexe.launch.confined import CLOSE_DEADLINE_S, ConfinedProcess
from annexe.launch.egress import Egress
from annexe.launch.receipts import PutUp
from annexe.launch.strategy import ExitStatus
from annexe.sandbox.cgroup import Group

__all__ = ["Fork", "ForkedProcess", "kill_through", "status_of"]

_TOLD_BYTES = 4
_NEWS_S = 1.0
_BY_THE_KERNEL = ExitStatus(signal=9)  # the parent-death signal
_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What a fork server made: everything that must be given back one day.

    Attributes:
        pid: Its number, as the host sees it.
        pidfd: Of the process.
        end: Read end of the pipe in which its end is told, non-blocking.
        sock: The host's end of the channel.
        stdout: Read end of its standard output, non-blocking.
        stderr: The same for standard error.
        egress: Its way out, if it has one.
        files: Memory shared with it; None where there is none.
    """

    pid: int
    pidfd: int
    end: int
    sock: socket.socket
    stdout: int
    stderr: int
    egress: Egress | None = None
    files: MemoryFiles | None = None

    def discard(self) -> None:
        """Kill it, and close all of it: nobody will use it."""
        kill_through(self.pidfd)
        self.sock.close()
        if self.files is not None:
            self.files.close()
        for fd in (self.pidfd, self.end, self.stdout, self.stderr):
            os.close(fd)


@final
class ForkedProcess(ConfinedProcess):
    """A fork. Made on the event loop that will use it.

    Args:
        fork: Its ends.
        group: Its control group.
        put_up: What it was put behind.
        on_gone: Called on the event loop once it has ended.
    """

    def __init__(self, fork: Fork, *, group: Group, put_up: PutUp, on_gone: Callable[[], None]) -> None:
        super().__init__(pid=fork.pid, sock=fork.sock, stdout=fork.stdout, stderr=fork.stderr, group=group, put_up=put_up)
        self.egress = fork.egress
        self.files = fork.files
        self._pid = fork.pid
        self._pidfd: int | None = fork.pidfd
        self._end: int | None = fork.end
        self._on_gone = on_gone
        self._has_server, self._is_dead = True, False
        self._loop.add_reader(fork.end, self._on_told)
        self._loop.add_reader(fork.pidfd, self._on_dead)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, which: signal.Signals) -> None:
        if self._pidfd is not None and not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, which)

    def _on_told(self) -> None:
        """Take what the server says; where the pipe just ends, it is gone."""
        assert self._end is not None
        told = os.read(self._end, _TOLD_BYTES)
        self._loop.remove_reader(self._end)
        if told:
            self._finish(status_of(told))
            return
        self._has_server = False
        if self._is_dead:
            self._finish(_BY_THE_KERNEL)

    def _on_dead(self) -> None:
        """It is gone, and how is about to be told, unless nobody is there to tell."""
        assert self._pidfd is not None
        self._loop.remove_reader(self._pidfd)
        self._is_dead = True
        if not self._has_server:
            self._finish(_BY_THE_KERNEL)
        else:
            self._loop.call_later(_NEWS_S, self._finish, ExitStatus())

    def _finish(self, status: ExitStatus) -> None:
        if not self._ended.done():
            self._has_ended(status)
            self._on_gone()

    def _found(self) -> int | None:
        return None if self._ended.done() else self._pid

    def _let_go(self) -> None:
        for fd in (self._end, self._pidfd):
            if fd is not None:
                self._loop.remove_reader(fd)
                os.close(fd)
        self._end = self._pidfd = None
        self._finish(ExitStatus())  # where it cannot be ended: whoever waits has waited long enough

    def _clear(self) -> tuple[int, bool]:
        gone = self._group.kill(deadline_s=CLOSE_DEADLINE_S / 2)
        if gone and not self._group.remove():
            _logger.warning("the control group of process %s cannot be removed", self._pid)
        return 0, gone


def kill_through(pidfd: int) -> None:
    """Kill the process that a handle stands for, if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def status_of(told: bytes) -> ExitStatus:
    """Return what a fork server told: a status as ``waitpid`` gives it, as four bytes, big-endian; anything else says nothing."""
    if len(told) != _TOLD_BYTES:
        return ExitStatus()
    try:
        code = os.waitstatus_to_exitcode(int.from_bytes(told, "big"))
    except (ValueError, OverflowError):
        return ExitStatus()
    return ExitStatus(code=code) if code >= 0 else ExitStatus(signal=-code)
