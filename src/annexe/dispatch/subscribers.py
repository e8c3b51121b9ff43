"""A plugin that is told of events: what waits for it, on its way there, and lost.

* In order for each publisher: the next of its events begins when the one before was answered.
* A value is decoded only where the subscriber speaks another codec than the publisher.

Source: feature SV5; ADR-0094.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import final

import msgspec

from annexe.channel import CodecName, Connection, HostCall, RequestMeta, passed_on
from annexe.channel.faults import fault_of
from annexe.channel.messages import JSON, MSGPACK
from annexe.contract.wire_check import check_written
from annexe.dispatch.faults import tell_whose_limit
from annexe.dispatch.lanes import Lanes
from annexe.dispatch.listeners import TopicEvent
from annexe.dispatch.members import Provider
from annexe.dispatch.side_queue import SideQueue
from annexe.errors import AnnexeError, CallError, InvalidParamsError, PluginBusyError
from annexe.manifest import Manifest
from annexe.record import EventKind, Events, MethodFigures, Metrics

__all__ = ["MAX_WAITING", "MAX_WAITING_BYTES", "Delivery", "Published", "Subscriber"]

MAX_WAITING = 1000
MAX_WAITING_BYTES = 8 * 1024 * 1024
_SLOT_S = 30.0  # how long an event that was sent may wait for a slot; its own time counts from there


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One event, as it waits for its subscribers."""

    topic: str
    value: msgspec.Raw
    codec: CodecName
    publisher: str | None
    time: float
    depth: int
    request: str | None  # what led to it
    traceparent: str | None
    key: str | None

    def read(self) -> TopicEvent:
        """Return it with its value decoded.

        Raises:
            ValueError: Of its kinds, where the value cannot be read.
        """
        value = (JSON if self.codec == "json" else MSGPACK).decode(self.value)
        check_written(value)
        return TopicEvent(topic=self.topic, value=value, publisher=self.publisher, time=self.time)


@final
class Delivery:
    """One event on its way to one plugin; see ``side_queue.SideWork``."""

    __slots__ = ("_started", "_subscriber", "event")

    def __init__(self, event: Published, subscriber: Subscriber) -> None:
        self.event = event
        self._subscriber = subscriber
        self._started = 0.0

    @property
    def lane(self) -> str | None:
        """Its publisher: what that one publishes comes in order."""
        return self.event.publisher

    @property
    def size_bytes(self) -> int:
        return len(memoryview(self.event.value))

    def begin(self, connection: Connection) -> HostCall | None:
        """Send it.

        Raises:
            PluginBusyError: Not now.
        """
        event, subscriber = self.event, self._subscriber
        method = f"event.{event.topic}"
        started = self._started = monotonic()
        try:
            try:
                value = passed_on(event.value, event.codec, to=connection.codec.name)
            except ValueError as error:
                text = f"event {event.topic!r} of {_named(event.publisher)} cannot be passed on to plugin {subscriber.id!r}: {error}"
                raise InvalidParamsError(text, plugin=subscriber.id, method=method) from error
            params = {"topic": event.topic, "value": value, "publisher": event.publisher, "time": event.time}
            meta = RequestMeta(request=event.request, traceparent=event.traceparent, key=event.key, caller=event.publisher)
            run_s = subscriber.call_timeout_s
            call = connection.begin(method, params, meta, deadline=started + _SLOT_S + run_s, run_s=run_s, chain=())
        except PluginBusyError:
            raise
        except CallError as error:
            subscriber.failed(event, started, error)
            return None
        subscriber.depths[call] = event.depth
        return call

    def ended(self, call: HostCall) -> None:
        """Count it; there is nobody to be told."""
        subscriber = self._subscriber
        subscriber.depths.pop(call, None)
        fault = fault_of(call)
        if fault is None:
            subscriber.figures(self.event.topic).add(monotonic() - self._started)
        else:
            subscriber.failed(self.event, self._started, fault)


@final
class Subscriber:
    """One plugin that is told."""

    def __init__(self, manifest: Manifest, provider: Provider, depths: dict[HostCall, int], *, metrics: Metrics, events: Events) -> None:
        self.id = manifest.id
        self.depths = depths
        self._metrics = metrics
        self._events = events
        self._figures: dict[str, MethodFigures] = {}
        self.queue: SideQueue[Delivery] = SideQueue(
            provider,
            waiting=Lanes(most=MAX_WAITING, most_bytes=MAX_WAITING_BYTES),
            what="event",
            on_dropped=self._dropped,
            loop=asyncio.get_running_loop(),
        )
        self.go_by(manifest)

    def go_by(self, manifest: Manifest) -> None:
        """Take over what the manifest says."""
        self.topics = manifest.permissions.events_subscribe
        self.call_timeout_s = manifest.resources.call_timeout_s

    def figures(self, topic: str) -> MethodFigures:
        """Return the counters of a topic."""
        found = self._figures.get(topic)
        if found is None:
            found = self._figures[topic] = self._metrics.method(self.id, f"event.{topic}")
        return found

    def failed(self, event: Published, started: float, error: BaseException) -> None:
        """Tell that an event may not have been handled; it is not sent again."""
        tell_whose_limit(error)
        code = error.code if isinstance(error, AnnexeError) else "internal"
        self.figures(event.topic).add_failure(monotonic() - started, code)
        facts = {"method": f"event.{event.topic}", "code": code, "caller": event.publisher, "request": event.request}
        self._events.add(EventKind.CALL_FAILED, plugin=self.id, reason=str(error), **facts)

    def _dropped(self, deliveries: Sequence[Delivery], why: str) -> None:
        event = deliveries[-1].event
        self._events.add(
            EventKind.EVENT_DROPPED,
            plugin=self.id,
            reason=why,
            topic=event.topic,
            publisher=event.publisher,
            dropped=len(deliveries),
            dropped_count=self.queue.dropped_count,
        )


def _named(publisher: str | None) -> str:
    return "the application" if publisher is None else f"plugin {publisher!r}"
