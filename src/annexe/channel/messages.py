"""Messages as msgspec structs: the envelope is decoded, the payload stays raw.

Pure. One decode per frame; the payload is decoded later, straight into its declared type.

* Unknown kinds and extra elements are refused by the decoder; unknown ``meta`` keys are ignored.
* A struct's class tells which codec its raw payload is in.
* Messages with blobs are rare, so nothing is asked of the others: to come upon a blob, when encoding or decoding, raises ``BlobsFound``.

Source: docs/reference/protocol.md, "Messages".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import msgspec

from annexe.contract.blobs import Blob, BlobPayload, BlobsFound, as_inline
from annexe.contract.values import CodecName, Written
from annexe.contract.wire_check import check_written
from annexe_sdk import wire
from annexe_sdk.frames import JSON_FIRST_BYTE

__all__ = [
    "DECODE_FAULTS",
    "ENCODE_FAULTS",
    "JSON",
    "MSGPACK",
    "MSGPACK_WITH_ARENAS",
    "BlobItem",
    "BlobMessage",
    "BlobRequest",
    "BlobResponse",
    "BlobsFound",
    "Cancel",
    "Codec",
    "CodecName",
    "Credit",
    "End",
    "Item",
    "ItemMeta",
    "Message",
    "Notification",
    "NotificationMeta",
    "PluginMeta",
    "PluginRequest",
    "Release",
    "RequestMeta",
    "Response",
    "ResponseMeta",
    "WireError",
    "decode_json",
    "decode_msgpack",
    "decode_with_blobs",
    "kind_of",
    "passed_on",
    "read_map",
]

# Bounded, for it is quoted in answers, events and log lines.
_MethodName = Annotated[str, msgspec.Meta(max_length=wire.MAX_METHOD_CHARS)]


class RequestMeta(msgspec.Struct, omit_defaults=True, gc=False):
    """What the host says beside a request's parameters; see the table in the protocol."""

    deadline_ms: int | None = None
    request: str | None = None
    traceparent: str | None = None
    key: str | None = None
    state: dict[str, Any] | None = None
    stream: str | None = None
    parent: int | None = None
    caller: str | None = None
    blobs: list[tuple[int, int]] | None = None


class _Regions:
    """Where a message's blobs are. Decoding one raises ``BlobsFound``; read then with ``decode_with_blobs``."""


class ResponseMeta(msgspec.Struct, gc=False):
    """What the plugin says beside a result."""

    outcome: Literal["unchanged", "respond"] | None = None
    state: msgspec.Raw = msgspec.Raw()
    blobs: _Regions | None = None


class PluginMeta(msgspec.Struct, gc=False):
    """What the plugin says beside a request of its own."""

    deadline_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    parent: int | None = None
    stream: str | None = None
    key: Annotated[str, msgspec.Meta(max_length=wire.MAX_KEY_CHARS)] | None = None
    blobs: _Regions | None = None


class NotificationMeta(msgspec.Struct, gc=False):
    """What the plugin says beside a notification."""

    parent: int | None = None


class ItemMeta(msgspec.Struct, gc=False):
    """What the plugin says beside an item."""

    blobs: _Regions | None = None


class WireError(msgspec.Struct, gc=False):
    """An error as it travels: only code, message and facts, never a class."""

    code: str
    message: str = ""
    data: msgspec.Raw = msgspec.Raw()


class _Envelope(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    codec: ClassVar[CodecName] = "msgpack"


class PluginRequest(_Envelope, tag=wire.REQUEST):
    """The plugin asks the host."""

    id: int
    method: _MethodName
    params: msgspec.Raw
    meta: PluginMeta


class Response(_Envelope, tag=wire.RESPONSE):
    """The plugin answers the host."""

    id: int
    error: WireError | None
    result: msgspec.Raw
    meta: ResponseMeta


class Notification(_Envelope, tag=wire.NOTIFICATION):
    """The plugin tells the host; no answer."""

    method: _MethodName
    params: msgspec.Raw
    meta: NotificationMeta


class Cancel(_Envelope, tag=wire.CANCEL):
    """The plugin no longer wants the answer to its own request."""

    id: int


class Item(_Envelope, tag=wire.ITEM):
    """One item of a stream."""

    id: int
    value: msgspec.Raw
    meta: ItemMeta


class End(_Envelope, tag=wire.END):
    """The plugin's own stream, as caller, is over."""

    id: int


class Credit(_Envelope, tag=wire.CREDIT):
    """The plugin allows that many more bytes of items."""

    id: int
    granted_bytes: int


class Release(_Envelope, tag=wire.RELEASE):
    """The plugin is done with shared-memory regions."""

    regions: msgspec.Raw


# The same messages, out of JSON frames.
class _JsonRequest(PluginRequest, tag=wire.REQUEST):
    codec = "json"


class _JsonResponse(Response, tag=wire.RESPONSE):
    codec = "json"


class _JsonNotification(Notification, tag=wire.NOTIFICATION):
    codec = "json"


class _JsonItem(Item, tag=wire.ITEM):
    codec = "json"


# The same messages with blobs beside them. Their payloads become a ``BlobPayload``.
_RegionList = Annotated[
    list[tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(gt=0)]]], msgspec.Meta(max_length=wire.MAX_BLOBS)
]


class _RequestBlobMeta(PluginMeta, gc=False):
    blobs: _RegionList = []  # type: ignore[assignment]  # read this time


class _ResponseBlobMeta(ResponseMeta, gc=False):
    blobs: _RegionList = []  # type: ignore[assignment]


class _ItemBlobMeta(ItemMeta, gc=False):
    blobs: _RegionList = []  # type: ignore[assignment]


class BlobRequest(PluginRequest, tag=wire.REQUEST):
    """A request whose parameters hold blobs."""

    codec = "msgpack"  # they are put back in before anybody looks
    meta: _RequestBlobMeta


class BlobResponse(Response, tag=wire.RESPONSE):
    """A response whose result holds blobs."""

    codec = "blobs"  # type: ignore[assignment]  # a name of its own, so that the value type's decoder is found without a question
    meta: _ResponseBlobMeta


class BlobItem(Item, tag=wire.ITEM):
    """An item that holds blobs."""

    codec = "blobs"  # type: ignore[assignment]  # as above
    meta: _ItemBlobMeta


BlobMessage = BlobRequest | BlobResponse | BlobItem

Message = PluginRequest | Response | Notification | Cancel | Item | End | Credit | Release


def _found(*_: Any) -> Any:
    raise BlobsFound


decode_with_blobs: Callable[[bytes], BlobMessage] = msgspec.msgpack.Decoder(BlobMessage).decode
decode_msgpack: Callable[[bytes], Message] = msgspec.msgpack.Decoder(Message, dec_hook=_found).decode
decode_json: Callable[[bytes], Message] = msgspec.json.Decoder(
    _JsonRequest | _JsonResponse | _JsonNotification | Cancel | _JsonItem | End | Credit | Release, dec_hook=_found
).decode


@final
@dataclass(frozen=True, slots=True)
class Codec:
    """How one side writes what it sends."""

    name: CodecName
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes | msgspec.Raw], Any]


def kind_of(frame: bytes) -> int:
    """Return the kind of the message in a frame without decoding it; -1 where none can be read. In JSON, its first digit."""
    if frame[0] == JSON_FIRST_BYTE:
        head = frame[1:_HEAD_BYTES].lstrip()
        return head[0] - 0x30 if head else -1
    at = _AFTER_LENGTH.get(frame[0], 1)
    kind = frame[at : at + 2]
    if kind[:1] == b"\xcc":  # a longer way to say it
        kind = kind[1:]
    return kind[0] if kind else -1


_HEAD_BYTES = 32
_AFTER_LENGTH = {0xDC: 3, 0xDD: 5}
_MAP_IN_JSON = 0x7B
_NULLS = (b"", b"null", b"\xc0")
_json_map = msgspec.json.Decoder(dict[str, Any]).decode
_msgpack_map = msgspec.msgpack.Decoder(dict[str, Any]).decode


def read_map(raw: msgspec.Raw, *, limit_bytes: int) -> dict[str, Any] | None:
    """Return a map that was left raw; None for null and for what is absent. What is too large is not decoded at all.

    Raises:
        ValueError: It is no map, cannot be decoded, or is larger.
    """
    view = memoryview(raw)
    if len(view) > limit_bytes:
        raise ValueError(f"{len(view)} bytes; expected at most {limit_bytes}")
    if len(view) <= 4 and bytes(view) in _NULLS:
        return None
    try:
        # No map in MessagePack begins as one in JSON does.
        return _json_map(raw) if view[0] == _MAP_IN_JSON else _msgpack_map(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def passed_on(payload: msgspec.Raw | BlobPayload, written: Written, *, to: CodecName) -> Any:
    """Return what one plugin sent so that it can be sent to another one.

    Args:
        payload: As it came.
        written: How.
        to: What the other one is spoken to in.

    Returns:
        The payload itself where both speak one codec. Else encoded anew, for plain values that wait take many times as much memory; bytes
        become base64 text on the way to JSON. Blobs on the way to MessagePack: plain values in which they are marked, for a channel to
        put where it likes.

    Raises:
        ValueError: It cannot be decoded, or holds what the other codec has no word for.
    """
    if written == to:
        return payload
    if to == "json" and isinstance(payload, BlobPayload) and sum(map(len, payload.blobs)) > wire.MAX_FRAME_BYTES:
        # Looked at first: as base64 text they would hold up the event loop, only to be refused for their length.
        raise ValueError(f"more than {wire.MAX_FRAME_BYTES} bytes of blobs, and the other end speaks JSON")
    try:
        value = payload.plain(Blob) if isinstance(payload, BlobPayload) else (JSON if written == "json" else MSGPACK).decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    try:
        if to == "json":
            check_written(value)
            return msgspec.Raw(JSON.encode(value))
        return value if isinstance(payload, BlobPayload) else msgspec.Raw(MSGPACK.encode(value))
    except ENCODE_FAULTS as error:
        raise ValueError(str(error) or type(error).__name__) from error


ENCODE_FAULTS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What encoding raises for values that cannot be sent."""

DECODE_FAULTS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What decoding raises for bytes that are not what they should be."""


def _raise_found(value: Any) -> Any:
    if type(value) is Blob:
        raise BlobsFound
    return as_inline(value)


JSON = Codec("json", msgspec.json.Encoder(enc_hook=as_inline).encode, msgspec.json.Decoder().decode)
MSGPACK = Codec("msgpack", msgspec.msgpack.Encoder(enc_hook=as_inline).encode, msgspec.msgpack.Decoder().decode)
MSGPACK_WITH_ARENAS = Codec("msgpack", msgspec.msgpack.Encoder(enc_hook=_raise_found).encode, msgspec.msgpack.Decoder().decode)
"""For connections with shared memory: raises ``BlobsFound`` for a message that holds a blob."""
