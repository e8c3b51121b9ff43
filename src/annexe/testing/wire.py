"""The trip of a value over the wire, without a wire."""

from __future__ import annotations

from typing import Any

from annexe_sdk.codec import CodecError, msgpack_codec

__all__ = ["sent"]


def sent(value: Any) -> Any:
    """Return what arrives at the other side, as plain values.

    Raises:
        CodecError: It cannot be sent.
    """
    codec = msgpack_codec()
    try:
        return codec.decode(codec.encode(value))
    except codec.faults as error:
        raise CodecError(str(error)) from error
