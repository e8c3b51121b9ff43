"""A launch strategy without processes: the test plays the plugin.

Each launch makes a socket pair. The test either gives a function that serves the plugin's end on a thread, or takes that end and plays the
plugin itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from typing import final

from annexe.errors import LaunchError
from annexe.launch import ExitStatus, LaunchedPlugin, LaunchRequest, LaunchStrategy, TreeReport
from annexe.sandbox import IsolationLevel, Layer, Walls, receipt_for, require_level

__all__ = ["FakeLaunchStrategy", "FakeLaunchedPlugin"]

_Serve = Callable[[socket.socket], int]


@final
class FakeLaunchStrategy(LaunchStrategy):
    """Launches plugins that are played.

    Args:
        serve: Plays the plugin's side on a thread: gets its end of the channel, returns the exit status. None: the test plays it, with
            ``launched[-1].theirs``.

    Attributes:
        requests: What was asked to be launched, in order.
        launched: What came of it.
        errors: Raised by the next launches, one each, first come first.
        is_closed: ``close`` was called.
    """

    def __init__(self, serve: _Serve | None = None) -> None:
        self.requests: list[LaunchRequest] = []
        self.launched: list[FakeLaunchedPlugin] = []
        self.errors: list[LaunchError] = []
        self.is_closed = False
        self._serve = serve

    async def launch(self, request: LaunchRequest) -> FakeLaunchedPlugin:
        self.requests.append(request)
        require_level(request.plugin, achieved=IsolationLevel.NONE, required=request.floor)
        if self.errors:
            raise self.errors.pop(0)
        plugin = FakeLaunchedPlugin(self._serve)
        self.launched.append(plugin)
        return plugin

    async def close(self) -> None:
        self.is_closed = True


@final
class FakeLaunchedPlugin(LaunchedPlugin):
    """An instance that is played. Made by ``FakeLaunchStrategy``.

    Attributes:
        theirs: The plugin's end of the channel, blocking.
        signals: Those it was sent, by name.
        ignores_terminate: SIGTERM does not end it.
    """

    def __init__(self, serve: _Serve | None) -> None:
        self.sock, self.theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.pid = self.stdout = self.stderr = None
        layers = (Layer("own process", "off", "it is played by a test"),)
        self.receipt = receipt_for(Walls(own_process=False), uid=None, layers=layers, tree_kill="none")
        self.signals: list[str] = []
        self.ignores_terminate = False
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExitStatus] = self._loop.create_future()
        if serve is not None:
            threading.Thread(target=self._play, args=(serve,), name="annexe-fake-plugin", daemon=True).start()

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        if not self._ended.done():
            self.signals.append("SIGTERM")
            if not self.ignores_terminate:
                self.end(ExitStatus(signal=signal.SIGTERM))

    def kill(self) -> None:
        if not self._ended.done():
            self.signals.append("SIGKILL")
            self.end(ExitStatus(signal=signal.SIGKILL))

    def end(self, status: ExitStatus) -> None:
        """Let it end in this way, if it has not ended yet; on the loop."""
        if not self._ended.done():
            self._ended.set_result(status)
            # A blocked reader would not notice a close.
            with contextlib.suppress(OSError):
                self.theirs.shutdown(socket.SHUT_RDWR)
            self.theirs.close()

    async def close(self) -> TreeReport:
        self.kill()
        self.sock.close()
        return TreeReport(gone=True, tree_kill="none")

    def _play(self, serve: _Serve) -> None:
        try:
            status = ExitStatus(code=serve(self.theirs))
        except OSError:
            status = ExitStatus(code=1)  # its end was closed under it
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.end, status)
