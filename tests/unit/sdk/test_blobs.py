"""Long bytes in shared memory, as the SDK sends and takes them."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from msgspec.msgpack import Ext

from annexe.channel.memory_files import MemoryFiles
from annexe_sdk import AsyncContext, CallFailed, Context, Plugin, Respond
from annexe_sdk.blobs import _Placing
from annexe_sdk.codec import json_codec
from annexe_sdk.runner import Runner
from annexe_sdk.session import Broken, Session
from annexe_sdk.wire import ITEM, MAX_BLOBS, RESPONSE
from tests.unit.sdk.host_end import served
from tests.unit.sdk.memory_host import LONG, MIB, SIZE, MemoryHost, blob, with_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")


@dataclass
class Page:
    number: int
    image: bytes


def echoing(*, is_async: bool = False) -> Plugin:
    plugin = Plugin()

    @plugin.filter("a.size")
    def size(value: Any) -> int:
        return len(value)

    if is_async:

        @plugin.filter("a.echo")
        async def echo_async(value: Any) -> Any:
            return value

        @plugin.filter("a.ask")
        async def ask_async(value: Any, ctx: AsyncContext) -> Any:
            return await ctx.cap("a").b(value)

        @plugin.stream_filter("a.stream")
        async def stream_async(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for item in items:
                yield item

    else:

        @plugin.filter("a.echo")
        def echo(value: Any) -> Any:
            return value

        @plugin.filter("a.ask")
        def ask(value: Any, ctx: Context) -> Any:
            return ctx.cap("a").b(value)

        @plugin.stream_filter("a.stream")
        def stream(items: Iterator[Any]) -> Iterator[Any]:
            yield from items

    return plugin


def answering(value: Any) -> Plugin:
    plugin = Plugin()

    @plugin.filter("a.echo")
    def answer(_: Any) -> Any:
        return value

    return plugin


KINDS = pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])


@KINDS
def test_blob_is_bytes_to_the_handler_and_released(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        for _ in range(3):
            assert host.result_of("hook.a.echo") == LONG
        assert host.releases == [[0, len(LONG)]] * 3


def test_large_blob_is_released_before_the_answer() -> None:
    with with_memory(echoing()) as host:
        ident = host.give("hook.a.size", bytes(MIB))
        assert host.answered(ident)[3] == MIB
        assert host.releases == [[0, MIB]]


@pytest.mark.parametrize(
    ("value", "came"),
    [
        pytest.param(bytearray(LONG), LONG, id="bytearray"),
        pytest.param(memoryview(LONG), LONG, id="memoryview"),
        pytest.param([LONG, b"short", {"a": (1, LONG)}], [LONG, b"short", {"a": [1, LONG]}], id="nested"),
        pytest.param(Page(1, LONG), {"number": 1, "image": LONG}, id="dataclass"),
        pytest.param([Page(1, LONG)], [{"number": 1, "image": LONG}], id="dataclass-in-a-list"),
    ],
)
def test_results_of_all_kinds_hold_blobs(value: Any, came: Any) -> None:
    with with_memory(answering(value)) as host:
        for _ in range(2):  # the second time blobs are looked for before anything is encoded
            message = host.answered(host.call("hook.a.echo", [1]))
            assert isinstance(message[4]["blobs"], list)
            assert host.taken(message) == came


@pytest.mark.parametrize("value", ["x" * 100_000, [b"x" * 100] * 1000, LONG[:-1]], ids=["text", "many-short", "a-byte-less"])
def test_results_without_long_bytes_travel_in_the_frame(value: Any) -> None:
    with with_memory(answering(value)) as host:
        message = host.answered(host.call("hook.a.echo", [1]))
        assert (message[3], message[4]) == (value, {})


def test_more_blobs_than_a_message_may_have_travel_in_the_frame() -> None:
    placing = _Placing(cast("Any", _Everywhere()), 1)
    moved = placing.moved([b"x"] * (MAX_BLOBS + 1))
    assert [type(value) for value in moved[-2:]] == [Ext, bytes]
    assert len(placing.regions) == MAX_BLOBS


class _Everywhere:
    """A memory with room for everything."""

    def place(self, _octets: bytes, _length: int) -> int:
        return 0


def test_results_change_between_long_and_short() -> None:
    with with_memory(echoing()) as host:
        assert host.result_of("hook.a.echo") == LONG
        assert host.result("hook.a.echo", [b"short"]) == b"short"
        assert host.result_of("hook.a.echo") == LONG


@KINDS
def test_without_room_a_result_travels_in_the_frame(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        first = host.answered(host.give("hook.a.echo", bytes(SIZE)))
        assert host.answered(host.give("hook.a.echo", LONG))[3:] == [LONG, {}]
        assert host.taken(first) == bytes(SIZE)
        assert host.result_of("hook.a.echo") == LONG


@KINDS
def test_result_too_long_for_a_frame_waits_for_room(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        first = host.answered(host.give("hook.a.echo", bytes(SIZE)))
        second = host.give("hook.a.echo", bytes(MIB))
        assert host.taken(first) == bytes(SIZE)
        assert host.taken(host.answered(second)) == bytes(MIB)


@KINDS
def test_result_that_gets_no_room_until_the_host_gives_up_is_answered(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        first = host.answered(host.give("hook.a.echo", bytes(SIZE)))
        second = host.give("hook.a.echo", bytes(MIB))
        host.cancel(second)
        assert host.answered(second)[2]["code"] in ("busy", "cancelled")
        assert host.taken(first) == bytes(SIZE)
        assert host.result_of("hook.a.echo", bytes(MIB)) == bytes(MIB)


@KINDS
def test_result_that_can_never_be_sent_is_refused(is_async: bool) -> None:
    with with_memory(answering(bytes(SIZE + 1))) as host:
        answer = host.answered(host.call("hook.a.echo", [1]))
        assert (answer[2]["code"], "as much in blobs" in answer[2]["message"]) == ("invalid-result", True)


def test_what_cannot_be_encoded_keeps_no_room() -> None:
    values: list[Any] = [[LONG, object()], bytes(SIZE)]
    plugin = Plugin()

    @plugin.filter("a.echo")
    def answer(value: Any) -> Any:
        return values[value]

    with with_memory(plugin) as host:
        for _ in range(2):
            assert host.answered(host.call("hook.a.echo", [0]))[2]["code"] == "invalid-result"
            assert host.taken(host.answered(host.call("hook.a.echo", [1]))) == bytes(SIZE)


def test_call_that_was_sent_ahead_keeps_its_blobs_in_the_file_until_it_starts() -> None:
    go_on = threading.Event()
    plugin = echoing()

    @plugin.filter("a.wait")
    def wait(value: Any) -> Any:
        go_on.wait(5)
        return value

    with with_memory(plugin) as host:
        first = host.call("hook.a.wait", [1])
        second = host.give("hook.a.size", bytes(MIB))
        third = host.give("hook.a.size", LONG, 2 * MIB)
        host.cancel(third)
        host.call("annexe.ping", None)  # read by then
        go_on.set()
        answers = {message[1]: message for message in (host.read() for _ in range(4))}
        assert answers[first][3] == 1
        assert answers[second][3] == MIB
        assert answers[third][2]["code"] == "cancelled"
        assert sorted(host.releases) == [[0, MIB], [2 * MIB, len(LONG)]]


# What the plugin asks.


@KINDS
def test_request_and_its_answer_hold_blobs(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        ident = host.give("hook.a.ask")
        request = host.asked("cap.a.b")
        assert host.taken(request) == [LONG]
        host.respond(request, host.put(bytes(MIB), MIB))
        assert host.taken(host.answered(ident)) == bytes(MIB)
        assert sorted(host.releases) == [[0, len(LONG)], [MIB, MIB]]


@KINDS
def test_request_too_long_for_a_frame_waits_for_room(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        first = host.answered(host.give("hook.a.echo", bytes(SIZE)))
        ident = host.give("hook.a.ask", bytes(MIB))
        assert host.taken(first) == bytes(SIZE)
        request = host.asked("cap.a.b")
        assert host.taken(request) == [bytes(MIB)]
        host.answer(request, 5)
        assert host.answered(ident)[3] == 5


def test_request_that_gets_no_room_until_the_host_gives_up_is_busy() -> None:
    plugin, told = echoing(), list[str]()

    @plugin.filter("a.try")
    def attempt(value: Any, ctx: Context) -> Any:
        try:
            ctx.cap("a").b(value)
        except CallFailed as error:
            told.append(error.code)
        return None

    with with_memory(plugin) as host:
        first = host.answered(host.give("hook.a.echo", bytes(SIZE)))
        ident = host.give("hook.a.try", bytes(MIB))
        host.cancel(ident)
        host.answered(ident)
        host.taken(first)
    assert told in (["busy"], [])


def test_request_that_can_never_be_sent_is_refused() -> None:
    plugin = Plugin()

    @plugin.filter("a.ask")
    def ask(_: Any, ctx: Context) -> Any:
        return ctx.cap("a").b(bytes(SIZE + 1))

    with with_memory(plugin) as host:
        error = host.error("hook.a.ask", [1])
        assert error["code"] == "plugin-raised"
        assert "as much in blobs" in error["message"]


def test_answer_with_a_wrong_blob_fails_that_request_alone() -> None:
    with with_memory(echoing()) as host:
        ident = host.give("hook.a.ask")
        request = host.asked("cap.a.b")
        host.taken(request)
        host.send(1, request[1], None, blob(5), {"blobs": [host.put(LONG)]})
        assert "invalid-result" in str(host.answered(ident)[2])
        assert host.result_of("hook.a.echo") == LONG


# Streams.


@KINDS
def test_items_longer_than_a_frame_hold_blobs_both_ways(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        ident = host.call("hook.a.stream", [], stream="both")
        host.send(ITEM, ident, blob(), {"blobs": [host.put(bytes(MIB))]})
        message = host.read()
        while message[0] != ITEM:
            message = host.read()
        assert host.taken(message) == bytes(MIB)
        assert host.releases == [[0, MIB]]
        host.end(ident)
        while message[0] != RESPONSE:
            message = host.read()
        assert message[2] is None


@KINDS
def test_item_without_room_waits_for_some(is_async: bool) -> None:
    with with_memory(echoing(is_async=is_async)) as host:
        first = host.answered(host.give("hook.a.echo", bytes(SIZE)))
        ident = host.call("hook.a.stream", [], stream="both")
        host.send(ITEM, ident, blob(), {"blobs": [host.put(bytes(MIB))]})
        host.credit(ident, 5)
        assert host.taken(first) == bytes(SIZE)
        message = host.read()
        while message[0] != ITEM:
            message = host.read()
        assert host.taken(message) == bytes(MIB)
        host.end(ident)
        while message[0] != RESPONSE:
            message = host.read()


def test_item_for_a_call_that_is_over_is_released() -> None:
    with with_memory(echoing()) as host:
        assert host.result("hook.a.size", [b"x"]) == 1
        host.send(ITEM, 1, blob(), {"blobs": [host.put(LONG)]})
        assert host.result("hook.a.size", [b"xy"]) == 2
        assert host.releases == [[0, len(LONG)]]


# Faults of the host's.


@pytest.mark.parametrize(
    ("payload", "meta", "code"),
    [
        pytest.param(blob(3), {"blobs": [[0, 5]]}, "plugin-raised", id="index-beyond"),
        pytest.param(Ext(9, b"x"), {"blobs": [[0, 5]]}, "plugin-raised", id="other-extension"),
        pytest.param(blob(), {}, "invalid-params", id="no-regions"),
    ],
)
def test_wrong_extension_fails_its_call_alone(payload: Any, meta: dict[str, Any], code: str) -> None:
    with with_memory(echoing()) as host:
        assert host.answered(host.call("hook.a.echo", [payload], **meta))[2]["code"] == code
        assert host.result("hook.a.size", [b"x"]) == 1


def test_extension_without_shared_memory_fails_its_call_alone() -> None:
    with served(echoing(), codecs=("msgpack", "json")) as host:
        assert host.error("hook.a.echo", [Ext(1, b"\x00")])["code"] == "invalid-params"


def opened(host: MemoryHost) -> bool:
    try:
        while True:
            host.read()
    except EOFError:
        return False


@pytest.mark.parametrize("regions", [5, [5], [[0]], [[0, 0]], [[-1, 5]], [[SIZE, 1]], [[0, SIZE + 1]], [["a", 1]]])
def test_blobs_that_are_not_there_end_the_connection(regions: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with with_memory(echoing()) as host:
        host.call("hook.a.echo", [blob()], blobs=regions)
        assert not opened(host)
    assert "bad-region" in capfd.readouterr().err


@pytest.mark.parametrize("regions", [5, [5], [[0, 5]], [[0, len(LONG) + 1]], [["a", "b"]]])
def test_release_of_what_the_host_does_not_have_ends_the_connection(regions: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with with_memory(echoing()) as host:
        host.answered(host.give("hook.a.echo"))
        host.send(7, regions)
        assert not opened(host)
    assert "unknown-region" in capfd.readouterr().err


def test_release_before_anything_was_sent_ends_the_connection(capfd: pytest.CaptureFixture[str]) -> None:
    with with_memory(echoing()) as host:
        host.release([0, 5])
        assert not opened(host)
    assert "no-arena" in capfd.readouterr().err


# Agreement.


@pytest.mark.parametrize(("codecs", "use_msgpack"), [(("json",), True), (("msgpack", "json"), False)])
def test_without_messagepack_shared_memory_is_declined(codecs: tuple[str, ...], use_msgpack: bool) -> None:
    ours, theirs = socket.socketpair()
    files = MemoryFiles.make(SIZE)
    assert files is not None
    thread = threading.Thread(target=Runner(theirs, echoing, use_msgpack=use_msgpack).serve)
    thread.start()
    answer = MemoryHost(ours, files).greet(codecs=codecs)
    assert (answer["codec"], "arenas" in answer) == ("json", False)
    ours.close()
    thread.join(5)
    theirs.close()
    files.close()


def test_session_that_cannot_write_maps_nothing() -> None:
    session = Session(json_codec())
    session.agree(1000, {"in": [0, 1], "out": [0, 1]})
    assert session.shared.take() is None
    session._on_release([7, []], 5)
    with pytest.raises(Broken):
        session._on_release([7, [[0, 1]]], 5)


# Views.


@dataclass
class Viewed:
    image: memoryview
    name: str


def viewing(*, is_async: bool = False) -> tuple[Plugin, list[Any]]:
    plugin, kept = Plugin(), list[Any]()

    def answer(data: Any) -> Any:
        kept.append(data)
        return data

    if is_async:

        @plugin.filter("a.echo")
        async def echo_async(data: memoryview) -> Any:
            return answer(data)

    else:

        @plugin.filter("a.echo")
        def echo(data: memoryview) -> Any:
            return answer(data)

    @plugin.filter("a.nested")
    def nested(viewed: Viewed, copied: bytes) -> Any:
        kept.extend((viewed.image, copied))
        return [type(viewed.image).__name__, type(copied).__name__, viewed.image]

    @plugin.filter("a.raise")
    def fail(data: memoryview) -> Any:
        kept.append(data)
        raise ValueError("no")

    @plugin.filter("a.respond")
    def respond(data: memoryview) -> Any:
        raise Respond(data)

    return plugin, kept


@KINDS
def test_handler_that_asks_for_a_view_looks_at_the_file_itself_while_it_runs(is_async: bool) -> None:
    plugin, kept = viewing(is_async=is_async)
    with with_memory(plugin) as host:
        assert host.result_of("hook.a.echo") == LONG
        assert host.releases == [[0, len(LONG)]]
        with pytest.raises(ValueError, match="released"):
            kept[0][0]


def test_views_cannot_be_written() -> None:
    plugin, kept = viewing()

    @plugin.filter("a.write")
    def write(data: memoryview) -> Any:
        kept.append(data.readonly)
        return 1

    with with_memory(plugin) as host:
        assert host.answered(host.give("hook.a.write"))[3] == 1
    assert kept == [True]


@pytest.mark.parametrize("sent", [b"short", LONG[:-1]])
def test_handler_that_asks_for_a_view_gets_one_of_what_came_in_the_frame(sent: bytes) -> None:
    plugin, kept = viewing()
    with with_memory(plugin) as host:
        assert host.result("hook.a.echo", [sent]) == sent
        assert bytes(kept[0]) == sent


def test_handler_that_asks_for_a_view_gets_one_of_text_in_json() -> None:
    plugin, kept = viewing()
    with served(plugin) as host:
        assert host.result("hook.a.echo", ["aGVsbG8="]) == "aGVsbG8="
    assert bytes(kept[0]) == b"hello"


def test_views_are_made_where_they_are_asked_for_and_bytes_elsewhere() -> None:
    plugin, _ = viewing()
    with with_memory(plugin) as host:
        regions = [host.put(LONG), host.put(LONG, MIB)]
        message = host.answered(host.call("hook.a.nested", [{"image": blob(0), "name": "x"}, blob(1)], blobs=regions))
        assert host.taken(message) == ["memoryview", "bytes", LONG]
        assert host.releases == [list(region) for region in regions]


@pytest.mark.parametrize("method", ["hook.a.raise", "hook.a.respond"])
def test_views_are_given_up_however_the_handler_ends(method: str) -> None:
    plugin, _ = viewing()
    with with_memory(plugin) as host:
        message = host.answered(host.give(method))
        if message[2] is None:
            assert host.taken(message) == LONG
        assert host.result_of("hook.a.echo") == LONG
        assert host.releases == [[0, len(LONG)]] * 2


def test_view_that_something_was_made_of_is_given_up_all_the_same() -> None:
    plugin, kept = viewing()

    @plugin.filter("a.keep")
    def keep(data: memoryview) -> Any:
        kept.append(memoryview(data))
        return 1

    with with_memory(plugin) as host:
        host.answered(host.give("hook.a.keep"))
        assert host.result_of("hook.a.echo", bytes(len(LONG))) == bytes(len(LONG))
        assert kept[0][1] == 0  # the host's next call
