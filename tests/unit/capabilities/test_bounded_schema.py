"""Schemas that a plugin wrote so that checking takes long, or much memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import thread_time
from typing import Any

import pytest

from annexe.capabilities.bounded_schema import BoundedSchema, RefusedSchemaError
from annexe.capabilities.schema_cost import parts_of_pattern

_WORK = 8 * 1024 * 1024  # what all who check bound
_MOST_BYTES = 256 * 1024
_LONG_S = 1.0  # most take less than a fifth, alone on a machine


def nested(levels: int, keyword: str, held: Any) -> dict[str, Any]:
    document: dict[str, Any] = held
    for _ in range(levels):
        document = {"allOf": [document], keyword: False}
    return document


def letters(count: int) -> str:
    return "".join(random.Random(1).choices("ab", k=count))


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(nested(16, "unevaluatedProperties", {"properties": {"a": {}}}), id="unevaluated properties beside such"),
        pytest.param(nested(16, "unevaluatedItems", {"prefixItems": [{}]}), id="unevaluated items beside such"),
        pytest.param({"pattern": "[ab]*a[ab]{5000}c"}, id="long repetition"),
        pytest.param({"pattern": "[ab]*a(([ab]{10}){10}){50}c"}, id="repetitions of repetitions"),
        pytest.param({"pattern": "[ab]*a[ab]{10}{10}{50}c"}, id="repetitions that repeat"),
        pytest.param({"pattern": "[ab]*a([ab]{50}b?)+{100}c"}, id="repetition of many"),
        pytest.param({"patternProperties": {"[ab]*a[ab]{5000}c": {}}}, id="names that match"),
        pytest.param({"pattern": "(?x)[ab]*a([ab]{50})#{\n{100}c"}, id="comments"),
        pytest.param({"items": {"dependentSchemas": {f"a{number}": True for number in range(14_000)}}}, id="true for many names"),
        pytest.param({"items": {"const": {f"a{number}": "" for number in range(14_000)}}}, id="value with many names"),
        pytest.param({"items": {"enum": [{f"a{number}": "" for number in range(14_000)}]}}, id="such a value as one of several"),
    ],
)
def test_schema_that_takes_too_long_for_each_value_is_refused(document: Any) -> None:
    with pytest.raises(RefusedSchemaError, match=r"at most 5000 parts|without the flag x"):
        BoundedSchema(document)


@pytest.mark.parametrize(
    ("document", "value_of"),
    [
        pytest.param(nested(4, "unevaluatedProperties", {"properties": {"a": {}}}), lambda _: {"a": 1}, id="unevaluated"),
        pytest.param({"pattern": "[ab]*a[ab]{100}c"}, letters, id="repetition"),
        pytest.param({"pattern": "[ab]*a[ab]{2000}c"}, letters, id="long repetition"),
        pytest.param({"pattern": "([ab]*a[ab]{300}){5}c"}, letters, id="repetitions of repetitions"),
        pytest.param({"items": {"multipleOf": 5e-324}}, lambda size: [1e308] * (size // 9), id="multiples of next to nothing"),
        pytest.param({"items": {"multipleOf": 0.5}}, lambda size: [5e-324] * (size // 9), id="next to nothing"),
        pytest.param({"items": {"const": {f"a{number}": "" for number in range(2000)}}}, lambda size: [0] * (size // 2), id="const"),
    ],
)
def test_largest_value_that_is_checked_takes_no_long_time(document: Any, value_of: Callable[[int], Any]) -> None:
    schema = BoundedSchema(document)
    size = min(_MOST_BYTES, _WORK // schema.parts)
    value = value_of(size)
    began = thread_time()
    if not schema.admits(value):
        next(iter(schema.errors(value, size_bytes=size)), None)
    assert thread_time() - began < _LONG_S


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        pytest.param("^[a-z]+$", 70, id="word"),
        pytest.param(r"^\d{4}-\d{2}-\d{2}$", 100, id="day"),
        pytest.param("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", 300, id="uuid"),
        pytest.param(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", 450, id="name of a host"),
        pytest.param(r"^[A-Za-z0-9._%+-]{1,64}@([A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,63}$", 2800, id="address"),
        pytest.param(r"\p{Lu}\u{41}", 200, id="braces that repeat nothing"),
    ],
)
def test_usual_patterns_cost_little(pattern: str, most: int) -> None:
    assert 50 < parts_of_pattern(pattern) < most


@pytest.mark.parametrize(
    ("divisor", "fits", "does_not"),
    [
        pytest.param(3, [0, 9, -3, 3.0, 3e300, True, "x", None], [1, 3.5, -4], id="whole"),
        pytest.param(0.01, [0.07, 1, 19.99, 1e20, -0.03], [0.075, 1e-3], id="decimal"),
        pytest.param(1e-300, [1, 1e308, 0.0], [5e-324], id="next to nothing"),
        pytest.param(1e300, [1e300, 0], [1, 1e299], id="huge"),
    ],
)
def test_multiples_are_exact_in_decimal_digits(divisor: float, fits: list[Any], does_not: list[Any]) -> None:
    schema = BoundedSchema({"properties": {"a": {"items": {"multipleOf": divisor}}}})
    assert schema.admits({"a": fits})
    for value in does_not:
        assert not schema.admits({"a": [value]})
        (fault,) = schema.errors({"a": [0, value]}, size_bytes=20)
        assert (fault.instance_path, list(fault.schema_path)) == (["a", 1], ["properties", "a", "items", "multipleOf"])
        assert fault.message == f"{value!r} is not a multiple of {divisor!r}"
