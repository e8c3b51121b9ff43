"""Value types that msgspec knows: dataclass, TypedDict, Struct, plain JSON types and what is made of them.

Pure. A decoder is msgspec's own plus one ``try``; a check runs after it only where the type leaves something to check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from annexe.contract.blobs import BlobPayload, Lift, compile_lift
from annexe.contract.invalid import ONE_OF_THE_DECLARED, InvalidValueError, bounded, from_decoder
from annexe.contract.shape import Shape, declared_values
from annexe.contract.values import Decode, Payload, ValueType
from annexe.contract.wire_check import Check, compile_check
from annexe_sdk.wire import MAX_NESTING

__all__ = ["msgspec_value_type"]


def msgspec_value_type(annotation: Any, *, name: str, shape: Shape) -> ValueType:
    """Return the value type.

    Args:
        annotation: The declared type.
        name: The same as text.
        shape: The same as msgspec sees it; supported throughout.

    Raises:
        TypeError: A combination msgspec cannot tell apart on the wire, such as a union of two dataclasses.
    """
    check = compile_check(shape, floats=True, ints=False)
    as_json = msgspec.json.Decoder(annotation)
    decode_json = _decoder(as_json.decode, name, shape, compile_check(shape, floats=False, ints=True, decoded=True))
    decode_msgpack = _decoder(
        msgspec.msgpack.Decoder(annotation).decode, name, shape, compile_check(shape, floats=True, ints=False, decoded=True)
    )
    strict = compile_check(shape, floats=True, ints=True, decoded=True)
    as_text = shape.holds_instants()
    native = check is None and not as_text
    to_wire = _to_wire(name, check, as_text=as_text)
    lift = compile_lift(shape)
    from_builtins = _decoder(lambda value: msgspec.convert(value, annotation), name, shape, strict)
    return ValueType(
        annotation=annotation,
        name=name,
        admits_none=_decodes(decode_json, b"null"),
        native=native,
        to_wire=to_wire,
        as_is=native and lift is None,
        to_send=to_wire if lift is None else lift if native else _both(to_wire, lift),
        from_builtins=from_builtins,
        decoders={"msgpack": decode_msgpack, "json": decode_json, "blobs": _blob_decoder(from_builtins, name)},
        make_schema=lambda: msgspec.json.schema(annotation),
    )


def _both(to_wire: Callable[[Any], Any], lift: Lift) -> Callable[[Any], Any]:
    return lambda value: lift(to_wire(value))


def _blob_decoder(from_builtins: Decode, name: str) -> Decode:
    """Return what reads values with blobs: by way of builtins, for msgspec takes no extension where bytes are declared."""

    def decode(payload: Payload) -> Any:
        assert isinstance(payload, BlobPayload)
        try:
            plain = payload.plain()
        except Exception as error:  # from a plugin: depth, text encoding, blobs that are not there
            raise from_decoder(error, expected=name) from error
        return from_builtins(plain)

    return decode


def _decoder(raw_decode: Callable[[Any], Any], name: str, shape: Shape, check: Check | None) -> Decode:
    def decode(raw: Payload) -> Any:
        try:
            return raw_decode(raw)
        except Exception as error:  # a model's own __post_init__ may raise anything
            raise _refusal(error, name, shape) from error

    if check is None:
        return decode

    def decode_and_check(raw: Payload) -> Any:
        try:
            value = raw_decode(raw)
        except Exception as error:  # as above
            raise _refusal(error, name, shape) from error
        check(value, MAX_NESTING)
        return value

    return decode_and_check


def _refusal(error: Exception, name: str, shape: Shape) -> InvalidValueError:
    refusal = from_decoder(error, expected=name)
    if refusal.expected == ONE_OF_THE_DECLARED and (values := declared_values(shape.root, refusal.path)):
        return InvalidValueError(path=refusal.path, expected=bounded(f"one of {', '.join(map(repr, values))}"), actual=refusal.actual)
    return refusal


def _to_wire(name: str, check: Check | None, *, as_text: bool) -> Callable[[Any], Any]:
    def to_wire(value: Any) -> Any:
        try:
            if check is not None:
                check(value, MAX_NESTING)
        except InvalidValueError:
            raise
        except Exception as error:  # it looked for what a value of the declared type has
            raise InvalidValueError(path="$", expected=name, actual=bounded(type(value).__name__)) from error
        try:
            # msgpack would send a datetime in a form of its own, which only a reader that knows the type could undo.
            return msgspec.to_builtins(value, builtin_types=(bytes,)) if as_text else value
        except Exception as error:  # it holds what cannot be sent
            raise InvalidValueError(path="$", expected=name, actual=bounded(f"{type(value).__name__} ({error})")) from error

    return to_wire


def _decodes(decode: Decode, text: bytes) -> bool:
    try:
        decode(text)
    except InvalidValueError:
        return False
    return True
