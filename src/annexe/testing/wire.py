"""The trip of a value over the wire, and of what goes wrong at whom a test plays, without a wire."""

from __future__ import annotations

from typing import Any

from annexe.errors import AnnexeError, PluginRaisedError, RejectedError
from annexe_sdk import Reject
from annexe_sdk.codec import CodecError, msgpack_codec
from annexe_sdk.life import describe, last_frame

__all__ = ["PLAYER", "error_of", "sent"]

PLAYER = "test"
"""Id of the plugin that a test plays, for errors."""


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


def error_of(method: str, error: Exception) -> AnnexeError:
    """Return what a host makes of what the handler of a method raised."""
    if isinstance(error, AnnexeError):
        return error
    if isinstance(error, Reject):
        facts: dict[str, Any] = {"reject_code": error.code, "status": error.status, "retry_after_s": error.retry_after_s}
        return RejectedError(error.message, plugin=PLAYER, hook=method.removeprefix("hook."), **facts)
    text = f"plugin {PLAYER!r}, {method}: {describe(error)} (at {last_frame(error)})"
    return PluginRaisedError(text, plugin=PLAYER, method=method)
