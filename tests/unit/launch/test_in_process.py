"""Plugins as threads of the host."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from annexe.errors import LaunchError, SandboxError
from annexe.launch import ExitStatus, InProcessStrategy, LaunchedPlugin, LaunchRequest
from annexe.sandbox import IsolationLevel

RUNNER = """
import os
def main(fd, entry):
    try:
        {serve}
    finally:
        os.close(fd)
"""
ECHO = "while chunk := os.read(fd, 10): os.write(fd, chunk)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def request_for(folder: Path, **changes: object) -> LaunchRequest:
    fields = {"plugin": "p", "instance": "p-1", "kind": "python", "entry": "entry", "folder": folder}
    return LaunchRequest(**fields | changes)  # type: ignore[arg-type]


async def launch(folder: Path, serve: str) -> LaunchedPlugin:
    name = f"in_process_runner_{abs(hash((str(folder), serve)))}"
    (folder / f"{name}.py").write_text(RUNNER.format(serve=serve))
    return await InProcessStrategy(runner=name).launch(request_for(folder))


def test_in_process_plugin_speaks_over_its_socket(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        plugin = await launch(folder, ECHO)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(plugin.sock, b"hello")
        assert await loop.sock_recv(plugin.sock, 10) == b"hello"
        assert (plugin.pid, plugin.stdout, plugin.stderr) == (None, None, None)
        assert plugin.receipt.level is IsolationLevel.NONE
        assert plugin.receipt.tree_kill == "none"
        report = await plugin.close()
        assert (report.gone, report.tree_kill) == (True, "none")
        assert await plugin.wait() == ExitStatus(code=0)

    asyncio.run(scenario())
    assert "INSIDE the host's process" in caplog.text


@pytest.mark.parametrize(
    ("serve", "code"), [("raise SystemExit(3)", 3), ("raise SystemExit", 0), ("raise SystemExit('why')", 1), ("1 // 0", 1), ("pass", 0)]
)
def test_in_process_plugin_that_ends_gives_a_status(folder: Path, serve: str, code: int) -> None:
    async def scenario() -> None:
        plugin = await launch(folder, serve)
        assert await asyncio.wait_for(plugin.wait(), 5) == ExitStatus(code=code)
        await plugin.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_in_process_plugin_is_told_by_the_end_of_its_channel(folder: Path, end: str) -> None:
    async def scenario() -> None:
        plugin = await launch(folder, ECHO)
        getattr(plugin, end)()
        assert await asyncio.wait_for(plugin.wait(), 5) == ExitStatus(code=0)
        getattr(plugin, end)()
        await plugin.close()

    asyncio.run(scenario())


def test_in_process_refuses_a_floor_above_none(folder: Path) -> None:
    with pytest.raises(SandboxError) as caught:
        asyncio.run(InProcessStrategy().launch(request_for(folder, floor=IsolationLevel.LIMITS)))
    assert caught.value.data == {"required": "limits", "achieved": "none"}


def test_in_process_refuses_what_is_not_python(folder: Path) -> None:
    with pytest.raises(LaunchError) as caught:
        asyncio.run(InProcessStrategy().launch(request_for(folder, kind="binary")))
    assert caught.value.data == {"kind": "binary"}


def test_in_process_runner_that_cannot_be_imported_ends_the_plugin(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        plugin = await InProcessStrategy(runner="no_such_runner").launch(request_for(folder))
        assert await asyncio.wait_for(plugin.wait(), 5) == ExitStatus(code=1)
        await plugin.close()

    asyncio.run(scenario())
    assert "no_such_runner" in caplog.text
