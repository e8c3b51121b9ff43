"""A JSON Schema of a plugin's: taken with suspicion, because the plugin wrote it and the host runs it.

A schema is refused unless all of this holds:

1. It is an object, of JSON Schema draft 6 or later, whose every ``$ref`` points into itself (``#/...``). Nothing is ever fetched, neither
   over a network nor from a file; the retriever given to the library refuses whatever might be left.
2. With every ``$ref`` written out it is at most 64 levels deep and 5,000 parts large, so it does not refer back to itself. A few lines in
   which each ``$ref`` is used twice would otherwise take longer to check than the universe lasts.
3. It is a valid JSON Schema whose patterns need only linear time: no look-around, no back-reference, and no flag ``x``.

Checking takes time with the parts of the schema times the size of the value, and nothing else in the host runs meanwhile. So whoever checks
bounds that product. Every value in a list is a part, and so is every 64 characters of text: an error of the library's holds the whole
list, or text, that it is about. Keywords that take longer count as many parts: see ``schema_cost``.

Source: feature HS4; ADR-0023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import jsonschema_rs

from annexe.capabilities.schema_cost import PARTS_OF_KEYWORDS, MultipleOf, has_free_spacing, parts_of_pattern, times_looked_at

__all__ = ["BoundedSchema", "RefusedSchemaError", "pointer_of"]

_MAX_DEPTH = 64
_MAX_PARTS = 5_000
# Of so many steps, every fault may be told: the library makes an error, and two texts, for each.
_MAX_WORK_FOR_ALL = 128 * 1024
# The library makes the errors of every branch of these before it gives the first one of the whole.
_BRANCHES = frozenset({"anyOf", "oneOf"})
# What values are compared with, and every error holds a copy of.
_DATA = frozenset({"const", "enum"})
_CHARS_OF_A_PART = 64
_PATTERN_BYTES = 1024 * 1024
_DIALECTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)


@final
class RefusedSchemaError(ValueError):
    """A schema that the host does not run.

    Args:
        pointer: Where in it, a JSON pointer.
        message: What was expected, and what was there.
    """

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(pointer, message)
        self.pointer = pointer
        self.message = message

    def __str__(self) -> str:
        return f"{self.pointer or '(whole)'}: {self.message}"


@final
class BoundedSchema:
    """A schema that the host can afford to run.

    Args:
        document: Parsed.

    Raises:
        RefusedSchemaError: It cannot.

    Attributes:
        document: As given.
        parts: How many it has: checking takes about so many steps for each byte of the value.
    """

    def __init__(self, document: Any) -> None:
        self.document = document
        if not isinstance(document, dict):
            raise RefusedSchemaError("", f"expected an object, got a {type(document).__name__}")
        if (dialect := document.get("$schema", _DIALECTS[0])) not in (*_DIALECTS, *(f"{name}#" for name in _DIALECTS)):
            raise RefusedSchemaError("/$schema", f"expected one of {', '.join(_DIALECTS)}, got {dialect!r}")
        self._expanded: dict[str, int] = {}
        self._has_branches = False
        self.parts = self._parts(document, pointer="", depth=0)
        if self.parts > _MAX_PARTS:
            raise RefusedSchemaError("", f"expected at most {_MAX_PARTS} parts with every $ref written out, got {self.parts}")
        try:
            self._validator = jsonschema_rs.validator_for(
                document,
                retriever=_refuse_to_retrieve,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
                validate_formats=False,
                keywords={"multipleOf": MultipleOf},
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            text = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
            raise RefusedSchemaError(pointer_of(getattr(error, "instance_path", ())), text) from error

    def admits(self, value: Any) -> bool:
        """Say whether a value fits; whoever asks has bounded its size."""
        return self._validator.is_valid(value)

    def errors(self, value: Any, *, size_bytes: int) -> Iterable[jsonschema_rs.ValidationError]:
        """Return every fault of a value where that is cheap, else the first, or none where even that one could take minutes.

        Args:
            value: One that does not fit.
            size_bytes: How long it is as JSON.
        """
        if size_bytes * self.parts <= _MAX_WORK_FOR_ALL:
            return self._validator.iter_errors(value)
        if self._has_branches:
            return []
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []

    def _parts(self, node: Any, *, pointer: str, depth: int) -> int:
        """Count the parts of a part of the schema, with its references written out; a pattern counts as many."""
        if depth > _MAX_DEPTH:
            text = f"expected at most {_MAX_DEPTH} levels with every $ref written out, got more; does it refer to itself?"
            raise RefusedSchemaError(pointer, text)
        if isinstance(node, list):
            # Each value counts, also a plain one: `enum` is compared with all of them, and an error lists all of them.
            return 1 + sum(max(1, self._parts(child, pointer=f"{pointer}/{index}", depth=depth + 1)) for index, child in enumerate(node))
        if isinstance(node, str):
            return len(node) // _CHARS_OF_A_PART
        if not isinstance(node, dict):
            return int(isinstance(node, bool))  # also a schema, of which there may be one for each name
        parts = 1 + _dear(node, pointer=pointer)
        for name, child in node.items():
            _check_name(name, child, pointer=pointer)
            self._has_branches = self._has_branches or name in _BRANCHES
            held = self._parts(child, pointer=f"{pointer}/{name}", depth=depth + 1)
            parts += len(name) // _CHARS_OF_A_PART + max(held, _values(child) - 1 if name in _DATA else 0)
        if isinstance(reference := node.get("$ref"), str):
            # Counted once and remembered. One that comes back to itself is never done, and so ends at the depth.
            if reference not in self._expanded:
                target = self.resolve(reference, pointer=f"{pointer}/$ref")
                self._expanded[reference] = self._parts(target, pointer=reference[1:], depth=depth + 1)
            parts += self._expanded[reference]
        return parts * times_looked_at(node)

    def resolve(self, reference: str, *, pointer: str = "") -> Any:
        """Return the part of this schema that a reference points to.

        Args:
            reference: Value of a ``$ref``.
            pointer: Where that stands, for errors.

        Raises:
            RefusedSchemaError: It points to nothing, or to elsewhere.
        """
        if reference != "#" and not reference.startswith("#/"):
            raise RefusedSchemaError(pointer, f"$ref {reference!r} is refused, expected '#/...': nothing is fetched from elsewhere")
        # "%" would be decoded by the library: it must not see another part than we do.
        steps = [step.replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:]]
        node: Any = self.document
        for step in steps:
            if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            elif isinstance(node, dict) and step in node and "%" not in step:
                node = node[step]
            else:
                raise RefusedSchemaError(pointer, f"$ref {reference!r} points to nothing in the schema")
        return node


def pointer_of(path: Iterable[Any]) -> str:
    """Return a path as a JSON pointer."""
    return "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in path)


def _check_name(name: str, child: Any, *, pointer: str) -> None:
    """Refuse what would make a reference mean something else than ``BoundedSchema.resolve`` believes."""
    inner_id = name == "$id" and pointer != ""
    if isinstance(child, str) and (inner_id or name in ("$dynamicRef", "$recursiveRef")):
        raise RefusedSchemaError(f"{pointer}/{name}", f"{name} is not allowed here; use $ref with '#/...'")


def _dear(node: dict[str, Any], *, pointer: str) -> int:
    """Return what the keywords of a part of the schema count beyond what stands in it."""
    by_name = node.get("patternProperties")
    patterns = [pattern for pattern in (node.get("pattern"), *(by_name if isinstance(by_name, dict) else ())) if isinstance(pattern, str)]
    if any(map(has_free_spacing, patterns)):
        raise RefusedSchemaError(pointer, "expected a pattern without the flag x, which JSON Schema does not have")
    return sum(map(parts_of_pattern, patterns)) + sum(parts for name, parts in PARTS_OF_KEYWORDS.items() if node.get(name))


def _values(node: Any) -> int:
    """Count the values in one."""
    if isinstance(node, dict):
        return 1 + sum(len(name) // _CHARS_OF_A_PART + _values(child) for name, child in node.items())
    if isinstance(node, list):
        return 1 + sum(map(_values, node))
    return 1 + (len(node) // _CHARS_OF_A_PART if isinstance(node, str) else 0)


def _refuse_to_retrieve(uri: str) -> Any:
    raise ValueError(f"{uri} is outside of the schema; nothing is fetched")
