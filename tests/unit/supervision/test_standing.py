"""How a plugin stands, and until when whoever waits for it has to."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from annexe.errors import PluginUnavailableError
from annexe.record import EventKind, Events, PluginLog
from annexe.supervision.standing import MAX_REASON_CHARS, Standing
from annexe.supervision.state import PluginState
from annexe.testing import FakeClock
from tests.unit.channel.peer import ends, outcome

_S = PluginState


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, _level: str, message: str, *_more: object, **_kind: object) -> None:
        self.lines.append(message)


class _Stands:
    """A plugin in a state, and what was told of it."""

    def __init__(self, *steps: PluginState) -> None:
        self.events, self.log = Events(FakeClock()), _Log()
        self.moves: list[PluginState] = []
        self.it = Standing("p", log=cast("PluginLog", self.log), events=self.events, clock=FakeClock(), on_moved=self.moves.append)
        for state in steps:
            self.it.move(state, f"to {state}")


_READY = (_S.STOPPED, _S.STARTING, _S.READY)


async def _waits(standing: Standing) -> bool:
    """Say whether somebody who waits for what lasts still does."""
    try:
        async with asyncio.timeout(0.01):
            await standing.wait()
    except TimeoutError:
        return True
    return False


def test_every_step_is_told_to_the_log_the_events_and_the_owner() -> None:
    stands = _Stands(_S.STOPPED, _S.STARTING)
    assert stands.moves == [_S.STOPPED, _S.STARTING]
    assert stands.log.lines == ["installed → stopped: to stopped", "stopped → starting: to starting"]
    event = stands.events.latest(kind=EventKind.STATE_CHANGED)[0]
    assert (event.plugin, dict(event.facts)) == ("p", {"before": "installed", "after": "stopped"})
    assert stands.it.told == "starting (to starting)"


def test_a_long_reason_is_cut_and_a_step_that_does_not_exist_is_refused() -> None:
    standing = _Stands(_S.STOPPED).it
    standing.move(_S.STARTING, "x" * (MAX_REASON_CHARS + 1))
    assert standing.life.reason == "x" * MAX_REASON_CHARS
    with pytest.raises(ValueError, match="draining"):
        standing.move(_S.DRAINING, "no")
    assert standing.state is _S.STARTING


@pytest.mark.parametrize(
    ("steps", "is_switching", "is_held", "lasts"),
    [
        pytest.param((*_READY,), False, False, True, id="ready"),
        pytest.param((_S.STOPPED,), False, False, True, id="stopped"),
        pytest.param((_S.STOPPED, _S.STARTING), False, False, False, id="starting"),
        pytest.param((*_READY,), True, False, False, id="one is to end before the next is started"),
        pytest.param((*_READY,), False, True, False, id="state is handed over"),
        pytest.param((*_READY,), True, True, False, id="both"),
    ],
)
def test_calls_wait_for_what_does_not_last_alone(steps: tuple[PluginState, ...], is_switching: bool, is_held: bool, lasts: bool) -> None:
    async def scenario() -> None:
        standing = _Stands(*steps).it
        if is_switching:
            standing.switch()
        standing.hold(is_held=is_held)
        assert standing.lasts is lasts
        assert await _waits(standing) is not lasts

    asyncio.run(scenario())


def test_the_end_of_a_hand_over_does_not_end_a_switch() -> None:
    async def scenario() -> None:
        standing = _Stands(*_READY).it
        standing.switch()
        standing.hold(is_held=True)
        standing.hold(is_held=False)
        assert await _waits(standing)
        standing.switched()
        assert not await _waits(standing)

    asyncio.run(scenario())


def test_whoever_waits_for_a_start_waits_through_a_switch_to_the_next_instance() -> None:
    async def scenario() -> None:
        standing = _Stands(*_READY).it
        standing.switch()
        waiting = asyncio.create_task(standing.wait_started())
        for state in (_S.DRAINING, _S.STOPPED):
            standing.move(state, "replaced")
            await asyncio.sleep(0)
            assert not waiting.done()
        standing.start_again()
        await asyncio.sleep(0)
        assert not waiting.done() and not standing.is_switching
        standing.move(_S.READY, "activated")
        async with asyncio.timeout(1):
            await waiting

    asyncio.run(scenario())


@pytest.mark.parametrize("is_switching", [pytest.param(True, id="the next one comes"), pytest.param(False, id="nobody comes")])
def test_calls_that_a_guest_was_not_sent_are_turned_away_only_where_nobody_comes(is_switching: bool) -> None:
    async def scenario() -> None:
        standing = _Stands(*_READY).it
        async with ends(is_patient=True, sent_ahead=0) as guest:
            guest.begin(["sent"]).future.cancel()
            waits = guest.begin(["waits"])
            standing.room.rescue(guest.connection)
            if is_switching:
                standing.switch()
            standing.move(_S.DRAINING, "asked to")
            assert standing.room.is_empty is not is_switching
            if not is_switching:
                with pytest.raises(PluginUnavailableError, match=r"before hook\.a\.b was sent: asked to"):
                    await outcome(waits)

    asyncio.run(scenario())


def test_a_plugin_is_taken_up_where_it_was() -> None:
    standing = _Stands().it
    standing.resume(_S.QUARANTINED, "failed before")
    assert (standing.state, standing.told) == (_S.QUARANTINED, "quarantined (failed before)")


def test_calls_wait_for_a_start_that_somebody_else_sees_to() -> None:
    standing = _Stands().it
    standing.resume(_S.STOPPED, "stopped")
    assert standing.lasts
    standing.expect(is_awaited=True)
    assert not standing.lasts
    standing.expect(is_awaited=False)
    assert standing.lasts


def test_calls_wait_until_nobody_sees_to_a_start_any_more() -> None:
    standing = _Stands().it
    standing.resume(_S.STOPPED, "stopped")
    standing.expect(is_awaited=True)
    standing.expect(is_awaited=True)
    standing.expect(is_awaited=False)
    assert standing.is_awaited and not standing.lasts
    standing.expect(is_awaited=False)
    assert not standing.is_awaited and standing.lasts
