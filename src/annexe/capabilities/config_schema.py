"""A plugin's configuration schema: loaded with suspicion, because the plugin wrote it and the host runs it.

A schema is refused, with :class:`ConfigInvalidError` listing every problem, unless it is a file inside the plugin's folder, links resolved,
of at most 256 KiB, is JSON, and is one that ``BoundedSchema`` takes.

Nothing else in the host runs while a value is checked. So the product of the schema's parts and the value's size is bounded, and a plugin's
own defaults are 16 KiB at most.

Source: feature HS4; ADR-0023.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, final

import msgspec

from annexe.capabilities.bounded_schema import BoundedSchema, RefusedSchemaError, pointer_of
from annexe.errors import ConfigInvalidError

__all__ = ["MAX_SCHEMA_BYTES", "MAX_VALUE_BYTES", "ConfigSchema"]

MAX_SCHEMA_BYTES = 256 * 1024
MAX_VALUE_BYTES = 256 * 1024
_MAX_PROBLEMS = 50
_MAX_DEFAULTS_BYTES = 16 * 1024
# Parts of the schema times bytes of the value: about as many steps as the check may take.
_MAX_WORK = 8 * 1024 * 1024
# The library's texts hold the value they are about, of any length.
_MESSAGE_CHARS = 500


@final
class ConfigSchema:
    """What one plugin's configuration must be.

    Args:
        document: The parsed schema.
        plugin: Id of the plugin, for errors.
        source: Where the schema comes from, for errors.

    Raises:
        ConfigInvalidError: The schema is refused; ``problems``.
    """

    def __init__(self, document: Any, *, plugin: str, source: str) -> None:
        self._plugin = plugin
        self._source = source
        try:
            self._schema = BoundedSchema(document)
        except RefusedSchemaError as error:
            raise self._refused(error) from error
        self._max_value_bytes = min(MAX_VALUE_BYTES, _MAX_WORK // self._schema.parts)

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
        self._fill(completed, self._schema.document, room_bytes=_MAX_DEFAULTS_BYTES)
        self._check_work(completed)
        if self._schema.admits(completed):
            return completed
        problems = []
        for found in self._schema.errors(completed, size_bytes=len(msgspec.json.encode(completed))):
            problems.append({"path": pointer_of(found.instance_path), "message": found.message[:_MESSAGE_CHARS]})
            if len(problems) == _MAX_PROBLEMS:
                break
        raise self._unfit(problems or [{"path": "", "message": "does not fit the schema; value and schema are too large to say where"}])

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

    def _fill(self, value: Any, schema: Any, *, room_bytes: int) -> int:
        """Put defaults into ``value``, following what the operator wrote; a default itself is taken as it stands.

        Returns:
            How many bytes of defaults may still be put in.
        """
        if not isinstance(schema, dict):
            return room_bytes
        if isinstance(reference := schema.get("$ref"), str):
            room_bytes = self._fill(value, self._schema.resolve(reference), room_bytes=room_bytes)
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

    def _refused(self, error: RefusedSchemaError) -> ConfigInvalidError:
        return _invalid(self._plugin, "schema", self._source, [{"path": error.pointer, "message": error.message}])

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


def _invalid(plugin: str, what: str, source: str, problems: list[dict[str, str]]) -> ConfigInvalidError:
    listed = "\n".join(f"  - {problem['path'] or '(whole)'}: {problem['message']}" for problem in problems)
    subject = f"the configuration schema {source}" if what == "schema" else f"the configuration does not fit {source} and"
    return ConfigInvalidError(
        f"plugin {plugin!r}: {subject} is refused:\n{listed}", plugin=plugin, what=what, source=source, problems=problems
    )
