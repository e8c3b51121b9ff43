from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import msgspec
import pytest

from annexe.channel.messages import Item, decode_json, kind_of
from annexe.errors import CallCancelledError, CallError, CallTimeoutError, InvalidParamsError, InvalidResultError, PluginRaisedError
from annexe_sdk.frames import pack_frame
from annexe_sdk.wire import CANCEL, CREDIT, END, INITIAL_CREDIT_BYTES, ITEM, MAX_CREDIT_BYTES, RELEASE, RESPONSE
from tests.unit.channel.peer import Ends, ends


def cost(ident: int, value: Any) -> int:
    return len(json.dumps([ITEM, ident, value, {}]))


async def opened(both: Ends, **times: Any) -> Any:
    stream = both.stream(**times)
    message = await both.peer.called()
    assert message[4]["stream"] == stream.call.meta.stream
    return stream


async def sent(both: Ends, stream: Any, *values: Any) -> None:
    """Have the plugin send items; all of them are there before any is read."""
    for value in values:
        await both.peer.send(ITEM, 1, value, {})
    async with asyncio.timeout(5):
        while len(stream._inbox._items) < len(values):
            await asyncio.sleep(0)


def test_items_flow_both_ways_and_the_answer_ends_them() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            await stream.send("a")
            assert await both.peer.read() == [ITEM, 1, "a", {}]
            stream.end()
            stream.end()
            assert await both.peer.read() == [END, 1]
            await both.peer.send(ITEM, 1, "A", {})
            assert await anext(stream) == "A"
            waiting = asyncio.create_task(anext(stream))
            assert await both.peer.read() == [CREDIT, 1, cost(1, "A")]
            await both.peer.answer(1)
            with pytest.raises(StopAsyncIteration):
                await waiting
            with pytest.raises(CallError, match="is over"):
                await stream.send("b")
            await both.works()

    asyncio.run(scenario())


def test_an_error_comes_after_the_items_before_it() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both, mode="out")
            await both.peer.send(ITEM, 1, "A", {})
            await both.peer.send(RESPONSE, 1, {"code": "plugin-raised", "message": "oh", "data": None}, None, {})
            assert await anext(stream) == "A"
            with pytest.raises(PluginRaisedError):
                await anext(stream)

    asyncio.run(scenario())


def test_what_was_read_is_acknowledged_when_the_reader_waits() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            await sent(both, stream, "a", "bb")
            assert [await anext(stream), await anext(stream)] == ["a", "bb"]
            await both.peer.reads_nothing()
            waiting = asyncio.create_task(anext(stream))
            assert await both.peer.read() == [CREDIT, 1, cost(1, "a") + cost(1, "bb")]
            await both.peer.answer(1)
            with pytest.raises(StopAsyncIteration):
                await waiting

    asyncio.run(scenario())


def test_what_was_read_is_acknowledged_in_batches_while_there_is_more() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            value = "x" * 12_000
            await sent(both, stream, *[value] * 5)
            for _ in range(3):
                await anext(stream)
            assert await both.peer.read() == [CREDIT, 1, 3 * cost(1, value)]
            await both.peer.reads_nothing()

    asyncio.run(scenario())


def test_a_plugin_may_use_its_credit_to_the_last_byte_and_not_one_more() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            value = "x" * (INITIAL_CREDIT_BYTES // 2 - cost(1, ""))
            assert cost(1, value) * 2 == INITIAL_CREDIT_BYTES
            await both.peer.send(ITEM, 1, value, {})
            await both.peer.send(ITEM, 1, value, {})
            await both.works()
            await both.peer.send(ITEM, 1, "", {})
            assert await both.broken_rule() == "credit-exceeded"
            assert await anext(stream) == value  # what came in time is still there

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ([ITEM, 1, "x" * 65_600, {}], "credit-exceeded"),
        ([CREDIT, 1, 0], "bad-credit"),
        ([CREDIT, 1, -1], "bad-credit"),
        ([CREDIT, 1, 1.5], "bad-envelope"),
        ([END, 1], "wrong-parity"),
        ([ITEM, 99, "x", {}], "unknown-id"),
        ([CREDIT, 98, 5], "unknown-id"),
        ([END, 98], "unknown-id"),
        ([CANCEL, 1], "unknown-id"),
        ([RELEASE, [[0, 1]]], "no-arena"),
        ([RESPONSE, 98, None, 1, {}], "unknown-id"),
    ],
)
def test_what_breaks_the_rules_names_them(message: list[Any], rule: str) -> None:
    async def scenario() -> None:
        async with ends() as both:
            await opened(both)
            await both.peer.send(*message)
            assert await both.broken_rule() == rule

    asyncio.run(scenario())


def test_messages_for_a_stream_that_is_over_are_ignored() -> None:
    async def scenario() -> None:
        async with ends() as both:
            await opened(both)
            await both.peer.answer(1)
            for message in ([ITEM, 1, "x", {}], [CREDIT, 1, 5], [CREDIT, 1, -5]):
                await both.peer.send(*message)
            await both.works()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (b'[4,1,null,{"a":[' + b"{}," * 30_000 + b"0]}]", "credit-exceeded"),
        (b"\x94\x04\x01\xc0\x81\xa1a\xdd" + (70_000).to_bytes(4, "big") + b"\x80" * 70_000, "credit-exceeded"),
        (b"[3,1" + b" " * 70_000 + b"]", "bad-envelope"),
        (b"[5,1" + b" " * 70_000 + b"]", "bad-envelope"),
        (b"[6,1" + b" " * 70_000 + b",5]", "bad-envelope"),
        (b"[7,[" + b"[0,0]," * 20_000 + b"[0,0]]]", "bad-envelope"),
        (b"[" + b" " * 70_000 + b"4,1,null,{}]", "bad-envelope"),
    ],
)
def test_a_long_frame_of_a_kind_that_needs_none_is_refused_for_a_call_that_is_over_too(frame: bytes, rule: str) -> None:
    async def scenario() -> None:
        async with ends() as both:
            await both.works()
            await both.peer.raw(pack_frame(frame))
            assert await both.broken_rule() == rule

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b"[0,2]", 0),
        (b"[ 4 ,1]", 4),
        (b"[" + b" " * 40 + b"4]", -1),
        (b"\x94\x04\x01", 4),
        (b"\xdc\x00\x04\x04", 4),
        (b"\xdd\x00\x00\x00\x04\xcc\x01", 1),
        (b"\x91", -1),
    ],
)
def test_the_kind_of_a_message_is_read_off_its_head(frame: bytes, kind: int) -> None:
    assert kind_of(frame) == kind


def test_meta_of_an_item_that_is_not_known_is_passed_over_and_not_built() -> None:
    item = decode_json(b'[4,1,"x",{"a":[{},{}],"b":1}]')
    assert isinstance(item, Item)
    assert msgspec.structs.asdict(item.meta) == {"blobs": None}


def test_the_host_waits_for_credit_and_never_takes_more_than_there_can_be() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            value = "x" * 40_000
            await stream.send(value)
            second = asyncio.create_task(stream.send(value))
            await asyncio.sleep(0.02)
            assert not second.done()
            await both.peer.read()
            for _ in range(3):
                await both.peer.send(CREDIT, 1, 2**53)
            await second
            sent = 0
            async with asyncio.timeout(5):
                while True:
                    third = asyncio.create_task(stream.send(value))
                    await asyncio.sleep(0.01)
                    if not third.done():
                        break
                    sent += 1
            assert sent <= MAX_CREDIT_BYTES // 40_000
            third.cancel()

    asyncio.run(scenario())


def test_credit_granted_without_reading_does_not_fill_the_host() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            value, sent = "x" * 60_000, 0

            async def feed() -> None:
                nonlocal sent
                while True:
                    await stream.send(value)
                    sent += 1

            feeding = asyncio.create_task(feed())
            for _ in range(300):  # far more than is read
                await both.peer.send(CREDIT, 1, MAX_CREDIT_BYTES)
                await asyncio.sleep(0)
            before = sent
            assert 10 < before < 100
            assert both.connection.out_bytes < 2 * 1024 * 1024
            for _ in range(before):
                assert (await both.peer.read())[0] == ITEM
            await both.peer.send(CREDIT, 1, MAX_CREDIT_BYTES)
            await asyncio.sleep(0.05)
            assert sent > before  # it goes on once what waited has been read
            feeding.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("value", ["x" * 70_000, object()])
def test_an_item_that_cannot_be_sent_is_refused_before_it_is(value: Any) -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            with pytest.raises(InvalidParamsError) as caught:
                await stream.send(value)
            assert (caught.value.plugin, caught.value.method) == ("sample", "hook.a.b")
            await stream.send("still")
            assert (await both.peer.read())[2] == "still"

    asyncio.run(scenario())


def test_an_item_that_cannot_be_decoded_ends_its_stream_alone() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            body = b"[4,1,{nope},{}]"
            await both.peer.raw(len(body).to_bytes(4, "big") + body)
            with pytest.raises(InvalidResultError) as caught:
                await anext(stream)
            assert caught.value.plugin == "sample"
            assert await both.peer.read() == [CANCEL, 1]
            await both.peer.answer(1)
            await both.works()

    asyncio.run(scenario())


def test_a_reader_that_leaves_cancels_the_call() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both)
            reading = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await both.peer.read() == [CANCEL, 1]
            # What still comes is dropped, within the credit.
            await both.peer.send(ITEM, 1, "x", {})
            await both.peer.send(RESPONSE, 1, {"code": "cancelled", "message": "", "data": None}, None, {})
            await both.works()
            with pytest.raises(CallCancelledError):
                await anext(stream)

    asyncio.run(scenario())


# The plugin's clock.


async def late(stream: Any, within_s: float = 3.0) -> CallTimeoutError:
    started = monotonic()
    with pytest.raises(CallTimeoutError) as caught:
        await anext(stream)
    assert monotonic() - started < within_s
    return caught.value


def test_a_plugin_that_owes_its_first_item_is_late() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both, item_s=0.05)
            await stream.send("a")
            error = await late(stream)
            assert (error.plugin, error.method) == ("sample", "hook.a.b")
            assert "its first item" in error.message
            await both.peer.read()
            assert await both.peer.read() == [CANCEL, 1]

    asyncio.run(scenario())


def test_a_plugin_that_owes_the_next_item_is_late() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both, mode="out", item_s=0.6)
            await both.peer.send(ITEM, 1, "A", {})
            assert await anext(stream) == "A"
            assert "the next item" in (await late(stream)).message

    asyncio.run(scenario())


def test_a_plugin_that_waits_for_its_caller_is_not_late() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both, item_s=0.6)
            await asyncio.sleep(0.7)  # the caller has sent nothing yet
            await stream.send("a")
            await both.peer.read()
            await both.peer.send(CREDIT, 1, cost(1, "a"))  # taken in; it may hold it back
            await both.works()
            await asyncio.sleep(0.7)
            stream.end()
            await both.peer.read()
            await both.peer.send(ITEM, 1, "A", {})
            assert await anext(stream) == "A"
            await late(stream)  # after the end it owes the answer

    asyncio.run(scenario())


def test_a_plugin_whose_reader_is_slow_is_not_late() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both, mode="out", item_s=0.6)
            value = "x" * (INITIAL_CREDIT_BYTES // 2 - cost(1, ""))
            await both.peer.send(ITEM, 1, value, {})
            await both.peer.send(ITEM, 1, value, {})
            await asyncio.sleep(0.8)  # without credit it cannot send
            assert await anext(stream) == value
            assert await anext(stream) == value
            await both.peer.answer(1)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(scenario())


def test_the_deadline_of_the_whole_ends_a_stream_that_goes_on() -> None:
    async def scenario() -> None:
        async with ends() as both:
            stream = await opened(both, mode="out", deadline_s=0.1, item_s=5)

            async def chatter() -> None:
                while True:
                    await both.peer.send(ITEM, 1, "a", {})
                    await asyncio.sleep(0.01)

            chatting = asyncio.create_task(chatter())
            with pytest.raises(CallTimeoutError):
                async for _ in stream:
                    pass
            chatting.cancel()

    asyncio.run(scenario())
