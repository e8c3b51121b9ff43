"""An operator who invites processes, and processes that attach."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from annexe.errors import AnnexeError
from annexe.host.control_client import ControlClient
from tests.process.hosts import write_plugin

__all__ = ["RUN", "Operator", "attached", "invited", "process", "write"]

CODE = """
@plugin.filter("t.strict")
def strict(doc, ctx):
    doc["marks"] += ["{who}", str(os.getpid())]
    if doc["text"].startswith("sleep "):
        time.sleep(float(doc["text"][6:]))
    if doc["text"] == "hang":
        signal.pause()
    return doc
{more}
"""
RUN = '\nif __name__ == "__main__":\n    plugin.run()\n'


def write(root: Path, plugin: str = "p", *, who: str = "installed", more: str = "", **fields: Any) -> Path:
    """Write a plugin that says who it is, and by which process; return its folder. It can be run by hand."""
    at = write_plugin(root / "plugins", plugin, CODE.replace("{who}", who).replace("{more}", more), **{"hooks": ["t.strict"]} | fields)
    with (at / "main.py").open("a") as file:
        file.write(RUN)
    return at


class Operator:
    """Someone at ``annexe attach``."""

    def __init__(self, state: Path, plugin: str) -> None:
        self.invitation = ""
        self._news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._client: ControlClient | None = None
        self._followed = self._loop.run_in_executor(None, self._follow, state, plugin)

    def _follow(self, state: Path, plugin: str) -> None:
        try:
            with ControlClient.connect(state) as client:
                self._client = client
                for item in client.stream("attach", timeout_s=20.0, plugin=plugin):
                    self._loop.call_soon_threadsafe(self._news.put_nowait, item)
        except (AnnexeError, ValueError) as error:
            self._loop.call_soon_threadsafe(self._news.put_nowait, {"state": "error", "error": error})

    async def news(self, state: str) -> dict[str, Any]:
        """Return the next that is told, which must be this."""
        async with asyncio.timeout(10):
            told = await self._news.get()
            if told["state"] == "coming" != state:
                told = await self._news.get()
        assert told["state"] == state, told
        return told

    async def leave(self) -> None:
        """Hang up, as Ctrl-C does."""
        if self._client is not None:
            self._client.hang_up()
        await self._followed


@asynccontextmanager
async def invited(root: Path, plugin: str = "p") -> AsyncIterator[Operator]:
    """Have a plugin of the host with its state in ``root/state`` invited."""
    operator = Operator(root / "state", plugin)
    try:
        operator.invitation = (await operator.news("invited"))["invitation"]
        yield operator
    finally:
        await operator.leave()


@asynccontextmanager
async def process(file: Path, invitation: str | None, *words: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a plugin's file by hand; it is killed at the end, if it has not ended."""
    environ = {**os.environ, **variables, **({} if invitation is None else {"ANNEXE_ATTACH": invitation})}
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(
        sys.executable, *words, str(file), env=environ, stdin=pipe, stdout=pipe, stderr=pipe, cwd=file.parent
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGKILL)
        await started.communicate()


@asynccontextmanager
async def attached(root: Path, file: Path, plugin: str = "p") -> AsyncIterator[tuple[Operator, asyncio.subprocess.Process]]:
    """Have a file's process attached."""
    async with invited(root, plugin) as operator, process(file, operator.invitation) as started:
        await operator.news("attached")
        yield operator, started
