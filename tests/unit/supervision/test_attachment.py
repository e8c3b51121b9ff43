"""What waits at a guest that goes is sent to whoever comes, or told that nobody does."""

from __future__ import annotations

import asyncio
import gc
from time import monotonic

import pytest

from annexe.errors import LaunchError, OutcomeUnknownError, PluginUnavailableError
from annexe.supervision.attachment import Coming, WaitingRoom
from annexe.supervision.instance import InstancePlan
from tests.unit.channel.peer import ends, outcome


def test_what_was_not_sent_waits_and_is_sent_to_the_next_one_with_time_anew() -> None:
    async def scenario() -> None:
        room = WaitingRoom()
        async with ends(is_patient=True, sent_ahead=0) as guest, ends() as installed:
            guest.connection.siblings = room
            sent = guest.begin(["sent"], deadline_s=0.01)
            waits, given_up = guest.begin(["waits"], deadline_s=0.01), guest.begin(["given up"], deadline_s=0.01)
            await guest.peer.called()
            await asyncio.sleep(0.02)
            guest.connection.close()
            with pytest.raises(OutcomeUnknownError):
                await outcome(sent)
            assert not room.is_empty
            given_up.connection.give_up(given_up)
            room.let_in(installed.connection)
            assert room.is_empty
            message = await installed.peer.called()
            assert message[3] == ["waits"]
            assert waits.deadline > monotonic() + 1.0
            await installed.peer.answer(message[1])
            await outcome(waits)
            await installed.peer.reads_nothing()

    asyncio.run(scenario())


def test_where_nobody_comes_they_are_told_so() -> None:
    async def scenario() -> None:
        room = WaitingRoom()
        async with ends(is_patient=True, sent_ahead=0) as guest:
            sent, waits, given_up = guest.begin(), guest.begin(), guest.begin()
            room.rescue(guest.connection)
            given_up.connection.give_up(given_up)
            room.feed(guest.connection)
            room.turn_away("it was stopped")
            assert room.is_empty
            with pytest.raises(PluginUnavailableError, match=r"went away before hook\.a\.b was sent: it was stopped"):
                await outcome(waits)
            guest.connection.close()
            with pytest.raises(OutcomeUnknownError):
                await outcome(sent)

    asyncio.run(scenario())


def test_nothing_is_complained_of_where_nobody_waits_any_more_for_how_it_went() -> None:
    async def scenario() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        coming = Coming(_plan, loop.create_future())
        coming.settle(LaunchError("it hung up", plugin="p"))
        coming.settle(None)
        with pytest.raises(LaunchError, match="it hung up"):
            await coming.arrived
        unheard = Coming(_plan, loop.create_future())
        unheard.settle(LaunchError("it hung up", plugin="p"))
        del unheard
        gc.collect()
        await asyncio.sleep(0)
        assert not complaints

    asyncio.run(scenario())


async def _plan(_number: int) -> InstancePlan:
    raise AssertionError("nothing is started here")
