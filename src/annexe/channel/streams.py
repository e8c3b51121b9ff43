"""Streamed calls: items both ways, and the plugin's clock.

* The plugin's clock runs only while it has credit and something to do: a slow upstream or a slow reader is never blamed on it.

Source: docs/reference/protocol.md, "Streams"; docs/reference/hooks.md, "Time and failure"; ADR-0061.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, final

from annexe.channel.calls import HostCall
from annexe.channel.faults import fault_of
from annexe.channel.messages import Item
from annexe.channel.stream_ends import Decode, Inbox, Outlet
from annexe.errors import CallError, CallTimeoutError
from annexe_sdk import wire

if TYPE_CHECKING:
    from annexe.channel.connection import Connection

__all__ = ["Decode", "Stream"]


@final
class Stream:
    """The host's side of one streamed call: an async iterator of what the plugin sends.

    Args:
        connection: Whose stream.
        call: The open call; its ``meta.stream`` says which directions there are.
        decode: Raw item to value; raises ValueError when it does not fit the declared type.
        item_s: How long the plugin may take for each item, by its own clock; None: no limit.
    """

    def __init__(self, connection: Connection, call: HostCall, *, decode: Decode, item_s: float | None) -> None:
        self.call = call
        self.items_received = 0
        self._connection = connection
        self._inbox = Inbox(connection, call.id, decode)
        self._outlet = Outlet(connection, call.id, call.method, check_open=self._check_open, on_sent=self._touch)
        self._item_s = item_s
        self._has_input = call.meta.stream in ("in", "both")
        self._ended = not self._has_input
        self._fault: Exception | None = None
        self._clock_from: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._touch()

    # What the plugin sends.

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        inbox = self._inbox
        while not inbox:
            if self._fault is not None:
                raise self._fault
            if self.call.future.done():
                raise fault_of(self.call) or StopAsyncIteration
            self._acknowledge()
            try:
                await inbox.wait()
            except asyncio.CancelledError:
                self.abandon()
                raise
        item = inbox.take()
        if inbox.owes_much:
            self._acknowledge()
        return item

    def _acknowledge(self) -> None:
        if not self.call.future.done() and self._inbox.acknowledge():
            self._touch()

    def receive(self, item: Item) -> None:
        """Take in an item."""
        is_wanted = self.call.given_up_at is None
        self._inbox.receive(item, is_wanted=is_wanted)
        if is_wanted:
            self.items_received += 1
            self._touch(moved=True)

    def finish(self) -> None:
        """The call is over."""
        future = self.call.future
        if future.done() and not future.cancelled():
            future.exception()  # its reader may have left: then nobody asks for it, and nobody misses it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._inbox.wake()
        self._outlet.wake()

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
        self._inbox.drop_blobs()
        self.finish()

    # What the plugin gets.

    async def send(self, value: Any) -> None:
        """Send an item; see ``Outlet.send``."""
        await self._outlet.send(value)

    def end(self) -> None:
        """Say that no more items come."""
        if not self._ended and not self.call.future.done():
            self._ended = True
            self._connection.send((wire.END, self.call.id))
            self._touch()

    def add_credit(self, granted_bytes: int) -> None:
        """The plugin has room for more; it also tells what it has taken in."""
        self._outlet.add_credit(granted_bytes)
        self._touch(moved=True)

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
        has_credit = self._inbox.granted_bytes >= wire.MAX_ITEM_FRAME_BYTES
        owes = has_credit and (self._outlet.unread_bytes > 0 or self._ended) and not self.call.future.done()
        if not owes or self._item_s is None:
            self._clock_from = None
            return
        if moved or self._clock_from is None:
            self._clock_from = monotonic()
        if self._timer is None:
            self._timer = self._connection.loop.call_at(self._clock_from + self._item_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._clock_from is None or self._item_s is None:
            return
        due = self._clock_from + self._item_s
        if due > monotonic():
            self._timer = self._connection.loop.call_at(due, self._on_timer)
            return
        what = "its first item" if self.items_received == 0 else "the next item"
        text = f"plugin {self._connection.plugin!r} did not send {what} of {self.call.method} within {self._item_s:.3g} s"
        self.fail(CallTimeoutError(text, plugin=self._connection.plugin, method=self.call.method))
