"""What every launch strategy promises, asked of each: process (with and without namespaces, and warm), in-process, and the fake."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe.channel import ChannelLimits, Connection, hello
from annexe.errors import LaunchError, SandboxError
from annexe.launch import InProcessStrategy, LaunchedPlugin, LaunchRequest, LaunchStrategy, ProcessStrategy, plugin_environment
from annexe.launch.offer import OfferFinder
from annexe.launch.removal import remove_tree
from annexe.sandbox import IsolationLevel
from annexe.testing import FakeLaunchStrategy
from annexe_sdk.runner import main
from tests.process.hosts import open_descriptors


def serve_sdk(sock: socket.socket) -> int:
    main(os.dup(sock.fileno()), "entry")
    return 0


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = Path(tempfile.mkdtemp(prefix="annexe-tests-"))
    folder.chmod(0o755)
    (folder / "entry.py").write_text("from annexe_sdk import Plugin\nplugin = Plugin()\n")
    yield folder
    remove_tree(folder)


class Warm(LaunchStrategy):
    """Launches every plugin warm."""

    def __init__(self, processes: ProcessStrategy) -> None:
        self._processes = processes

    async def launch(self, request: LaunchRequest) -> LaunchedPlugin:
        return await self._processes.launch(replace(request, warm=True))

    async def close(self) -> None:
        await self._processes.close()


@pytest.fixture(params=["process", "process-without-namespaces", "zygote", "in-process", "fake"])
def strategy(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[], LaunchStrategy]]:
    state = Path(tempfile.mkdtemp(prefix="annexe-tests-"))
    made: dict[str, Callable[[], LaunchStrategy]] = {
        "process": lambda: ProcessStrategy(state_dir=state),
        "process-without-namespaces": lambda: ProcessStrategy(state_dir=state, offers=OfferFinder(bubblewrap=None)),
        "zygote": lambda: Warm(ProcessStrategy(state_dir=state)),
        "in-process": InProcessStrategy,
        "fake": lambda: FakeLaunchStrategy(serve_sdk),
    }
    yield made[request.param]
    remove_tree(state)


@pytest.fixture
def with_plugin(strategy: Callable[[], LaunchStrategy], folder: Path) -> Callable[[Callable[[LaunchedPlugin], Awaitable[None]]], None]:
    """Give a function that launches a plugin, has it checked, and gives everything back."""

    def run(check: Callable[[LaunchedPlugin], Awaitable[None]]) -> None:
        async def scenario() -> None:
            async with opened(strategy) as strategy_open:
                plugin = await strategy_open.launch(request_for(folder))
                try:
                    await check(plugin)
                finally:
                    await plugin.close()

        asyncio.run(scenario())

    return run


@asynccontextmanager
async def opened(make: Callable[[], LaunchStrategy]) -> AsyncIterator[LaunchStrategy]:
    strategy = make()
    try:
        yield strategy
    finally:
        await strategy.close()


def request_for(folder: Path, **changes: Any) -> LaunchRequest:
    fields: dict[str, Any] = {"plugin": "p", "instance": "p-1", "kind": "python", "entry": "entry", "folder": folder}
    return LaunchRequest(**fields | {"environment": plugin_environment(os.environ)} | changes)


async def greet(plugin: LaunchedPlugin) -> None:
    """Shake hands with the SDK behind the socket."""
    connection = Connection(
        plugin.sock,
        plugin="p",
        limits=ChannelLimits(),
        serve=lambda call: None,
        on_refused=lambda call, error: None,
        on_notification=lambda *_: None,
        on_closed=lambda error: None,
        on_stuck=lambda: None,
    )
    deadline = asyncio.get_running_loop().time() + 10
    identity = {"id": "p", "version": "1.0.0", "instance": "p-1"}
    greeting = await hello(connection, host={"name": "t", "version": "0"}, plugin=identity, codecs=("json",), deadline=deadline)
    assert greeting.sdk["name"] == "annexe-sdk"
    connection.close()


With = Callable[[Callable[[LaunchedPlugin], Awaitable[None]]], None]


def test_plugin_speaks_the_protocol_over_a_socket_that_never_blocks(with_plugin: With) -> None:
    async def check(plugin: LaunchedPlugin) -> None:
        assert not plugin.sock.getblocking()
        await greet(plugin)

    with_plugin(check)


def test_plugin_has_a_receipt_and_owns_what_it_captures(with_plugin: With) -> None:
    async def check(plugin: LaunchedPlugin) -> None:
        assert plugin.receipt.level in IsolationLevel
        assert (plugin.pid is None) == (plugin.stdout is None) == (plugin.stderr is None)
        if plugin.stdout is not None and plugin.stderr is not None:
            assert not os.get_blocking(plugin.stdout) and not os.get_blocking(plugin.stderr)

    with_plugin(check)


def test_plugin_whose_channel_ends_ends_too_and_all_who_wait_learn_of_it(with_plugin: With) -> None:
    async def check(plugin: LaunchedPlugin) -> None:
        waiting = [asyncio.create_task(plugin.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        plugin.sock.close()
        first, second = await asyncio.gather(*waiting[1:])
        assert waiting[0].cancelled()
        assert first == second == await plugin.wait()
        assert first.code == 0, first.text

    with_plugin(check)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_plugin_that_is_told_to_end_ends_and_further_telling_does_nothing(with_plugin: With, how: str) -> None:
    async def check(plugin: LaunchedPlugin) -> None:
        getattr(plugin, how)()
        ended = await asyncio.wait_for(plugin.wait(), 10)
        for again in (plugin.terminate, plugin.kill):
            again()
        assert await plugin.wait() == ended

    with_plugin(check)


def test_close_ends_a_running_plugin_gives_back_its_descriptors_and_reports_the_same_twice(with_plugin: With) -> None:
    async def check(plugin: LaunchedPlugin) -> None:
        report = await plugin.close()
        assert report.gone
        assert report.tree_kill == plugin.receipt.tree_kill
        assert await plugin.close() == report
        assert plugin.sock.fileno() == -1
        await asyncio.wait_for(plugin.wait(), 5)

    with_plugin(check)


def test_plugins_launched_at_once_have_channels_of_their_own(strategy: Callable[[], LaunchStrategy], folder: Path) -> None:
    async def scenario() -> None:
        async with opened(strategy) as open_strategy:
            requests = [request_for(folder, instance=f"p-{number}") for number in range(3)]
            plugins = await asyncio.gather(*map(open_strategy.launch, requests))
            for plugin in plugins:
                await greet(plugin)
            reports = await asyncio.gather(*(plugin.close() for plugin in plugins))
            assert all(report.gone for report in reports)

    asyncio.run(scenario())


@pytest.mark.parametrize("strategy", ["process-without-namespaces", "in-process", "fake"], indirect=True)
def test_floor_that_is_out_of_reach_is_refused_and_leaves_nothing(strategy: Callable[[], LaunchStrategy], folder: Path) -> None:
    async def scenario() -> None:
        gc.collect()  # what tests before this one left to it
        before = open_descriptors()
        async with opened(strategy) as open_strategy:
            held = []
            for _ in range(3):
                with pytest.raises(SandboxError) as refused:
                    await open_strategy.launch(request_for(folder, floor=IsolationLevel.FULL))
                assert refused.value.plugin == "p"
                held.append(open_descriptors())
            assert held[1:] == held[:-1]  # what the strategy keeps for the next launch, it opens once
        assert open_descriptors() == before

    asyncio.run(scenario())


# The fake alone.


def test_fake_is_played_by_the_test_and_remembers() -> None:
    async def scenario() -> None:
        fake = FakeLaunchStrategy()
        fake.errors.append(LaunchError("not now", plugin="p"))
        with pytest.raises(LaunchError, match="not now"):
            await fake.launch(request_for(Path("/")))
        plugin = await fake.launch(request_for(Path("/"), instance="p-2"))
        assert [request.instance for request in fake.requests] == ["p-1", "p-2"]
        plugin.theirs.sendall(b"hello")
        assert await asyncio.get_running_loop().sock_recv(plugin.sock, 10) == b"hello"
        plugin.ignores_terminate = True
        plugin.terminate()
        plugin.kill()
        plugin.terminate()
        assert plugin.signals == ["SIGTERM", "SIGKILL"]
        assert (await plugin.wait()).signal == 9
        await plugin.close()
        await fake.close()
        assert fake.is_closed and fake.launched == [plugin]

    asyncio.run(scenario())
