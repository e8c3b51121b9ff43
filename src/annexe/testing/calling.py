"""What it takes to call one handler of a plugin without a host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

import msgspec

from annexe_sdk.context import UNCHANGED
from annexe_sdk.plugin import Handler

__all__ = ["Methods", "as_async", "check_given", "closable", "gathered", "travelled"]

_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


def check_given(handler: Handler, params: list[Any]) -> None:
    """Refuse a call with too few parameters: the context would stand in for the first that is missing.

    Raises:
        TypeError: One is missing.
    """
    names = list(signature(handler.function, follow_wrapped=False).parameters.values())
    missing = names[len(params) : len(names) - handler.wants_ctx]
    needed = [param.name for param in missing if param.default is Parameter.empty and param.kind is not Parameter.VAR_POSITIONAL]
    if needed:
        text = f"the handler at {handler.at} needs {', '.join(map(repr, needed))}, which the test does not give"
        raise TypeError(f"{text}; defaults that the application declares are known when its contracts are given")


class Methods:
    """The methods of an extension."""

    def __init__(self, methods: Mapping[str, Callable[..., Any]]) -> None:
        self.__dict__.update(methods)


async def gathered(items: AsyncIterator[Any]) -> list[Any]:
    """Return all items."""
    return [item async for item in items]


async def as_async(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Yield items to somebody who awaits them."""
    for item in items:
        yield item


def closable(items: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator that can be closed, as a stream of another plugin's can."""
    return (item for item in items)


def travelled(value: Any) -> Any:
    """Return what arrives when a value is sent."""
    return value if value is UNCHANGED else _decode(_encode(value))
