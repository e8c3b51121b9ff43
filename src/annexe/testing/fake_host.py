"""The host as a plugin's handlers see it, played: what is behind ``ctx``.

It stands where the SDK's runner stands, so that the contexts handed to handlers are the SDK's own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, final

from annexe.channel.faults import error_to_wire
from annexe.clock import Clock
from annexe.contract import InvalidValueError, bind, capability_definition
from annexe.errors import AnnexeError, InvalidParamsError
from annexe.testing.hooks import PlayedHooks
from annexe.testing.kv import FakeKv
from annexe.testing.learning import LearningSession
from annexe.testing.services import PlayedServices
from annexe.testing.wire import sent
from annexe_sdk import CallFailed, Context
from annexe_sdk.aio import AsyncContext
from annexe_sdk.calls import Call
from annexe_sdk.codec import json_codec
from annexe_sdk.errors import call_failed, right_missing
from annexe_sdk.session import Session

__all__ = ["FakeHost", "LogLine", "MetricValue", "PublishedEvent"]


@final
@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a handler logged."""

    level: str
    message: str
    fields: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class MetricValue:
    """One figure that a handler gave."""

    kind: str
    name: str
    value: float
    labels: Mapping[str, str]


@final
@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """One event that a handler published."""

    topic: str
    value: Any


@final
class FakeHost:
    """What the SDK's contexts ask of their runner.

    Args:
        config: The plugin's.
        capabilities: The application's objects.
        services: Other plugins', played.
        hooks: The plugin's own, with who implements them played; None: it has none.
        clock: For the store.
        granted: Rights; None: all.
        session: Is told of rights that are used, and looks away from what the test's own objects do.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any],
        capabilities: Iterable[Any],
        services: PlayedServices,
        clock: Clock,
        granted: frozenset[str] | None,
        hooks: PlayedHooks | None = None,
        session: LearningSession | None = None,
    ) -> None:
        self.config = config
        self.grants = sorted(granted or ())
        self.session = Session(json_codec())
        self.kv = FakeKv(clock)
        self.logs: list[LogLine] = []
        self.metrics: list[MetricValue] = []
        self.progress: list[tuple[float, str]] = []
        self.published: list[PublishedEvent] = []
        self._capabilities = {capability.name: capability for capability in capabilities}
        self._services = services
        self._hooks = hooks or PlayedHooks({}, manifest=None)
        self._clock = clock
        self._granted = granted
        self._session = session
        self._data: TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Remove the private folder, if the plugin had one. Idempotent."""
        if self._data is not None:
            self._data.cleanup()

    @property
    def data_dir(self) -> str | None:
        """A private folder for the length of the test, made when the plugin asks for it; None: it may have none."""
        self._note_right("data")
        if self._granted is not None and "data" not in self._granted:
            return None
        if self._data is None:
            with self._looking_away():
                self._data = TemporaryDirectory(prefix="annexe-data-")
            if self._session is not None:
                self._session.private.add(self._data.name)
        return self._data.name

    def context(self, meta: dict[str, Any]) -> Context:
        """Make the ``ctx`` of a ``def`` handler."""
        runner: Any = self
        return Context(runner, _call(meta))

    def async_context(self, meta: dict[str, Any]) -> AsyncContext:
        """Make the ``ctx`` of an ``async def`` handler."""
        runner: Any = self
        loop: Any = _AsyncAsk(self)
        return AsyncContext(runner, _call(meta), loop)

    # What contexts call.

    def ask(self, call: Call, method: str, params: Any, _key: str | None = None) -> Any:
        """Answer a request of the plugin's.

        Raises:
            CallFailed: It was refused.
            CodecError: The parameters cannot be sent.
        """
        if method == "event.publish":
            return self._publish(sent(params))
        if not method.startswith("hook."):
            self._check_granted(method)
        if method.startswith("kv."):
            with self._lock:
                try:
                    return self.kv.answer(method, sent(params))
                except AnnexeError as error:
                    raise call_failed(error_to_wire(error)) from error
        if method.startswith("svc."):
            with self._looking_away():
                return self._services.answer(method, params, self._players_context(call))
        if method.startswith("hook."):
            with self._looking_away():
                return self._hooks.answer(method, params)
        return asyncio.run(self.call_capability(method, params))

    def log(self, level: str, message: str, fields: dict[str, Any], _call: Any) -> None:
        """Keep a line."""
        self.logs.append(LogLine(level, str(message), fields))

    def notify(self, method: str, params: Any, _call: Any = None) -> None:
        """Keep a figure."""
        if method == "metric":
            self.metrics.append(MetricValue(params["kind"], params["name"], params["value"], params["labels"]))

    def send_item(self, _call: Any, value: Any) -> None:
        """Keep how far activation is."""
        self.progress.append((value["fraction"], value["message"]))

    async def ask_service(self, call: Call, method: str, params: Any) -> Any:
        """Call a service that the test plays.

        Raises:
            CallFailed: What a host would have told.
            CodecError: The arguments cannot be sent.
        """
        with self._looking_away():
            return await self._services.answer_async(method, params, self._players_context(call))

    async def ask_hook(self, method: str, params: Any) -> Any:
        """Call a hook of the plugin's own; see ``PlayedHooks.answer_async``."""
        with self._looking_away():
            return await self._hooks.answer_async(method, params)

    def stream(self, ctx: Context, method: str, params: list[Any], _key: str | None, items: Any, direction: str) -> Any:
        """Answer a streamed call of a service for a ``def`` handler; see ``PlayedServices.stream``."""
        self._check_granted(method)
        assert ctx._call is not None
        with self._looking_away():
            return self._services.stream(method, params, items, direction, self._players_context(ctx._call))

    def stream_async(self, ctx: AsyncContext, method: str, params: list[Any], items: Any, direction: str) -> Any:
        """The same for an ``async def`` handler."""
        self._check_granted(method)
        assert ctx._call is not None
        play = self._players_context(ctx._call)
        if direction == "in":
            return self._services.answer_stream(method, params, items, play)
        return self._services.stream_async(method, params, items, play)

    def _players_context(self, call: Call) -> Callable[[bool], Context]:
        """Return what makes the ``ctx`` of whoever plays a service: that of a plugin of its own, called by this one."""
        passed = {name: call.meta[name] for name in ("request", "key", "traceparent", "deadline_ms") if name in call.meta}
        meta = passed | {"caller": self._services.caller}

        def make(is_async: bool) -> Context:
            beside = FakeHost(config={}, capabilities=(), services=self._services, clock=self._clock, granted=None)
            return beside.async_context(meta) if is_async else beside.context(meta)

        return make

    async def call_capability(self, method: str, params: Any) -> Any:
        """Call one of the application's functions with checked arguments.

        Raises:
            CallFailed: There is none, or the arguments do not fit.
            CodecError: The arguments cannot be sent.
        """
        _, name, function = method.split(".", 2)
        target = self._capabilities.get(name)
        known = capability_definition(type(target)).methods if target is not None else {}
        definition = known.get(function)
        if definition is None:
            raise CallFailed("method-not-found", f"the test offers no {method!r}; pass an object that has it as capabilities=[…]")
        params = sent(params)
        args, named = ((), params) if isinstance(params, dict) else (tuple(params), {})
        try:
            values = bind(definition.params, args, named, method=method)
            checked = [param.type.from_builtins(value) for param, value in zip(definition.params, values, strict=True)]
        except (InvalidParamsError, InvalidValueError) as error:
            raise CallFailed("invalid-params", str(error)) from error
        with self._looking_away():
            result = await getattr(target, function)(*checked)
        return None if definition.result is None else sent(definition.result.to_wire(result))

    def _check_granted(self, method: str) -> None:
        family, _, rest = method.partition(".")
        name = rest.partition(".")[0]
        right, line = {
            "kv": ("kv", 'kv = { quota = "1MiB" }'),
            "svc": (f"services:{name}", f'services = ["{name}"]'),
        }.get(family, (f"cap:{name}", f'capabilities = ["{name}"]'))
        self._note_right(right)
        if self._granted is not None and right not in self._granted:
            raise right_missing(right, line)

    def _publish(self, params: Any) -> int:
        topic = params["topic"]
        right = f"events.publish:{topic}"
        self._note_right(right)
        if self._granted is not None and right not in self._granted:
            raise right_missing(right, f'events = {{ publish = ["{topic}"] }}')
        self.published.append(PublishedEvent(topic, params["value"]))
        return 0

    def _note_right(self, right: str) -> None:
        if self._session is not None:
            self._session.note("right", right)

    def _looking_away(self) -> AbstractContextManager[None]:
        return self._session.looking_away() if self._session is not None else nullcontext()


@final
class _AsyncAsk:
    """What an ``AsyncContext`` asks of its loop."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def ask(self, call: Call, method: str, params: Any, _key: str | None = None) -> Any:
        if method.startswith(("kv.", "event.")):
            return self._host.ask(call, method, params)
        if method.startswith("hook."):
            return await self._host.ask_hook(method, params)
        self._host._check_granted(method)
        if method.startswith("svc."):
            return await self._host.ask_service(call, method, params)
        return await self._host.call_capability(method, params)

    def stream(self, ctx: AsyncContext, method: str, params: list[Any], _key: str | None, items: Any, direction: str) -> Any:
        return self._host.stream_async(ctx, method, params, items, direction)


def _call(meta: dict[str, Any]) -> Call:
    return Call(1, "", None, meta, time.monotonic())
