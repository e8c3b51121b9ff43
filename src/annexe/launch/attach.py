"""Launch strategy ``attach``: a process that a person started, under a debugger, joins by a socket of its own.

Nothing is launched, and nothing stands around it: the process runs as whoever started it, with all that user's rights. The receipt says
level ``none``, and every one that joins is logged as a warning.

* A process that the host did not start is never signalled: the end of the socket is all that it is told.
* One strategy is one process: it is used once.

Source: features LC15, IS2; ADR-0095.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import final

from annexe.errors import LaunchError
from annexe.launch.processes import open_pidfd
from annexe.launch.strategy import ExitStatus, LaunchedPlugin, LaunchRequest, LaunchStrategy, TreeReport
from annexe.sandbox import IsolationLevel, Layer, Walls, receipt_for, require_level

__all__ = ["AttachStrategy", "check_floor"]

_logger = logging.getLogger(__name__)


def check_floor(plugin: str, floor: IsolationLevel) -> None:
    """Refuse to have a process attach to a plugin that must not run without walls.

    Raises:
        SandboxError: As said.
    """
    lacking = "a process that attaches has no walls at all; for debugging, have the host and the manifest require none"
    require_level(plugin, achieved=IsolationLevel.NONE, required=floor, lacking=lacking)


@final
class AttachStrategy(LaunchStrategy):
    """Gives the process at the other end of a socket as a launched plugin.

    Args:
        sock: Connected, and from now on the strategy's to close.
        pid: Of the process there, as the kernel told it; None where it does not.
    """

    def __init__(self, sock: socket.socket, *, pid: int | None) -> None:
        self._sock: socket.socket | None = sock
        self._shared = sock
        self.pid = pid

    async def launch(self, request: LaunchRequest) -> LaunchedPlugin:
        check_floor(request.plugin, request.floor)
        sock, self._sock = self._sock, None
        if sock is None:
            raise LaunchError(f"plugin {request.plugin!r}: the process that was to attach has done so once; invite it again")
        _logger.warning("plugin %s is ATTACHED, as process %s: no isolation at all, for debugging only", request.plugin, self.pid)
        return _AttachedPlugin(sock, self.pid)

    def hang_up(self) -> None:
        """End the channel, however far it has come."""
        with contextlib.suppress(OSError):
            self._shared.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


@final
class _AttachedPlugin(LaunchedPlugin):
    """A process of somebody else's."""

    def __init__(self, sock: socket.socket, pid: int | None) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.pid = pid
        self.stdout = self.stderr = None
        layers = (Layer("own process", "off", f"attached: process {pid} was started by hand, as its user, with all that may do"),)
        self.receipt = receipt_for(Walls(by_hand=True), uid=None, layers=layers, tree_kill="none")
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._pidfd: int | None = None
        with contextlib.suppress(OSError):  # it has ended already: the socket tells
            self._pidfd = open_pidfd(pid) if pid is not None else None
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._hang_up)

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        self._hang_up()
        if not self._ended.done():
            self._ended.set_result(ExitStatus())

    def kill(self) -> None:
        self.terminate()

    async def close(self) -> TreeReport:
        self.terminate()
        self._stop_watching()
        self.sock.close()
        return TreeReport(gone=True, tree_kill="none")

    def _hang_up(self) -> None:
        """End the channel for both ends; a child that has inherited it does not keep it open either."""
        self._stop_watching()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def _stop_watching(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
