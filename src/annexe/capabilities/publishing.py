"""Read what a plugin asks to publish, without decoding the value.

Source: docs/reference/protocol.md, "Requests of the plugin's".
"""

from __future__ import annotations

import msgspec

from annexe.channel import PluginCall
from annexe.errors import InvalidParamsError
from annexe.manifest import names
from annexe.manifest.values import MisfitError

__all__ = ["MAX_PARAMS_BYTES", "Publish", "published"]

MAX_PARAMS_BYTES = 64 * 1024 + 1024  # a value, and its topic


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of ``event.publish``."""

    topic: str
    value: msgspec.Raw


_decode = {"msgpack": msgspec.msgpack.Decoder(Publish).decode, "json": msgspec.json.Decoder(Publish).decode}


def published(call: PluginCall) -> Publish:
    """Return the parameters of a request to publish.

    Raises:
        InvalidParamsError: They do not fit, or are too long.
    """
    size = len(memoryview(call.params))
    if size > MAX_PARAMS_BYTES:
        text = f"{call.method}: expected parameters of at most {MAX_PARAMS_BYTES} bytes, got {size}"
        raise InvalidParamsError(text, method=call.method)
    try:
        found = _decode[call.codec](call.params)
        names.dotted_name(found.topic)
    except MisfitError as misfit:
        raise InvalidParamsError(f"{call.method}: topic: expected {misfit.expected}", method=call.method) from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidParamsError(f"{call.method}: {error}", method=call.method) from error
    return found
