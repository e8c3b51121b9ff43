"""What shared memory costs the host: while much is held, while an item waits, and after the connection has gone."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import msgspec
import pytest

from annexe.channel import ChannelLimits
from annexe.channel.arenas import Arenas, NoRoomError
from annexe.channel.memory_files import MemoryFiles
from annexe.contract.blobs import Blob
from annexe.errors import CallError, RemoteProtocolError
from annexe_sdk.wire import CREDIT, ITEM, MAX_BLOBS, RESPONSE
from tests.unit.channel.memory_peer import BYTES, LONG, MIB, SIZE, MemoryEnds, blob, memory_ends, on_a_loop
from tests.unit.channel.peer import Ends

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

FRAME = 10 * MIB


def made() -> tuple[Arenas, MemoryFiles]:
    files = MemoryFiles.make(SIZE)
    assert files is not None
    return Arenas(files, plugin="sample"), files


def is_closed(files: MemoryFiles) -> bool:
    return files.to_plugin.closed and files.from_plugin.closed and files.descriptors is None


def files_of(both: MemoryEnds) -> MemoryFiles:
    assert both.connection.files is not None
    return both.connection.files


# What is held.


def answer(*regions: tuple[int, int]) -> bytes:
    return msgspec.msgpack.encode((RESPONSE, 1, None, blob(), {"blobs": regions}))


class Counting(int):
    """A number that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Counting.compared += 1
        return int(self) < other

    def __eq__(self, other: object) -> bool:
        Counting.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_message_costs_no_more_where_thousands_of_regions_are_held() -> None:
    arenas, files = made()
    arenas.hold([(Counting(at * 64), 1) for at in range(3839)])
    Counting.compared = 0
    arenas.take(answer((4000 * 64, 1)))
    assert Counting.compared < 100
    files.close()


@pytest.mark.parametrize(
    ("region", "fits"),
    [
        pytest.param((0, 100), True, id="before-all"),
        pytest.param((0, 101), False, id="into-the-first"),
        pytest.param((100, 50), False, id="the-same"),
        pytest.param((100, 1), False, id="its-beginning"),
        pytest.param((149, 1), False, id="its-end"),
        pytest.param((120, 5), False, id="within"),
        pytest.param((150, 150), True, id="between"),
        pytest.param((150, 151), False, id="into-the-second"),
        pytest.param((50, 500), False, id="over-both"),
        pytest.param((400, SIZE - 400), True, id="behind-all"),
        pytest.param((400, SIZE - 399), False, id="beyond-the-file"),
    ],
)
def test_region_is_held_against_those_beside_it(region: tuple[int, int], fits: bool) -> None:
    arenas, files = made()
    arenas.hold([(300, 100), (100, 50)])
    if fits:
        arenas.take(answer(region))
    else:
        with pytest.raises(RemoteProtocolError, match="where another one is"):
            arenas.take(answer(region))
    files.close()


def test_what_was_let_go_may_come_again() -> None:
    arenas, files = made()
    arenas.hold([(300, 100), (100, 50)])
    arenas.let_go([(100, 50), (7, 7)])
    arenas.take(answer((100, 200)))
    with pytest.raises(RemoteProtocolError):
        arenas.take(answer((100, 201)))
    files.close()


# What goes into the frame.


def test_one_long_object_in_many_places_is_not_written_out_before_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    arenas, files = made()
    inlined = 0
    place = arenas._place

    def counted(value: Any) -> Any:
        nonlocal inlined
        placed = place(value)
        inlined += len(placed) if isinstance(placed, bytes) else 0
        return placed

    monkeypatch.setattr(arenas, "_encode", msgspec.msgpack.Encoder(enc_hook=counted).encode)
    with pytest.raises(ValueError, match=f"more than {FRAME} bytes.*; expected at most {FRAME}, and as much in blobs as {SIZE} bytes"):
        arenas.encode((0, 1, "x", [Blob(bytes(MIB))] * 300), {}, limit_bytes=FRAME)
    assert inlined <= FRAME
    assert arenas._room.is_empty
    files.close()


def test_more_than_a_message_may_have_is_not_written_out_either() -> None:
    arenas, files = made()
    few = Blob(bytes(SIZE // MAX_BLOBS))
    with pytest.raises(ValueError, match="more than 100000 bytes"):
        arenas.encode((0, 1, "x", [few] * (MAX_BLOBS + 10)), {}, limit_bytes=100_000)
    assert len(arenas.encode((0, 1, "x", [few] * (MAX_BLOBS + 1)), {}, limit_bytes=100_000)) < 100_000  # counted afresh
    files.close()


def test_what_would_go_if_others_left_room_waits() -> None:
    arenas, files = made()
    arenas.encode((0, 1, "x", Blob(bytes(SIZE - MIB))), {}, limit_bytes=FRAME)
    with pytest.raises(NoRoomError):
        arenas.encode((0, 1, "x", [Blob(bytes(MIB))] * 3), {}, limit_bytes=MIB + 100)
    files.close()


# An item that waits for credit.


@on_a_loop
async def test_item_that_waits_for_credit_has_no_region_that_the_plugin_could_release() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        await both.peer.called()
        stream._outlet._credit_bytes = 0
        waits = asyncio.create_task(stream.send(BYTES.to_send(LONG)))
        await asyncio.sleep(0)
        await both.release([0, len(LONG)])
        assert await both.broken_rule() == "unknown-region"
        with pytest.raises(CallError):
            await waits


@on_a_loop
async def test_item_that_waits_for_a_little_more_credit_has_no_region_either() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        ident = (await both.peer.called())[1]
        stream._outlet._credit_bytes = 1
        waits = asyncio.create_task(stream.send(BYTES.to_send(LONG)))
        await asyncio.sleep(0)
        assert both.connection.arenas is not None
        assert both.connection.arenas._room.is_empty
        await both.send(CREDIT, ident, 1000)
        await waits
        assert await both.peer.read() == [ITEM, ident, blob(), {"blobs": [[0, len(LONG)]]}]
        await both.release([0, len(LONG)])
        await both.settled()


# The end.


@on_a_loop
async def test_item_for_a_stream_whose_connection_has_gone_is_a_call_error() -> None:
    async with memory_ends() as both:
        stream = both.stream("in")
        await both.peer.called()
        both.connection.close()
        with pytest.raises(CallError, match="is over"):
            await stream.send(BYTES.to_send(LONG))


@on_a_loop
async def test_files_are_closed_with_the_connection() -> None:
    async with memory_ends() as both:
        files = files_of(both)
        both.connection.close()
        assert is_closed(files)


@on_a_loop
async def test_files_are_closed_though_requests_were_open() -> None:
    async with memory_ends() as both:
        files = files_of(both)
        both.serve = lambda _call: asyncio.get_running_loop().create_future()
        await both.ask(2, both.put(LONG))
        await both.settled()
        both.peer.sock.shutdown(2)
        await both.closed
        assert is_closed(files)


@on_a_loop
async def test_files_are_closed_before_anything_was_agreed() -> None:
    files = MemoryFiles.make(SIZE)
    assert files is not None
    assert files.descriptors is not None
    before = len(os.listdir("/proc/self/fd"))
    plain = Ends(ChannelLimits(), files)
    plain.connection.close()
    plain.peer.sock.close()
    assert is_closed(files)
    assert len(os.listdir("/proc/self/fd")) < before


@on_a_loop
async def test_files_are_closed_once_the_last_item_was_read() -> None:
    async with memory_ends() as both:
        files = files_of(both)
        stream = both.stream("out")
        stream._inbox._decode = lambda codec, raw: BYTES.decoders[codec](raw)
        ident = (await both.peer.called())[1]
        for at in (0, MIB):
            await both.send(ITEM, ident, blob(), {"blobs": [both.put(LONG, at)]})
        await both.settled()
        both.peer.sock.shutdown(2)
        await both.closed
        for closed in (False, True):
            assert await anext(stream) == LONG
            assert is_closed(files) == closed


@on_a_loop
async def test_files_are_closed_when_the_stream_is_left_unread() -> None:
    async with memory_ends() as both:
        files = files_of(both)
        stream = both.stream("out")
        ident = (await both.peer.called())[1]
        await both.send(ITEM, ident, blob(), {"blobs": [both.put(LONG)]})
        await both.settled()
        both.connection.close()
        assert not is_closed(files)
        stream.abandon()
        assert is_closed(files)
