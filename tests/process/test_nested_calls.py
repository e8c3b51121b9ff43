"""Calls within calls: plugins that ask the application, which calls plugins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from annexe import ExtensionPoint, HealthPolicy, Host, Policies
from annexe.errors import CallError, PluginBusyError

pytestmark = pytest.mark.any_user

PLUGIN = """
from annexe_sdk import Plugin

plugin = Plugin()


@plugin.extension("{point}")
class Answers:
    def work(self, depth, ctx):
        return 1 if depth == 0 else 1 + ctx.cap("relay").{call}(depth - 1)
"""

MANIFEST = """
manifest-version = 1
[plugin]
id = "{point}"
version = "1.0.0"
name = "{point}"
[runtime]
kind = "python"
entry = "answers"
concurrency = 1
[provides.extensions]
"{point}" = {{ revision = 1 }}
[permissions]
capabilities = ["relay"]
[resources]
call-timeout = "20s"
"""


# Ends the runner's own way of running what serves a waiting call.
DEAF = """
import gc
from annexe_sdk.reader import Reader

next(thing for thing in gc.get_objects() if isinstance(thing, Reader)).run = lambda call: None
"""


class Left(ExtensionPoint, name="left", revision=1):
    async def work(self, depth: int) -> int: ...  # type: ignore[empty-body]


class Right(ExtensionPoint, name="right", revision=1):
    async def work(self, depth: int) -> int: ...  # type: ignore[empty-body]


class Relay:
    """Each method calls one side; with ``parties``, none goes on before that many chains hold a slot each."""

    name: ClassVar[str] = "relay"

    def __init__(self, parties: int) -> None:
        self.host: Host | None = None
        self.barrier = asyncio.Barrier(parties) if parties else None

    async def to_left(self, depth: int) -> int:
        return await self._go(Left, depth)

    async def to_right(self, depth: int) -> int:
        return await self._go(Right, depth)

    async def _go(self, point: type[Left] | type[Right], depth: int) -> int:
        assert self.host is not None
        if self.barrier is not None:
            async with asyncio.timeout(5):
                await self.barrier.wait()
        return await self.host.extension(point).work(depth)


def _plugins(folder: Path, calls: dict[str, str]) -> Path:
    for point, call in calls.items():
        (folder / point).mkdir(parents=True)
        (folder / point / "plugin.toml").write_text(MANIFEST.format(point=point))
        (folder / point / "answers.py").write_text(PLUGIN.format(point=point, call=call))
    return folder


async def _run(
    tmp_path: Path, calls: dict[str, str], parties: int, *starts: tuple[type[Left] | type[Right], int], deadline_s: float
) -> list[object]:
    relay = Relay(parties)
    async with Host(
        plugins=_plugins(tmp_path / "plugins", calls),
        contracts=[Left, Right],
        capabilities=[relay],
        grants="manifest",
        state_dir=tmp_path / "state",
        default_deadline_s=deadline_s,
        control=False,
    ) as host:
        relay.host = host
        return list(await asyncio.gather(*(host.extension(point).work(depth) for point, depth in starts), return_exceptions=True))


def test_plugin_called_back_while_it_waits_answers_on_its_only_slot(tmp_path: Path) -> None:
    assert asyncio.run(_run(tmp_path, {"left": "to_left"}, 0, (Left, 5), deadline_s=10.0)) == [6]


def test_ping_pong_between_two_plugins_ends(tmp_path: Path) -> None:
    calls = {"left": "to_right", "right": "to_left"}
    assert asyncio.run(_run(tmp_path, calls, 0, (Left, 7), deadline_s=10.0)) == [8]


def test_chain_deeper_than_the_limit_is_refused(tmp_path: Path) -> None:
    calls = {"left": "to_right", "right": "to_left"}
    (answer,) = asyncio.run(_run(tmp_path, calls, 0, (Left, 40), deadline_s=10.0))
    assert isinstance(answer, CallError)
    assert "16 deep" in str(answer)


def test_two_chains_that_hold_each_others_last_slot_both_end(tmp_path: Path) -> None:
    calls = {"left": "to_right", "right": "to_left"}
    assert asyncio.run(_run(tmp_path, calls, 2, (Left, 1), (Right, 1), deadline_s=10.0)) == [2, 2]


def test_two_chains_that_hold_each_others_last_slot_run_out_of_time_without_the_defence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annexe.channel.nesting.find_waiting_holder", lambda _call: None)
    calls = {"left": "to_right", "right": "to_left"}
    answers = asyncio.run(_run(tmp_path, calls, 2, (Left, 1), (Right, 1), deadline_s=1.0))
    assert all(isinstance(answer, CallError) and not isinstance(answer, PluginBusyError) for answer in answers)


def test_nested_calls_that_are_never_answered_are_bounded_and_end_in_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "left"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text(MANIFEST.format(point="left"))
    (folder / "answers.py").write_text(PLUGIN.format(point="left", call="to_left") + DEAF)

    class Flood(Relay):
        async def to_left(self, depth: int) -> int:
            assert self.host is not None
            calls = [self.host.extension(Left).work(0) for _ in range(100)]
            answers = await asyncio.gather(*(asyncio.wait_for(one, 0.3) for one in calls), return_exceptions=True)
            refused.extend(answer for answer in answers if isinstance(answer, PluginBusyError))
            return 0

    refused: list[PluginBusyError] = []

    async def scenario() -> None:
        relay = Flood(0)
        async with Host(
            plugins=tmp_path / "plugins",
            contracts=[Left],
            capabilities=[relay],
            grants="manifest",
            state_dir=tmp_path / "state",
            policies=Policies(health=HealthPolicy(stuck_after_s=0.5)),
            control=False,
        ) as host:
            relay.host = host
            asking = asyncio.create_task(host.extension(Left).work(1))
            plugin = host.plugin("left")
            async with asyncio.timeout(10):
                while not any(change.state == "backing-off" for change in plugin.history):
                    await asyncio.sleep(0.02)
            await asyncio.gather(asking, return_exceptions=True)
            assert len(refused) == 100 - 64
            assert "stuck" in next(change.reason for change in plugin.history if change.state == "backing-off")

    asyncio.run(scenario())
