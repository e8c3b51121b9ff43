from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from annexe.channel.transport import Transport
from annexe.errors import RemoteProtocolError
from annexe_sdk.frames import FrameBuffer, pack_frame


class Wire:
    def __init__(self, on_frame: Callable[[bytes], None] | None, limit_bytes: int) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.frames: list[bytes] = []
        self.arrived = asyncio.Event()
        self.lost: asyncio.Future[RemoteProtocolError | None] = self.loop.create_future()
        self.transport = Transport(
            ours, loop=self.loop, on_frame=on_frame or self._take, on_lost=self.lost.set_result, limit_bytes=limit_bytes
        )

    def _take(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.arrived.set()

    async def has(self, count: int) -> list[bytes]:
        async with asyncio.timeout(5):
            while len(self.frames) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.frames

    async def drained(self, count: int) -> list[bytes]:
        buffer = FrameBuffer()
        frames: list[bytes] = []
        async with asyncio.timeout(5):
            while len(frames) < count:
                frames += buffer.feed(await self.loop.sock_recv(self.theirs, 65536))
        return frames


@asynccontextmanager
async def wire(on_frame: Callable[[bytes], None] | None = None, limit_bytes: int = 10_000_000) -> AsyncIterator[Wire]:
    both = Wire(on_frame, limit_bytes)
    try:
        yield both
    finally:
        both.transport.close()
        both.theirs.close()


def test_frames_arrive_in_order_however_they_are_cut() -> None:
    async def scenario() -> None:
        async with wire() as both:
            sent = [bytes([number]) * (number * 37 + 1) for number in range(100)]
            stream = b"".join(map(pack_frame, sent))
            for start in range(0, len(stream), 1013):
                await both.loop.sock_sendall(both.theirs, stream[start : start + 1013])
            assert await both.has(100) == sent

    asyncio.run(scenario())


def test_a_lone_frame_leaves_at_once() -> None:
    async def scenario() -> None:
        async with wire() as both:
            both.transport.write(b"now", True)
            assert both.theirs.recv(100) == pack_frame(b"now")  # without a turn of the loop in between

    asyncio.run(scenario())


def test_frames_that_are_not_alone_leave_together_in_order() -> None:
    async def scenario() -> None:
        async with wire() as both:
            for body in (b"one", b"two", b"three"):
                both.transport.write(body, False)
            assert await both.drained(3) == [b"one", b"two", b"three"]

    asyncio.run(scenario())


def test_what_the_socket_does_not_take_waits_and_is_counted() -> None:
    async def scenario() -> None:
        async with wire() as both:
            sent = [bytes([number]) * 300_000 for number in range(20)]
            for body in sent:
                both.transport.write(body, True)
            assert both.transport.writing
            assert both.transport.out_bytes > 5_000_000
            assert await both.drained(20) == sent
            await asyncio.sleep(0)
            assert both.transport.out_bytes == 0
            assert not both.transport.writing
            both.transport.write(b"again", True)
            assert await both.drained(1) == [b"again"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "rule"), [(0, "frame-empty"), (101, "frame-too-large")])
def test_a_bad_length_ends_the_connection(size: int, rule: str) -> None:
    async def scenario() -> None:
        async with wire(limit_bytes=100) as both:
            await both.loop.sock_sendall(both.theirs, size.to_bytes(4, "big"))
            async with asyncio.timeout(5):
                error = await both.lost
            assert error is not None
            assert error.rule == rule

    asyncio.run(scenario())


def test_the_end_of_the_stream_is_told_once_after_what_came_before_it() -> None:
    async def scenario() -> None:
        async with wire() as both:
            await both.loop.sock_sendall(both.theirs, pack_frame(b"last") + b"\x00\x00")
            both.theirs.close()
            async with asyncio.timeout(5):
                assert await both.lost is None
            assert both.frames == [b"last"]

    asyncio.run(scenario())


def test_a_frame_that_breaks_the_protocol_ends_the_connection_and_the_rest_is_dropped() -> None:
    taken: list[bytes] = []

    def refuse(frame: bytes) -> None:
        taken.append(frame)
        raise RemoteProtocolError("no", rule="bad-envelope")

    async def scenario(count: int) -> None:
        async with wire(refuse) as both:
            await both.loop.sock_sendall(both.theirs, pack_frame(b"x") * count)
            async with asyncio.timeout(5):
                error = await both.lost
            assert error is not None
            assert error.rule == "bad-envelope"

    for count in (2, 1000):
        taken.clear()
        asyncio.run(scenario(count))
        assert len(taken) == 1


def test_dear_frames_leave_the_loop_to_others_after_a_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    taken: list[bytes] = []

    def take(frame: bytes) -> None:
        nonlocal now_s
        now_s += 0.001
        taken.append(frame)

    async def scenario() -> None:
        monkeypatch.setattr("annexe.channel.transport.monotonic", lambda: now_s)
        async with wire(take) as both:
            sent = [b"%d" % number for number in range(200)]
            await both.loop.sock_sendall(both.theirs, b"".join(map(pack_frame, sent)))
            turns = []
            async with asyncio.timeout(5):
                while len(taken) < 200:
                    before = len(taken)
                    await asyncio.sleep(0)
                    turns.append(len(taken) - before)
                assert max(turns) <= 32
                assert taken == sent
                await both.loop.sock_sendall(both.theirs, pack_frame(b"later"))  # it reads again
                while taken[-1] != b"later":
                    await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_flood_leaves_the_loop_to_others() -> None:
    async def scenario() -> None:
        async with wire() as both:
            await both.loop.sock_sendall(both.theirs, pack_frame(b"x") * 5000)
            turns = []
            while len(both.frames) < 5000:
                before = len(both.frames)
                await asyncio.sleep(0)
                turns.append(len(both.frames) - before)
            assert max(turns) <= 512
            await both.loop.sock_sendall(both.theirs, pack_frame(b"y"))
            assert (await both.has(5001))[-1] == b"y"

    asyncio.run(scenario())


def test_a_connection_closed_by_its_own_frames_handles_no_more() -> None:
    async def scenario() -> None:
        seen: list[bytes] = []

        def take(frame: bytes) -> None:
            seen.append(frame)
            both.transport.close()

        async with wire(take) as both:
            await both.loop.sock_sendall(both.theirs, pack_frame(b"x") * 1000)
            await asyncio.sleep(0.02)
            both.transport.close()  # twice is once
            both.transport.write(b"nobody", True)
            assert seen == [b"x"]
            assert not both.lost.done()

    asyncio.run(scenario())
