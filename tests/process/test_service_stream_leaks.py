"""What streams of services leave behind when they end early: nothing, on either side."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from tests.process.hosts import Doc, T, connection_of, open_host, run, until, write_plugin
from tests.process.test_service_streams import ASKS, CALLS, CALLS_AWAITED, OFFERS

pytestmark = pytest.mark.any_user

LEAVES = """
import asyncio

@plugin.service("model")
class Model:
    def first(self, items):
        for item in items:
            yield len(item)
            return
    def none(self, items):
        return 0
    def fails(self, items):
        for item in items:
            raise ValueError("enough")
    def blobs(self, size):
        while True:
            yield b"x" * size
    def pairs(self, items, size):
        for item in items:
            yield b"x" * size
    def taken(self, ctx):
        return taken_of(ctx)
"""
TAKEN = """
def taken_of(ctx):
    session = ctx._runner.session
    memory = session.shared.memory
    return [len(memory._room._taken) if memory is not None else 0, len(session.calls) - 1, len(session.waits)]
"""
PATIENT = '\n[resources]\ncall-timeout = "20s"\n'
LEAVES_AWAITED = LEAVES.replace("    def ", "    async def ").replace("for item", "async for item")


def left_behind(host: Host) -> dict[str, Any]:
    """Return what the host holds of either plugin beside what it holds at rest."""
    found = {}
    for plugin in ("model", "caller"):
        connection = connection_of(host, plugin)
        arenas, requests = connection.arenas, connection._requests
        found[plugin] = {
            "in flight": connection.in_flight,
            "streams": connection._slots.streams,
            "nested": connection._slots.nested,
            "open requests": len(requests._open),
            "long": requests._long_bytes,
            "read and not let go": len(arenas._held) if arenas is not None else 0,
            "sent and not released": len(arenas._room._taken) if arenas is not None else 0,
        }
    return {f"{plugin}: {what}": count for plugin, counts in found.items() for what, count in counts.items() if count}


LEAVING = [
    pytest.param("list(model.first.stream(items=[b'x' * 1000000] * 5))", id="provider-leaves-after-one"),
    pytest.param("model.none.send([b'x' * 1000000] * 5)", id="provider-takes-none"),
    pytest.param("try: model.fails.send([b'x' * 1000000] * 5)\nexcept Exception: pass", id="provider-fails"),
    pytest.param("for item in model.blobs.stream(1000000): break", id="caller-leaves-after-one"),
    pytest.param("for item in model.blobs.stream(1000000):\n    time.sleep(0.05)\n    break", id="caller-leaves-late"),
    pytest.param("for item in model.pairs.stream(1000000, items=[b'x' * 1000000] * 50): break", id="both-ways"),
    pytest.param(
        "for item in model.pairs.stream(1000000, items=[b'x' * 1000000] * 50):\n    time.sleep(0.05)\n    break", id="both-ways-late"
    ),
]


def as_awaited(code: str) -> str:
    """Return lines of a ``def`` handler as an ``async def`` has them."""
    code = code.replace("time.sleep", "await asyncio.sleep").replace("for item", "async for item").replace("try: model", "try: await model")
    return code.replace("list(model.first", "await list_of(model.first").replace("model.none", "await model.none")


async def edited(host: Host, lines: str, *, is_async: bool) -> list[str]:
    """Run lines of code at the caller, where ``taken`` says what its SDK holds."""
    head = "import asyncio, time\nasync def list_of(items): return [item async for item in items]\n"
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    text = f"{head}{'async ' if is_async else ''}def work(model, taken):\n{body}"
    async with asyncio.timeout(15), host.request(deadline_s=14.0) as scope:
        return (await scope.hooks(T).edit(Doc(text))).marks


@pytest.mark.parametrize("is_async", [pytest.param(False, id="def"), pytest.param(True, id="async def")])
@pytest.mark.parametrize("leave", LEAVING)
def test_streams_that_end_early_give_their_shared_memory_back(tmp_path: Path, is_async: bool, leave: str) -> None:
    async def scenario() -> None:
        model, calls = (LEAVES_AWAITED, CALLS_AWAITED) if is_async else (LEAVES, CALLS)
        calls = TAKEN + calls.replace('work["work"](model)', 'work["work"](model, lambda: taken_of(ctx))')
        write_plugin(tmp_path / "plugins", "model", TAKEN + model, extra=OFFERS + PATIENT, runtime="streams = 8\n")
        write_plugin(tmp_path / "plugins", "caller", calls, hooks=["t.edit"], extra=ASKS + PATIENT)
        lines = as_awaited(leave) if is_async else leave
        often = "for _ in range(5):\n" + "".join(f"    {line}\n" for line in lines.splitlines()) + "return 1"
        async with open_host(tmp_path) as host:
            assert await edited(host, often, is_async=is_async) == ["1"]
            await until(lambda: not left_behind(host), what=str(left_behind(host)))
            asked = f"return {'await ' if is_async else ''}model.taken()"
            assert await edited(host, asked, is_async=is_async) == ["[0, 0, 0]"]
            assert await edited(host, "return taken()", is_async=is_async) == ["[0, 0, 0]"]

    run(scenario)
