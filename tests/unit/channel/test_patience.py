"""A plugin that may take its time: nothing ends by a deadline, and what waits for it has its own time stand still."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from time import monotonic

import pytest

from annexe.channel import PluginCall, RequestMeta
from annexe.channel.patience import PATIENCE_S
from annexe.errors import CallCancelledError, CallTimeoutError, OutcomeUnknownError
from annexe_sdk.wire import CANCEL, ITEM, RESPONSE
from tests.unit.channel.peer import ends, outcome


def test_no_deadline_ends_a_call_of_a_patient_connection() -> None:
    async def scenario() -> None:
        async with ends(is_patient=True) as both:
            call = both.begin(deadline_s=0.01, run_s=0.01)
            waits = both.begin(deadline_s=0.01)
            message = await both.peer.called()
            assert message[4]["deadline_ms"] > 1e6
            await asyncio.sleep(0.05)
            assert not call.future.done()
            assert not waits.future.done()
            await both.peer.answer(message[1], "late")
            assert (await outcome(call)).error is None

    asyncio.run(scenario())


def test_what_a_plugin_waits_with_can_wait_for_as_long_as_it_is_told_that_it_has() -> None:
    assert PATIENCE_S * 1000 < 2**31  # as with poll, and in JavaScript
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, timeout=PATIENCE_S, check=True).stdout == b"1\n"


def test_a_caller_still_cancels_it() -> None:
    async def scenario() -> None:
        async with ends(is_patient=True) as both:
            task = asyncio.create_task(both.call(deadline_s=0.01))
            message = await both.peer.called()
            task.cancel()
            assert await both.peer.read() == [CANCEL, message[1]]
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())


def test_the_clock_of_a_stream_stands_still() -> None:
    async def scenario() -> None:
        async with ends(is_patient=True) as both:
            stream = both.stream("out", deadline_s=0.01, item_s=0.01)
            message = await both.peer.called()
            for value in ("a", "b"):
                await asyncio.sleep(0.03)
                await both.peer.send(ITEM, message[1], value, {})
                assert await anext(stream) == value
            await both.peer.answer(message[1])
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(scenario())


def test_what_waits_for_it_has_its_time_stand_still_and_go_on_afterwards() -> None:
    async def scenario() -> None:
        async with ends() as outer, ends(is_patient=True) as patient:
            first = outer.begin(deadline_s=1.0)
            patient.connection.begin("svc.s.m", [], RequestMeta(), deadline=first.deadline, chain=(first,))
            message = await patient.peer.called("svc.s.m")
            await asyncio.sleep(1.1)
            assert not first.future.done()
            await patient.peer.answer(message[1])
            await asyncio.sleep(0.05)
            assert 0.0 < first.deadline - monotonic() < 1.0
            with pytest.raises(CallTimeoutError):
                await outcome(first)

    asyncio.run(scenario())


def test_a_request_of_a_plugin_that_waits_for_it_is_not_over_by_time() -> None:
    async def scenario() -> None:
        async with ends() as outer, ends(is_patient=True) as patient:

            async def relay(call: PluginCall) -> str:
                await patient.connection.call("svc.s.m", [], RequestMeta(), deadline=call.deadline)
                return "passed on"

            outer.serve = relay
            first = outer.begin(deadline_s=1.0)
            asked = await outer.peer.called()
            await outer.peer.ask(2, "svc.s.m", parent=asked[1])
            message = await patient.peer.called("svc.s.m")
            await asyncio.sleep(1.1)
            assert not outer.refused
            await patient.peer.answer(message[1], "late")
            assert (await outer.peer.read())[:4] == [RESPONSE, 2, None, "passed on"]
            await outer.peer.answer(asked[1])
            await outcome(first)

    asyncio.run(scenario())


def test_time_goes_on_once_the_call_that_was_waited_for_is_given_up() -> None:
    async def scenario() -> None:
        async with ends() as outer, ends(is_patient=True) as patient:
            first = outer.begin(deadline_s=0.1)
            second = patient.connection.begin("svc.s.m", [], RequestMeta(), deadline=first.deadline, chain=(first,))
            assert first.deadline - monotonic() > PATIENCE_S / 2
            patient.connection.give_up(second)
            with pytest.raises(CallTimeoutError):
                await outcome(first)

    asyncio.run(scenario())


def test_time_goes_on_when_the_patient_one_goes_away() -> None:
    async def scenario() -> None:
        async with ends() as outer, ends(is_patient=True) as patient:
            first = outer.begin(deadline_s=0.1)
            second = patient.connection.begin("svc.s.m", [], RequestMeta(), deadline=first.deadline, chain=(first,))
            await patient.peer.called("svc.s.m")
            patient.connection.close()
            with pytest.raises(OutcomeUnknownError):
                await outcome(second)
            with pytest.raises((CallTimeoutError, CallCancelledError)):
                await outcome(first)

    asyncio.run(scenario())
