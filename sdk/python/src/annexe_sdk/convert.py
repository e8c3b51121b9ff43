"""Turn plain values into what a handler's annotations name: dataclasses, bytes where JSON brings base64 text, and views of bytes.

Imported only for handlers whose annotations are more than plain types. Types are followed through dataclass fields, lists, tuples, dicts,
unions and the items of streams; what is not understood is passed on as it came.

Source: docs/reference/sdk.md, "Types".
"""

import sys
from binascii import a2b_base64
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_origin, get_type_hints

from annexe_sdk.plugin import Handler

__all__ = ["UNIONS", "annotations_of", "bytes_of", "converter", "field_types", "takes_views", "view_of", "stream_item"]

_Convert = Callable[[Any], Any]

# A union is told by its origin, never by the name of its type: before Python 3.14 ``A | B`` and ``Optional[A]`` are of two types, since
# then of one with yet another name. Their origin is one of these two in all versions; from 3.14 on the two are one.
UNIONS = (Union, UnionType)
_STREAMS = (Iterator, Iterable, Generator)
_ASYNC_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)


def converter(handler: Handler) -> "Callable[[list[Any]], list[Any]] | None":
    """Make the function that converts a call's parameters, its stream included; None when nothing needs converting.

    What the handler does already to the arguments of a service is done first: converted are those that fit.
    """
    fit = handler.convert
    function: Any = getattr(handler.function, "__func__", handler.function)
    code = function.__code__
    names = list(code.co_varnames[: code.co_argcount])
    if getattr(handler.function, "__self__", None) is not None:
        names = names[1:]
    annotations = annotations_of(function)
    converts = [_convert_for(_resolve(annotations.get(name), function.__globals__)) for name in names]
    if not any(converts):
        return fit

    def convert(params: list[Any]) -> list[Any]:
        if fit is not None:
            params = fit(params)
        converted = [c(value) if c is not None else value for c, value in zip(converts, params, strict=False)]
        return converted if fit is None else converted + params[len(converts) :]  # with what a ``*args`` takes

    return convert


def takes_views(handler: Handler) -> bool:
    """Say whether a parameter, or something in it, is annotated ``memoryview``: then long bytes are not copied for the handler."""
    function: Any = getattr(handler.function, "__func__", handler.function)
    annotations = annotations_of(function)
    return any(
        _mentions_view(_resolve(annotation, function.__globals__), set()) for name, annotation in annotations.items() if name != "return"
    )


def _mentions_view(annotation: Any, seen: set[Any]) -> bool:
    if annotation is memoryview:
        return True
    if hasattr(annotation, "__dataclass_fields__") and isinstance(annotation, type):
        if annotation in seen:
            return False
        seen.add(annotation)
        return any(_mentions_view(field, seen) for field in field_types(annotation).values())
    return any(_mentions_view(held, seen) for held in getattr(annotation, "__args__", ()))


def annotations_of(annotated: Any) -> dict[str, Any]:
    """Return annotations by name; those that cannot be read now are left out or are of no use, but do not raise."""
    try:
        found: dict[str, Any] = annotated.__annotations__
    except Exception:
        # From Python 3.14 on reading is what evaluates them (PEP 649), and a name imported for type checkers alone is not there.
        return _without_missing(annotated)
    return found


def _without_missing(annotated: Any) -> dict[str, Any]:
    try:
        library = import_module("annotationlib")  # of Python 3.14; named so, or checkers on others would look for a package
        found: dict[str, Any] = library.get_annotations(annotated, format=library.Format.FORWARDREF)
    except Exception:
        return {}
    return found


def _resolve(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)  # noqa: S307 - the plugin's own annotation, in the plugin's own process
    except Exception:
        return None


def stream_item(annotation: Any) -> tuple[Any] | None:
    """Return the type of a stream's items, alone in a tuple; None for what is no stream."""
    if (get_origin(annotation) or annotation) not in (*_STREAMS, *_ASYNC_STREAMS):
        return None
    args: tuple[Any, ...] = getattr(annotation, "__args__", ())
    return (args[0] if args else Any,)


def _convert_for(annotation: Any) -> _Convert | None:
    """Make the conversion to one type; None where the plain value will do."""
    if annotation is bytes:
        return bytes_of
    if annotation is memoryview:
        return view_of
    if hasattr(annotation, "__dataclass_fields__") and isinstance(annotation, type):
        return _dataclass(annotation)
    origin: Any = get_origin(annotation)
    args: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if not args:
        return None
    if origin in UNIONS:
        return _union(args)
    if origin is tuple and args[-1] is not ...:
        return _places([_convert_for(arg) for arg in args])
    if origin in (list, tuple):
        return _items(origin, _convert_for(args[0]))
    if origin is dict and len(args) == 2:
        return _values(_convert_for(args[1]))
    if origin in _STREAMS:
        return _stream(_convert_for(args[0]))
    if origin in _ASYNC_STREAMS:
        return _async_stream(_convert_for(args[0]))
    return None


def bytes_of(value: Any) -> Any:
    """Return bytes for what JSON brings where bytes are declared; MessagePack brings bytes."""
    if type(value) is memoryview:  # another parameter of the same handler is declared so
        return bytes(value)
    if not isinstance(value, str):
        return value
    try:
        return a2b_base64(value, strict_mode=True)
    except ValueError:
        return value


def view_of(value: Any) -> Any:
    """Return a view of bytes: of the shared memory that they came in, or of what there is of them."""
    value = bytes_of(value) if isinstance(value, str) else value
    return memoryview(value) if isinstance(value, bytes) else value


def _dataclass(cls: type) -> _Convert:
    hints: dict[str, _Convert | None] | None = None

    def convert(value: Any) -> Any:
        nonlocal hints
        if not isinstance(value, dict):
            return value
        if hints is None:  # at first use, so that a type may hold itself
            hints = {name: _convert_for(hint) for name, hint in field_types(cls).items()}
        taken = {name: (c(value[name]) if c else value[name]) for name, c in hints.items() if name in value}
        return cls(**taken)

    return convert


def field_types(cls: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name; None for one that cannot be found, such as one for type checkers alone."""
    fields = cls.__dataclass_fields__
    try:
        hints = get_type_hints(cls)
    except Exception:
        names = getattr(sys.modules.get(cls.__module__), "__dict__", {})
        hints = {name: _resolve(field.type, names) for name, field in fields.items()}
    return {name: hints.get(name) for name in fields}


def _union(members: tuple[Any, ...]) -> _Convert | None:
    # Text that may be text is left alone: what of it is meant to be bytes cannot be told.
    converts = [c for c in map(_convert_for, members) if c is not None and not (c is bytes_of and str in members)]
    if not converts:
        return None

    def convert(value: Any) -> Any:
        if value is None:
            return None
        for each in converts:  # the members of a contract's union differ on the wire, so at most one takes it
            value = each(value)
        return value

    return convert


def _items(origin: Any, each: _Convert | None) -> _Convert | None:
    return (lambda value: origin(map(each, value)) if isinstance(value, list) else value) if each else None


def _places(converts: list[_Convert | None]) -> _Convert | None:
    """Make the conversion to a tuple whose items have types of their own."""
    if not any(converts):
        return None

    def convert(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(converts):
            return value
        return tuple(c(item) if c else item for c, item in zip(converts, value, strict=True))

    return convert


def _values(each: _Convert | None) -> _Convert | None:
    return (lambda value: {key: each(item) for key, item in value.items()} if isinstance(value, dict) else value) if each else None


def _stream(each: _Convert | None) -> _Convert | None:
    return (lambda value: map(each, value) if isinstance(value, Iterator) else value) if each else None


def _async_stream(each: _Convert | None) -> _Convert | None:
    if each is None:
        return None

    async def converted(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield each(item)

    return lambda value: converted(value) if isinstance(value, AsyncIterator) else value
