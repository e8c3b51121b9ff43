"""Call a hook or an extension method by its name with plain values, through the contract's real types; a service as it is.

What comes in is checked as what the application passes would be; what comes back is made plain again. Streams are lists here.

A hook that is called at one plugin is called there as fail-closed: who asks for one plugin's answer wants to know that there is none.

Source: docs/reference/control.md, "call".
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any, final

from annexe.clock import Clock
from annexe.contract import ExtensionDefinition, HookKind, InvalidValueError, MethodDefinition, ParamDefinition, ValueType, bind
from annexe.dispatch.dispatcher import Dispatcher
from annexe.dispatch.extensions import make_extension_class
from annexe.dispatch.outcomes import Responded
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.request import Request
from annexe.dispatch.service_calls import call_service
from annexe.dispatch.stream_pipeline import filter_stream
from annexe.errors import HostError, InvalidParamsError, MethodNotFoundError, PluginUnavailableError
from annexe.ids import RequestIds, is_request_id
from annexe.record import Events, Explain

__all__ = ["MAX_STREAM_ITEMS", "NamedCalls"]

MAX_STREAM_ITEMS = 10_000


@final
class NamedCalls:
    """Calls by name.

    Args:
        dispatcher: What is open, and who answers.
        explain: Gets the steps.
        events: Gets skips.
        clock: For times that people read.
    """

    def __init__(self, dispatcher: Dispatcher, *, explain: Explain, events: Events, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._explain = explain
        self._events = events
        self._clock = clock
        self._ids = RequestIds()

    async def call(
        self,
        name: str,
        *,
        plugin: str | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        deadline_s: float,
        key: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Call and return ``request`` (its id), ``outcome`` (``result`` or ``responded``), ``value`` and ``steps``.

        Args:
            name: ``chat.on_request`` or ``speech-to-text.transcribe``, also as on the wire (``hook.…``, ``ext.…``);
                ``svc.tokenizer.count``.
            plugin: The only one to be asked; None: all at the hook as the application would, the best at the extension point.
            args: By position, plain values.
            kwargs: By name, plain values.
            deadline_s: From now.
            key: The request's key.
            request_id: The request's id; by default a new one.

        Raises:
            MethodNotFoundError: Nothing of that name is open.
            PluginUnavailableError: The plugin does not provide it.
            InvalidParamsError: The arguments do not fit.
            AnnexeError: What the call itself raised.
        """
        if request_id is not None and not is_request_id(request_id):
            raise InvalidParamsError(f"{name}: {request_id[:200]!r} is no request id", method=name)
        new_id, traceparent = self._ids.new()
        request = Request(id=request_id or new_id, deadline=monotonic() + deadline_s, key=key, traceparent=traceparent)
        # From here on it can be explained, also when nobody implements the hook.
        request.record = self._explain.start(request.id, self._clock.now())
        outcome = "result"
        try:
            value = await self._call(name, plugin, args, kwargs, request)
        except Responded as responded:
            hook = self._dispatcher.pipelines[responded.hook].definition
            outcome, value = "responded", _plain(hook.responds or hook.result, responded.value)
        steps = [{name: step[name] for name in ("plugin", "outcome", "reason", "duration_ms")} for step in request.record.render()["steps"]]
        return {"request": request.id, "outcome": outcome, "value": value, "steps": steps}

    async def _call(self, name: str, plugin: str | None, args: Sequence[Any], kwargs: Mapping[str, Any], request: Request) -> Any:
        """Return the result as plain values, a list of its items for a stream."""
        if name.startswith("svc."):
            if kwargs:
                raise InvalidParamsError(f"{name}: a service takes its arguments by position", method=name)
            return await call_service(self._dispatcher.services, name, args, plugin=plugin, request=request)
        hook = self._dispatcher.pipelines.get(name.removeprefix("hook."))
        if hook is not None and not name.startswith("ext."):
            pipeline = hook if plugin is None else self._at_one(hook, plugin)
            definition = hook.definition
            values = _typed(definition.params, args, kwargs, definition.method)
            if definition.kind is HookKind.STREAM_FILTER:
                return await _collected(definition.stream_out, filter_stream(pipeline, request, values))
            if definition.kind is HookKind.FILTER:
                return _plain(definition.result, await pipeline.filter(request, values))
            if definition.kind is HookKind.FIRST_RESULT:
                return _plain(definition.result, await pipeline.first_result(request, values))
            await pipeline.action(request, values)  # an observer too: here somebody waits for it
            return None
        point, method = self._point(name)
        extension = next((one for one in self._dispatcher.extensions_by_point[point.name] if plugin in (None, one.provider.id)), None)
        if extension is None:
            who = f"plugin {plugin!r} does not fill" if plugin is not None else "no plugin fills"
            raise PluginUnavailableError(f"{who} the extension point {point.name!r}", plugin=plugin, method=method.method)
        called = getattr(make_extension_class(extension)(lambda: request), method.name)(*_typed(method.params, args, kwargs, method.method))
        if method.stream_out is not None:
            return await _collected(method.stream_out, called)
        return _plain(method.result, await called)

    def _at_one(self, hook: Pipeline, plugin: str) -> Pipeline:
        members = [member for member in hook.members if member.provider.id == plugin]
        if not members:
            there = ", ".join(member.provider.id for member in hook.members) or "none"
            text = f"plugin {plugin!r} does not implement {hook.definition.qualified}; those that do: {there}"
            raise PluginUnavailableError(text, plugin=plugin, method=hook.definition.method)
        alone = Pipeline(hook.definition, explain=self._explain, events=self._events, clock=self._clock, command=hook.command)
        alone.members = tuple(dataclasses.replace(member, closed=True) for member in members)
        return alone

    def _point(self, name: str) -> tuple[ExtensionDefinition, MethodDefinition]:
        of, _, method = name.removeprefix("ext.").rpartition(".")
        point = self._dispatcher.points.get(of)
        if point is None or method not in point.methods or name.startswith("hook."):
            hooks = sorted(self._dispatcher.pipelines)
            methods = sorted(f"{one.name}.{known}" for one in self._dispatcher.points.values() for known in one.methods)
            there = ", ".join(hooks + methods) or "nothing"
            if of in self._dispatcher.services.offered():
                there += f"; a service is called as svc.{name[:200]}"
            raise MethodNotFoundError(f"no hook or extension method {name[:200]!r} is open in this host; open: {there}", method=name[:200])
        return point, point.methods[method]


def _typed(params: Sequence[ParamDefinition], args: Sequence[Any], kwargs: Mapping[str, Any], method: str) -> tuple[Any, ...]:
    """Return typed values, one for each parameter; defaults stay as the contract has them."""
    known = {param.name: param for param in params}
    by_position = tuple(_value(param, value, method) for param, value in zip(params, args, strict=False))
    by_name = {name: _value(known[name], value, method) if name in known else value for name, value in kwargs.items()}
    return bind(params, by_position + tuple(args[len(params) :]), by_name, method=method)


def _value(param: ParamDefinition, value: Any, method: str) -> Any:
    try:
        if not param.is_stream:
            return param.type.from_builtins(value)
        return _items([param.type.from_builtins(item) for item in _list(value)])
    except InvalidValueError as error:
        raise InvalidParamsError(
            f"{method}: parameter {param.name!r} {error}.",
            method=method,
            parameter=param.name,
            path=error.path,
            expected=error.expected,
            actual=error.actual,
        ) from error


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise InvalidValueError(path="$", expected="a list of the stream's items", actual=type(value).__name__)


async def _items(values: list[Any]) -> AsyncGenerator[Any, None]:
    for value in values:
        yield value


async def _collected(item_type: ValueType | None, stream: AsyncGenerator[Any, None]) -> list[Any]:
    collected: list[Any] = []
    async with aclosing(stream) as items:
        async for item in items:
            collected.append(_plain(item_type, item))
            if len(collected) > MAX_STREAM_ITEMS:
                raise HostError(f"the stream gives more than {MAX_STREAM_ITEMS} items, which is too many for here", reason="stream-size")
    return collected


def _plain(value_type: ValueType | None, value: Any) -> Any:
    return None if value_type is None or value is None else value_type.to_wire(value)
