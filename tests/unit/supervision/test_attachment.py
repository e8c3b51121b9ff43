"""What waits at a guest that goes is sent to whoever comes, or told that nobody does."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from annexe.errors import OutcomeUnknownError, PluginUnavailableError
from annexe.supervision.attachment import WaitingRoom
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
