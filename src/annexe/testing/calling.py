"""What it takes to call one handler of a plugin without a host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any

from annexe_sdk.plugin import Handler

__all__ = ["Methods", "as_async", "check_given", "gathered"]


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
