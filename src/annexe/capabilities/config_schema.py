"""A plugin's configuration schema: loaded with suspicion, because the plugin wrote it and the host runs it.

A schema is refused, with :class:`ConfigInvalidError` listing every problem, unless all of this holds:

1. It is a file inside the plugin's folder, links resolved, of at most 256 KiB, and JSON.
2. It is an object, of JSON Schema draft 6 or later, whose every ``$ref`` points into itself (``#/...``). Nothing is ever fetched, neither
   over a network nor from a file; the retriever given to the library refuses whatever might be left.
3. With every ``$ref`` written out it is at most 64 levels deep and 5,000 parts large, so it does not refer back to itself. A few lines in
   which each ``$ref`` is used twice would otherwise take longer to check than the universe lasts.
4. It is a valid JSON Schema whose patterns need only linear time: no look-around, no back-reference.

Checking takes time with the parts of the schema times the size of the value, and nothing else in the host runs meanwhile. So that product
is bounded, and a plugin's own defaults are 16 KiB at most. Every value in a list is a part, and so is every 64 characters of text: an error
of the library's holds the whole list, or text, that it is about.

Source: feature HS4; ADR-0023.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import jsonschema_rs
import msgspec

from annexe.errors import ConfigInvalidError

__all__ = ["MAX_SCHEMA_BYTES", "MAX_VALUE_BYTES", "ConfigSchema"]

MAX_SCHEMA_BYTES = 256 * 1024
MAX_VALUE_BYTES = 256 * 1024
_MAX_DEPTH = 64
_MAX_PARTS = 5_000
_MAX_PROBLEMS = 50
_MAX_DEFAULTS_BYTES = 16 * 1024
# Parts of the schema times bytes of the value: about as many steps as the check may take.
_MAX_WORK = 8 * 1024 * 1024
# Of these, every fault may be told: the library makes an error, and two texts, for each step.
_MAX_WORK_FOR_ALL = 128 * 1024
# The library makes the errors of every branch of these before it gives the first one of the whole.
_BRANCHES = frozenset({"anyOf", "oneOf"})
# The library's texts hold the value they are about, of any length.
_MESSAGE_CHARS = 500
# A pattern is a program of its own to build and keep: 100 of them at most.
_PARTS_OF_A_PATTERN = 50
# Compares each item with others.
_PARTS_OF_UNIQUE_ITEMS = 50
_CHARS_OF_A_PART = 64
_PATTERN_BYTES = 1024 * 1024
_DIALECTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)


@final
class ConfigSchema:
    """What one plugin's configuration must be.

    Args:
        document: The parsed schema.
        plugin: Id of the plugin, for errors.
        source: Where the schema comes from, for errors.

    Raises:
        ConfigInvalidError: The schema is refused (2, 3, 4); ``problems``.
    """

    def __init__(self, document: Any, *, plugin: str, source: str) -> None:
        self._plugin = plugin
        self._source = source
        self._document = document
        if not isinstance(document, dict):
            raise self._refused("", f"expected an object, got a {type(document).__name__}")
        if (dialect := document.get("$schema", _DIALECTS[0])) not in (*_DIALECTS, *(f"{name}#" for name in _DIALECTS)):
            raise self._refused("/$schema", f"expected one of {', '.join(_DIALECTS)}, got {dialect!r}")
        self._expanded: dict[str, int] = {}
        self._has_branches = False
        parts = self._parts(document, pointer="", depth=0)
        if parts > _MAX_PARTS:
            raise self._refused("", f"expected at most {_MAX_PARTS} parts with every $ref written out, got {parts}")
        self._count = parts
        self._max_value_bytes = min(MAX_VALUE_BYTES, _MAX_WORK // parts)
        try:
            self._validator = jsonschema_rs.validator_for(
                document,
                retriever=_refuse_to_retrieve,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
                validate_formats=False,
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            text = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
            raise self._refused(_pointer(getattr(error, "instance_path", ())), text) from error

    @classmethod
    def load(cls, folder: Path, relative: str, *, plugin: str) -> ConfigSchema:
        """Read a plugin's schema file.

        Args:
            folder: The plugin's folder.
            relative: The file's path as the manifest has it.
            plugin: Id of the plugin, for errors.

        Raises:
            ConfigInvalidError: The file or the schema is refused; ``problems``.
        """
        path = folder / relative
        try:
            document = msgspec.json.decode(_read_inside(folder, path))
            # A default of more than 64 bits is JSON, but could not be sent to the plugin.
            msgspec.msgpack.encode(document)
        except (OSError, ValueError, OverflowError, RecursionError) as error:  # a decode error is a ValueError
            raise _invalid(plugin, "schema", str(path), [{"path": "", "message": str(error)}]) from error
        return cls(document, plugin=plugin, source=str(path))

    def complete(self, value: Any) -> dict[str, Any]:
        """Return a configuration with the schema's defaults where it says nothing, after checking the whole.

        Args:
            value: What the operator wrote; it is not changed.

        Raises:
            ConfigInvalidError: It does not fit; ``problems`` lists each with ``path`` (a JSON pointer) and ``message``.
        """
        completed = self._copied(value)
        self._check_work(completed)
        self._fill(completed, self._document, room_bytes=_MAX_DEFAULTS_BYTES)
        self._check_work(completed)
        if self._validator.is_valid(completed):
            return completed
        problems = []
        for found in self._errors(completed):
            problems.append({"path": _pointer(found.instance_path), "message": found.message[:_MESSAGE_CHARS]})
            if len(problems) == _MAX_PROBLEMS:
                break
        raise self._unfit(problems or [{"path": "", "message": "does not fit the schema; value and schema are too large to say where"}])

    def _errors(self, value: Any) -> Iterable[jsonschema_rs.ValidationError]:
        """Return every fault where that is cheap, else the first, or none where even that one could take minutes."""
        if len(msgspec.json.encode(value)) * self._count <= _MAX_WORK_FOR_ALL:
            return self._validator.iter_errors(value)
        if self._has_branches:
            return []
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []

    def _check_work(self, value: Any) -> None:
        size = len(msgspec.json.encode(value))
        if size > self._max_value_bytes:
            text = f"expected at most {self._max_value_bytes} bytes, defaults included, with a schema of so many parts; got {size}"
            raise self._unfit([{"path": "", "message": text}])

    def _copied(self, value: Any) -> dict[str, Any]:
        """Return the same in JSON's own types, which nobody else holds."""
        try:
            encoded = msgspec.json.encode(value)
            copied = msgspec.json.decode(encoded)
            msgspec.msgpack.encode(copied)  # as for defaults
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._unfit([{"path": "", "message": f"expected what JSON can say, in numbers of at most 64 bits: {error}"}]) from error
        if not isinstance(copied, dict):
            raise self._unfit([{"path": "", "message": f"expected an object, got a {type(value).__name__}"}])
        if len(encoded) > MAX_VALUE_BYTES:
            raise self._unfit([{"path": "", "message": f"expected at most {MAX_VALUE_BYTES} bytes of JSON, got {len(encoded)}"}])
        return copied

    def _parts(self, node: Any, *, pointer: str, depth: int) -> int:
        """Count the parts of a part of the schema, with its references written out; a pattern counts as many."""
        if depth > _MAX_DEPTH:
            raise self._refused(
                pointer, f"expected at most {_MAX_DEPTH} levels with every $ref written out, got more; does it refer to itself?"
            )
        if isinstance(node, list):
            # Each value counts, also a plain one: `enum` is compared with all of them, and an error lists all of them.
            return 1 + sum(max(1, self._parts(child, pointer=f"{pointer}/{index}", depth=depth + 1)) for index, child in enumerate(node))
        if isinstance(node, str):
            return len(node) // _CHARS_OF_A_PART
        if not isinstance(node, dict):
            return 0
        parts = 1 + _PARTS_OF_A_PATTERN * _patterns(node) + _PARTS_OF_UNIQUE_ITEMS * (node.get("uniqueItems") is True)
        for name, child in node.items():
            self._check_name(name, child, pointer=pointer)
            self._has_branches = self._has_branches or name in _BRANCHES
            parts += len(name) // _CHARS_OF_A_PART + self._parts(child, pointer=f"{pointer}/{name}", depth=depth + 1)
        if isinstance(reference := node.get("$ref"), str):
            # Counted once and remembered. One that comes back to itself is never done, and so ends at the depth.
            if reference not in self._expanded:
                target = self._resolve(reference, pointer=f"{pointer}/$ref")
                self._expanded[reference] = self._parts(target, pointer=reference[1:], depth=depth + 1)
            parts += self._expanded[reference]
        return parts

    def _check_name(self, name: str, child: Any, *, pointer: str) -> None:
        """Refuse what would make a reference mean something else than :meth:`_resolve` believes."""
        inner_id = name == "$id" and pointer != ""
        if isinstance(child, str) and (inner_id or name in ("$dynamicRef", "$recursiveRef")):
            raise self._refused(f"{pointer}/{name}", f"{name} is not allowed here; use $ref with '#/...'")

    def _resolve(self, reference: str, *, pointer: str) -> Any:
        """Return the part of this schema that a reference points to."""
        if reference != "#" and not reference.startswith("#/"):
            raise self._refused(pointer, f"$ref {reference!r} is refused, expected '#/...': nothing is fetched from elsewhere")
        # "%" would be decoded by the library: it must not see another part than we do.
        steps = [step.replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:]]
        node: Any = self._document
        for step in steps:
            if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            elif isinstance(node, dict) and step in node and "%" not in step:
                node = node[step]
            else:
                raise self._refused(pointer, f"$ref {reference!r} points to nothing in the schema")
        return node

    def _fill(self, value: Any, schema: Any, *, room_bytes: int) -> int:
        """Put defaults into ``value``, following what the operator wrote; a default itself is taken as it stands.

        Returns:
            How many bytes of defaults may still be put in.
        """
        if not isinstance(schema, dict):
            return room_bytes
        if isinstance(reference := schema.get("$ref"), str):
            room_bytes = self._fill(value, self._resolve(reference, pointer=""), room_bytes=room_bytes)
        if isinstance(value, list):
            for item in value:
                room_bytes = self._fill(item, schema.get("items"), room_bytes=room_bytes)
        properties = schema.get("properties")
        if isinstance(value, dict) and isinstance(properties, dict):
            for name, part in properties.items():
                if name in value:
                    room_bytes = self._fill(value[name], part, room_bytes=room_bytes)
                elif isinstance(part, dict) and "default" in part:
                    default = msgspec.json.encode(part["default"])
                    room_bytes -= len(default)
                    # A large default, put into each item of a long array, must not fill the memory.
                    if room_bytes < 0:
                        raise self._unfit([{"path": "", "message": f"expected at most {_MAX_DEFAULTS_BYTES} bytes of defaults, got more"}])
                    value[name] = msgspec.json.decode(default)
        return room_bytes

    def _refused(self, path: str, message: str) -> ConfigInvalidError:
        return _invalid(self._plugin, "schema", self._source, [{"path": path, "message": message}])

    def _unfit(self, problems: list[dict[str, str]]) -> ConfigInvalidError:
        return _invalid(self._plugin, "value", self._source, problems)


def _read_inside(folder: Path, path: Path) -> bytes:
    resolved = path.resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise ValueError("expected a file inside the plugin's folder, got one outside of it")
    # Opened without blocking: what is there may be a pipe nobody writes to.
    with os.fdopen(os.open(resolved, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("expected a file, got something else")
        text = file.read(MAX_SCHEMA_BYTES + 1)
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"expected at most {MAX_SCHEMA_BYTES} bytes, got more")
    return text


def _patterns(node: dict[str, Any]) -> int:
    by_name = node.get("patternProperties")
    return isinstance(node.get("pattern"), str) + (len(by_name) if isinstance(by_name, dict) else 0)


def _refuse_to_retrieve(uri: str) -> Any:
    raise ValueError(f"{uri} is outside of the schema; nothing is fetched")


def _pointer(path: Any) -> str:
    return "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in path)


def _invalid(plugin: str, what: str, source: str, problems: list[dict[str, str]]) -> ConfigInvalidError:
    listed = "\n".join(f"  - {problem['path'] or '(whole)'}: {problem['message']}" for problem in problems)
    subject = f"the configuration schema {source}" if what == "schema" else f"the configuration does not fit {source} and"
    return ConfigInvalidError(
        f"plugin {plugin!r}: {subject} is refused:\n{listed}", plugin=plugin, what=what, source=source, problems=problems
    )
