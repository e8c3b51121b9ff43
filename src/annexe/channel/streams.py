"""Streamed calls: items both ways, paid for with credit.

* At most the credit granted is ever held for a stream, so a plugin cannot fill the host.
* Nothing is sent while much waits to be read, whatever credit the plugin grants.
* The plugin's clock runs only while it has credit and something to do: a slow upstream or a slow reader is never blamed on it.

Source: docs/reference/protocol.md, "Streams"; docs/reference/hooks.md, "Time and failure"; ADR-0061.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, final

import msgspec

from annexe.channel.arenas import Arenas, NoRoomError
from annexe.channel.calls import HostCall
from annexe.channel.faults import error_from_wire
from annexe.channel.messages import ENCODE_FAULTS, BlobItem, BlobsFound, CodecName, Item
from annexe.contract.blobs import BlobPayload
from annexe.errors import CallCancelledError, CallError, CallTimeoutError, InvalidParamsError, RemoteProtocolError
from annexe_sdk import wire

if TYPE_CHECKING:
    from annexe.channel.connection import Connection

__all__ = ["Decode", "Stream"]

Decode = Callable[[CodecName, msgspec.Raw], Any]

_ACKNOWLEDGE_BYTES = wire.INITIAL_CREDIT_BYTES // 2
# Credit is the plugin's word: it may grant without reading. What really waits to be read is bounded by this, all streams together.
_MAX_UNREAD_BYTES = 1024 * 1024


@final
class Stream:
    """The host's side of one streamed call: an async iterator of what the plugin sends.

    Args:
        connection: Whose stream.
        call: The open call; its ``meta.stream`` says which directions there are.
        decode: Raw item to value; raises ValueError when it does not fit the declared type.
        first_s: How long the plugin may take for its first item, by its own clock; None: no limit.
        idle_s: The same for each later item.
    """

    def __init__(self, connection: Connection, call: HostCall, *, decode: Decode, first_s: float | None, idle_s: float | None) -> None:
        self.call = call
        self.items_received = 0
        self._connection = connection
        self._decode = decode
        self._loop = asyncio.get_running_loop()
        self._budget_s = first_s
        self._idle_s = idle_s
        self._items: deque[tuple[Item, int]] = deque()
        self._arenas: Arenas | None = None
        self._unread_bytes = 0
        self._granted_bytes = wire.INITIAL_CREDIT_BYTES
        self._consumed_bytes = 0
        self._credit_bytes = wire.INITIAL_CREDIT_BYTES
        self._unacknowledged_bytes = 0
        self._has_input = call.meta.stream in ("in", "both")
        self._ended = not self._has_input
        self._fault: Exception | None = None
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._clock_from: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._touch()

    # What the plugin sends.

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._fault is not None:
                raise self._fault
            if self.call.future.done():
                self._raise_end()
            self._acknowledge()
            self._wake = self._loop.create_future()
            try:
                await self._wake
            except asyncio.CancelledError:
                self.abandon()
                raise
        item, size = self._items.popleft()
        self._unread_bytes -= size
        self._consumed_bytes += size
        if self._consumed_bytes >= _ACKNOWLEDGE_BYTES:
            self._acknowledge()
        if type(item) is BlobItem:
            self._read(item)
        return self._decode(item.codec, item.value)

    def _read(self, item: BlobItem) -> None:
        """Copy an item's blobs and release them: until they are read they stay in shared memory, whose size bounds them."""
        assert self._arenas is not None
        item.value = BlobPayload(bytes(item.value), self._arenas.read(item.meta.blobs))  # type: ignore[assignment]
        self._release(item)

    def _release(self, item: Item) -> None:
        if type(item) is BlobItem and self._arenas is not None:
            self._arenas.let_go(item.meta.blobs)
            self._connection.release_regions(item.meta.blobs)

    def _raise_end(self) -> None:
        if self.call.future.cancelled():
            text = f"{self.call.method} was called off"
            raise CallCancelledError(text, plugin=self._connection.plugin, method=self.call.method)
        response = self.call.future.result()
        if response.error is not None:
            raise error_from_wire(response.error, plugin=self._connection.plugin, method=self.call.method)
        raise StopAsyncIteration

    def _acknowledge(self) -> None:
        if self._consumed_bytes and not self.call.future.done():
            self._connection.send((wire.CREDIT, self.call.id, self._consumed_bytes))
            self._granted_bytes += self._consumed_bytes
            self._consumed_bytes = 0
            self._touch()

    def receive(self, item: Item) -> None:
        """Take in an item."""
        size = self._connection.frame_bytes
        self._granted_bytes -= size
        if self._granted_bytes < 0 or size > wire.MAX_ITEM_FRAME_BYTES:
            text = f"an item of {size} bytes, {-self._granted_bytes} more than its credit"
            raise RemoteProtocolError(text, rule="credit-exceeded", plugin=self._connection.plugin)
        if type(item) is BlobItem:
            self._arenas = self._connection.arenas  # kept: what arrived is read even when the connection has gone
            assert self._arenas is not None
            self._arenas.hold(item.meta.blobs)
        if self.call.given_up_at is not None:
            self._release(item)
            return
        self.items_received += 1
        self._budget_s = self._idle_s
        self._items.append((item, size))
        self._unread_bytes += size
        self._touch(moved=True)
        self._wake_reader()

    def finish(self) -> None:
        """The call is over."""
        future = self.call.future
        if future.done() and not future.cancelled():
            future.exception()  # its reader may have left: then nobody asks for it, and nobody misses it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_reader()
        self._wake_writer()

    def fail(self, error: Exception) -> None:
        """End the stream with an error of the host's own finding, or of what feeds it, and tell the plugin."""
        self._fault = self._fault or error
        self.abandon()
        self.finish()

    def abandon(self) -> None:
        """Stop wanting the rest."""
        self._connection.give_up(self.call)
        if not self.call.future.done():
            self.call.future.cancel()
        for item, _ in self._items:  # nobody will read them
            self._release(item)
        self._items = deque((item, size) for item, size in self._items if type(item) is not BlobItem)
        self.finish()

    def _wake_reader(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # What the plugin gets.

    async def send(self, value: Any) -> None:
        """Send an item, when the plugin has room for it.

        Raises:
            InvalidParamsError: The item cannot be encoded, or is larger than 64 KiB.
            CallError: The stream is over.
        """
        plugin, method = self._connection.plugin, self.call.method
        try:
            body = self._connection.codec.encode((wire.ITEM, self.call.id, value, {}))
        except BlobsFound:
            await self._send_with_blobs(value)
            return
        except ENCODE_FAULTS as error:
            raise InvalidParamsError(f"an item for {method} cannot be sent: {error}", plugin=plugin, method=method) from error
        if len(body) > wire.MAX_ITEM_FRAME_BYTES:
            text = f"an item for {method} has {len(body)} bytes; expected at most {wire.MAX_ITEM_FRAME_BYTES}"
            raise InvalidParamsError(text, plugin=plugin, method=method)
        await self._wait_for_credit(len(body))
        self._send_now(body)

    async def _send_with_blobs(self, value: Any) -> None:
        """Send an item whose blobs travel beside it, when there is room for them.

        Between placing and sending nothing is waited for: the plugin could release what it was not sent yet.
        """
        arenas, plugin, method = self._connection.arenas, self._connection.plugin, self.call.method
        needed_bytes = 1
        while True:
            await self._wait_for_credit(needed_bytes)
            assert arenas is not None  # the stream is open, so the connection is
            try:
                body = arenas.encode((wire.ITEM, self.call.id, value), {}, limit_bytes=wire.MAX_ITEM_FRAME_BYTES)
            except NoRoomError:
                arenas.wake_when_free(self._wake_writer)
                self._room = self._loop.create_future()
                await self._room
                continue
            except ENCODE_FAULTS as error:
                raise InvalidParamsError(f"an item for {method} cannot be sent: {error}", plugin=plugin, method=method) from error
            if len(body) <= self._credit_bytes:
                self._send_now(body)
                return
            arenas.take_back(arenas.placed)
            needed_bytes = len(body)

    async def _wait_for_credit(self, needed_bytes: int) -> None:
        while self._credit_bytes < needed_bytes or self._connection.out_bytes > _MAX_UNREAD_BYTES:
            self._check_open()
            if self._credit_bytes >= needed_bytes:
                self._connection.wake_when_written(self._wake_writer)
            self._room = self._loop.create_future()
            await self._room
        self._check_open()

    def _send_now(self, body: bytes) -> None:
        self._credit_bytes -= len(body)
        self._unacknowledged_bytes += len(body)
        self._connection.write(body)
        self._touch()

    def end(self) -> None:
        """Say that no more items come."""
        if not self._ended and not self.call.future.done():
            self._ended = True
            self._connection.send((wire.END, self.call.id))
            self._touch()

    def add_credit(self, granted_bytes: int) -> None:
        """The plugin has room for more; it also tells what it has taken in."""
        if granted_bytes <= 0:
            raise RemoteProtocolError(f"credit of {granted_bytes} bytes", rule="bad-credit", plugin=self._connection.plugin)
        self._credit_bytes = min(self._credit_bytes + granted_bytes, wire.MAX_CREDIT_BYTES)
        self._unacknowledged_bytes = max(0, self._unacknowledged_bytes - granted_bytes)
        self._touch(moved=True)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _check_open(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self.call.future.done():
            raise CallError(f"{self.call.method} is over", plugin=self._connection.plugin, method=self.call.method)

    # The plugin's clock.

    def _touch(self, *, moved: bool = False) -> None:
        """Run the clock while the plugin has something to do, afresh when it ``moved``; more input does not give it more time.

        Less credit than the longest item may be too little for the next one: then the reader is the slow one.
        """
        has_credit = self._granted_bytes >= wire.MAX_ITEM_FRAME_BYTES
        owes = has_credit and (self._unacknowledged_bytes > 0 or self._ended) and not self.call.future.done()
        if not owes or self._budget_s is None:
            self._clock_from = None
        elif moved or self._clock_from is None:
            self._clock_from = monotonic()
        if self._clock_from is not None and self._budget_s is not None:
            due = self._clock_from + self._budget_s
            if self._timer is not None and due < self._timer.when():  # the later items have less time than the first
                self._timer.cancel()
                self._timer = None
            if self._timer is None:
                self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._clock_from is None or self._budget_s is None:
            return
        due = self._clock_from + self._budget_s
        if due > monotonic():
            self._timer = self._loop.call_at(due, self._on_timer)
            return
        what = "its first item" if self.items_received == 0 else "the next item"
        text = f"plugin {self._connection.plugin!r} did not send {what} of {self.call.method} within {self._budget_s:.3g} s"
        self.fail(CallTimeoutError(text, plugin=self._connection.plugin, method=self.call.method))
