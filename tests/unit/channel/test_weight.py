from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from msgspec.msgpack import Ext

from annexe.channel.weight import COUNTED_FROM_BYTES, MAX_PARTS, MAX_VALUES, is_too_much
from annexe.errors import InvalidResultError
from annexe_sdk.frames import pack_frame
from annexe_sdk.wire import REQUEST, RESPONSE
from tests.unit.channel.peer import ends

_MIB = 1024 * 1024


def frames(value: Any) -> list[bytes]:
    message: tuple[Any, ...] = (RESPONSE, 1, None, value, {})
    return [msgspec.json.encode(message), msgspec.msgpack.encode(message)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x" * 9 * _MIB, id="a long text"),
        pytest.param('"a", {b}, [c]\\' * 500_000, id="a text full of what JSON is made of"),
        pytest.param(["x" * 1000] * 9_000, id="texts"),
        pytest.param([[0.25] * 1536] * 256, id="vectors"),
        pytest.param([{"id": number, "name": "n", "tags": ["a"]} for number in range(12_000)], id="records"),
        pytest.param(["ab"] * (MAX_PARTS - 10), id="almost too many texts"),
        pytest.param([300] * (MAX_VALUES - 10), id="almost too many numbers"),
        pytest.param([1, -1, 200, -200, 70_000, -70_000, 2**33, -(2**33), 0.5, None, "x" * 40, "x" * 300, "x" * 70_000] * 20, id="all"),
    ],
)
def test_what_is_large_and_cheap_is_let_through(value: Any) -> None:
    assert [is_too_much(frame) for frame in frames(value)] == [False, False]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([{}] * (MAX_PARTS + 1), id="maps"),
        pytest.param([[]] * (MAX_PARTS + 1), id="arrays"),
        pytest.param([""] * (MAX_PARTS + 1), id="texts"),
        pytest.param([[{"a": ["b"]}]] * 40_000, id="nested"),
        pytest.param({f"key {number}": 1 for number in range(MAX_PARTS + 1)}, id="keys"),
        pytest.param([1] * (MAX_VALUES + 1), id="numbers"),
        pytest.param([["x" * 40, "x" * 300, 1.5, {}, [None] * 20]] * 25_000, id="all"),
    ],
)
def test_what_would_take_long_to_build_is_too_much(value: Any) -> None:
    assert [is_too_much(frame) for frame in frames(value)] == [True, True]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b'[1,1,null,"' + b'\\"' * 5 * _MIB, id="text that never ends"),
        pytest.param(b'[1,"' + b"\\" * 10 * _MIB, id="escapes without end"),
        pytest.param(b"[" + b',"' * 5 * _MIB, id="quotes"),
        pytest.param(b"\x95" + b"\x01" * 10 * _MIB, id="more numbers than were announced"),
        pytest.param(b"\x95" + b"\xa0" * 10 * _MIB, id="more texts than were announced"),
        pytest.param(b"\x95" + b"\xc1" * 10 * _MIB, id="what MessagePack has not"),
        pytest.param(b"\x95\xdd\xff\xff\xff\xff", id="an endless array"),
        pytest.param(b"\x95\xdb\xff\xff\xff\xff", id="an endless text"),
        pytest.param(b"\x95\xcf", id="cut short"),
    ],
)
def test_counting_is_quick_whatever_the_bytes(frame: bytes) -> None:
    began = time.process_time()
    is_too_much(frame)
    assert time.process_time() - began < 2.0  # some 0.1 s; what is tried again and again takes hours


@pytest.mark.parametrize("frame", frames([{}] * 200_000))
def test_too_much_as_a_result_fails_its_call_alone(frame: bytes) -> None:
    async def scenario() -> None:
        assert len(frame) > COUNTED_FROM_BYTES
        async with ends() as both:
            task = asyncio.create_task(both.call())
            await both.peer.called()
            await both.peer.raw(pack_frame(frame))
            with pytest.raises(InvalidResultError, match="more than 100000 texts, arrays and maps") as caught:
                await task
            assert (caught.value.plugin, caught.value.method) == ("sample", "hook.a.b")
            await both.works()
            await both.peer.raw(pack_frame(frame))
            assert await both.broken_rule() == "unknown-id"

    asyncio.run(scenario())


def test_too_much_as_the_params_of_a_request_is_refused() -> None:
    async def scenario() -> None:
        async with ends() as both:
            await both.peer.ask(2, "cap.a.b", [[0] * 500_001])
            message = await both.peer.read()
            assert (message[0], message[1], message[2]["code"]) == (RESPONSE, 2, "invalid-params")
            await both.peer.ask(4, "cap.a.b", ["x" * 9_000_000])
            assert (await both.peer.read())[:3] == [RESPONSE, 4, None]
            assert [call.id for call in both.served] == [4]

    asyncio.run(scenario())


def test_too_much_under_a_head_that_cannot_be_read_ends_the_connection() -> None:
    async def scenario() -> None:
        async with ends() as both:
            frame = msgspec.msgpack.encode((REQUEST, 2, "cap.a.b", [{}] * 200_000, {}))
            await both.peer.raw(pack_frame(b"\xdc\x00\x05" + frame[1:]))
            assert await both.broken_rule() == "bad-envelope"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "extension",
    [Ext(1, b"x" * size) for size in (1, 2, 4, 8, 16, 3, 200, 300, 70_000)],
    ids=lambda extension: f"{len(extension.data)}-bytes",
)
def test_extension_hides_nothing_that_follows_it(extension: Ext) -> None:
    assert is_too_much(msgspec.msgpack.encode([extension, [{}] * 100_001]))
    assert not is_too_much(msgspec.msgpack.encode([extension, [{}] * 99_000]))
