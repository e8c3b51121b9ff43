"""What a host opens to plugins: hooks, extension points and capabilities, as typed Python.

Pure: no I/O, no clock, no process.
"""

from __future__ import annotations

from annexe.contract import hook
from annexe.contract.annotations import Place, value_type
from annexe.contract.binding import bind, decode_params, wire_params
from annexe.contract.definitions import (
    REQUIRED,
    CapabilityDefinition,
    ExtensionDefinition,
    HookDefinition,
    HookKind,
    MethodDefinition,
    OnFailure,
    ParamDefinition,
    SpecDefinition,
)
from annexe.contract.invalid import InvalidValueError
from annexe.contract.schema import export_schema
from annexe.contract.specs import ExtensionPoint, HookSpec, capability_definition, check_distinct, definition_of
from annexe.contract.stub import export_stub
from annexe.contract.values import CodecName, Decode, Payload, ValueType

__all__ = [
    "REQUIRED",
    "CapabilityDefinition",
    "CodecName",
    "Decode",
    "ExtensionDefinition",
    "ExtensionPoint",
    "HookDefinition",
    "HookKind",
    "HookSpec",
    "InvalidValueError",
    "MethodDefinition",
    "OnFailure",
    "ParamDefinition",
    "Payload",
    "Place",
    "SpecDefinition",
    "ValueType",
    "bind",
    "capability_definition",
    "check_distinct",
    "decode_params",
    "definition_of",
    "export_schema",
    "export_stub",
    "hook",
    "value_type",
    "wire_params",
]
