"""Turn plain values into the dataclasses a handler's annotations name.

Imported only for handlers whose annotations are more than plain types. Types are followed through dataclass fields, lists, tuples, dicts
and unions; what is not understood is passed on as it came.

Source: docs/reference/sdk.md, "Types".
"""

from collections.abc import Callable
from typing import Any

from annexe_sdk.plugin import Handler

__all__ = ["converter"]

_Convert = Callable[[Any], Any]


def converter(handler: Handler) -> "Callable[[list[Any]], list[Any]] | None":
    """Make the function that converts a call's parameters; None when nothing needs converting."""
    function: Any = getattr(handler.function, "__func__", handler.function)
    code = function.__code__
    names = list(code.co_varnames[: code.co_argcount])
    if getattr(handler.function, "__self__", None) is not None:
        names = names[1:]
    converts = [_convert_for(_resolve(function.__annotations__.get(name), function)) for name in names]
    if not any(converts):
        return None

    def convert(params: list[Any]) -> list[Any]:
        return [c(value) if c is not None else value for c, value in zip(converts, params, strict=False)]

    return convert


def _resolve(annotation: Any, function: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, function.__globals__)  # noqa: S307 - the plugin's own annotation, in the plugin's own process
    except Exception:
        return None


def _convert_for(annotation: Any) -> _Convert | None:
    """Make the conversion to one type; None where the plain value will do."""
    if hasattr(annotation, "__dataclass_fields__") and isinstance(annotation, type):
        return _dataclass(annotation)
    origin: Any = getattr(annotation, "__origin__", None)
    args: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if type(annotation).__name__ in ("UnionType", "_UnionGenericAlias"):
        return _union([arg for arg in args if arg is not type(None)])
    if origin in (list, tuple) and args:
        return _items(origin, _convert_for(args[0]))
    if origin is dict and len(args) == 2:
        return _values(_convert_for(args[1]))
    return None


def _dataclass(cls: type) -> _Convert:
    hints: dict[str, _Convert | None] | None = None

    def convert(value: Any) -> Any:
        nonlocal hints
        if not isinstance(value, dict):
            return value
        if hints is None:  # at first use, so that a type may hold itself
            from typing import get_type_hints

            hints = {name: _convert_for(hint) for name, hint in get_type_hints(cls).items() if name in cls.__dataclass_fields__}  # type: ignore[attr-defined]
        taken = {name: (c(value[name]) if c else value[name]) for name, c in hints.items() if name in value}
        return cls(**taken)

    return convert


def _union(members: list[Any]) -> _Convert | None:
    converts = [c for c in map(_convert_for, members) if c is not None]
    if not converts:
        return None
    first = converts[0]
    return lambda value: value if value is None else first(value)


def _items(origin: Any, each: _Convert | None) -> _Convert | None:
    return (lambda value: origin(map(each, value)) if isinstance(value, list) else value) if each else None


def _values(each: _Convert | None) -> _Convert | None:
    return (lambda value: {key: each(item) for key, item in value.items()} if isinstance(value, dict) else value) if each else None
