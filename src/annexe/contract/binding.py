"""Arguments: from a Python call to positions, from the wire to typed values.

Pure. Params travel by position, so a plugin need not know their names; a plugin that calls the host may name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from annexe.contract.definitions import REQUIRED, HookDefinition, MethodDefinition, ParamDefinition
from annexe.contract.invalid import InvalidValueError, from_decoder
from annexe.contract.values import CodecName, Payload
from annexe.errors import InvalidParamsError

__all__ = ["bind", "decode_params", "wire_params"]

_Given = list[msgspec.Raw] | dict[str, msgspec.Raw]
_DECODERS: Mapping[CodecName, Any] = {"msgpack": msgspec.msgpack.Decoder(_Given), "json": msgspec.json.Decoder(_Given)}


def bind(params: Sequence[ParamDefinition], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, method: str = "") -> tuple[Any, ...]:
    """Return one value for each parameter, in order.

    Args:
        params: As declared.
        args: By position.
        kwargs: By name.
        method: What is called, for the error.

    Raises:
        InvalidParamsError: Too many, an unknown one, one given twice, or one missing; ``parameter`` names it.
    """
    if not kwargs and len(args) == len(params):
        return args
    if len(args) > len(params):
        raise _error(f"expected at most {len(params)} arguments, got {len(args)}", method, "")
    names = [param.name for param in params]
    for name in kwargs:
        if name not in names:
            raise _error(f"has no parameter {name!r}, expected {', '.join(names) or 'none'}", method, name)
        if name in names[: len(args)]:
            raise _error(f"got parameter {name!r} by position and by name", method, name)
    return args + tuple(_named(param, kwargs, method) for param in params[len(args) :])


def wire_params(params: Sequence[ParamDefinition], values: tuple[Any, ...], *, method: str = "") -> tuple[Any, ...]:
    """Return what a channel's codec can encode for typed arguments, long bytes marked as blobs; streams are left out.

    Args:
        params: As declared.
        values: One for each, in order, as ``bind`` gives them; returned as they are when all types are sent as they are.
        method: What is called, for the error.

    Raises:
        InvalidParamsError: One cannot be sent; ``parameter``, ``path``, ``expected`` and ``actual`` say where.
    """
    for param in params:
        if param.is_stream or not param.type.as_is:
            if len(params) == 1 and not param.is_stream:
                return (_sent(param, values[0], method),)
            return tuple(_sent(param, value, method) for param, value in zip(params, values, strict=True) if not param.is_stream)
    return values


def decode_params(method: MethodDefinition | HookDefinition, raw: Payload, codec: CodecName) -> tuple[Any, ...]:
    """Return typed arguments, in order, for what a plugin sent.

    Args:
        method: What it calls; without streams.
        raw: An encoded array (by position) or map (by name).
        codec: How it is encoded.

    Raises:
        InvalidParamsError: They do not fit; ``parameter``, ``path``, ``expected`` and ``actual`` say where.
    """
    try:
        given: _Given = _DECODERS[codec].decode(raw)
    except Exception as error:  # bytes from a plugin: depth, text encoding
        raise _invalid(from_decoder(error, expected="an array or a map of arguments"), method.method, "") from error
    args, kwargs = (tuple(given), {}) if isinstance(given, list) else ((), given)
    bound = bind(method.params, args, kwargs, method=method.method)
    return tuple(_decoded(param, value, method.method, codec) for param, value in zip(method.params, bound, strict=True))


def _named(param: ParamDefinition, kwargs: Mapping[str, Any], method: str) -> Any:
    value = kwargs.get(param.name, param.default)
    if value is REQUIRED:
        raise _error(f"needs parameter {param.name!r}", method, param.name)
    return value


def _sent(param: ParamDefinition, value: Any, method: str) -> Any:
    try:
        return param.type.to_send(value)
    except InvalidValueError as error:
        raise _invalid(error, method, param.name) from error


def _decoded(param: ParamDefinition, value: Any, method: str, codec: CodecName) -> Any:
    if not isinstance(value, msgspec.Raw):
        return value  # the default
    try:
        return param.type.decoder(codec)(value)
    except InvalidValueError as error:
        raise _invalid(error, method, param.name) from error


def _invalid(error: InvalidValueError, method: str, parameter: str) -> InvalidParamsError:
    of = f"parameter {parameter!r} " if parameter else ""
    return InvalidParamsError(
        f"{method or 'the call'}: {of}{error}.",
        method=method,
        parameter=parameter,
        path=error.path,
        expected=error.expected,
        actual=error.actual,
    )


def _error(problem: str, method: str, parameter: str) -> InvalidParamsError:
    return InvalidParamsError(f"{method or 'the call'}: {problem}.", method=method, parameter=parameter)
