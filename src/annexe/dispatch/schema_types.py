"""Value types out of JSON Schemas, for hooks that plugins define.

A value of such a type is plain JSON: no bytes, finite numbers, whole ones of at most 64 bits. That is checked while it is decoded, and so
is the schema, which takes a time that the plugin decides that wrote it; so values are bounded, and whoever answers for the time is told.

Source: ADR-0096.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import perf_counter
from typing import Any

import msgspec

from annexe.capabilities.bounded_schema import BoundedSchema
from annexe.contract import InvalidValueError, Place, ValueType, value_type
from annexe.contract.blobs import BlobPayload
from annexe.contract.invalid import bounded
from annexe.contract.values import Payload
from annexe.dispatch.schema_files import remembered

__all__ = ["MAX_VALUE_BYTES", "schema_from", "value_type_of"]

MAX_VALUE_BYTES = 256 * 1024
_MAX_WORK = 8 * 1024 * 1024  # parts of the schema times bytes of the value; see ``BoundedSchema``
_NOBODYS = frozenset({"anyOf", "oneOf", "not", "$ref"})


@remembered
def schema_from(document: Any) -> BoundedSchema:
    """Return the schema in a file, whose text is given.

    Raises:
        RefusedSchemaError: It is none that the host runs.
    """
    return BoundedSchema(document)


def value_type_of(schema: BoundedSchema, *, admits_none: bool, spent: Callable[[float], None]) -> ValueType:
    """Return the type of values that fit a schema.

    Args:
        schema: What they fit.
        admits_none: None is one, whatever the schema says.
        spent: Told, in seconds, what it took to decode and to check one.
    """
    plain = value_type(Any, Place("JSON Schema"), role="a value")
    most = min(MAX_VALUE_BYTES, _MAX_WORK // schema.parts)

    def decoder(decode: Callable[[Payload], Any]) -> Callable[[Payload], Any]:
        def checked(raw: Payload) -> Any:
            started = perf_counter()
            try:
                size = _size_of(raw)
                if size > most:
                    raise InvalidValueError(path="$", expected=f"at most {most} bytes", actual=f"{size} bytes")
                value = decode(raw)
                if not (admits_none and value is None) and not schema.admits(value):
                    raise _misfit(schema, value, size)
                return value
            finally:
                spent(perf_counter() - started)

        return checked

    decoders = {written: decoder(decode) for written, decode in plain.decoders.items()}

    def from_builtins(value: Any) -> Any:
        return decoders["msgpack"](msgspec.msgpack.encode(plain.from_builtins(value)))

    # What is in a pipeline was checked when it came: it is sent as it is.
    return replace(
        plain,
        name="a value that fits its JSON Schema",
        admits_none=admits_none or schema.admits(None),
        native=True,
        as_is=True,
        to_wire=_same,
        to_send=_same,
        from_builtins=from_builtins,
        decoders=decoders,
        make_schema=lambda: dict(schema.document),
    )


def _same(value: Any) -> Any:
    return value


def _size_of(raw: Payload) -> int:
    """Return how long a value is; one with blobs is refused however long it is, so they count for nothing."""
    return len(raw) if isinstance(raw, BlobPayload) else len(memoryview(raw))


def _misfit(schema: BoundedSchema, value: Any, size_bytes: int) -> InvalidValueError:
    fault = next(iter(schema.errors(value, size_bytes=size_bytes)), None)
    if fault is None:
        return InvalidValueError(path="$", expected="a value that fits its JSON Schema", actual="one that does not")
    where = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.instance_path)
    keyword, wanted = _wanted(schema.document, fault.schema_path)
    if keyword in _NOBODYS or not keyword:
        return InvalidValueError(path=bounded(where), expected="a value that fits its JSON Schema", actual=bounded(fault.message))
    return InvalidValueError(
        path=bounded(where), expected=bounded(f"{keyword} {_as_json(wanted)}"), actual=bounded(_as_json(fault.instance))
    )


def _wanted(document: Any, path: Iterable[Any]) -> tuple[str, Any]:
    """Return the keyword of a schema that a value does not fit, and what it says; an empty one where it cannot be found."""
    keyword, node = "", document
    for step in path:
        try:
            keyword, node = str(step), node[step]
        except (LookupError, TypeError):
            return "", None
    return keyword, node


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
