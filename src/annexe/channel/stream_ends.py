"""The two ends of a stream of items, each paid for with credit: what comes, and what goes.

* At most the credit granted is ever held of what comes, so a plugin cannot fill the host.
* Nothing is sent while much waits to be read, whatever credit the plugin grants.

Source: docs/reference/protocol.md, "Streams"; ADR-0061.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Any, final

import msgspec

from annexe.channel.arenas import Arenas, NoRoomError
from annexe.channel.messages import ENCODE_FAULTS, BlobItem, BlobsFound, CodecName, Item
from annexe.contract.blobs import BlobPayload
from annexe.errors import InvalidParamsError, RemoteProtocolError
from annexe_sdk import wire

if TYPE_CHECKING:
    from annexe.channel.connection import Connection

__all__ = ["Decode", "Inbox", "Outlet"]

Decode = Callable[[CodecName, msgspec.Raw], Any]

_ACKNOWLEDGE_BYTES = wire.INITIAL_CREDIT_BYTES // 2
# Credit is the plugin's word: it may grant without reading. What really waits to be read is bounded by this, all streams together.
_MAX_UNREAD_BYTES = 1024 * 1024


@final
class Inbox:
    """What a plugin has sent of one stream and nobody has taken yet.

    Args:
        connection: To the plugin.
        ident: Of the call.
        decode: Raw item to value; raises ValueError when it does not fit the declared type.

    Attributes:
        granted_bytes: How much more the plugin may send.
    """

    def __init__(self, connection: Connection, ident: int, decode: Decode) -> None:
        self.granted_bytes = wire.INITIAL_CREDIT_BYTES
        self._connection = connection
        self._ident = ident
        self._decode = decode
        self._items: deque[tuple[Item, int]] = deque()
        self._arenas: Arenas | None = None
        self._consumed_bytes = 0
        self._wake: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._items)

    def receive(self, item: Item, *, is_wanted: bool) -> None:
        """Take in an item.

        Raises:
            RemoteProtocolError: It was not paid for.
        """
        size = self._connection.frame_bytes
        self.granted_bytes -= size
        if self.granted_bytes < 0 or size > wire.MAX_ITEM_FRAME_BYTES:
            text = f"an item of {size} bytes, {-self.granted_bytes} more than its credit"
            raise RemoteProtocolError(text, rule="credit-exceeded", plugin=self._connection.plugin)
        if type(item) is BlobItem:
            self._arenas = self._connection.arenas  # kept: what arrived is read even when the connection has gone
            assert self._arenas is not None
            self._arenas.hold(item.meta.blobs)
        if not is_wanted:
            self._release(item)
            return
        self._items.append((item, size))
        self.wake()

    def take(self) -> Any:
        """Return the oldest item, decoded."""
        item, size = self._items.popleft()
        self._consumed_bytes += size
        if type(item) is BlobItem:
            self._read(item)
        return self._decode(item.codec, item.value)

    @property
    def owes_much(self) -> bool:
        """Whether so much was taken that the plugin should be told now."""
        return self._consumed_bytes >= _ACKNOWLEDGE_BYTES

    def acknowledge(self) -> bool:
        """Grant the plugin anew what was taken; say whether there was anything."""
        if not self._consumed_bytes:
            return False
        self._connection.send((wire.CREDIT, self._ident, self._consumed_bytes))
        self.granted_bytes += self._consumed_bytes
        self._consumed_bytes = 0
        return True

    async def wait(self) -> None:
        """Return after the next ``wake``."""
        self._wake = self._connection.loop.create_future()
        await self._wake

    def wake(self) -> None:
        """Let the reader look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def drop_blobs(self) -> None:
        """Give back the shared memory of what is left; what came before the first such item may still be read, and nothing after it."""
        left, self._items = self._items, deque()
        for item, _ in left:
            self._release(item)
        self._items.extend(takewhile(lambda entry: type(entry[0]) is not BlobItem, left))

    def _read(self, item: BlobItem) -> None:
        """Copy an item's blobs and release them: until they are read they stay in shared memory, whose size bounds them."""
        assert self._arenas is not None
        item.value = BlobPayload(bytes(item.value), self._arenas.read(item.meta.blobs))  # type: ignore[assignment]
        self._release(item)

    def _release(self, item: Item) -> None:
        if type(item) is BlobItem and self._arenas is not None:
            self._arenas.let_go(item.meta.blobs)
            self._connection.release_regions(item.meta.blobs)


@final
class Outlet:
    """What goes to a plugin of one stream.

    Args:
        connection: To the plugin.
        ident: Of the call.
        method: Name on the wire, for errors.
        check_open: Raises when nothing can be sent any more.
        on_sent: Called after each item.

    Attributes:
        unread_bytes: What was sent and the plugin has not told to have taken in.
    """

    def __init__(
        self,
        connection: Connection,
        ident: int,
        method: str,
        *,
        check_open: Callable[[], None],
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        self.unread_bytes = 0
        self._connection = connection
        self._ident = ident
        self._method = method
        self._check_open = check_open
        self._on_sent = on_sent
        self._credit_bytes = wire.INITIAL_CREDIT_BYTES
        self._room: asyncio.Future[None] | None = None

    async def send(self, value: Any) -> None:
        """Send an item, when the plugin has room for it.

        Raises:
            InvalidParamsError: The item cannot be encoded, or is larger than 64 KiB.
            CallError: The stream is over.
        """
        try:
            body = self._connection.codec.encode((wire.ITEM, self._ident, value, {}))
        except BlobsFound:
            await self._send_with_blobs(value)
            return
        except ENCODE_FAULTS as error:
            raise self._unfit(f"an item for {self._method} cannot be sent: {error}") from error
        if len(body) > wire.MAX_ITEM_FRAME_BYTES:
            raise self._unfit(f"an item for {self._method} has {len(body)} bytes; expected at most {wire.MAX_ITEM_FRAME_BYTES}")
        await self._wait_for_credit(len(body))
        self._send_now(body)

    async def _send_with_blobs(self, value: Any) -> None:
        """Send an item whose blobs travel beside it, when there is room for them.

        Between placing and sending nothing is waited for: the plugin could release what it was not sent yet.
        """
        arenas = self._connection.arenas
        needed_bytes = 1
        while True:
            await self._wait_for_credit(needed_bytes)
            assert arenas is not None  # the stream is open, so the connection is
            try:
                body = arenas.encode((wire.ITEM, self._ident, value), {}, limit_bytes=wire.MAX_ITEM_FRAME_BYTES)
            except NoRoomError:
                arenas.wake_when_free(self.wake)
                try:
                    await self._wait()
                finally:
                    arenas.forget(self.wake)
                continue
            except ENCODE_FAULTS as error:
                raise self._unfit(f"an item for {self._method} cannot be sent: {error}") from error
            if len(body) <= self._credit_bytes:
                self._send_now(body)
                return
            arenas.take_back(arenas.placed)
            needed_bytes = len(body)

    async def _wait_for_credit(self, needed_bytes: int) -> None:
        while self._credit_bytes < needed_bytes or self._connection.out_bytes > _MAX_UNREAD_BYTES:
            self._check_open()
            if self._credit_bytes >= needed_bytes:
                self._connection.wake_when_written(self.wake)
            try:
                await self._wait()
            finally:
                self._connection.forget(self.wake)
        self._check_open()

    async def _wait(self) -> None:
        self._room = self._connection.loop.create_future()
        await self._room

    def _send_now(self, body: bytes) -> None:
        self._credit_bytes -= len(body)
        self.unread_bytes += len(body)
        self._connection.write(body)
        if self._on_sent is not None:
            self._on_sent()

    def add_credit(self, granted_bytes: int) -> None:
        """The plugin has room for more; it also tells what it has taken in.

        Raises:
            RemoteProtocolError: That is no amount.
        """
        if granted_bytes <= 0:
            raise RemoteProtocolError(f"credit of {granted_bytes} bytes", rule="bad-credit", plugin=self._connection.plugin)
        self._credit_bytes = min(self._credit_bytes + granted_bytes, wire.MAX_CREDIT_BYTES)
        self.unread_bytes = max(0, self.unread_bytes - granted_bytes)
        self.wake()

    def wake(self) -> None:
        """Let whoever sends look again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _unfit(self, text: str) -> InvalidParamsError:
        return InvalidParamsError(text, plugin=self._connection.plugin, method=self._method)
