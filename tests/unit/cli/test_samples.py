"""Values for the tests of a new plugin to begin with."""

from __future__ import annotations

from typing import Any

import pytest

from annexe.cli.samples import sample_of


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1),
        ({"type": "null"}, None),
        ({}, "text"),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 4}, 4),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"oneOf": [{"type": "number"}]}, 1.5),
        ({"type": "array", "items": {}}, []),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {}]}, [1, "text"]),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "required": ["x"], "properties": {"x": {}, "y": {}}}}}, {"x": "text"}),
    ],
)
def test_sample_has_the_schemas_shape(schema: dict[str, Any], value: Any) -> None:
    assert sample_of(schema) == value


def test_sample_of_an_endless_type_ends() -> None:
    node = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#/$defs/N"}}}
    assert str(sample_of({"$ref": "#/$defs/N", "$defs": {"N": node}})).count("next") == 8
