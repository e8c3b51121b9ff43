"""Value types out of JSON Schemas."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from annexe.capabilities.bounded_schema import RefusedSchemaError
from annexe.contract import InvalidValueError, ValueType
from annexe.contract.blobs import BlobPayload
from annexe.dispatch.schema_types import MAX_VALUE_BYTES, schema_from, value_type_of

DOCUMENT = {
    "type": "object",
    "properties": {"n": {"$ref": "#/$defs/count"}, "list": {"items": {"enum": ["a", "b"]}}, "any": {"anyOf": [{"const": 1}, {"const": 2}]}},
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"count": {"type": "integer", "minimum": 0}},
}


def made(document: Any = DOCUMENT, *, admits_none: bool = False) -> tuple[ValueType, list[float]]:
    spent: list[float] = []
    return value_type_of(schema_from(msgspec.json.encode(document)), admits_none=admits_none, spent=spent.append), spent


@pytest.mark.parametrize(("codec", "encode"), [("msgpack", msgspec.msgpack.encode), ("json", msgspec.json.encode)])
def test_value_that_fits_comes_out_as_it_was_and_its_time_is_told(codec: Any, encode: Any) -> None:
    value_type, spent = made()
    value = {"n": 2**63, "list": ["a", "b", "a"], "any": 2}
    assert value_type.decoders[codec](encode(value)) == value
    assert value_type.to_send(value) is value and value_type.as_is
    assert len(spent) == 1 and spent[0] > 0
    with pytest.raises(InvalidValueError):
        value_type.decoders[codec](encode({}))
    assert len(spent) == 2


@pytest.mark.parametrize(
    ("value", "path", "expected", "actual"),
    [
        pytest.param({"n": "x"}, "$.n", 'type "integer"', '"x"', id="type behind a reference"),
        pytest.param({"n": -1}, "$.n", "minimum 0", "-1", id="bound"),
        pytest.param({}, "$", 'required ["n"]', "{}", id="missing"),
        pytest.param({"n": 1, "list": ["a", "c"]}, "$.list[1]", 'enum ["a", "b"]', '"c"', id="item"),
        pytest.param({"n": 1, "x": 1}, "$", "additionalProperties false", '{"n": 1, "x": 1}', id="unknown"),
    ],
)
def test_value_that_does_not_fit_is_told_with_place_and_what_was_there(value: Any, path: str, expected: str, actual: str) -> None:
    value_type, _ = made()
    with pytest.raises(InvalidValueError) as caught:
        value_type.decoders["json"](msgspec.json.encode(value))
    assert (caught.value.path, caught.value.expected, caught.value.actual) == (path, expected, actual)


def test_branches_are_told_by_what_the_library_says() -> None:
    value_type, _ = made()
    with pytest.raises(InvalidValueError, match=r"at \$\.any: expected a value that fits its JSON Schema, got 3 is not valid under any"):
        value_type.decoders["json"](b'{"n": 1, "any": 3}')


def test_fault_that_would_take_long_to_find_is_told_without_its_place() -> None:
    many = {"type": "array", "items": {"anyOf": [{"const": number} for number in range(300)]}}
    value_type, _ = made(many)
    with pytest.raises(InvalidValueError, match="got one that does not"):
        value_type.decoders["json"](msgspec.json.encode([1] * 1000 + [-1]))


def test_value_longer_than_the_schema_allows_is_not_decoded() -> None:
    value_type, _ = made({})
    with pytest.raises(InvalidValueError, match=rf"expected at most {MAX_VALUE_BYTES} bytes, got {MAX_VALUE_BYTES + 1} bytes"):
        value_type.decoders["msgpack"](bytes(MAX_VALUE_BYTES + 1))
    dear, _ = made({"enum": list(range(4000))})
    with pytest.raises(InvalidValueError, match="expected at most 2096 bytes"):
        dear.decoders["msgpack"](bytes(MAX_VALUE_BYTES))


def test_what_json_cannot_say_is_refused() -> None:
    value_type, _ = made({})
    for value in (b"raw", float("inf"), {"x": float("nan")}):
        with pytest.raises(InvalidValueError):
            value_type.decoders["msgpack"](msgspec.msgpack.encode(value))
    with pytest.raises(InvalidValueError):
        value_type.decoders["json"](str(2**70).encode())
    with pytest.raises(InvalidValueError, match="expected a plain JSON value"):
        value_type.decoders["blobs"](BlobPayload(msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\0")), [b"long"]))


def test_none_is_a_result_where_it_is_admitted() -> None:
    value_type, _ = made({"type": "string"}, admits_none=True)
    assert value_type.decoders["json"](b"null") is None and value_type.admits_none
    strict, _ = made({"type": "string"})
    assert not strict.admits_none
    with pytest.raises(InvalidValueError):
        strict.decoders["json"](b"null")


@pytest.mark.parametrize("text", [b"", b"{", b'{"const": 1e400}', b'{"maximum": 123456789012345678901234567890}', b"[" * 5000])
def test_text_that_is_no_schema_is_refused(text: bytes) -> None:
    with pytest.raises(RefusedSchemaError):
        schema_from(text)


def test_plain_values_are_held_against_the_schema_too() -> None:
    value_type, _ = made()
    assert value_type.from_builtins({"n": 1}) == {"n": 1}
    for wrong in ({}, {"n": b"raw"}, object()):
        with pytest.raises(InvalidValueError):
            value_type.from_builtins(wrong)
