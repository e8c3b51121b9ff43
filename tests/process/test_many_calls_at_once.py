"""Threads, streams, nested calls and cancellation together: nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from annexe import ExtensionPoint, Host

pytestmark = pytest.mark.any_user

MANIFEST = """
manifest-version = 1
[plugin]
id = "busy"
version = "1.0.0"
name = "Busy"
[runtime]
kind = "python"
entry = "busy"
concurrency = {concurrency}
streams = 8
[provides.extensions]
"work" = {{ revision = 1 }}
[permissions]
kv = {{ quota = "4MiB" }}
capabilities = ["relay"]
[resources]
call-timeout = "20s"
"""

THREADED = """
import random, time
from annexe_sdk import Plugin

plugin = Plugin()


@plugin.extension("work")
class Work:
    def work(self, n, ctx):
        kind = n % 5
        if kind == 0:
            time.sleep(random.random() * 0.002)
        elif kind == 1:
            ctx.kv.set(f"k{n % 50}", n)
        elif kind == 2:
            ctx.kv.get(f"k{n % 50}")
        elif kind == 3:
            return ctx.cap("relay").go(n)
        return n

    def stream(self, items, n, ctx):
        for item in items:
            if item % 7 == 0:
                ctx.kv.get("k1")
            yield item + n
"""

ASYNC = (
    THREADED.replace("def work", "async def work")
    .replace("def stream", "async def stream")
    .replace("for item in items", "async for item in items")
    .replace("import random, time", "import asyncio, random")
    .replace("time.sleep", "await asyncio.sleep")
    .replace("ctx.kv", "await ctx.kv")
    .replace("return ctx.cap", "return await ctx.cap")
)


class Work(ExtensionPoint, name="work", revision=1):
    async def work(self, n: int) -> int: ...  # type: ignore[empty-body]
    def stream(self, items: AsyncIterator[int], n: int) -> AsyncIterator[int]: ...  # type: ignore[empty-body]


class Relay:
    """Now and then calls the plugin that asks it."""

    name: ClassVar[str] = "relay"
    host: Host | None = None

    async def go(self, n: int) -> int:
        await asyncio.sleep(random.random() * 0.002)
        if n % 2:
            assert self.host is not None
            return await self.host.extension(Work).work(n + 1)
        return n


async def _numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def _storm(host: Host) -> Counter[str]:
    extension, outcomes = host.extension(Work), Counter[str]()

    async def call(start: int) -> None:
        for n in range(start, start + 40):
            task = asyncio.create_task(extension.work(n))
            if random.random() < 0.05:
                await asyncio.sleep(random.random() * 0.01)
                task.cancel()
            try:
                answer = await task
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            else:
                outcomes["right" if answer in (n, n + 1) else "wrong"] += 1

    async def stream(offset: int) -> None:
        for _ in range(4):
            got = [item async for item in extension.stream(_numbers(150), offset)]
            outcomes["right" if got == [n + offset for n in range(150)] else "wrong"] += 1

    async with asyncio.timeout(40):
        await asyncio.gather(*(call(number * 1000) for number in range(80)), *(stream(number) for number in range(6)))
    return outcomes


@pytest.mark.timeout(60)
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("code", [pytest.param(THREADED, id="def"), pytest.param(ASYNC, id="async-def")])
def test_storm_of_calls_streams_and_cancels_loses_and_leaves_nothing(tmp_path: Path, code: str, concurrency: int) -> None:
    seed = 20261120
    random.seed(seed)
    folder = tmp_path / "plugins" / "busy"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text(MANIFEST.format(concurrency=concurrency))
    (folder / "busy.py").write_text(code)

    async def scenario() -> Counter[str]:
        relay = Relay()
        async with Host(
            plugins=tmp_path / "plugins",
            contracts=[Work],
            capabilities=[relay],
            grants="manifest",
            state_dir=tmp_path / "state",
            control=False,
        ) as host:
            relay.host = host
            outcomes = await _storm(host)
            plugin = host.plugin("busy")
            assert (plugin.state, len(plugin.history)) == ("ready", 4)  # never restarted
            # What was cancelled is still answered; then nothing is open. Seen from outside: it stops without being told to give up.
            async with asyncio.timeout(10):
                await plugin.stop()
            return outcomes

    outcomes = asyncio.run(scenario())
    assert outcomes["wrong"] == 0, f"seed {seed}: {outcomes}"
    assert outcomes["right"] + outcomes["cancelled"] == 80 * 40 + 6 * 4
