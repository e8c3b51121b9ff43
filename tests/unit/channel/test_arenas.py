"""Blobs on one connection: where they travel, who has which region, and what a plugin cannot do to the host with them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import pytest
from msgspec.msgpack import Ext

from annexe.channel import ChannelLimits, PluginCall, RequestMeta
from annexe.channel.memory_files import MemoryFiles
from annexe.errors import (
    CallTimeoutError,
    InvalidParamsError,
    InvalidResultError,
    OutcomeUnknownError,
    PluginBusyError,
    PluginRaisedError,
)
from annexe_sdk.frames import pack_frame
from annexe_sdk.wire import CREDIT, ITEM, MAX_BLOBS, NOTIFICATION, RELEASE, REQUEST, RESPONSE
from tests.unit.channel.memory_peer import BYTES, LONG, MIB, SIZE, MemoryEnds, blob, memory_ends, on_a_loop
from tests.unit.channel.peer import Ends, ends

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

SMALL_FRAMES = 256 * 1024


async def decoded(call: PluginCall) -> Any:
    return msgspec.msgpack.decode(call.params)[0]


# To the plugin.


@on_a_loop
async def test_long_bytes_travel_in_the_file_and_short_ones_in_the_frame() -> None:
    async with memory_ends() as both:
        for value, count in ((LONG, 1), (LONG[:-1], 0)):
            task = both.give(value)
            ident, got, regions = await both.given()
            assert (got, len(regions)) == (value, count)
            await both.release(*regions)
            await both.answer(ident, result=b"ok")
            assert await task == b"ok"


@on_a_loop
async def test_region_is_used_again_only_after_its_release() -> None:
    async with memory_ends() as both:
        tasks = [both.give(LONG) for _ in range(2)]
        first, second = [await both.given() for _ in tasks]
        assert [first[2], second[2]] == [[[0, len(LONG)]], [[len(LONG), len(LONG)]]]
        await both.release(*first[2])
        await both.settled()
        tasks.append(both.give(bytes(len(LONG))))
        third = await both.given()
        assert third[2] == first[2]
        assert both.inbox[len(LONG) : 2 * len(LONG)] == LONG  # still the second's
        for ident, *_ in (first, second, third):
            await both.answer(ident, result=b"")
        await asyncio.gather(*tasks)


@on_a_loop
async def test_without_room_long_bytes_travel_in_the_frame() -> None:
    async with memory_ends() as both:
        tasks = [both.give(bytes(SIZE)), both.give(LONG)]
        first, second = [await both.given() for _ in tasks]
        assert (len(first[2]), second[2], second[1]) == (1, [], LONG)
        for ident, *_ in (first, second):
            await both.answer(ident, result=b"")
        await asyncio.gather(*tasks)


@on_a_loop
async def test_what_is_too_long_for_a_frame_waits_for_room_and_no_other_call_waits_with_it() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        tasks = [both.give(bytes(SIZE)), both.give(bytes(MIB)), both.give(b"short")]
        first, third = [await both.given() for _ in range(2)]
        assert third[1] == b"short"
        assert both.connection.in_flight == 3
        assert both.connection.waiting == 2  # one for room, one for the slot of the first
        await both.release(*first[2])
        second = await both.given()
        assert (second[1], second[2]) == (bytes(MIB), [[0, MIB]])
        for ident, *_ in (first, second, third):
            await both.answer(ident, result=b"")
        await asyncio.gather(*tasks)


@on_a_loop
async def test_those_that_wait_for_room_get_it_in_order() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        tasks = [both.give(bytes(SIZE - MIB)), both.give(bytes(SIZE)), both.give(bytes(2 * MIB))]
        first = await both.given()
        await both.peer.reads_nothing()
        await both.release(*first[2])
        second = await both.given()
        assert len(second[1]) == SIZE
        await both.release(*second[2])
        third = await both.given()
        assert len(third[1]) == 2 * MIB
        for ident, *_ in (first, second, third):
            await both.answer(ident, result=b"")
        await asyncio.gather(*tasks)


@on_a_loop
async def test_who_gets_no_room_within_its_deadline_is_told_busy() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        task = both.give(bytes(SIZE))
        ident, *_ = await both.given()
        with pytest.raises(PluginBusyError, match="no room in shared memory"):
            await both.give(bytes(MIB), deadline_s=0.05)
        assert both.connection.in_flight == 1
        await both.answer(ident, result=b"")
        await task


@on_a_loop
async def test_call_that_waits_for_room_can_be_called_off() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        task = both.give(bytes(SIZE))
        ident, _, regions = await both.given()
        waits = both.give(bytes(MIB))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await both.release(*regions)
        await both.answer(ident, result=b"")
        await task
        await both.peer.reads_nothing()


@on_a_loop
async def test_call_with_room_but_without_a_slot_waits_for_that() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES, sent_ahead=0) as both:
        task = both.give(bytes(SIZE))
        ident, _, regions = await both.given()
        waits = both.give(bytes(MIB))  # for the slot
        await asyncio.sleep(0)
        await both.answer(ident, result=b"")
        await task
        await asyncio.sleep(0)  # now for room
        last = both.give(b"last")
        ident, value, _ = await both.given()
        assert value == b"last"
        await both.release(*regions)
        await both.peer.reads_nothing()
        await both.answer(ident, result=b"")
        ident, value, _ = await both.given()
        assert value == bytes(MIB)
        await both.answer(ident, result=b"")
        await asyncio.gather(last, waits)


@on_a_loop
async def test_what_can_never_be_sent_is_refused_at_once() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        with pytest.raises(InvalidParamsError, match=f"a blob of more than {SMALL_FRAMES} bytes"):
            await both.give(bytes(SIZE + 1))
        await both.peer.reads_nothing()


@on_a_loop
async def test_what_cannot_be_encoded_keeps_no_room() -> None:
    async with memory_ends() as both:
        params = (BYTES.to_send(LONG), object())
        with pytest.raises(InvalidParamsError, match="Encoding objects of type object is unsupported"):
            await both.connection.call("hook.a.b", params, RequestMeta(), deadline=asyncio.get_running_loop().time() + 5)
        task = both.give(bytes(SIZE))
        ident, _, regions = await both.given()
        assert len(regions) == 1
        await both.answer(ident, result=b"")
        await task


@on_a_loop
async def test_streamed_call_without_room_is_told_busy_at_once() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        task = both.give(bytes(SIZE))
        ident, *_ = await both.given()
        with pytest.raises(PluginBusyError, match="no room in shared memory"):
            both.begin((BYTES.to_send(bytes(MIB)),), stream="out")
        await both.answer(ident, result=b"")
        await task


@on_a_loop
async def test_only_so_many_calls_wait_for_room() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES, queued=1) as both:
        task = both.give(bytes(SIZE))
        await both.given()
        waits = both.give(bytes(MIB))
        with pytest.raises(PluginBusyError, match="1 calls wait for room"):
            await both.give(bytes(MIB))
        both.connection.close()
        results = await asyncio.gather(task, waits, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["OutcomeUnknownError", "PluginUnavailableError"]


@on_a_loop
async def test_more_blobs_than_a_message_may_have_travel_in_the_frame() -> None:
    async with memory_ends() as both:
        few = b"x" * (SIZE // (MAX_BLOBS * 2))
        marked = tuple(BYTES.to_send(LONG) if index == 0 else type(BYTES.to_send(LONG))(few) for index in range(MAX_BLOBS + 1))
        both.begin((marked,))
        message = await both.peer.called()
        assert [type(value) for value in message[3][0][-2:]] == [Ext, bytes]
        assert len(message[4]["blobs"]) == MAX_BLOBS


@pytest.mark.parametrize(
    "region",
    [
        pytest.param([0, len(LONG) - 1], id="shorter"),
        pytest.param([0, len(LONG) + 1], id="longer"),
        pytest.param([64, len(LONG) - 64], id="a-part"),
        pytest.param([len(LONG), len(LONG)], id="never-sent"),
        pytest.param([-64, len(LONG)], id="before-the-file"),
        pytest.param([2**63, 2**63], id="far-beyond"),
        pytest.param([0, 0], id="nothing"),
    ],
)
@on_a_loop
async def test_release_of_what_the_plugin_does_not_have_ends_the_connection(region: list[int]) -> None:
    async with memory_ends() as both:
        both.begin((BYTES.to_send(LONG),))
        await both.given()
        await both.release(region)
        assert await both.broken_rule() == "unknown-region"


@on_a_loop
async def test_second_release_of_a_region_ends_the_connection() -> None:
    async with memory_ends() as both:
        both.begin((BYTES.to_send(LONG),))
        _, _, regions = await both.given()
        await both.release(*regions, *regions)
        assert await both.broken_rule() == "unknown-region"


@pytest.mark.parametrize("regions", [5, None, "x", {"a": 1}, [5], [[1]], [[1, 2, 3]], [["a", "b"]], [[1.5, 2]], [[None, 1]]])
@on_a_loop
async def test_release_that_names_no_regions_ends_the_connection(regions: Any) -> None:
    async with memory_ends() as both:
        await both.send(RELEASE, regions)
        assert await both.broken_rule() == "bad-envelope"


@on_a_loop
async def test_release_after_the_call_is_over_is_as_good() -> None:
    async with memory_ends() as both:
        call = both.begin((BYTES.to_send(bytes(SIZE)),))
        ident, _, regions = await both.given()
        await both.answer(ident, result=b"")
        await call.future
        await both.release(*regions)
        await both.settled()
        task = both.give(bytes(SIZE))
        ident, _, again = await both.given()
        assert again == regions
        await both.answer(ident, result=b"")
        await task


@on_a_loop
async def test_release_where_there_is_no_shared_memory_ends_the_connection() -> None:
    async with ends() as plain:
        await plain.peer.send(RELEASE, [])
        assert await plain.broken_rule() == "no-arena"


# From the plugin.


@on_a_loop
async def test_result_in_the_file_is_copied_and_released() -> None:
    async with memory_ends() as both:
        task = both.give(b"")
        ident, *_ = await both.given()
        await both.answer(ident, both.put(LONG, 4096))
        assert await task == LONG
        assert await both.released() == [[4096, len(LONG)]]


@on_a_loop
async def test_data_changed_after_it_was_sent_changes_nothing_that_was_received() -> None:
    async with memory_ends() as both:
        task = both.give(b"")
        ident, *_ = await both.given()
        await both.answer(ident, both.put(LONG))
        result = await task
        both.put(bytes(len(LONG)))
        assert result == LONG


@on_a_loop
async def test_blob_named_more_than_once_is_refused_since_it_would_make_gigabytes_of_a_few_bytes() -> None:
    async with memory_ends() as both:
        call = both.begin()
        message = await both.peer.called()
        await both.answer(message[1], both.put(LONG), result=[blob(), blob()])
        response = await call.future
        with pytest.raises(ValueError, match="blob 0 is named twice"):
            response.result.plain()
        both.serve = lambda _call: pytest.fail("it was served")
        assert await both.released() == [[0, len(LONG)]]
        await both.ask(2, both.put(LONG), params=[blob()] * 100)
        answer = await both.peer.read()
        assert (answer[1], answer[2]["code"]) == (2, "invalid-params")
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_request_with_longer_blobs_than_a_frame_is_refused_before_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annexe.channel.arenas.Arenas.read", lambda *_: pytest.fail("they were copied"))
    async with memory_ends(max_frame_bytes=len(LONG) - 1) as both:
        await both.ask(2, both.put(LONG))
        answer = await both.peer.read()
        assert (answer[1], answer[2]["code"]) == (2, "invalid-params")
        assert f"{len(LONG)} bytes of blobs" in answer[2]["message"]
        assert await both.released() == [[0, len(LONG)]]


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param([(SIZE - 1, 2)], id="beyond-the-end"),
        pytest.param([(SIZE, 1)], id="at-the-end"),
        pytest.param([(2**63, 2**63)], id="sum-of-64-bits-and-more"),
        pytest.param([(2**64 - 1, 2)], id="overflowing"),
        pytest.param([(0, 100), (99, 1)], id="overlapping"),
        pytest.param([(0, 100), (0, 100)], id="twice"),
        pytest.param([(50, 100), (0, 200)], id="one-within-another"),
        pytest.param([(0, SIZE + 1)], id="longer-than-the-file"),
    ],
)
@on_a_loop
async def test_blobs_that_are_not_there_end_the_connection(regions: list[tuple[int, int]]) -> None:
    async with memory_ends() as both:
        both.begin()
        message = await both.peer.called()
        await both.answer(message[1], *regions)
        assert await both.broken_rule() == "bad-region"


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param([(0, 0)], id="of-no-length"),
        pytest.param([(-1, 5)], id="before-the-file"),
        pytest.param([(0, -5)], id="of-negative-length"),
        pytest.param([(0, 1, 2)], id="of-three"),
        pytest.param([("a", 1)], id="of-text"),
        pytest.param([(index, 1) for index in range(MAX_BLOBS + 1)], id="too-many"),
    ],
)
@on_a_loop
async def test_blobs_that_are_no_regions_end_the_connection(regions: Any) -> None:
    async with memory_ends() as both:
        both.begin()
        message = await both.peer.called()
        await both.answer(message[1], *regions)
        assert await both.broken_rule() == "bad-envelope"


@pytest.mark.parametrize("result", [blob(1), Ext(1, b""), Ext(5, b"\x00"), [blob(0), 5]])
@on_a_loop
async def test_payload_with_a_wrong_blob_fails_its_call_alone(result: Any) -> None:
    async with memory_ends() as both:
        task = both.give(b"")
        ident, *_ = await both.given()
        await both.answer(ident, both.put(LONG), result=result)
        with pytest.raises(Exception, match="expected bytes"):
            await task
        await both.released()
        await works(both)


async def works(both: MemoryEnds) -> None:
    task = both.give(b"?")
    ident, value, _ = await both.given()
    assert value == b"?"
    await both.answer(ident, result=b"!")
    assert await task == b"!"


@on_a_loop
async def test_extension_without_regions_fails_its_call_alone() -> None:
    async with memory_ends() as both:
        task = both.give(b"")
        ident, *_ = await both.given()
        await both.send(RESPONSE, ident, None, blob(), {})
        with pytest.raises(Exception, match="expected bytes"):
            await task
        await works(both)


@on_a_loop
async def test_result_of_a_call_that_nobody_waits_for_is_released_unread() -> None:
    async with memory_ends() as both:
        task = both.give(b"", deadline_s=0.05)
        ident, *_ = await both.given()
        with pytest.raises(CallTimeoutError):
            await task
        assert (await both.peer.read())[:2] == [3, ident]
        await both.answer(ident, both.put(LONG))
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_error_with_blobs_is_an_error_and_releases_them() -> None:
    async with memory_ends() as both:
        task = both.give(b"")
        ident, *_ = await both.given()
        await both.send(RESPONSE, ident, {"code": "plugin-raised", "message": "no"}, None, {"blobs": [both.put(LONG)]})
        with pytest.raises(PluginRaisedError, match="no"):
            await task
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_answer_with_blobs_to_a_call_that_is_not_open_ends_the_connection() -> None:
    async with memory_ends() as both:
        await both.answer(1, both.put(LONG))
        assert await both.broken_rule() == "unknown-id"


@on_a_loop
async def test_answer_with_blobs_to_a_call_of_the_hosts_own_is_refused() -> None:
    async with memory_ends() as both:
        deadline = asyncio.get_running_loop().time() + 5
        task = asyncio.create_task(both.connection.call("annexe.configure", {}, RequestMeta(), deadline=deadline))
        message = await both.peer.called("annexe.configure")
        await both.answer(message[1], both.put(LONG))
        with pytest.raises(InvalidResultError, match="with blobs"):
            await task
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_blobs_in_a_message_with_a_broken_payload_are_charged_to_the_call() -> None:
    async with memory_ends() as both:
        task = both.give(b"")
        ident, *_ = await both.given()
        await both.peer.raw(pack_frame(b"\x95\x01" + bytes((ident,)) + b"\xc0\xa2\xff\xff\x81\xa5blobs\x91\x92\x00\x01"))
        with pytest.raises(Exception, match="expected bytes"):
            await task
        await both.released()
        await works(both)


@on_a_loop
async def test_blobs_where_there_is_no_shared_memory_end_the_connection() -> None:
    async with ends() as plain:
        call = plain.begin()
        message = await plain.peer.called()
        await plain.peer.raw(pack_frame(msgspec.msgpack.encode([RESPONSE, message[1], None, blob(), {"blobs": [[0, 1]]}])))
        assert await plain.broken_rule() == "no-arena"
        assert isinstance(call.future.exception(), OutcomeUnknownError)


@on_a_loop
async def test_blobs_in_json_end_the_connection() -> None:
    async with memory_ends() as both:
        both.begin()
        message = await both.peer.called()
        await both.peer.send(RESPONSE, message[1], None, "x", {"blobs": [[0, 1]]})
        assert await both.broken_rule() == "no-arena"


@on_a_loop
async def test_blobs_of_a_notification_are_passed_over() -> None:
    async with memory_ends() as both:
        await both.send(NOTIFICATION, "log", blob(), {"blobs": [[0, 1]]})
        await works(both)
        assert [method for method, *_ in both.notified] == ["log"]


# Requests of the plugin's.


@on_a_loop
async def test_request_with_blobs_is_served_as_any_other_and_released_with_its_answer() -> None:
    async with memory_ends() as both:
        done = asyncio.Event()

        async def serve(call: PluginCall) -> Any:
            await done.wait()
            return len(msgspec.msgpack.decode(call.params)[0])

        both.serve = serve
        await both.ask(2, both.put(LONG))
        await both.peer.reads_nothing()  # the file bounds what waits in the host
        done.set()
        assert await both.released() == [[0, len(LONG)]]
        assert (await both.peer.read())[:4] == [RESPONSE, 2, None, len(LONG)]


@on_a_loop
async def test_region_of_an_open_request_cannot_be_used_for_another() -> None:
    async with memory_ends() as both:
        both.serve = lambda _call: asyncio.get_running_loop().create_future()
        await both.ask(2, both.put(LONG))
        await both.ask(4, (len(LONG) - 1, 5))
        assert await both.broken_rule() == "bad-region"


@on_a_loop
async def test_regions_that_are_not_released_are_only_so_many() -> None:
    async with memory_ends() as both:
        both.serve = lambda _call: asyncio.get_running_loop().create_future()
        for number in range(17):
            await both.ask(2 + 2 * number, *((at, 1) for at in range(number * MAX_BLOBS, (number + 1) * MAX_BLOBS)))
        assert await both.broken_rule() == "bad-region"


@on_a_loop
async def test_request_that_is_answered_at_once_is_released_at_once() -> None:
    async with memory_ends() as both:
        both.serve = lambda call: len(msgspec.msgpack.decode(call.params)[0])
        await both.ask(2, both.put(LONG))
        assert (await both.peer.read())[:4] == [RESPONSE, 2, None, len(LONG)]
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_request_with_a_wrong_blob_is_refused_and_released() -> None:
    async with memory_ends() as both:
        await both.ask(2, both.put(LONG), params=[blob(7)])
        answer = await both.peer.read()
        assert (answer[1], answer[2]["code"]) == (2, "invalid-params")
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_request_with_blobs_may_be_cancelled() -> None:
    async with memory_ends() as both:
        both.serve = lambda _call: asyncio.get_running_loop().create_future()
        await both.ask(2, both.put(LONG))
        await both.send(3, 2)
        assert await both.released() == [[0, len(LONG)]]
        assert (await both.peer.read())[2]["code"] == "cancelled"


@on_a_loop
async def test_answer_to_a_plugin_travels_in_the_file_and_waits_for_room() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        both.serve = lambda _call: BYTES.to_send(bytes(SIZE))
        await both.send(REQUEST, 2, "cap.a.b", [], {})
        await both.send(REQUEST, 4, "cap.a.b", [], {})
        first = await both.peer.read()
        assert (first[1], first[4]) == (2, {"blobs": [[0, SIZE]]})
        await both.peer.reads_nothing()
        await both.release([0, SIZE])
        second = await both.peer.read()
        assert (second[1], second[4]) == (4, {"blobs": [[0, SIZE]]})


@on_a_loop
async def test_answer_to_a_plugin_that_gets_no_room_is_busy() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        both.serve = lambda _call: BYTES.to_send(bytes(SIZE))
        await both.send(REQUEST, 2, "cap.a.b", [], {})
        await both.send(REQUEST, 4, "cap.a.b", [], {"deadline_ms": 30})
        await both.peer.read()
        answer = await both.peer.read()
        assert (answer[1], answer[2]["code"]) == (4, "busy")


@on_a_loop
async def test_only_so_many_answers_wait_for_room() -> None:
    async with memory_ends(max_frame_bytes=SMALL_FRAMES) as both:
        both.serve = lambda _call: BYTES.to_send(bytes(SIZE))
        for number in range(66):
            await both.send(REQUEST, 2 + 2 * number, "cap.a.b", [], {})
        assert (await both.peer.read())[1] == 2
        answer = await both.peer.read()
        assert (answer[1], answer[2]["code"]) == (132, "busy")


# Streams.


@on_a_loop
async def test_item_with_a_blob_is_longer_than_a_frame_and_released_when_it_is_read() -> None:
    async with memory_ends() as both:
        stream = both.stream("out")
        stream._inbox._decode = lambda codec, raw: BYTES.decoders[codec](raw)
        ident = (await both.peer.called())[1]
        await both.send(ITEM, ident, blob(), {"blobs": [both.put(bytes(MIB))]})
        await both.peer.reads_nothing()
        assert await anext(stream) == bytes(MIB)
        assert await both.released() == [[0, MIB]]


@on_a_loop
async def test_items_that_nobody_reads_are_released_when_the_stream_is_left() -> None:
    async with memory_ends() as both:
        stream = both.stream("out")
        ident = (await both.peer.called())[1]
        await both.send(ITEM, ident, blob(), {"blobs": [both.put(LONG)]})
        await both.settled()
        stream.abandon()
        assert {tuple(map(str, await both.peer.read())) for _ in range(2)} == {("3", str(ident)), ("7", f"[[0, {len(LONG)}]]")}
        await both.send(ITEM, ident, blob(), {"blobs": [both.put(LONG)]})  # still on its way
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_what_came_after_an_item_that_was_released_unread_is_not_read_without_it() -> None:
    async with memory_ends() as both:
        stream = both.stream("out")
        stream._inbox._decode = lambda codec, raw: BYTES.decoders[codec](raw)
        ident = (await both.peer.called())[1]
        await both.send(ITEM, ident, b"first", {})
        await both.send(ITEM, ident, blob(), {"blobs": [both.put(LONG)]})
        await both.send(ITEM, ident, b"third", {})
        await both.settled()
        stream.fail(OutcomeUnknownError("replaced", plugin="p", method="m"))
        assert await anext(stream) == b"first"
        with pytest.raises(OutcomeUnknownError):
            await anext(stream)


@on_a_loop
async def test_item_with_blobs_for_a_call_that_is_over_is_released() -> None:
    async with memory_ends() as both:
        await works(both)
        await both.send(ITEM, 1, blob(), {"blobs": [both.put(LONG)]})
        assert await both.released() == [[0, len(LONG)]]


@on_a_loop
async def test_items_that_arrived_are_read_after_the_connection_has_gone() -> None:
    async with memory_ends() as both:
        stream = both.stream("out")
        stream._inbox._decode = lambda codec, raw: BYTES.decoders[codec](raw)
        ident = (await both.peer.called())[1]
        await both.send(ITEM, ident, blob(), {"blobs": [both.put(LONG)]})
        both.peer.sock.shutdown(2)
        await both.closed
        assert await anext(stream) == LONG


@on_a_loop
async def test_item_to_the_plugin_travels_in_the_file_and_waits_for_room() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        ident = (await both.peer.called())[1]
        await stream.send(BYTES.to_send(bytes(SIZE)))
        item = await both.peer.read()
        assert item == [ITEM, ident, blob(), {"blobs": [[0, SIZE]]}]
        waits = asyncio.create_task(stream.send(BYTES.to_send(bytes(MIB))))
        await both.peer.reads_nothing()
        await both.release([0, SIZE])
        await waits
        assert await both.peer.read() == [ITEM, ident, blob(), {"blobs": [[0, MIB]]}]


@on_a_loop
async def test_streams_that_are_left_while_they_wait_for_room_are_not_kept() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        await both.peer.called()
        await stream.send(BYTES.to_send(bytes(SIZE)))
        arenas = both.connection.arenas
        assert arenas is not None
        for _ in range(3):
            waits = asyncio.create_task(stream.send(BYTES.to_send(bytes(MIB))))
            await asyncio.sleep(0)
            assert len(arenas._waiting) == 1
            waits.cancel()
            await asyncio.wait([waits])
            assert not arenas._waiting


@on_a_loop
async def test_item_that_waits_for_credit_when_the_stream_ends_keeps_no_room() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        ident = (await both.peer.called())[1]
        stream._outlet._credit_bytes = 0
        waits = asyncio.create_task(stream.send(BYTES.to_send(bytes(SIZE))))
        await asyncio.sleep(0)
        await both.answer(ident, result=None)
        with pytest.raises(Exception, match="is over"):
            await waits
        task = both.give(bytes(SIZE))
        ident, _, regions = await both.given()
        assert regions == [[0, SIZE]]
        await both.answer(ident, result=b"")
        await task


@on_a_loop
async def test_item_that_cannot_be_encoded_is_the_senders_fault() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        await both.peer.called()
        with pytest.raises(InvalidParamsError, match="cannot be sent"):
            await stream.send([BYTES.to_send(LONG), object()])
        await both.send(CREDIT, 1, 5)


# Agreement.


@on_a_loop
async def test_plugin_that_does_not_want_shared_memory_has_none_and_the_host_keeps_none() -> None:
    files = MemoryFiles.make(SIZE)
    assert files is not None
    plain = Ends(ChannelLimits(), files)
    plain.connection.greeted("msgpack", uses_arenas=False)
    assert plain.connection.arenas is None
    with pytest.raises(ValueError, match="closed"):
        files.to_plugin[:1]
    plain.connection.close()
    plain.peer.sock.close()


@on_a_loop
async def test_json_connection_has_no_shared_memory() -> None:
    files = MemoryFiles.make(SIZE)
    plain = Ends(ChannelLimits(), files)
    plain.connection.greeted("json", uses_arenas=True)
    plain.connection.agree("json")
    assert plain.connection.arenas is None
    task = asyncio.create_task(plain.call((BYTES.to_send(LONG),)))
    message = await plain.peer.called()
    assert isinstance(message[3][0], str)
    await plain.peer.answer(message[1], "ok")
    assert await task == "ok"
    plain.connection.close()
    plain.peer.sock.close()
