"""Values of a JSON Schema's shape, for the tests of a new plugin to begin with.

Pure. Patterns and bounds are not looked at: the author replaces the values anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["sample_of"]

_MAX_DEPTH = 16


def sample_of(schema: Mapping[str, Any]) -> Any:
    """Return a value of a schema's shape, in which only what is required is there."""
    return _sample(schema, schema.get("$defs", {}), 0)


def _sample(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> Any:
    if "$ref" in schema:
        return _sample(defs[schema["$ref"].rpartition("/")[2]], defs, depth + 1)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _sample(schema[choice][0], defs, depth + 1)
    if "enum" in schema or "const" in schema:
        return schema["enum"][0] if "enum" in schema else schema["const"]
    match schema.get("type"):
        case "object":
            required = schema.get("required", ()) if depth < _MAX_DEPTH else ()
            return {name: _sample(schema["properties"][name], defs, depth + 1) for name in required}
        case "array":
            return [_sample(item, defs, depth + 1) for item in schema.get("prefixItems", ())]
        case kind:
            return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "text")
