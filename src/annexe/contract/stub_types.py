"""JSON Schemas as Python type expressions, for stubs.

Pure. Objects become TypedDicts, one for each distinct schema of a name. What has no counterpart becomes ``Any``: a stub helps to write
a plugin, it checks nothing; the host does.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any, final

__all__ = ["StubTypes"]

_SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_DEFS = "#/$defs/"
_Schema = Mapping[str, Any]


@final
class StubTypes:
    """Collects the class definitions one stub needs.

    Attributes:
        lines: The definitions so far, as lines of Python.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._made: dict[str, _Schema] = {}
        self._open: set[str] = set()

    def expression(self, schema: _Schema) -> str:
        """Return the type expression for a schema that stands alone; adds the classes it needs."""
        return self._expression(schema, schema.get("$defs", {}))

    def _expression(self, schema: _Schema, defs: _Schema) -> str:
        match schema:
            case {"$ref": str(ref)}:
                key = ref.removeprefix(_DEFS)
                return self._named(key, defs[key], defs)
            case {"anyOf": parts} | {"oneOf": parts}:
                # Kept in order, each once.
                return " | ".join(dict.fromkeys(self._expression(part, defs) for part in parts))
            case {"enum": values}:
                return f"Literal[{', '.join(map(repr, values))}]"
            case {"const": value}:
                return f"Literal[{value!r}]"
            case {"type": "string", "contentEncoding": "base64"}:
                return "bytes | str"  # base64 text when the connection speaks JSON
            case {"type": "array", "items": Mapping() as items}:
                return f"list[{self._expression(items, defs)}]"
            case {"type": "array"}:
                return "list[Any]"
            case {"type": "object", "properties": Mapping(), "title": str(title)}:
                return self._named(title, schema, defs)
            case {"type": "object", "additionalProperties": Mapping() as values}:
                return f"dict[str, {self._expression(values, defs)}]"
            case {"type": "object"}:
                return "dict[str, Any]"
            case {"type": str(kind)}:
                return _SCALARS[kind]
        return "Any"

    def _named(self, name: str, schema: _Schema, defs: _Schema) -> str:
        if schema.get("type") != "object" or "properties" not in schema:
            return self._alias(name, schema, defs)
        name = _identifier(name)
        while self._made.get(name, schema) != schema:
            name += "_"  # another class of that name, from another module
        if name not in self._made:
            self._made[name] = schema
            self._define(name, schema, defs)
        return name

    def _alias(self, name: str, schema: _Schema, defs: _Schema) -> str:
        if name in self._open:
            return "Any"  # it holds itself and has no class of its own to be named by
        self._open.add(name)
        text = self._expression(schema, defs)
        self._open.remove(name)
        return text

    def _define(self, name: str, schema: _Schema, defs: _Schema) -> None:
        required = set(schema.get("required", ()))
        fields = {}
        for field, kind in schema["properties"].items():
            text = self._expression(kind, defs)
            fields[field] = text if field in required else f"NotRequired[{text}]"
        if all(field.isidentifier() and not keyword.iskeyword(field) for field in fields):
            body = [f"    {field}: {text}" for field, text in fields.items()] or ["    pass"]
            self.lines += ["", "", f"class {name}(TypedDict):", *body]
        else:
            body = [f"    {field!r}: {text!r}," for field, text in fields.items()]
            self.lines += ["", "", f'{name} = TypedDict("{name}", {{', *body, "})"]


def _identifier(text: str) -> str:
    name = re.sub(r"\W+", "_", text).strip("_")
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"T_{name}"
