"""What contract classes become: definitions, which all other rooms work with.

Pure values. Whoever has one can rely on it: names are well-formed, types are usable, kinds and signatures fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from inspect import Parameter
from typing import Any, Literal, final

from annexe.contract.values import ValueType

__all__ = [
    "REQUIRED",
    "CapabilityDefinition",
    "ExtensionDefinition",
    "HookDefinition",
    "HookKind",
    "MethodDefinition",
    "OnFailure",
    "ParamDefinition",
    "SpecDefinition",
]

OnFailure = Literal["open", "closed"]

REQUIRED: Any = Parameter.empty
"""The ``default`` of a parameter that has none."""


class HookKind(StrEnum):
    """How implementations of a hook are called; docs/reference/hooks.md says exactly."""

    FILTER = "filter"
    STREAM_FILTER = "stream_filter"
    ACTION = "action"
    FIRST_RESULT = "first_result"
    OBSERVER = "observer"


@final
@dataclass(frozen=True, slots=True)
class ParamDefinition:
    """One parameter.

    Attributes:
        name: As the author wrote it.
        type: Of the value; of one item where it is a stream.
        default: What stands in when the caller gives none; ``REQUIRED``: the caller must.
        is_stream: It is an async iterator: its items travel as a stream, not among the params.
    """

    name: str
    type: ValueType
    default: Any = REQUIRED
    is_stream: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HookDefinition:
    """One hook of a spec.

    Attributes:
        spec: Name of the spec, ``chat``.
        name: Name of the hook, ``on_request``.
        qualified: ``chat.on_request``, as in manifests and decorators.
        method: ``hook.chat.on_request``, as on the wire.
        revision: Of the spec.
        kind: How it is called.
        params: In order. A filter's first is the value that goes from plugin to plugin; a stream filter's first is the stream.
        result: What an implementation returns; for a filter the type of its first parameter. None: nothing, or a stream.
        responds: What ``Respond`` carries when that is not the result's type.
        budget_s: The most one implementation may take; None: the call time-out and the deadline alone.
        on_failure: The spec's policy; manifest and operator can only make it stricter.
        stream_in: Type of the items a stream filter takes.
        stream_out: Type of the items a stream filter gives; equal to ``stream_in``.
    """

    spec: str
    name: str
    qualified: str
    method: str
    revision: int
    kind: HookKind
    params: tuple[ParamDefinition, ...]
    result: ValueType | None
    responds: ValueType | None
    budget_s: float | None
    on_failure: OnFailure
    stream_in: ValueType | None
    stream_out: ValueType | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MethodDefinition:
    """One method of an extension point or a capability.

    Attributes:
        name: As the author wrote it.
        method: As on the wire: ``ext.speech-to-text.transcribe``, ``cap.orders.find``.
        params: In order.
        result: What it returns; None: nothing, or a stream.
        stream_in: Type of the items of the parameter that is a stream.
        stream_out: Type of the items it yields.
    """

    name: str
    method: str
    params: tuple[ParamDefinition, ...]
    result: ValueType | None
    stream_in: ValueType | None
    stream_out: ValueType | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpecDefinition:
    """A hook spec: hooks that belong together and share a revision."""

    name: str
    revision: int
    hooks: Mapping[str, HookDefinition]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionDefinition:
    """An extension point."""

    name: str
    revision: int
    methods: Mapping[str, MethodDefinition]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityDefinition:
    """Functions of the application that a plugin may be granted."""

    name: str
    methods: Mapping[str, MethodDefinition]
