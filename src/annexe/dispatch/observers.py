"""Tell observers: beside the request, bounded, never in its way.

What waits is kept per plugin, the oldest dropped and counted; at most ``concurrency`` observations are under way in a plugin at a time, and
none while a call that somebody waits for has no slot. No task per observation: the answer of one starts the next.

What happens here belongs to no request: it starts in an empty context, which the answers, timers and tasks that follow inherit. Otherwise
they would work on behalf of whatever call the first observation came from, and end with its deadline.

Source: docs/reference/hooks.md, "Observer"; docs/reference/protocol.md, "Concurrency, slots, stuck".
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from time import monotonic
from typing import Any, final

import msgspec

from annexe.channel import Connection, HostCall, Response
from annexe.channel.faults import error_from_wire
from annexe.channel.messages import ENCODE_FAULTS, MSGPACK
from annexe.contract import HookDefinition, wire_params
from annexe.dispatch.faults import tell_whose_limit, unsendable
from annexe.dispatch.members import HookMember, Provider
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.request import Request
from annexe.errors import CallError, CallTimeoutError, InvalidParamsError, PluginUnavailableError, RejectedError
from annexe.record import EventKind, Events, Outcome

__all__ = ["MAX_WAITING", "ObserverQueue", "encoded_params"]

MAX_WAITING = 1000
_LOOK_AGAIN_S = 0.05
_BACK_OFF_LOOK_S = 0.25
_COMES_BACK = ("backing-off", "ready", "degraded")  # the last two: it has just ended
_START_S = 30.0

_Observation = tuple[Pipeline, HookMember, Request, bytes]


def encoded_params(definition: HookDefinition, values: tuple[Any, ...]) -> bytes:
    """Encode the parameters once for all observers, so that the application may change its objects afterwards.

    Raises:
        InvalidParamsError: They cannot be sent.
    """
    try:
        return MSGPACK.encode(wire_params(definition.params, values, method=definition.method))
    except ENCODE_FAULTS as error:
        raise unsendable(definition.qualified, error, method=definition.method) from error


@final
class ObserverQueue:
    """What one plugin has yet to observe.

    Args:
        provider: The plugin.
        events: Is told of drops.
        loop: The host's.
    """

    __slots__ = ("_events", "_loop", "_provider", "_retry", "_starting", "_under_way", "_waiting", "dropped_count")

    def __init__(self, provider: Provider, *, events: Events, loop: asyncio.AbstractEventLoop) -> None:
        self.dropped_count = 0
        self._provider = provider
        self._events = events
        self._loop = loop
        self._waiting: deque[_Observation] = deque()
        self._under_way = 0
        self._retry: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None

    def add(self, pipeline: Pipeline, member: HookMember, request: Request, params: bytes) -> None:
        """Have the plugin observe something when it has time."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped_count += 1
            self._events.add(EventKind.OBSERVER_DROPPED, plugin=self._provider.id, reason="too slow", dropped_count=self.dropped_count)
        self._waiting.append((pipeline, member, request, params))
        Context().run(self._send)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._retry is not None:
            self._retry.cancel()
        if self._starting is not None:
            self._starting.cancel()

    def _send(self) -> None:
        if not self._waiting:
            return
        connection = self._provider.connection
        if connection is None:
            self._start()
            return
        if connection.closed:  # it ended just now; whether it comes back shows in a moment
            self._look_again()
            return
        while self._waiting and self._under_way < connection.limits.concurrency:
            if connection.waiting:
                self._look_again()
                return
            self._observe(connection, *self._waiting.popleft())

    def _observe(self, connection: Connection, pipeline: Pipeline, member: HookMember, request: Request, params: bytes) -> None:
        started = monotonic()
        if not member.breaker.admit(started):
            pipeline.note(request, member, started, started, Outcome.SKIPPED, "breaker open")
            return
        meta = request.meta_for(self._provider.id)
        ready = msgspec.Raw(params) if connection.codec.name == "msgpack" else msgspec.msgpack.decode(params)
        try:
            call = connection.begin(pipeline.definition.method, ready, meta, deadline=started + member.run_s, run_s=member.run_s)
        except CallError as error:
            self._missed(pipeline, member, request, started, error)
            return
        self._provider.last_used = started
        self._under_way += 1
        call.future.add_done_callback(lambda future: self._done(pipeline, member, request, started, call, future))

    def _done(
        self, pipeline: Pipeline, member: HookMember, request: Request, started: float, call: HostCall, future: asyncio.Future[Response]
    ) -> None:
        self._under_way -= 1
        fault = None if future.cancelled() else future.exception()
        if fault is None and not future.cancelled() and future.result().error is not None:
            error = future.result().error
            assert error is not None
            fault = error_from_wire(error, plugin=self._provider.id, method=call.method)
        if isinstance(fault, CallError):
            self._missed(pipeline, member, request, started, fault)
        elif isinstance(fault, RejectedError):
            pipeline.note(request, member, started, monotonic(), Outcome.FAILED, "an observer cannot reject")
        else:
            pipeline.answered(request, member, started, Outcome.OBSERVED)
        self._send()

    def _missed(self, pipeline: Pipeline, member: HookMember, request: Request, started: float, error: CallError) -> None:
        if isinstance(error, InvalidParamsError) and "reported" not in error.data:
            # Too large for a frame: the application's own doing, but nobody is there any more to be told otherwise.
            pipeline.note(request, member, started, monotonic(), Outcome.FAILED, f"{error.code}: {error.message}")
            return
        if isinstance(error, CallTimeoutError):
            tell_whose_limit(error, budget_s=pipeline.definition.budget_s)
        # An observer is always open: it cannot fail the request, which may be over.
        pipeline.failed(request, member, started, error)

    def _look_again(self, after_s: float = _LOOK_AGAIN_S) -> None:
        if not self._is_to_look_again():
            self._retry = self._loop.call_later(after_s, self._send)

    def _is_to_look_again(self) -> bool:
        return self._retry is not None and self._retry.when() > monotonic()

    def _start(self) -> None:
        """Wait for the plugin, once for all that waits."""
        if (self._starting is None or self._starting.done()) and not self._is_to_look_again():
            self._starting = self._loop.create_task(self._wait_ready())

    async def _wait_ready(self) -> None:
        try:
            await self._provider.wait_ready(monotonic() + _START_S, method="observer")
        except PluginUnavailableError as error:
            if error.data.get("state") in _COMES_BACK:
                self._look_again(_BACK_OFF_LOOK_S)
            else:
                self._drop_all(error)
            return
        self._loop.call_soon(self._send)

    def _drop_all(self, error: PluginUnavailableError) -> None:
        now = monotonic()
        while self._waiting:
            pipeline, member, request, _ = self._waiting.popleft()
            pipeline.note(request, member, now, now, Outcome.SKIPPED, error.message)
            self.dropped_count += 1
        self._events.add(EventKind.OBSERVER_DROPPED, plugin=self._provider.id, reason=error.message, dropped_count=self.dropped_count)
