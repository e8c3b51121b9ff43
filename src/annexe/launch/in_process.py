"""Launch strategy ``in-process``: the plugin runs on a thread of the host.

For development, tests and code as trusted as the host's own. There is no wall at all: the plugin can read, change and stop everything
the host can, its crash is the host's crash, and it cannot be killed. The receipt says level ``none``, and every launch is logged as a
warning. It speaks the same protocol over the same kind of socket, so that nothing above knows the difference.

Each launch has modules of its own, read anew, whatever other plugins call theirs; see ``own_modules``. What a plugin imports without a
statement is found, too: its folder goes to the end of ``sys.path`` and stays there.

Source: feature IS2.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import sys
import threading
from typing import final

from annexe.errors import LaunchError
from annexe.launch.own_modules import OwnModules
from annexe.launch.strategy import ExitStatus, LaunchedPlugin, LaunchRequest, LaunchStrategy, TreeReport
from annexe.sandbox import IsolationLevel, Layer, Walls, receipt_for, require_level

__all__ = ["InProcessStrategy"]

_CLOSE_DEADLINE_S = 5.0
_logger = logging.getLogger(__name__)


@final
class InProcessStrategy(LaunchStrategy):
    """Launches Python plugins as threads of this process.

    Args:
        runner: Module whose ``main(fd, entry)`` serves a plugin; it owns the descriptor.
    """

    def __init__(self, *, runner: str = "annexe_sdk.runner") -> None:
        self._runner = runner

    async def launch(self, request: LaunchRequest) -> LaunchedPlugin:
        require_level(request.plugin, achieved=IsolationLevel.NONE, required=request.floor)
        if request.kind != "python":
            raise LaunchError(
                f"plugin {request.plugin!r} is of kind {request.kind!r}; only Python plugins can run in the host's process.",
                plugin=request.plugin,
                kind=request.kind,
            )
        _logger.warning("plugin %s runs INSIDE the host's process: no isolation at all, for trusted code only", request.plugin)
        folder = str(request.folder)
        if folder not in sys.path:
            sys.path.append(folder)
        return _InProcessPlugin(request, self._runner)

    async def close(self) -> None:
        return None


@final
class _InProcessPlugin(LaunchedPlugin):
    """One thread and its socket."""

    def __init__(self, request: LaunchRequest, runner: str) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.pid = self.stdout = self.stderr = None
        layers = (Layer("own process", "off", "it runs on a thread of the host"),)
        self.receipt = receipt_for(Walls(own_process=False), uid=None, layers=layers, tree_kill="none")
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExitStatus] = self._loop.create_future()
        modules = OwnModules(request.plugin, request.folder, request.entry)
        self._thread = threading.Thread(
            target=self._run, args=(runner, modules, theirs), name=f"annexe-plugin-{request.instance}", daemon=True
        )
        self._thread.start()

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        # The end of the channel is all it can be told; a thread cannot be killed.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        self.terminate()

    async def close(self) -> TreeReport:
        self.terminate()
        gone = True
        try:
            await asyncio.wait_for(self.wait(), _CLOSE_DEADLINE_S)
        except TimeoutError:
            gone = False
            _logger.warning("thread %s does not end; it stays until the host's process ends", self._thread.name)
        self.sock.close()
        return TreeReport(gone=gone, tree_kill="none")

    def _run(self, runner: str, modules: OwnModules, theirs: socket.socket) -> None:
        code = 0
        try:
            main = importlib.import_module(runner).main
            modules.open()
            main(theirs.detach(), modules.entry)  # the descriptor is the runner's now, to close as well
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            _logger.exception("plugin thread %s ended with an error", threading.current_thread().name)
            code = 1
        finally:
            modules.close()
            theirs.close()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finish, code)

    def _finish(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(ExitStatus(code=code))
