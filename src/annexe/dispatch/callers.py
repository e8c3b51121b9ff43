"""What the application calls: one object per request and spec, with a method for each hook.

The classes are made once per spec. A hook nobody implements costs a look at an empty tuple and nothing else: no request is made for it.

Source: docs/reference/hooks.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, final

from annexe.contract import HookKind, SpecDefinition
from annexe.dispatch.observers import Observation, ObserverQueue, encoded_params
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.request import Request
from annexe.dispatch.stream_pipeline import as_generator, filter_stream

__all__ = ["FilteredStream", "HookCaller", "make_caller_class"]


class HookCaller:
    """Base of the made classes.

    Args:
        request: The request at hand; None: each call makes one of its own.
        new_request: Makes one.
    """

    __slots__ = ("_new_request", "_request")

    def __init__(self, request: Request | None, new_request: Callable[[], Request]) -> None:
        self._request = request
        self._new_request = new_request


def make_caller_class(
    definition: SpecDefinition, pipelines: Mapping[str, Pipeline], queues: Mapping[str, ObserverQueue]
) -> type[HookCaller]:
    """Make the class whose instances call a spec's hooks."""
    methods = {hook.name: _method(pipelines[hook.qualified], queues) for hook in definition.hooks.values()}
    return type(f"{definition.name}-caller", (HookCaller,), {"__slots__": (), **methods})


def _method(pipeline: Pipeline, queues: Mapping[str, ObserverQueue]) -> Callable[..., Any]:
    kind = pipeline.definition.kind
    if kind is HookKind.OBSERVER:
        return _observer(pipeline, queues)
    if kind is HookKind.STREAM_FILTER:
        return _stream_filter(pipeline)
    if kind is HookKind.FILTER:
        return _in_order(pipeline, pipeline.filter, _first)
    run = pipeline.action if kind is HookKind.ACTION else pipeline.first_result
    return _in_order(pipeline, run, _nothing)


def _in_order(
    pipeline: Pipeline, run: Callable[[Request, tuple[Any, ...]], Any], without: Callable[[tuple[Any, ...]], Any]
) -> Callable[..., Any]:
    bind = pipeline.bind

    def call(self: HookCaller, *args: Any, **kwargs: Any) -> Any:
        values = bind(args, kwargs)
        if not pipeline.members:
            return without(values)
        return run(self._request or self._new_request(), values)

    return call


async def _first(values: tuple[Any, ...]) -> Any:
    return values[0]


async def _nothing(_values: tuple[Any, ...]) -> None:
    return None


def _observer(pipeline: Pipeline, queues: Mapping[str, ObserverQueue]) -> Callable[..., Any]:
    async def call(self: HookCaller, *args: Any, **kwargs: Any) -> None:
        values = pipeline.bind(args, kwargs)
        if not pipeline.members:
            return
        request = self._request or self._new_request()
        params = encoded_params(pipeline.definition, values)
        for member in pipeline.members:
            queues[member.provider.id].add(Observation(pipeline, member, request, params))

    return call


def _stream_filter(pipeline: Pipeline) -> Callable[..., Any]:
    def call(self: HookCaller, *args: Any, **kwargs: Any) -> FilteredStream:
        values = pipeline.bind(args, kwargs)
        if not pipeline.members:
            return FilteredStream(as_generator(values[0]))
        return FilteredStream(filter_stream(pipeline, self._request or self._new_request(), values))

    return call


@final
class FilteredStream:
    """A stream that may be awaited first: hooks may be declared ``def`` or ``async def``."""

    __slots__ = ("_items",)

    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items

    def __await__(self) -> Generator[Any, None, FilteredStream]:
        return self
        yield  # makes this a generator

    def __aiter__(self) -> FilteredStream:
        return self

    async def __anext__(self) -> Any:
        return await self._items.__anext__()

    async def aclose(self) -> None:
        """End the stream early; plugins are told."""
        await self._items.aclose()
