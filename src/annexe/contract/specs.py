"""How a host declares what it opens: ``HookSpec``, ``ExtensionPoint`` and capabilities, all typed Python classes.

Pure. A class is read when its definition is first asked for, not while its module is imported: its types may be defined further down. Name,
revision and methods defined twice are looked at in the class statement.

Source: docs/reference/hooks.md; ADR-0010.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any, ClassVar, overload

from annexe.contract.annotations import Place, value_type
from annexe.contract.definitions import (
    CapabilityDefinition,
    ExtensionDefinition,
    HookDefinition,
    HookKind,
    MethodDefinition,
    SpecDefinition,
)
from annexe.contract.hook import HookMark, mark_of
from annexe.contract.signature import Signature, read_signature

__all__ = ["ExtensionPoint", "HookSpec", "capability_definition", "check_distinct", "definition_of"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_METHOD_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MAX_NAME_CHARS = 64
_DEFINITION = "__annexe_definition__"


def _check_name(name: object, place: Place, example: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _MAX_NAME_CHARS:
        raise place.error(
            f"its name is {name!r}", f"write {example}: lower-case words joined by hyphens, at most {_MAX_NAME_CHARS} characters"
        )


class _OncePerName(dict[str, Any]):
    """Namespace of a class body in which no method replaces another one."""

    def __init__(self, contract: str) -> None:
        super().__init__()
        self._contract = contract

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(self.get(name), FunctionType):
            raise Place(self._contract, name).error("it is defined twice", "give each hook or method a name of its own")
        super().__setitem__(name, value)


class _ContractMeta(type):
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **_options: Any) -> _OncePerName:
        return _OncePerName(name)


class _Contract(metaclass=_ContractMeta):
    contract_name: ClassVar[str]
    contract_revision: ClassVar[int]

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} declares a contract and has no instances; pass the class itself to the host")

    def __init_subclass__(cls, *, name: str = "", revision: int = 1) -> None:
        super().__init_subclass__()
        place = Place(cls.__name__)
        _check_name(name, place, f'class {cls.__name__}(..., name="my-name")')
        if type(revision) is not int or revision < 1:
            raise place.error(f"its revision is {revision!r}", "write a whole number from 1")
        cls.contract_name = name
        cls.contract_revision = revision


class HookSpec(_Contract, name="hook-spec"):
    """Base of classes that declare hooks.

    >>> class Chat(HookSpec, name="chat", revision=1):
    ...     @hook.filter(budget_ms=50)
    ...     async def on_request(self, request: ChatRequest) -> ChatRequest: ...
    """


class ExtensionPoint(_Contract, name="extension-point"):
    """Base of classes that declare an extension point: typed async methods that a plugin implements.

    >>> class SpeechToText(ExtensionPoint, name="speech-to-text", revision=2):
    ...     async def transcribe(self, audio: bytes, language: str = "en") -> str: ...
    """


@overload
def definition_of(contract: type[HookSpec]) -> SpecDefinition: ...
@overload
def definition_of(contract: type[ExtensionPoint]) -> ExtensionDefinition: ...
def definition_of(contract: type[HookSpec] | type[ExtensionPoint]) -> SpecDefinition | ExtensionDefinition:
    """Return what a hook spec or an extension point declares; made on the first call and kept.

    Raises:
        ContractError: It is declared wrongly; names class and method and says what to write instead.
    """
    definition: SpecDefinition | ExtensionDefinition | None = vars(contract).get(_DEFINITION)
    if definition is None:
        definition = _read_spec(contract) if issubclass(contract, HookSpec) else _read_extension(contract)
        setattr(contract, _DEFINITION, definition)
    return definition


def capability_definition(cls: type) -> CapabilityDefinition:
    """Return what a class of the application's own functions declares.

    Args:
        cls: Any class with ``name: ClassVar[str]`` and typed ``async def`` methods.

    Raises:
        ContractError: It is declared wrongly; names class and method and says what to write instead.
    """
    name = getattr(cls, "name", "")
    _check_name(name, Place(cls.__name__), 'name: ClassVar[str] = "my-name"')
    methods = {place.method: read_signature(function, place) for place, function in _methods(cls, object)}
    if not methods:
        raise Place(cls.__name__).error("it has no methods", "write at least one async def")
    return CapabilityDefinition(
        name=name, methods={key: _method(key, f"cap.{name}.{key}", signature) for key, signature in methods.items()}
    )


def check_distinct(definitions: Iterable[SpecDefinition | ExtensionDefinition | CapabilityDefinition]) -> None:
    """Refuse two definitions of one kind that share a name.

    Raises:
        ContractError: As said.
    """
    seen: set[tuple[type, str]] = set()
    for definition in definitions:
        key = (type(definition), definition.name)
        if key in seen:
            raise Place(definition.name).error("two contracts of one host have this name", "give each a name of its own")
        seen.add(key)


def _read_spec(contract: type[HookSpec]) -> SpecDefinition:
    hooks = {}
    for place, function in _methods(contract, HookSpec):
        mark = mark_of(function)
        if mark is None:
            raise place.error("it is not marked as a hook", f"write one of {', '.join(f'@hook.{kind}' for kind in HookKind)} above it")
        hooks[place.method] = _read_hook(contract, function, mark, place)
    if not hooks:
        raise Place(contract.__name__).error("it has no hooks", "write at least one method with a @hook decorator")
    return SpecDefinition(name=contract.contract_name, revision=contract.contract_revision, hooks=hooks)


def _read_hook(contract: type[HookSpec], function: FunctionType, mark: HookMark, place: Place) -> HookDefinition:
    signature = read_signature(function, place)
    _check_kind(mark.kind, signature, place)
    qualified = f"{contract.contract_name}.{place.method}"
    return HookDefinition(
        spec=contract.contract_name,
        name=place.method,
        qualified=qualified,
        method=f"hook.{qualified}",
        revision=contract.contract_revision,
        kind=mark.kind,
        params=signature.params,
        result=signature.result,
        responds=None if mark.responds is None else value_type(mark.responds, place, role="responds"),
        budget_s=None if mark.budget_ms is None else mark.budget_ms / 1000,
        on_failure=mark.on_failure,
        stream_in=signature.stream_in,
        stream_out=signature.stream_out,
    )


def _check_kind(kind: HookKind, signature: Signature, place: Place) -> None:
    first = signature.param_annotations[0] if signature.param_annotations else None
    returns = signature.result_annotation
    if kind is HookKind.STREAM_FILTER:
        # Compared by item: AsyncIterator and AsyncIterable may stand for the same stream.
        if signature.stream_out is None or not signature.params or not signature.params[0].is_stream:
            raise place.error("a stream filter takes and gives a stream", "write (self, chunks: AsyncIterator[T]) -> AsyncIterator[T]")
        if signature.params[0].type.annotation != signature.stream_out.annotation:
            raise place.error("a stream filter gives other items than it takes", "write the same type for both")
        return
    if signature.stream_in is not None or signature.stream_out is not None:
        raise place.error(f"@hook.{kind} does not stream", "write @hook.stream_filter")
    if kind is HookKind.FILTER:
        if signature.result is None or first is None or returns != first:
            raise place.error("a filter returns another type than its first parameter has", "write the same type for both")
    elif kind is HookKind.FIRST_RESULT:
        if signature.result is None or not signature.result.admits_none:
            raise place.error("a first-result hook must be able to find nothing", "write -> T | None")
    elif signature.result is not None:
        raise place.error(f"@hook.{kind} returns nothing", "write -> None, or @hook.filter")


def _read_extension(contract: type[ExtensionPoint]) -> ExtensionDefinition:
    methods = {}
    for place, function in _methods(contract, ExtensionPoint):
        if mark_of(function) is not None:
            raise place.error("an extension point has methods, not hooks", "leave the @hook decorator out, or derive from HookSpec")
        methods[place.method] = _method(place.method, f"ext.{contract.contract_name}.{place.method}", read_signature(function, place))
    if not methods:
        raise Place(contract.__name__).error("it has no methods", "write at least one async def")
    return ExtensionDefinition(name=contract.contract_name, revision=contract.contract_revision, methods=methods)


def _method(name: str, method: str, signature: Signature) -> MethodDefinition:
    return MethodDefinition(
        name=name,
        method=method,
        params=signature.params,
        result=signature.result,
        stream_in=signature.stream_in,
        stream_out=signature.stream_out,
    )


def _methods(cls: type, base: type) -> Iterator[tuple[Place, FunctionType]]:
    """Yield the public methods below ``base``, inherited ones first, each as the most derived class has it."""
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__[: cls.__mro__.index(base)]):
        found.update({name: value for name, value in vars(owner).items() if not name.startswith("_")})
    for name, value in found.items():
        place = Place(cls.__name__, name)
        if isinstance(value, (staticmethod, classmethod, property)):
            raise place.error(f"it is a {type(value).__name__}", "write async def, or begin its name with an underscore")
        if isinstance(value, FunctionType):
            if not (_METHOD_NAME.fullmatch(name) and len(name) <= _MAX_NAME_CHARS):
                raise place.error(
                    "its name is not well-formed", f"write lower-case words joined by _, at most {_MAX_NAME_CHARS} characters"
                )
            yield place, value
