"""One declared Python type, as a contract uses it: encode, decode, validate, describe.

Pure. Both codecs give equal values for equal content, so that moving a plugin from one to the other changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import msgspec

from annexe.contract.blobs import BlobPayload

__all__ = ["CodecName", "Decode", "Payload", "ValueType", "Written"]

CodecName = Literal["msgpack", "json"]
Written = CodecName | Literal["blobs"]
"""How a payload that came is written: ``blobs`` is MessagePack with blobs beside it, a ``BlobPayload``."""

Payload = bytes | bytearray | memoryview | msgspec.Raw | BlobPayload
Decode = Callable[[Payload], Any]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValueType:
    """A declared type; compared by identity.

    Attributes:
        annotation: What the author of the contract wrote.
        name: The annotation as text.
        admits_none: Whether None is a value of the type.
        native: Whether ``to_wire`` would return every value as it is, so that callers can leave it out.
        to_wire: Return what msgspec can encode for a value of the type. Raises InvalidValueError for what the wire cannot carry and, where
            it is seen on the way, for a value that is not of the type.
        as_is: Whether ``to_send`` would return every value as it is, so that callers can leave it out.
        to_send: As ``to_wire``, with long bytes marked as ``Blob``, for a channel to encode.
        from_builtins: Return the value for plain dicts, lists and scalars. Raises InvalidValueError. In places declared ``bytes`` both
            bytes and base64 text will do.
        decoders: By how it is written, what returns the value for encoded bytes. Raises InvalidValueError, and nothing else whatever the
            bytes.
        make_schema: Return the JSON Schema, which stands alone: references go to its own ``$defs``.
    """

    annotation: Any
    name: str
    admits_none: bool
    native: bool
    to_wire: Callable[[Any], Any]
    as_is: bool
    to_send: Callable[[Any], Any]
    from_builtins: Callable[[Any], Any]
    decoders: Mapping[Written, Decode]
    make_schema: Callable[[], dict[str, Any]]

    def decoder(self, codec: Written) -> Decode:
        """Return the decoder for one codec, or for what came with blobs; keep it, it is made once."""
        return self.decoders[codec]

    def schema(self) -> dict[str, Any]:
        """Return the type as JSON Schema 2020-12, a new dict each time."""
        return self.make_schema()
