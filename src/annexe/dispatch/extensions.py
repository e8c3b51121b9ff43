"""Call extension points: typed methods that a plugin implements.

Errors reach the caller as they are: an extension has no failure policy. Without an implementation the error names what to install.

Source: docs/reference/hooks.md, "Extension points".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import Any, ClassVar, final

import msgspec

from annexe.channel import CodecName, Stream
from annexe.clock import Clock
from annexe.contract import ExtensionDefinition, InvalidValueError, MethodDefinition, ValueType, bind, wire_params
from annexe.dispatch.faults import invalid_result, tell_whose_limit
from annexe.dispatch.members import Provider
from annexe.dispatch.request import Request
from annexe.errors import CallError, InvalidResultError, RejectedError
from annexe.record import EventKind, Events, Explain, MethodFigures, Outcome

__all__ = ["Extension", "ExtensionCaller", "make_extension_class"]


@final
@dataclass(frozen=True, kw_only=True)
class Extension:
    """One plugin's implementation of an extension point.

    Attributes:
        provider: The plugin.
        priority: Lower comes first.
        definition: The extension point.
        call_timeout_s: The plugin's, for each call and for each gap of a stream.
        figures: Counters by method name.
        explain: Gets a step for every call.
        events: Is told of failures.
        clock: For times that people read.
    """

    provider: Provider
    priority: int
    definition: ExtensionDefinition
    call_timeout_s: float
    figures: dict[str, MethodFigures]
    explain: Explain
    events: Events
    clock: Clock

    @cached_property
    def caller(self) -> type[ExtensionCaller]:
        """What the application calls; made when it first asks, as of a thousand plugins it may call three."""
        return make_extension_class(self)

    async def call(self, method: MethodDefinition, request: Request, values: tuple[Any, ...]) -> Any:
        """Call a method without streams."""
        started = monotonic()
        try:
            connection = self.provider.connection or await self.provider.wait_ready(request.deadline, method=method.method)
            self.provider.last_used = started
            params = wire_params(method.params, values, method=method.method)
            response = await connection.call(
                method.method, params, request.meta_for(self.provider.id), deadline=request.deadline, run_s=self.call_timeout_s
            )
            if connection.is_patient:  # what it took counts for nothing
                request.deadline += monotonic() - started
            result_type = method.result
            result = None if result_type is None else result_type.decoders[response.codec](response.result)
        except (CallError, RejectedError) as error:
            tell_whose_limit(error)
            self._note(request, method, started, Outcome.FAILED, error)
            raise
        except InvalidValueError as error:
            fault = self._invalid(method, error)
            self._note(request, method, started, Outcome.FAILED, fault)
            raise fault from error
        self._note(request, method, started, Outcome.ANSWERED, None)
        return result

    async def stream(self, method: MethodDefinition, request: Request, values: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
        """Call a method with a stream in or out; one without a stream out yields its result."""
        started = monotonic()
        try:
            connection = self.provider.connection or await self.provider.wait_ready(request.deadline, method=method.method)
            self.provider.last_used = started
            meta = request.meta_for(self.provider.id)
            meta.stream = "out" if method.stream_in is None else "in" if method.stream_out is None else "both"

            def decode(codec: CodecName, raw: msgspec.Raw) -> Any:
                assert method.stream_out is not None
                return self._decode(method, method.stream_out, codec, raw)

            stream = connection.open_stream(
                method.method,
                wire_params(method.params, values, method=method.method),
                meta,
                deadline=request.deadline,
                decode=decode,
                item_s=self.call_timeout_s,
            )
            async with aclosing(self._items(method, stream, values)) as items:
                async for item in items:
                    yield item
        except (CallError, RejectedError) as error:
            self._note(request, method, started, Outcome.FAILED, error)
            raise
        self._note(request, method, started, Outcome.ANSWERED, None)

    async def _items(self, method: MethodDefinition, stream: Stream, values: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
        source = next((value for param, value in zip(method.params, values, strict=True) if param.is_stream), None)
        feeder = asyncio.get_running_loop().create_task(_feed(stream, source, method.stream_in)) if method.stream_in is not None else None
        try:
            async for item in stream:
                yield item
            if method.stream_out is None:
                response = stream.call.future.result()
                yield None if method.result is None else self._decode(method, method.result, response.codec, response.result)
        finally:
            if not stream.call.future.done():
                stream.abandon()
            if feeder is not None:
                feeder.cancel()
                await asyncio.wait([feeder])

    def _decode(self, method: MethodDefinition, value_type: ValueType, codec: CodecName, raw: msgspec.Raw) -> Any:
        try:
            return value_type.decoders[codec](raw)
        except InvalidValueError as error:
            raise self._invalid(method, error) from error

    def _invalid(self, method: MethodDefinition, error: InvalidValueError) -> InvalidResultError:
        return invalid_result(method.method, error, plugin=self.provider.id, method=method.method)

    def _note(
        self, request: Request, method: MethodDefinition, started: float, outcome: Outcome, error: CallError | RejectedError | None
    ) -> None:
        now = monotonic()
        figures = self.figures[method.name]
        if error is None:
            figures.add(now - started)
        else:
            figures.add_failure(now - started, error.code)
            self._tell(request, method, error)
        if request.record is None:
            request.record = self.explain.start(request.id, self.clock.now())
        reason = None if error is None else f"{error.code}: {error.message}"
        request.record.add_step(self.provider.id, method.method, started, now, outcome, reason)

    def _tell(self, request: Request, method: MethodDefinition, error: CallError | RejectedError) -> None:
        """Add the event of a call that gave no result; a refusal is an answer."""
        plugin, name = self.provider.id, method.method
        if isinstance(error, InvalidResultError):
            where = {key: error.data[key] for key in ("path", "expected", "actual") if key in error.data}
            self.events.add(EventKind.INVALID_RESULT, plugin=plugin, reason=error.message, hook=name, request=request.id, **where)
        elif isinstance(error, CallError):
            self.events.add(EventKind.CALL_FAILED, plugin=plugin, reason=error.message, method=name, code=error.code, request=request.id)


async def _feed(stream: Stream, source: Any, stream_in: ValueType) -> None:
    try:
        async for item in source:
            await stream.send(item if stream_in.as_is else stream_in.to_send(item))
    except CallError:
        return  # the stream is over; its reader sees why
    except Exception as error:  # noqa: BLE001 - the source is the application's; its reader gets the error
        stream.fail(error)
        return
    stream.end()


class ExtensionCaller:
    """One plugin at an extension point; the classes that are made from it have the point's own methods.

    Args:
        new_request: Makes the request that a call belongs to.

    Attributes:
        plugin: Id of the plugin.
    """

    __slots__ = ("_new_request",)
    plugin: ClassVar[str]

    def __init__(self, new_request: Callable[[], Request]) -> None:
        self._new_request = new_request

    def __repr__(self) -> str:
        return f"<extension of plugin {self.plugin!r}>"


def make_extension_class(extension: Extension) -> type[ExtensionCaller]:
    """Make the class whose instances call one plugin at an extension point: once per plugin, not per call."""
    methods = {method.name: _method(extension, method) for method in extension.definition.methods.values()}
    name = f"{extension.definition.name}-caller"
    return type(name, (ExtensionCaller,), {"__slots__": (), "plugin": extension.provider.id, **methods})


def _method(extension: Extension, method: MethodDefinition) -> Callable[..., Any]:
    if method.stream_in is None and method.stream_out is None:

        def call(self: ExtensionCaller, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            return extension.call(method, self._new_request(), bind(method.params, args, kwargs, method=method.method))

        return call

    def stream(self: ExtensionCaller, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        return extension.stream(method, self._new_request(), bind(method.params, args, kwargs, method=method.method))

    if method.stream_out is not None:
        return stream

    async def collect(self: ExtensionCaller, *args: Any, **kwargs: Any) -> Any:
        async with aclosing(stream(self, *args, **kwargs)) as items:
            return [item async for item in items][-1]

    return collect
