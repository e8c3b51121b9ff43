"""The plugin's end of a connection with shared memory, by hand: it can write and send whatever it likes."""

from __future__ import annotations

import asyncio
import functools
import mmap
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from annexe.channel import ChannelLimits, RequestMeta, Response
from annexe.channel.memory_files import MemoryFiles
from annexe.contract.annotations import _build
from annexe.contract.values import ValueType
from annexe_sdk.frames import pack_frame
from annexe_sdk.wire import BLOB_FROM_BYTES, NOTIFICATION, RELEASE, REQUEST, RESPONSE
from tests.unit.channel.peer import Ends

__all__ = ["BYTES", "LONG", "MIB", "SIZE", "MemoryEnds", "blob", "memory_ends", "on_a_loop"]

MIB = 1024 * 1024
SIZE = 4 * MIB
LONG = bytes(range(256)) * (BLOB_FROM_BYTES // 256)


def _made(kind: Any) -> ValueType:
    value_type = _build(kind, "bytes")
    assert isinstance(value_type, ValueType)
    return value_type


BYTES = _made(bytes)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run


def blob(index: int = 0) -> Ext:
    """Stand for a blob in a payload."""
    return Ext(1, bytes((index,)))


class MemoryEnds(Ends):
    """Both ends of a connection with shared memory; ``inbox`` is the file from the host, ``outbox`` that to it."""

    def __init__(self, limits: ChannelLimits, files: MemoryFiles) -> None:
        super().__init__(limits, files)
        assert files.descriptors is not None
        self.inbox = mmap.mmap(files.descriptors[0], SIZE, prot=mmap.PROT_READ)
        self.outbox = mmap.mmap(files.descriptors[1], SIZE)
        self.connection.greeted("msgpack", uses_arenas=True)
        self.connection.agree("msgpack")

    async def send(self, *message: Any) -> None:
        """Send a message in MessagePack."""
        await self.peer.raw(pack_frame(msgspec.msgpack.encode(message)))

    def give(self, value: bytes = LONG, *, deadline_s: float = 5.0) -> asyncio.Task[bytes]:
        """Call the plugin with bytes and return what it answers, to be awaited."""
        return asyncio.create_task(self._give(value, deadline_s))

    async def _give(self, value: bytes, deadline_s: float) -> bytes:
        meta = RequestMeta()
        response: Response = await self.connection.call("hook.a.b", (BYTES.to_send(value),), meta, deadline=monotonic() + deadline_s)
        result: bytes = BYTES.decoders[response.codec](response.result)
        return result

    async def given(self) -> tuple[int, bytes, list[list[int]]]:
        """Return the next call's id, its one parameter, and where that came from."""
        message = await self.peer.called()
        regions = message[4].get("blobs", [])
        (value,) = message[3]
        if isinstance(value, Ext):
            offset, length = regions[bytes(value.data)[0]]
            value = bytes(self.inbox[offset : offset + length])
        return message[1], value, regions

    async def answer(self, ident: int, *regions: tuple[int, int], result: Any = None) -> None:
        """Answer a call with what lies in these regions of the file to the host."""
        await self.send(RESPONSE, ident, None, blob() if result is None else result, {"blobs": regions})

    async def ask(self, ident: int, *regions: tuple[int, int], params: Any = None) -> None:
        """Ask the host with what lies in these regions."""
        await self.send(REQUEST, ident, "cap.a.b", [blob()] if params is None else params, {"blobs": regions})

    async def release(self, *regions: Any) -> None:
        """Release regions of the file from the host."""
        await self.send(RELEASE, regions)

    async def settled(self) -> None:
        """Return once the host has taken in all that was sent."""
        count = len(self.notified)
        await self.send(NOTIFICATION, "log", {}, {})
        async with asyncio.timeout(5):
            while len(self.notified) == count:
                await asyncio.sleep(0)

    async def released(self) -> list[list[int]]:
        """Return which regions the host releases; that must be its next message."""
        message = await self.peer.read()
        assert message[0] == RELEASE, message
        regions: list[list[int]] = message[1]
        return regions

    def put(self, value: bytes, offset: int = 0) -> tuple[int, int]:
        """Write bytes into the file to the host."""
        self.outbox[offset : offset + len(value)] = value
        return offset, len(value)


@asynccontextmanager
async def memory_ends(**limits: Any) -> AsyncIterator[MemoryEnds]:
    """Give both ends; at its end nothing may have reached the loop's exception handler."""
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    files = MemoryFiles.make(SIZE)
    assert files is not None
    both = MemoryEnds(ChannelLimits(**limits), files)
    try:
        yield both
    finally:
        both.connection.close()
        both.peer.sock.close()
        files.close()
    await asyncio.sleep(0)
    assert [error for error in errors if "never retrieved" not in error["message"]] == []  # calls that the peer ended with the connection
