"""What a plugin sends beside answers: sorted, and held against the protocol.

* A fault inside a payload is charged to the call it belongs to; a fault of the envelope ends the connection.
* What names an id that is closed crossed on the wire; what names one never used is an error.

Source: docs/reference/protocol.md, "Messages".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import msgspec

from annexe.channel.messages import (
    DECODE_FAULTS,
    BlobItem,
    BlobRequest,
    BlobResponse,
    Cancel,
    CodecName,
    Credit,
    End,
    Item,
    Message,
    Notification,
    PluginRequest,
    Release,
    kind_of,
)
from annexe.channel.plugin_streams import PluginStream
from annexe.channel.weight import COUNTED_FROM_BYTES, MAX_PARTS, MAX_VALUES, is_too_much
from annexe.contract.blobs import BlobPayload
from annexe.errors import InvalidParamsError, InvalidResultError, RemoteProtocolError
from annexe_sdk import wire
from annexe_sdk.frames import JSON_FIRST_BYTE, read_head

if TYPE_CHECKING:
    from annexe.channel.calls import HostCall
    from annexe.channel.connection import Connection
    from annexe.channel.requests import PluginRequests
    from annexe.channel.streams import Stream

__all__ = ["Incoming", "Notify"]

_MAY_BE_LARGE = frozenset({wire.REQUEST, wire.RESPONSE, wire.NOTIFICATION})

Notify = Callable[[str, msgspec.Raw, CodecName, str | None], None]
"""Takes a notification: its method, raw parameters, their codec, and the id of the request it belongs to. Must not raise or block."""


@final
class Incoming:
    """Takes in what one plugin sends."""

    def __init__(self, connection: Connection, requests: PluginRequests, on_notification: Notify) -> None:
        self._connection = connection
        self._requests = requests
        self._on_notification = on_notification
        self._by_type: dict[type, Callable[[Any], None]] = {
            PluginRequest: requests.begin,
            Notification: self._on_notify,
            Item: self._on_item,
            Credit: self._on_credit,
            Cancel: requests.cancel,
            End: self._on_end,
            Release: connection.release,
        }

    def take(self, message: Message) -> None:
        """Take in a message that is no answer.

        Raises:
            RemoteProtocolError: It breaks the protocol.
        """
        kind = type(message)
        # The classes for JSON are subclasses of those for MessagePack.
        self._by_type[kind if kind in self._by_type else kind.__mro__[1]](message)

    def has_refused_large(self, frame: bytes) -> bool:
        """Refuse a frame longer than 64 KiB that would cost much to decode, or whose kind has no use for it; say whether it was.

        Raises:
            RemoteProtocolError: Only requests, responses and notifications may be that long, and what is in them must be some call's.
        """
        size, plugin = len(frame), self._connection.plugin
        kind = kind_of(frame)
        if kind == wire.ITEM:
            text = f"an item of {size} bytes; expected at most {wire.MAX_ITEM_FRAME_BYTES}"
            raise RemoteProtocolError(text, rule="credit-exceeded", plugin=plugin)
        if kind not in _MAY_BE_LARGE:
            text = f"a message of {size} bytes that is neither a request, a response nor a notification"
            raise RemoteProtocolError(text, rule="bad-envelope", plugin=plugin)
        if kind == wire.NOTIFICATION or size <= COUNTED_FROM_BYTES or not is_too_much(frame):
            return False
        head = read_head(frame)
        if head is None:
            raise RemoteProtocolError(f"a message of {size} bytes without a head", rule="bad-envelope", plugin=plugin)
        self._refuse_too_much(*head)
        return True

    def _refuse_too_much(self, kind: int, ident: int) -> None:
        connection = self._connection
        told = f"more than {MAX_PARTS} texts, arrays and maps, or more than {MAX_VALUES} values; expected fewer, or it in parts"
        call = connection.open_calls.get(ident)
        if kind == wire.REQUEST:
            self._requests.refuse(ident, "invalid-params", told)
        elif call is None:
            connection.refuse_response(ident)
        else:
            text = f"plugin {connection.plugin!r} answered {call.method} with {told}"
            connection.fail(call, InvalidResultError(text, plugin=connection.plugin, method=call.method))

    def take_bad_frame(self, frame: bytes, error: Exception, *, greeted: bool) -> None:
        """Charge a frame that cannot be decoded to the call whose payload it is.

        Raises:
            RemoteProtocolError: It is no call's.
        """
        head = None if isinstance(error, msgspec.ValidationError) else read_head(frame)
        if head is not None and self._is_charged(*head, error, greeted=greeted):
            return
        plugin = self._connection.plugin
        raise RemoteProtocolError(f"a message that breaks the protocol: {error}", rule="bad-envelope", plugin=plugin) from error

    def _is_charged(self, kind: int, ident: int, error: Exception, *, greeted: bool) -> bool:
        connection = self._connection
        call = connection.open_calls.get(ident)
        if kind == wire.REQUEST and greeted:
            self._requests.refuse(ident, "invalid-params", str(error))
        elif kind == wire.RESPONSE and call is not None:
            text = f"plugin {connection.plugin!r} answered {call.method} with bytes that cannot be decoded: {error}"
            connection.fail(call, InvalidResultError(text, plugin=connection.plugin, method=call.method))
        elif kind == wire.ITEM and call is not None and call.stream is not None:
            text = f"plugin {connection.plugin!r} sent an item of {call.method} that cannot be decoded: {error}"
            call.stream.fail(InvalidResultError(text, plugin=connection.plugin, method=call.method))
        elif kind == wire.ITEM and (own := self._requests.stream_of(ident)) is not None:
            own.fail(InvalidParamsError(f"an item that cannot be decoded: {error}", plugin=connection.plugin))
        else:
            return False
        return True

    # Blobs.

    def take_blobs(self, frame: bytes) -> None:
        """Take in a message that says it has blobs.

        Raises:
            RemoteProtocolError: It may not, or breaks the protocol.
        """
        arenas, plugin = self._connection.arenas, self._connection.plugin
        if arenas is None or frame[0] == JSON_FIRST_BYTE:
            raise RemoteProtocolError("a message with blobs, but there is no shared memory for it", rule="no-arena", plugin=plugin)
        try:
            message = arenas.take(frame)
        except DECODE_FAULTS as error:
            self.take_bad_frame(frame, error, greeted=True)
            return
        if isinstance(message, BlobResponse):
            self._take_blob_response(message)
        elif isinstance(message, BlobRequest):
            self._requests.begin(message)
            self._requests.hold(message.id, message.meta.blobs)  # the answer frees them, so they bound what is held
        else:
            self._take_blob_item(message)

    def _take_blob_response(self, message: BlobResponse) -> None:
        connection, regions = self._connection, message.meta.blobs
        call = connection.open_calls.get(message.id)
        assert connection.arenas is not None
        is_wanted = call is not None and not call.future.done() and message.error is None
        if is_wanted:
            message.result = BlobPayload(bytes(message.result), connection.arenas.read(regions))  # type: ignore[assignment]
        if is_wanted and call is not None and call.method.startswith("annexe."):
            text = f"plugin {connection.plugin!r} answered {call.method} with blobs"
            connection.fail(call, InvalidResultError(text, plugin=connection.plugin, method=call.method))
        else:
            connection.take_response(message)
        connection.release_regions(regions)

    def _take_blob_item(self, message: BlobItem) -> None:
        _, stream = self._stream(message.id)
        if stream is None:
            self._connection.release_regions(message.meta.blobs)
        else:
            stream.receive(message)

    def _on_notify(self, message: Notification) -> None:
        parent = self._connection.parent_of(message.meta.parent)
        self._on_notification(message.method, message.params, message.codec, parent.meta.request if parent is not None else None)

    def _stream(self, ident: int) -> tuple[HostCall | None, Stream | PluginStream | None]:
        """Return the host's call with an id, and the stream of it or of the plugin's own request; None for what is over."""
        call = self._connection.open_calls.get(ident)
        if call is not None:
            return call, call.stream
        if not 0 < ident <= (self._connection.last_id if ident & 1 else self._requests.last_id):
            raise RemoteProtocolError(f"a message for id {ident}, which was never used", rule="unknown-id", plugin=self._connection.plugin)
        return None, self._requests.stream_of(ident)

    def _on_item(self, message: Item) -> None:
        call, stream = self._stream(message.id)
        if stream is not None:
            stream.receive(message)
        elif call is not None and call.method == "annexe.activate":
            self._on_notification("progress", message.value, message.codec, None)

    def _on_credit(self, message: Credit) -> None:
        _, stream = self._stream(message.id)
        if stream is not None:
            stream.add_credit(message.granted_bytes)

    def _on_end(self, message: End) -> None:
        if message.id & 1:
            raise RemoteProtocolError("the end of a stream that is the host's", rule="wrong-parity", plugin=self._connection.plugin)
        _, stream = self._stream(message.id)
        if isinstance(stream, PluginStream):
            stream.end()
