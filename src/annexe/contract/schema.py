"""Contracts as JSON Schema: all an author needs to write a plugin in any language.

Pure. Every schema stands alone (its references go to its own ``$defs``), so that one can be cut out and given to a code generator; its
``$id`` keeps that true where it stands inside the whole.

Source: docs/reference/hooks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from annexe.contract.definitions import (
    REQUIRED,
    CapabilityDefinition,
    ExtensionDefinition,
    HookDefinition,
    MethodDefinition,
    ParamDefinition,
    SpecDefinition,
)
from annexe.contract.values import ValueType

__all__ = ["DIALECT", "FORMAT_VERSION", "export_schema"]

FORMAT_VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def export_schema(definitions: Iterable[SpecDefinition | ExtensionDefinition | CapabilityDefinition]) -> dict[str, Any]:
    """Return everything about these contracts as JSON-able values.

    Args:
        definitions: Each kind with distinct names.

    Returns:
        ``format``, ``dialect`` and, by name, ``hook_specs``, ``extensions`` and ``capabilities``.
    """
    exported: dict[str, Any] = {"format": FORMAT_VERSION, "dialect": DIALECT, "hook_specs": {}, "extensions": {}, "capabilities": {}}
    for definition in definitions:
        match definition:
            case SpecDefinition():
                hooks = {name: _hook(hook) for name, hook in definition.hooks.items()}
                exported["hook_specs"][definition.name] = {"revision": definition.revision, "hooks": hooks}
            case ExtensionDefinition():
                methods = _methods(definition.methods, definition.revision)
                exported["extensions"][definition.name] = {"revision": definition.revision, "methods": methods}
            case _:
                exported["capabilities"][definition.name] = {"methods": _methods(definition.methods, 1)}
    return exported


def _hook(hook: HookDefinition) -> dict[str, Any]:
    return {
        "hook": hook.qualified,
        "kind": hook.kind.value,
        "on_failure": hook.on_failure,
        "budget_ms": None if hook.budget_s is None else hook.budget_s * 1000,
        **_call(hook, hook.revision),
        "responds": _schema(hook.responds, f"{hook.method}:{hook.revision}:responds"),
    }


def _methods(methods: Mapping[str, MethodDefinition], revision: int) -> dict[str, Any]:
    return {name: _call(method, revision) for name, method in methods.items()}


def _call(method: HookDefinition | MethodDefinition, revision: int) -> dict[str, Any]:
    at = f"{method.method}:{revision}"
    return {
        "method": method.method,
        "params": [_param(param, at) for param in method.params if not param.is_stream],
        "stream_in": _schema(method.stream_in, f"{at}:stream_in"),
        "stream_out": _schema(method.stream_out, f"{at}:stream_out"),
        "result": _schema(method.result, f"{at}:result"),
    }


def _param(param: ParamDefinition, at: str) -> dict[str, Any]:
    described = {"name": param.name, "required": param.default is REQUIRED, "schema": _schema(param.type, f"{at}:params:{param.name}")}
    if param.default is not REQUIRED:
        described["default"] = msgspec.to_builtins(param.type.to_wire(param.default))
    return described


def _schema(kind: ValueType | None, at: str) -> dict[str, Any] | None:
    return None if kind is None else {"$schema": DIALECT, "$id": f"urn:annexe:{at}", **kind.schema()}
