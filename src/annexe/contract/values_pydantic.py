"""Value types that hold pydantic models; pydantic's own validator decides.

Pure. pydantic is optional and imported here alone, when an annotation holds one of its classes: then it is imported already.

* A model is read and written by its **JSON** rules in both codecs. Its Python rules differ from them (strict models, bytes, enums), and
  which of the two applied must not depend on the codec a plugin happens to speak.
* What comes in is checked as plain JSON first: pydantic's own reader takes NaN and any depth.

Source: ADR-0012.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from annexe.contract.blobs import BlobPayload
from annexe.contract.invalid import InvalidValueError, bounded, from_decoder
from annexe.contract.values import Decode, Payload, ValueType
from annexe.contract.wire_check import check_plain

__all__ = ["is_pydantic", "pydantic_value_type"]


def is_pydantic(cls: type) -> bool:
    """Say whether the class validates itself by pydantic; does not import it."""
    return hasattr(cls, "__pydantic_validator__")


def pydantic_value_type(annotation: Any, *, name: str) -> ValueType:
    """Return the value type.

    Args:
        annotation: The declared type, with a pydantic class somewhere in it.
        name: The same as text.

    Raises:
        PydanticUserError: pydantic cannot handle what is around its class (a msgspec.Struct, say).
    """
    from pydantic import TypeAdapter  # optional dependency

    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def validate(plain: Any) -> Any:
        check_plain(plain)
        try:
            return adapter.validate_json(msgspec.json.encode(plain))
        except Exception as error:  # a model's own validators may raise anything
            raise _from_pydantic(error, expected=name) from error

    def to_wire(value: Any) -> Any:
        try:
            plain = adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings="error")
        except Exception as error:
            raise InvalidValueError(path="$", expected=name, actual=bounded(f"{type(value).__name__} ({error})")) from error
        check_plain(plain)
        return plain

    return ValueType(
        annotation=annotation,
        name=name,
        admits_none=_validates(validate, None),
        native=False,
        to_wire=to_wire,
        as_is=False,
        to_send=to_wire,  # bytes of a model are text by its JSON rules
        from_builtins=validate,
        decoders={
            "msgpack": _decoder(msgspec.msgpack.Decoder().decode, validate, name),
            "json": _decoder(msgspec.json.Decoder().decode, validate, name),
            "blobs": _decoder(_plain, validate, name),
        },
        make_schema=lambda: adapter.json_schema(by_alias=True, ref_template="#/$defs/{model}"),
    )


def _decoder(raw_decode: Callable[[Any], Any], validate: Callable[[Any], Any], name: str) -> Decode:
    def decode(raw: Payload) -> Any:
        try:
            plain = raw_decode(raw)
        except Exception as error:  # bytes from a plugin: depth, text encoding, extensions
            raise from_decoder(error, expected=name) from error
        return validate(plain)

    return decode


def _plain(payload: Payload) -> Any:
    assert isinstance(payload, BlobPayload)
    return payload.plain()


def _from_pydantic(error: Exception, *, expected: str) -> InvalidValueError:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return from_decoder(error, expected=expected)
    first = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    actual = "nothing" if first["type"] == "missing" else f"{type(first['input']).__name__} {first['input']!r}"
    return InvalidValueError(path=f"${path}", expected=bounded(first["msg"]), actual=bounded(actual))


def _validates(validate: Callable[[Any], Any], value: Any) -> bool:
    try:
        validate(value)
    except InvalidValueError:
        return False
    return True
