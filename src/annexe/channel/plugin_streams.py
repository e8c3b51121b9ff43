"""Streams that a plugin asks for: the host's end of the way to whoever asked.

* What the plugin sends is held within the credit that it was granted; what it gets waits for the credit that it grants.
* A stream is over when its request is: what comes later crossed on the wire.

Source: docs/reference/protocol.md, "Streams"; ADR-0097.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

import msgspec

from annexe.channel.messages import CodecName, Item
from annexe.channel.stream_ends import Inbox, Outlet
from annexe.errors import CallCancelledError

if TYPE_CHECKING:
    from annexe.channel.connection import Connection

__all__ = ["DIRECTIONS", "Direction", "PluginStream"]

Direction = Literal["in", "out", "both"]
DIRECTIONS: tuple[Direction, ...] = ("in", "out", "both")


@final
class PluginStream:
    """One stream that a plugin asked for: an async iterator of what it sends, undecoded; ``send`` gives it items.

    Args:
        connection: To the plugin.
        ident: Of its request.
        method: Name on the wire.
        direction: As the plugin sees it: ``in``: it sends items, ``out``: it gets items, or ``both``.
    """

    def __init__(self, connection: Connection, ident: int, method: str, direction: Direction) -> None:
        self.direction = direction
        self._connection = connection
        self._method = method
        self._inbox = Inbox(connection, ident, _as_written)
        self._outlet = Outlet(connection, ident, method, check_open=self._check_wanted)
        self._has_ended = direction == "out"  # nothing more comes
        self._is_closed = False
        self._fault: Exception | None = None
        self._refusal: Exception | None = None

    def __aiter__(self) -> PluginStream:
        return self

    async def __anext__(self) -> tuple[msgspec.Raw, CodecName]:
        inbox = self._inbox
        while not inbox:
            self._check_open()
            if self._has_ended:
                raise StopAsyncIteration
            inbox.acknowledge()
            await inbox.wait()
        item: tuple[msgspec.Raw, CodecName] = inbox.take()
        if inbox.owes_much and not self._is_closed:
            inbox.acknowledge()
        return item

    async def send(self, value: Any) -> None:
        """Send an item; see ``Outlet.send``."""
        await self._outlet.send(value)

    def receive(self, item: Item) -> None:
        """Take in an item."""
        self._inbox.receive(item, is_wanted=not self._has_ended)

    def add_credit(self, granted_bytes: int) -> None:
        """The plugin has room for more."""
        self._outlet.add_credit(granted_bytes)

    def end(self) -> None:
        """No more items come."""
        self._has_ended = True
        self._inbox.wake()

    def fail(self, error: Exception) -> None:
        """Have whoever reads what the plugin sends find an error there."""
        self._fault = self._fault or error
        self.end()

    def refuse(self, error: Exception) -> None:
        """Have whoever reads, or sends the plugin anything, find an error there: it may have the stream no longer."""
        self._refusal = error
        self.fail(error)
        self._outlet.wake()

    def close(self) -> None:
        """The request is over."""
        self._is_closed = True
        self._inbox.drop_blobs()
        self._inbox.wake()
        self._outlet.wake()

    def _check_open(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._check_wanted()

    def _check_wanted(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._is_closed:
            raise CallCancelledError(f"{self._method} is over", plugin=self._connection.plugin, method=self._method)


def _as_written(codec: CodecName, raw: msgspec.Raw) -> tuple[msgspec.Raw, CodecName]:
    return raw, codec
