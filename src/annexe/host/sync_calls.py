"""Hooks and extension methods as blocking functions, and streams as plain iterators.

The classes are made once per contract. A hook nobody implements never wakes the loop.

* Items of a stream are taken where the application asks for them: one hand-over each.
* What the application streams in is read on a thread of its own, so that it may block without holding up what comes out.

Source: docs/reference/host.md, "SyncHost".
"""

from __future__ import annotations

import contextvars
from asyncio import get_running_loop
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self, final

from annexe.contract import (
    ExtensionPoint,
    HookDefinition,
    HookKind,
    HookSpec,
    MethodDefinition,
    ParamDefinition,
    bind,
    definition_of,
)
from annexe.dispatch.pipeline import Pipeline
from annexe.host.loop_thread import LoopThread

__all__ = ["AsyncCalls", "SyncCalls", "SyncStream"]

_END: Any = object()


class AsyncCalls(Protocol):
    """What is called on the loop: a host or one of its requests."""

    def hooks(self, spec: type[Any], /) -> Any:
        """Return the hooks of a spec."""

    def extension(self, point: type[Any], /) -> Any:
        """Return the plugin at an extension point."""

    def extensions(self, point: type[Any], /) -> list[Any]:
        """Return every plugin at an extension point."""


@final
class SyncCalls:
    """Makes blocking callers for one host.

    Args:
        thread: Where the host lives.
        pipelines: The host's, by qualified name of the hook.
    """

    def __init__(self, thread: LoopThread, pipelines: Mapping[str, Pipeline]) -> None:
        self._thread = thread
        self._pipelines = pipelines
        self._classes: dict[type[Any], type[_Caller]] = {}

    def hooks(self, spec: type[HookSpec], calls: AsyncCalls) -> Any:
        """Return the hooks of a spec."""
        target = calls.hooks(spec)
        return self._class_of(spec)(target, self._thread)

    def extension(self, point: type[ExtensionPoint], calls: AsyncCalls) -> Any:
        """Return the plugin at an extension point."""
        target = calls.extension(point)
        return self._class_of(point)(target, self._thread)

    def extensions(self, point: type[ExtensionPoint], calls: AsyncCalls) -> list[Any]:
        """Return every plugin at an extension point."""
        return [self._class_of(point)(target, self._thread) for target in calls.extensions(point)]

    def _class_of(self, contract: type[HookSpec] | type[ExtensionPoint]) -> type[_Caller]:
        made = self._classes.get(contract)
        if made is None:
            made = self._classes[contract] = _make_class(contract, self._pipelines)
        return made


class _Caller:
    """Base of the made classes."""

    __slots__ = ("_run", "_target")

    def __init__(self, target: Any, thread: LoopThread) -> None:
        self._target = target
        self._run = thread.run

    def __repr__(self) -> str:
        return f"<blocking {self._target!r}>"

    def __getattr__(self, name: str) -> Any:
        """Say what there is: called for what is not there alone."""
        known = ", ".join(sorted(name for name in vars(type(self)) if not name.startswith("_"))) or "nothing"
        raise AttributeError(f"{type(self).__name__.removesuffix('-blocking')!r} has no {name!r}; it has: {known}", name=name, obj=self)

    @property
    def plugin(self) -> str:
        """Id of the plugin, at an extension point."""
        plugin: str = self._target.plugin
        return plugin


def _make_class(contract: type[HookSpec] | type[ExtensionPoint], pipelines: Mapping[str, Pipeline]) -> type[_Caller]:
    made: dict[str, Callable[..., Any]] = {}
    if issubclass(contract, HookSpec):
        spec = definition_of(contract)
        made = {name: _hook(hook, pipelines[hook.qualified]) for name, hook in spec.hooks.items()}
        return type(f"{spec.name}-blocking", (_Caller,), {"__slots__": (), **made})
    point = definition_of(contract)
    made = {name: _method(method) for name, method in point.methods.items()}
    return type(f"{point.name}-blocking", (_Caller,), {"__slots__": (), **made})


def _hook(hook: HookDefinition, pipeline: Pipeline) -> Callable[..., Any]:
    if hook.kind is HookKind.STREAM_FILTER:
        return _stream(hook)
    is_filter = hook.kind is HookKind.FILTER

    def call(self: _Caller, *args: Any, **kwargs: Any) -> Any:
        if not pipeline.members:
            values = pipeline.bind(args, kwargs)
            return values[0] if is_filter else None
        return self._run(getattr(self._target, hook.name), *args, **kwargs)

    return call


def _method(method: MethodDefinition) -> Callable[..., Any]:
    if method.stream_out is not None:
        return _stream(method)
    if method.stream_in is not None:
        return _collect(method)
    return _plain(method.name)


def _plain(name: str) -> Callable[..., Any]:
    def call(self: _Caller, *args: Any, **kwargs: Any) -> Any:
        return self._run(getattr(self._target, name), *args, **kwargs)

    return call


def _collect(method: MethodDefinition) -> Callable[..., Any]:
    def call(self: _Caller, *args: Any, **kwargs: Any) -> Any:
        return self._run(getattr(self._target, method.name), *_streamed(method.params, args, kwargs, method.method))

    return call


def _stream(method: HookDefinition | MethodDefinition) -> Callable[..., Any]:
    def call(self: _Caller, *args: Any, **kwargs: Any) -> SyncStream:
        values = _streamed(method.params, args, kwargs, method.method)
        return SyncStream(self._run(getattr(self._target, method.name), *values), self._run)

    return call


def _streamed(params: tuple[ParamDefinition, ...], args: tuple[Any, ...], kwargs: dict[str, Any], method: str) -> list[Any]:
    """Return the arguments in order, streams as the loop can read them."""
    values = bind(params, args, kwargs, method=method)
    return [
        _read_aside(iter(value), contextvars.copy_context()) if param.is_stream else value
        for param, value in zip(params, values, strict=True)
    ]


@final
class SyncStream:
    """A stream from plugins as a plain iterator. Ends by itself, or early by ``close`` or at the end of a ``with`` block."""

    __slots__ = ("_items", "_run")

    def __init__(self, items: Any, run: Callable[..., Any]) -> None:
        self._items: AsyncIterator[Any] = items
        self._run = run

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self._run(_next, self._items)
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        """End the stream early; plugins are told. Idempotent."""
        self._run(self._items.aclose)  # type: ignore[attr-defined]  # the host's streams have it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


def _next_of(source: Iterator[Any]) -> Any:
    return next(source, _END)


async def _read_aside(source: Iterator[Any], context: contextvars.Context) -> AsyncGenerator[Any, None]:
    """Yield what an iterator yields, read on a thread of its own, with the context variables of the caller."""
    loop = get_running_loop()
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="annexe-stream")
    try:
        while (item := await loop.run_in_executor(reader, context.run, _next_of, source)) is not _END:
            yield item
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            reader.submit(context.run, close)  # after the read at hand, which cannot be called off
        reader.shutdown(wait=False)
