"""Read the signature of a contract's method.

Pure. Every parameter has a usable type and can be given by position, because that is how it travels.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
from dataclasses import dataclass
from typing import Any, final, get_args, get_origin, get_type_hints

import msgspec

from annexe.contract.annotations import Place, value_type
from annexe.contract.definitions import REQUIRED, ParamDefinition
from annexe.contract.invalid import InvalidValueError
from annexe.contract.values import ValueType

__all__ = ["Signature", "read_signature"]

_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator)
# Plugins written in Python get their context under this name, after the parameters.
_RESERVED_PARAMS = frozenset({"ctx"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a method takes and gives.

    Attributes:
        params: In order, ``self`` left out.
        result: None when it returns nothing or a stream.
        result_annotation: What the author wrote, for comparing.
        param_annotations: Likewise, in order.
        stream_in: Type of the items of the parameter that is a stream; there is at most one.
        stream_out: Type of the items it yields.
    """

    params: tuple[ParamDefinition, ...]
    result: ValueType | None
    result_annotation: Any
    param_annotations: tuple[Any, ...]
    stream_in: ValueType | None
    stream_out: ValueType | None


def read_signature(function: types.FunctionType, place: Place) -> Signature:
    """Return the signature of a method.

    Args:
        function: The method as it stands in its class.
        place: Where that is.

    Raises:
        ContractError: It is not an async method, or a parameter or the result cannot be used.
    """
    hints = _hints(function, place)
    listed = list(inspect.signature(function).parameters.values())[1:]
    params = tuple(_read_param(param, hints, place) for param in listed)
    streams = [param.type for param in params if param.is_stream]
    if len(streams) > 1:
        raise place.error("it takes more than one stream", "take one AsyncIterator and send the other values as its items")
    if "return" not in hints:
        raise place.error("its result has no type", "write what it returns, for example -> None")
    returns = hints["return"]
    item = _stream_item(returns)
    if item is None and not inspect.iscoroutinefunction(function):
        raise place.error("it is not async", f"write async def {place.method}(...)")
    return Signature(
        params=params,
        result=None if item is not None or returns is types.NoneType else value_type(returns, place, role="the result"),
        result_annotation=returns,
        param_annotations=tuple(hints[param.name] for param in params),
        stream_in=streams[0] if streams else None,
        stream_out=None if item is None else value_type(item, place, role="the stream it returns"),
    )


def _hints(function: types.FunctionType, place: Place) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise place.error(
            f"a type cannot be found ({error})", "define or import it at module level, and not for type checkers only"
        ) from error


def _read_param(param: inspect.Parameter, hints: dict[str, Any], place: Place) -> ParamDefinition:
    role = f"parameter {param.name!r}"
    if param.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise place.error(f"{role} cannot be given by position and by name", "write plain parameters, without *, ** and /")
    if param.name in _RESERVED_PARAMS:
        raise place.error(f"{role} has a name that plugins need for their context", "choose another name")
    if param.name not in hints:
        raise place.error(f"{role} has no type", f"write {param.name}: and its type")
    item = _stream_item(hints[param.name])
    if item is not None:
        if param.default is not REQUIRED:
            raise place.error(f"{role} is a stream and has a default", "leave the default out")
        return ParamDefinition(param.name, value_type(item, place, role=role), is_stream=True)
    kind = value_type(hints[param.name], place, role=role)
    if param.default is not REQUIRED:
        _check_default(param.default, kind, place, role)
    return ParamDefinition(param.name, kind, param.default)


def _check_default(default: Any, kind: ValueType, place: Place, role: str) -> None:
    try:
        kind.decoder("msgpack")(msgspec.msgpack.encode(kind.to_wire(default)))
    except (InvalidValueError, TypeError, OverflowError) as error:  # the latter two: nothing msgspec could encode
        raise place.error(f"{role} has a default that is not of its type ({error})", "write a default of that type") from error


def _stream_item(annotation: Any) -> Any:
    """Return the type of the items where this is a stream, else None."""
    if annotation in _STREAMS or get_origin(annotation) in _STREAMS:
        items = get_args(annotation)
        return items[0] if items else Any
    return None
