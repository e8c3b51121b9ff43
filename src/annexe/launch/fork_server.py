"""One fork server, as the host sees it: a process that was started, and whose channel is a control socket.

A request is one byte with the plugin's ends as descriptors: channel, standard output, standard error, and the pipe in which the fork's end
is told. Answered is ``+`` with a pidfd of the fork, or ``-`` when there can be none just now.

* No plugin can reach the control socket. What comes is read strictly all the same; a server that answers anything else is not used again.
* A handle is believed when the kernel says that it stands for a child of this very server.

Source: docs/adr/0080-a-fork-server-per-plugin.md; ``annexe.sandbox.fork_server``, the other side.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import TypeVar, final

from annexe.errors import SandboxError
from annexe.launch.basis import Basis
from annexe.launch.descriptors import channel_ends, let_descriptors_pass, memory_ends, pipe_ends
from annexe.launch.egress import Egress, receive_egress
from annexe.launch.forked import Fork, kill_through
from annexe.launch.launched import LaunchedProcess
from annexe.launch.preparation import Home
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.processes import parent_of, pid_of_pidfd
from annexe.sandbox.cgroup import Group

__all__ = ["ForkServer", "NotServedError", "RefusedError", "enter"]

T = TypeVar("T")

_ANSWER_S = 10.0
_REQUEST, _FORKED, _REFUSED = b"f", b"+", b"-"
_DOORS, _JOINED, _NOT_JOINED, _GO_ON = b"d", b".", b"?", b"g"


class NotServedError(Exception):
    """A fork server does not do what it should."""


class RefusedError(Exception):
    """A fork server could make no fork just now."""


@final
class ForkServer:
    """One fork server that runs.

    Args:
        process: The server; its channel is the control socket.
        basis: What it was made from.
        orders: What its forks were told.

    Attributes:
        forks: How many live, or are being made.
        is_retired: It is to end as soon as it has no fork.
    """

    def __init__(self, process: LaunchedProcess, basis: Basis, orders: PrivateFrame) -> None:
        self.process = process
        self.basis = basis
        self.orders = orders
        self.home = Home(uid=basis.prepared.uid, scratch=basis.prepared.scratch)
        self.forks = 0
        self.is_retired = False
        self._is_confirmed = False
        process.sock.settimeout(_ANSWER_S)
        let_descriptors_pass(process.sock, True)  # what its plugin will never have

    def fork(self, meanwhile: Callable[[], T], *, arena_bytes: int = 0) -> tuple[Fork, T]:
        """Have it make a fork. Blocking; one at a time.

        Args:
            meanwhile: What can be done while it forks.
            arena_bytes: Size of each memory file that the fork shares with the host; 0: none.

        Returns:
            The fork, which has to join its control group, and what ``meanwhile`` returned.

        Raises:
            NotServedError: It does not.
            RefusedError: It cannot just now.
        """
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            sock, theirs = channel_ends(on_failure, always)
            let_descriptors_pass(sock, self.orders.egress is not None)
            stdout, stdout_writer = pipe_ends(on_failure, always)
            stderr, stderr_writer = pipe_ends(on_failure, always)
            end, end_writer = pipe_ends(on_failure, always)
            files, memory = memory_ends(arena_bytes, on_failure, always)
            self._ask([theirs.fileno(), stdout_writer, stderr_writer, *memory, end_writer])
            try:
                found = meanwhile()
            finally:  # the answer comes in any case
                pidfd = self._answer()
                on_failure.callback(os.close, pidfd)
            pid = self._checked(pidfd)
            on_failure.callback(kill_through, pidfd)  # not before: it could be a handle on anybody
            sock.settimeout(_ANSWER_S)
            egress = self._egress(sock)
            if egress is not None:
                on_failure.callback(egress.listener.close)
            fork = Fork(pid=pid, pidfd=pidfd, end=end, sock=sock, stdout=stdout, stderr=stderr, egress=egress, files=files)
            on_failure.pop_all()
            return fork, found

    def _ask(self, given: list[int]) -> None:
        try:
            socket.send_fds(self.process.sock, [_REQUEST], given)
        except OSError as error:  # a timeout, too
            raise NotServedError(str(error) or type(error).__name__) from error

    def _answer(self) -> int:
        """Return the handle on a fork."""
        try:
            answer, handles, flags, _ = socket.recv_fds(self.process.sock, 2, 2, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise NotServedError(str(error) or type(error).__name__) from error
        if answer == _FORKED and len(handles) == 1 and not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            return handles[0]
        for handle in handles:
            os.close(handle)
        if answer == _REFUSED and not handles:
            raise RefusedError
        raise NotServedError(f"it answered {answer!r} with {len(handles)} descriptors" if answer else "it has ended")

    def _checked(self, pidfd: int) -> int:
        """Return the number of the process that a handle stands for, once the kernel says that it is a fork of this very server."""
        try:
            if not self._is_confirmed:
                self.process.confirm()  # by now its own walls are up
                self._is_confirmed = True
        except SandboxError as error:
            raise NotServedError(str(error)) from error
        pid = pid_of_pidfd(pidfd)
        if pid is None or parent_of(pid) != self.process.pid:
            raise NotServedError(f"it answered with a handle on process {pid}, which is not its child")
        return pid

    def _egress(self, sock: socket.socket) -> Egress | None:
        """Return the way out that a fork hands over, if it was told to."""
        try:
            return receive_egress(sock, self.orders.egress) if self.orders.egress is not None else None
        except OSError as error:
            raise NotServedError(f"its fork hands no way out over: {error}") from error


def enter(fork: Fork, group: Group) -> None:
    """Have a fork join its control group and go on. Blocking.

    Raises:
        NotServedError: It has ended, or says what it should not.
        SandboxError: The group does not take it.
    """
    doors = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in group.doors]
    try:
        socket.send_fds(fork.sock, [_DOORS], doors)
        said = fork.sock.recv(1)
        if said == _NOT_JOINED:
            group.add(fork.pid)
            fork.sock.sendall(_GO_ON)
        elif said != _JOINED:
            raise NotServedError("its fork ended before it was a plugin")
    except OSError as error:
        raise NotServedError(f"its fork ended before it was a plugin: {error}") from error
    finally:
        for door in doors:
            os.close(door)
