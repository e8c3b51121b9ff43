"""The JSON Schema that a plugin declares for a service: for authors in other languages, and for calls that the host decodes anyway.

* A document is taken with suspicion, for the plugin wrote it: see ``BoundedSchema``. It is read once, before the plugin may start.
* Values are looked at only on the way between two codecs. One too long for its schema, at the pace that checking takes, is refused: nothing
  else runs on the event loop meanwhile.
* ``params`` is the schema of the list of arguments, ``result`` that of the answer. Items of streams are described, not checked.

Source: docs/reference/manifest.md, "Schema of a service"; feature SV2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import msgspec

from annexe.capabilities.bounded_schema import BoundedSchema, RefusedSchemaError
from annexe.dispatch.schema_files import remembered
from annexe.errors import InvalidParamsError, InvalidResultError, ManifestError
from annexe.manifest import Manifest
from annexe.manifest.model import ServiceOffer
from annexe.manifest.names import method_name
from annexe.manifest.values import MisfitError

__all__ = ["MAX_METHODS", "ServiceSchema", "check_service_schemas", "declared_schema", "service_schema"]

MAX_METHODS = 256
_MAX_PARTS = 20_000  # of all methods together
_MAX_VALUE_BYTES = 1024 * 1024
_MAX_WORK = 8 * 1024 * 1024  # parts of the schema times bytes of the value; see ``BoundedSchema``
_MAX_SHOWN_CHARS = 200
_NOTES = frozenset({"$schema", "title", "description"})
_SCHEMAS = ("params", "result", "stream_in", "stream_out")


@final
@dataclass(frozen=True, slots=True)
class ServiceSchema:
    """What the methods of one service take and answer.

    Attributes:
        document: As the plugin has it.
        methods: The schemas of each method by what they are of, as far as it has them.
    """

    document: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, BoundedSchema]]

    def check_params(self, method: str, raw: bytes | msgspec.Raw, *, plugin: str) -> None:
        """Refuse arguments that do not fit; a method of which nothing is said takes any.

        Args:
            method: Its name on the wire.
            raw: The list of arguments as JSON.
            plugin: Whose service it is.

        Raises:
            InvalidParamsError: They do not; ``path``.
        """
        path, text = self._misfit(method, "params", raw)
        if path:
            message = f"the arguments of {method} do not fit the schema of plugin {plugin!r}: at {path}: {text}"
            raise InvalidParamsError(message, plugin=plugin, method=method, path=path, expected=text)

    def check_result(self, method: str, raw: bytes | msgspec.Raw, *, plugin: str) -> None:
        """Refuse an answer that does not fit what its own plugin declares.

        Raises:
            InvalidResultError: It does not; ``path``.
        """
        path, text = self._misfit(method, "result", raw)
        if path:
            message = f"plugin {plugin!r} answered {method} with what does not fit its own schema: at {path}: {text}"
            raise InvalidResultError(message, plugin=plugin, method=method, path=path, expected=text)

    def _misfit(self, method: str, what: str, raw: bytes | msgspec.Raw) -> tuple[str, str]:
        """Return the place of a value that does not fit, and what is wrong there; an empty place when it fits."""
        schema = self.methods.get(method.rpartition(".")[2], {}).get(what)
        if schema is None:
            return "", ""
        size, most = len(memoryview(raw)), min(_MAX_VALUE_BYTES, _MAX_WORK // schema.parts)
        if size > most:
            return "$", f"expected at most {most} bytes where the host checks them, got {size}"
        value = msgspec.json.decode(raw)
        if schema.admits(value):
            return "", ""
        fault = next(iter(schema.errors(value, size_bytes=size)), None)
        if fault is None:
            return "$", "it does not fit the schema, and is too large to say where"
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.instance_path)
        return f"${steps}"[:_MAX_SHOWN_CHARS], fault.message[:_MAX_SHOWN_CHARS]


@remembered
def service_schema(document: Any) -> ServiceSchema:
    """Return what a plugin's file says, whose text is given.

    Raises:
        RefusedSchemaError: It is none that the host goes by.
    """
    methods = _table(document, "", {"methods"} | _NOTES).get("methods")
    described = _table(methods, "/methods", None)
    if not 1 <= len(described) <= MAX_METHODS:
        raise RefusedSchemaError("/methods", f"expected from 1 to {MAX_METHODS} methods, got {len(described)}")
    schema = ServiceSchema(document, {name: _method(name, told) for name, told in described.items()})
    parts = sum(one.parts for method in schema.methods.values() for one in method.values())
    if parts > _MAX_PARTS:
        raise RefusedSchemaError("/methods", f"expected at most {_MAX_PARTS} parts with every $ref written out, got {parts}")
    return schema


def declared_schema(offer: ServiceOffer) -> ServiceSchema | None:
    """Return the schema of a service; None where there is none, or none that the host goes by: its plugin does not run then."""
    try:
        return service_schema(offer.schema_text) if offer.schema else None
    except RefusedSchemaError:
        return None


def check_service_schemas(manifest: Manifest, *, source: str) -> None:
    """Read the schemas of the services that a manifest declares, so that later nobody waits for that; not on an event loop.

    Args:
        manifest: The plugin's.
        source: Its folder, for the error.

    Raises:
        ManifestError: One is refused; with every problem.
    """
    problems = []
    for name, offer in manifest.provides.services.items():
        try:
            schema = service_schema(offer.schema_text) if offer.schema else None
        except RefusedSchemaError as error:
            problems.append(f"the schema {offer.schema} of service {name!r} is refused: {error}")
            continue
        strange = sorted(set(offer.idempotent) - schema.methods.keys()) if schema is not None else ()
        problems += [f"service {name!r}: {one!r} is idempotent, and its schema {offer.schema} does not have it" for one in strange]
    if problems:
        raise ManifestError(source=source, problems=problems, plugin=manifest.id)


def _method(name: str, parts: Any) -> dict[str, BoundedSchema]:
    where = f"/methods/{name[:_MAX_SHOWN_CHARS]}"
    try:
        method_name(name)
    except MisfitError as error:
        raise RefusedSchemaError(where, f"expected {error.expected}") from None
    schemas = {}
    for what, schema in _table(parts, where, {*_SCHEMAS, "description"}).items():
        if what in _SCHEMAS:
            try:
                schemas[what] = BoundedSchema(schema)
            except RefusedSchemaError as error:
                raise RefusedSchemaError(f"{where}/{what}{error.pointer}", error.message) from error
    return schemas


def _table(value: Any, where: str, known: set[str] | None) -> dict[str, Any]:
    """Return an object that has no other keys than these; None: any."""
    if not isinstance(value, dict):
        raise RefusedSchemaError(where, f"expected an object, got {json.dumps(value)[:_MAX_SHOWN_CHARS]}")
    strange = sorted(value.keys() - known) if known is not None else []
    if strange:
        raise RefusedSchemaError(f"{where}/{strange[0][:_MAX_SHOWN_CHARS]}", f"expected one of {', '.join(sorted(known or ()))}")
    return value
