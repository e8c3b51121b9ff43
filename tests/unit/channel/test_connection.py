from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import msgspec
import pytest

from annexe.channel import PluginCall
from annexe.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    InvalidParamsError,
    InvalidResultError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PluginBusyError,
    PluginRaisedError,
    PluginUnavailableError,
    RejectedError,
)
from annexe_sdk.wire import CANCEL, NOTIFICATION, RESPONSE
from tests.unit.channel.peer import ends, outcome

# Answers.


def test_a_call_carries_id_params_and_meta_and_returns_the_answer() -> None:
    async def scenario() -> None:
        async with ends() as both:
            for ident in (1, 3):
                task = asyncio.create_task(both.call(["x", 5], request="r-1", state={"a": 1}))
                message = await both.peer.called()
                assert message[:4] == [0, ident, "hook.a.b", ["x", 5]]
                assert 4000 < message[4].pop("deadline_ms") <= 5000
                assert message[4] == {"request": "r-1", "state": {"a": 1}}
                await both.peer.answer(ident, {"done": True})
                assert await task == {"done": True}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("plugin-raised", PluginRaisedError),
        ("busy", PluginBusyError),
        ("cancelled", CallCancelledError),
        ("invalid-params", InvalidParamsError),
        ("made-up", PluginRaisedError),
        ("permission-denied", PluginRaisedError),
    ],
)
def test_an_error_becomes_one_of_ours_with_what_the_plugin_told(code: str, error: type[CallError]) -> None:
    async def scenario() -> None:
        async with ends() as both:
            call = asyncio.create_task(both.call())
            ident = (await both.peer.called())[1]
            await both.peer.send(RESPONSE, ident, {"code": code, "message": "oh", "data": {"at": "a.py:1"}}, None, {})
            with pytest.raises(error) as caught:
                await call
            assert (caught.value.plugin, caught.value.method, caught.value.data["reported"]) == ("sample", "hook.a.b", {"at": "a.py:1"})
            assert "oh" in caught.value.message

    asyncio.run(scenario())


def test_a_rejection_of_a_hook_is_one_and_of_the_hosts_own_call_is_not() -> None:
    async def scenario() -> None:
        async with ends() as both:
            refusal = {"code": "rejected", "message": "no", "data": {"code": "full", "status": 429, "retry_after_s": 2}}
            call = asyncio.create_task(both.call())
            await both.peer.send(RESPONSE, (await both.peer.called())[1], refusal, None, {})
            with pytest.raises(RejectedError) as caught:
                await call
            assert (caught.value.hook, caught.value.reject_code, caught.value.status, caught.value.retry_after_s) == ("a.b", "full", 429, 2)
            from annexe.channel import RequestMeta

            own = asyncio.create_task(both.connection.call("annexe.ping", None, RequestMeta(), deadline=monotonic() + 5))
            await both.peer.send(RESPONSE, (await both.peer.called("annexe.ping"))[1], refusal, None, {})
            with pytest.raises(PluginRaisedError):
                await own

    asyncio.run(scenario())


def test_arguments_that_cannot_be_sent_use_no_slot_and_no_id() -> None:
    async def scenario() -> None:
        async with ends(sent_ahead=0) as both:
            for params in ([object()], ["x" * (11 * 1024 * 1024)]):
                with pytest.raises(InvalidParamsError) as caught:
                    both.begin(params)
                assert (caught.value.plugin, caught.value.method) == ("sample", "hook.a.b")
            await both.works()

    asyncio.run(scenario())


def test_arguments_that_cannot_be_sent_ahead_do_not_count_as_waiting() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1, sent_ahead=2) as both:
            holder, following = both.begin(), both.begin()
            for params in ([object()], ["x" * (11 * 1024 * 1024)]):
                with pytest.raises(InvalidParamsError):
                    both.begin(params)
            assert both.connection.waiting == 1  # the one that was sent ahead
            for call in (holder, following):
                await both.peer.answer((await both.peer.called())[1])
                await outcome(call)
            assert following.holds_slot
            await both.works()

    asyncio.run(scenario())


def test_a_payload_that_cannot_be_decoded_fails_its_call_alone() -> None:
    async def scenario() -> None:
        async with ends() as both:
            call = both.begin()
            await both.peer.called()
            body = b'[1,1,null,{"a":nope},{}]'
            await both.peer.raw(len(body).to_bytes(4, "big") + body)
            with pytest.raises(InvalidResultError) as caught:
                await outcome(call)
            assert caught.value.method == "hook.a.b"
            await both.works()

    asyncio.run(scenario())


def test_what_comes_before_hello_is_answered_ends_the_connection() -> None:
    async def scenario() -> None:
        async with ends(greeted=False) as both:
            await both.peer.ask(2, "kv.get")
            assert await both.broken_rule() == "before-hello"
        async with ends(greeted=False) as both:
            await both.peer.raw((65537).to_bytes(4, "big"))
            assert await both.broken_rule() == "frame-too-large"

    asyncio.run(scenario())


def test_everything_open_ends_with_the_connection() -> None:
    async def scenario() -> None:
        async with ends(sent_ahead=0, concurrency=1) as both:
            sent, waiting = both.begin(), both.begin()
            stream = both.stream("out")
            both.peer.sock.close()
            with pytest.raises(OutcomeUnknownError):
                await outcome(sent)
            with pytest.raises(PluginUnavailableError):
                await outcome(waiting)
            with pytest.raises(OutcomeUnknownError):
                await anext(stream)
            assert await both.closed is None
            with pytest.raises(PluginUnavailableError) as caught:
                both.begin()
            assert (caught.value.plugin, caught.value.method) == ("sample", "hook.a.b")

    asyncio.run(scenario())


# Deadlines and cancellation.


def test_an_overdue_call_is_answered_in_time_and_cancelled_at_the_plugin() -> None:
    async def scenario() -> None:
        async with ends() as both:
            started = monotonic()
            with pytest.raises(CallTimeoutError) as caught:
                await both.call(deadline_s=0.05)
            assert 0.04 < monotonic() - started < 3.0
            assert (caught.value.plugin, caught.value.method) == ("sample", "hook.a.b")
            await both.peer.called()
            assert await both.peer.read() == [CANCEL, 1]
            await both.peer.answer(1, "late")
            await both.works()

    asyncio.run(scenario())


def test_each_of_many_calls_ends_at_its_own_deadline() -> None:
    async def scenario() -> None:
        async with ends(concurrency=20) as both:
            patient = both.begin(deadline_s=5.0)
            started = monotonic()
            ended: dict[int, float] = {}

            async def one(number: int) -> None:
                with pytest.raises(CallTimeoutError):
                    await both.call(deadline_s=0.02 * (10 - number))  # the later ones are due first
                ended[number] = monotonic() - started

            await asyncio.gather(*(one(number) for number in range(10)))
            assert all(0.02 * (10 - number) - 0.01 < at for number, at in ended.items())
            assert not patient.future.done()

    asyncio.run(scenario())


def test_run_time_counts_from_the_slot_and_not_while_waiting_for_it() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1) as both:
            first, second = both.begin(run_s=5.0), both.begin(run_s=0.1)
            await both.peer.called()
            await both.peer.called()
            await asyncio.sleep(0.2)  # twice the second one's run time: it waits
            assert not second.future.done()
            await both.peer.answer(1, "first")
            await outcome(first)
            got_slot = monotonic()
            with pytest.raises(CallTimeoutError):
                await outcome(second)
            assert 0.08 < monotonic() - got_slot < 3.0

    asyncio.run(scenario())


def test_a_caller_that_gives_up_cancels_the_call_at_the_plugin() -> None:
    async def scenario() -> None:
        async with ends() as both:
            task = asyncio.create_task(both.call())
            await both.peer.called()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await both.peer.read() == [CANCEL, 1]
            assert both.connection.in_flight == 1  # until the plugin answers, the slot is taken
            await both.peer.answer(1)
            await both.works()
            assert both.connection.in_flight == 0

    asyncio.run(scenario())


# Slots and queues.


def test_no_more_are_sent_than_slots_and_those_ahead() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1, sent_ahead=1, queued=2) as both:
            calls = [both.begin([number]) for number in range(4)]
            with pytest.raises(PluginBusyError) as caught:
                both.begin()
            assert (caught.value.plugin, caught.value.method) == ("sample", "hook.a.b")
            assert [(await both.peer.called())[3] for _ in range(2)] == [[0], [1]]
            await both.peer.reads_nothing()
            assert both.connection.waiting == 3
            for number, ident in enumerate((1, 3, 5, 7)):
                await both.peer.answer(ident, number)
                await outcome(calls[number])
                if number < 2:
                    assert (await both.peer.called())[3] == [number + 2]
            assert both.connection.in_flight == 0

    asyncio.run(scenario())


def test_a_call_overdue_in_the_queue_is_never_sent() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1, sent_ahead=0) as both:
            first, second = both.begin(), both.begin(deadline_s=0.02)
            await both.peer.called()
            with pytest.raises(CallTimeoutError):
                await outcome(second)
            await both.peer.answer(1)
            await outcome(first)
            await both.peer.reads_nothing()

    asyncio.run(scenario())


def test_streams_have_places_of_their_own() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1, sent_ahead=0, queued=0, streams=2) as both:
            first = both.begin()
            streams = [both.stream("out"), both.stream("out")]
            with pytest.raises(PluginBusyError, match="2 streams are open"):
                both.stream("out")
            await both.peer.answer(3)
            with pytest.raises(StopAsyncIteration):
                await anext(streams[0])
            both.stream("out")
            await both.peer.answer(1)
            await outcome(first)

    asyncio.run(scenario())


def test_a_plugin_whose_slots_all_hang_is_busy_then_stuck() -> None:
    async def scenario() -> None:
        async with ends(concurrency=2, hung_s=0.02, stuck_s=0.15) as both:
            calls = [both.begin(deadline_s=0.02), both.begin(deadline_s=0.02)]
            for call in calls:
                with pytest.raises(CallTimeoutError):
                    await outcome(call)
            await asyncio.sleep(0.04)
            with pytest.raises(PluginBusyError, match="cancelled and goes on"):
                both.begin()
            async with asyncio.timeout(3):  # by default it is much longer
                await both.stuck.wait()

    asyncio.run(scenario())


def test_a_plugin_with_one_slot_that_still_answers_is_not_stuck() -> None:
    async def scenario() -> None:
        async with ends(concurrency=2, stuck_s=0.6) as both:
            hung = both.begin(deadline_s=0.01)
            with pytest.raises(CallTimeoutError):
                await outcome(hung)
            await both.peer.called()
            await both.peer.read()
            for _ in range(8):
                await asyncio.sleep(0.1)
                await both.works()
            assert not both.stuck.is_set()

    asyncio.run(scenario())


def test_a_plugin_that_does_not_read_is_busy_and_then_stuck() -> None:
    async def scenario() -> None:
        async with ends(concurrency=64, out_bytes=1_000_000, stuck_s=0.1) as both:
            calls = []
            with pytest.raises(PluginBusyError, match="bytes wait to be written"):
                for _ in range(100):
                    calls.append(both.begin(["x" * 100_000], deadline_s=0.05))
            for call in calls:
                with pytest.raises(CallTimeoutError):
                    await outcome(call)
            async with asyncio.timeout(5):
                await both.stuck.wait()

    asyncio.run(scenario())


def test_idle_is_waited_for() -> None:
    async def scenario() -> None:
        async with ends() as both:
            assert await both.connection.wait_idle(monotonic() + 1)
            call = both.begin()
            assert not await both.connection.wait_idle(monotonic() + 0.02)
            waiting = asyncio.create_task(both.connection.wait_idle(monotonic() + 5))
            await both.peer.answer((await both.peer.called())[1])
            assert await waiting
            await outcome(call)
            cancelled = both.begin()
            both.connection.give_up_all()
            with pytest.raises(CallCancelledError):
                await outcome(cancelled)

    asyncio.run(scenario())


# Requests of the plugin's.


def answered_error(message: list[Any]) -> str:
    assert message[0] == RESPONSE
    code: str = message[2]["code"]
    return code


def test_a_request_is_answered_from_what_serve_returns_or_awaits() -> None:
    async def later(call: PluginCall) -> Any:
        await asyncio.sleep(0)
        return {"later": call.id}

    async def scenario() -> None:
        async with ends() as both:
            both.serve = lambda call: {"now": call.id}
            await both.peer.ask(2, "kv.get", {"key": "a"})
            assert await both.peer.read() == [RESPONSE, 2, None, {"now": 2}, {}]
            both.serve = later
            await both.peer.ask(8, "kv.get", {"key": "a"})
            assert await both.peer.read() == [RESPONSE, 8, None, {"later": 8}, {}]
            assert [msgspec.json.decode(call.params) for call in both.served] == [{"key": "a"}] * 2

    asyncio.run(scenario())


def test_a_refusal_is_answered_with_code_and_facts_and_told() -> None:
    error = PermissionDeniedError(plugin="sample", permission="kv", manifest_line="kv = {}", command="annexe grant sample")

    def refuse(call: PluginCall) -> Any:
        raise error

    async def scenario() -> None:
        async with ends() as both:
            both.serve = refuse
            await both.peer.ask(2, "kv.get")
            message = await both.peer.read()
            assert message[2] == {
                "code": "permission-denied",
                "message": error.message,
                "data": {"permission": "kv", "manifest_line": "kv = {}", "command": "annexe grant sample"},
            }
            assert both.refused == [("kv.get", error)]

    asyncio.run(scenario())


def test_what_the_host_raises_unforeseen_is_answered_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    def fail(call: PluginCall) -> Any:
        raise LookupError("password=hunter2")

    async def scenario() -> None:
        async with ends() as both:
            both.serve = fail
            await both.peer.ask(2, "cap.a.b")
            error = (await both.peer.read())[2]
            assert error["code"] == "internal"
            assert "hunter2" not in json.dumps(error)
            assert "LookupError" in error["message"]

    asyncio.run(scenario())
    assert "hunter2" in caplog.text


def test_an_answer_that_cannot_be_sent_is_an_error() -> None:
    async def scenario() -> None:
        async with ends() as both:
            for ident, value in ((2, object()), (4, "x" * (11 * 1024 * 1024))):
                both.serve = lambda call, value=value: value
                await both.peer.ask(ident, "cap.a.b")
                assert answered_error(await both.peer.read()) == "invalid-result"

    asyncio.run(scenario())


async def forever(call: PluginCall) -> Any:
    await asyncio.Event().wait()


def test_a_request_ends_with_its_parent_its_deadline_or_its_cancel() -> None:
    async def scenario() -> None:
        async with ends() as both:
            both.serve = forever
            outer = both.begin(deadline_s=1.0, request="r-7")
            await both.peer.called()
            await both.peer.ask(2, "cap.a.b", parent=1)
            await both.peer.ask(4, "cap.a.b", deadline_ms=30)
            await both.peer.ask(6, "cap.a.b")
            assert answered_error(await both.peer.read()) == "deadline-exceeded"
            await both.peer.send(CANCEL, 6)
            message = await both.peer.read()
            assert (message[1], answered_error(message)) == (6, "cancelled")
            with pytest.raises(CallTimeoutError):
                await outcome(outer)
            messages = [await both.peer.read(), await both.peer.read()]
            assert sorted(message[0] for message in messages) == [RESPONSE, CANCEL]
            assert both.served[0].request_id == "r-7"
            assert both.served[2].request_id is None
            # Its parent is over: nothing is done on its behalf any more.
            await both.peer.ask(8, "cap.a.b", parent=1)
            assert answered_error(await both.peer.read()) == "cancelled"
            assert len(both.served) == 3

    asyncio.run(scenario())


def test_a_request_has_the_deadline_of_its_parent_whatever_it_claims() -> None:
    async def scenario() -> None:
        async with ends(default_deadline_s=7) as both:
            both.serve = forever
            now = monotonic()
            both.begin(deadline_s=1)
            await both.peer.called()
            await both.peer.ask(2, "cap.a.b", parent=1, deadline_ms=60_000)
            await both.peer.ask(4, "cap.a.b", deadline_ms=60_000)
            await both.peer.ask(6, "cap.a.b", parent=1, deadline_ms=10_000_000_000_000)
            await both.peer.ask(8, "cap.a.b", parent=1)
            await both.peer.reads_nothing()
            assert [round(call.deadline - now) for call in both.served] == [1, 7, 1, 1]

    asyncio.run(scenario())


def test_a_call_back_into_a_waiting_plugin_is_marked_and_takes_no_slot() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1, sent_ahead=0) as both:

            async def call_back(call: PluginCall) -> Any:
                return await both.call(["inner"])

            both.serve = call_back
            outer = both.begin(["outer"])
            await both.peer.called()
            await both.peer.ask(2, "cap.a.b", parent=1)
            inner = await both.peer.called()
            assert inner[4]["parent"] == 1
            await both.peer.answer(inner[1], "in")
            assert await both.peer.read() == [RESPONSE, 2, None, "in", {}]
            await both.peer.answer(1, "out")
            await outcome(outer)

    asyncio.run(scenario())


def test_calls_within_calls_are_bounded() -> None:
    async def scenario() -> None:
        async with ends(depth=2) as both:

            async def call_back(call: PluginCall) -> Any:
                return await both.call(["deeper"])

            both.serve = call_back
            both.begin()
            parent = (await both.peer.called())[1]
            await both.peer.ask(2, "cap.a.b", parent=parent)
            parent = (await both.peer.called())[1]
            await both.peer.ask(4, "cap.a.b", parent=parent)
            message = await both.peer.read()
            assert (message[1], answered_error(message)) == (4, "busy")

    asyncio.run(scenario())


def test_open_requests_are_bounded() -> None:
    async def scenario() -> None:
        async with ends(plugin_requests=3) as both:
            both.serve = forever
            for ident in range(2, 10, 2):
                await both.peer.ask(ident, "cap.a.b")
            message = await both.peer.read()
            assert (message[1], answered_error(message)) == (8, "busy")

    asyncio.run(scenario())


def test_a_plugin_that_asks_and_does_not_read_is_told_busy_and_then_let_go() -> None:
    async def scenario() -> None:
        async with ends(out_bytes=2_000_000) as both:
            both.serve = lambda call: "x" * 500_000
            body = b"".join(
                len(frame).to_bytes(4, "big") + frame for frame in (b'[0,%d,"kv.get",null,{}]' % ident for ident in range(2, 80_000, 2))
            )
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await both.peer.raw(body)
                raise BrokenPipeError
            assert await both.broken_rule() == "not-reading"

    asyncio.run(scenario())


# Notifications.


def test_notifications_are_tied_to_the_request_they_name() -> None:
    async def scenario() -> None:
        async with ends() as both:
            both.begin(request="r-9")
            await both.peer.called()
            await both.peer.send(NOTIFICATION, "log", {"message": "a"}, {"parent": 1})
            await both.peer.send(NOTIFICATION, "log", {"message": "b"}, {"parent": 99, "unknown": True})
            await both.peer.answer(1)
            await both.works()
            assert both.notified == [("log", {"message": "a"}, "r-9"), ("log", {"message": "b"}, None)]

    asyncio.run(scenario())


def test_two_chains_that_wait_for_each_others_slots_are_let_through() -> None:
    async def scenario() -> None:
        async with ends(concurrency=1) as left, ends(concurrency=1) as right:
            entered = asyncio.Event()

            async def ask_right(call: PluginCall) -> Any:
                await entered.wait()
                return await right.call(["from left"])

            async def ask_left(call: PluginCall) -> Any:
                await entered.wait()
                return await left.call(["from right"])

            left.serve, right.serve = ask_right, ask_left
            outer = [left.begin(["left"]), right.begin(["right"])]
            for both in (left, right):
                await both.peer.called()
                await both.peer.ask(2, "cap.a.b", parent=1)
            await left.peer.reads_nothing(0.01)
            entered.set()
            seen = [await left.peer.called(), await right.peer.called()]
            # At least the one that closes the ring is run on the thread of the holder that waits.
            assert any(message[4].get("parent") == 1 for message in seen)
            nested = next(both for both, message in zip((left, right), seen, strict=True) if message[4].get("parent") == 1)
            other = right if nested is left else left
            await nested.peer.answer(3, "in")
            assert await other.peer.read() == [RESPONSE, 2, None, "in", {}]
            await other.peer.answer(1, "out")
            await other.peer.answer(3, "in")
            assert await nested.peer.read() == [RESPONSE, 2, None, "in", {}]
            await nested.peer.answer(1, "out")
            for call in outer:
                await outcome(call)

    asyncio.run(scenario())


def test_a_long_call_keeps_nothing_of_the_calls_made_on_its_behalf() -> None:
    async def scenario() -> None:
        async with ends() as left, ends() as right:

            async def ask_right(call: PluginCall) -> Any:
                return await right.call(["from left"])

            left.serve = ask_right
            outer = left.begin(["left"])
            await left.peer.called()
            for number in range(3):
                await left.peer.ask(2 + 2 * number, "cap.a.b", parent=1)
                await right.peer.called()
                await right.peer.answer(1 + 2 * number, "in")
                await left.peer.read()
            assert not left.connection.open_calls[1].inner_calls
            await left.peer.answer(1)
            await outcome(outer)

    asyncio.run(scenario())


def test_a_long_call_keeps_nothing_of_the_calls_that_could_not_be_started() -> None:
    async def scenario() -> None:
        async with ends() as left, ends(concurrency=1, sent_ahead=0, queued=0) as right:

            async def ask_right(call: PluginCall) -> Any:
                return await right.call(["from left"])

            left.serve = ask_right
            holder = right.begin(["holds the one slot"])
            outer = left.begin(["left"])
            await left.peer.called()
            for number in range(3):
                await left.peer.ask(2 + 2 * number, "cap.a.b", parent=1)
                assert answered_error(await left.peer.read()) == "busy"
            assert not left.connection.open_calls[1].inner_calls
            await right.peer.called()
            await right.peer.answer(1)
            await left.peer.answer(1)
            await outcome(holder)
            await outcome(outer)

    asyncio.run(scenario())
