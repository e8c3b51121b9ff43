"""Events: plugins and the application publish, whoever subscribed is told. In memory, at most once, beside all else.

* Who is told changes with the set of plugins, never with an event.
* Publishing waits for nobody. Each subscriber has a bounded queue; what does not fit, or cannot be delivered, is lost and counted.
* A plugin gets the events of one publisher in order, the next when it has answered the one before; a flood of one publisher's pushes out
  its own events first.
* A value is decoded only for a subscriber that speaks another codec, and for the application.
* Publisher, time, request and depth are what the host knows. An event published while another one is handled is deeper by one; beyond
  ``MAX_DEPTH`` it is refused, so that plugins that answer events with events come to an end.

Source: feature SV5; docs/how-to/publish-events.md; ADR-0094.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, final

import msgspec

from annexe.capabilities.retry_bucket import RetryBucket
from annexe.channel import CHAIN, CodecName, HostCall, PluginCall, RequestMeta
from annexe.channel.messages import ENCODE_FAULTS, MSGPACK
from annexe.clock import Clock
from annexe.contract import InvalidValueError
from annexe.contract.wire_check import check_written
from annexe.dispatch.listeners import DEPTH, Callback, Listener, TopicEvent
from annexe.dispatch.members import Provider
from annexe.dispatch.request import request_behind
from annexe.dispatch.subscribers import MAX_WAITING, Delivery, Published, Subscriber
from annexe.errors import ContractError, InvalidParamsError, PluginBusyError, RateLimitedError
from annexe.manifest import Manifest, names
from annexe.manifest.values import MisfitError
from annexe.record import EventKind, Events, Metrics

__all__ = ["MAX_DEPTH", "MAX_SUBSCRIBERS", "MAX_VALUE_BYTES", "EventBus"]

MAX_VALUE_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_SUBSCRIBERS = 256
"""Plugins that subscribe to one topic."""

# What a plugin publishes costs 1, and 1 more for each KiB and each ten that are told.
_PER_S, _AT_ONCE = 1_000.0, 2_000.0
_BYTES_OF_COST, _TOLD_OF_COST = 1024, 10


@final
class EventBus:
    """The topics of one host. Used on its loop.

    Args:
        metrics: Gets counts.
        events: Is told of what was lost.
        clock: For the time of what is published.
    """

    def __init__(self, *, metrics: Metrics, events: Events, clock: Clock) -> None:
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._subscribers: dict[str, Subscriber] = {}  # by plugin
        self._told: dict[str, tuple[Subscriber, ...]] = {}  # by topic
        self._listeners: dict[str, tuple[Listener, ...]] = {}  # by topic
        self._buckets: dict[str, RetryBucket] = {}  # by plugin that publishes
        self._depths: dict[HostCall, int] = {}  # of events that are being handled

    # Who is there.

    def problems(self, manifest: Manifest) -> list[ContractError]:
        """Return what of a manifest cannot be had."""
        found = []
        for topic in manifest.permissions.events_subscribe:
            others = sum(subscriber.id != manifest.id for subscriber in self._told.get(topic, ()))
            if others >= MAX_SUBSCRIBERS:
                text = f"{others} plugins subscribe to event {topic!r} already; expected at most {MAX_SUBSCRIBERS}"
                found.append(ContractError(text, plugin=manifest.id, topic=topic))
        return found

    def add(self, manifest: Manifest, provider: Provider) -> None:
        """Take over what a plugin subscribes to, instead of what it did before."""
        subscriber = self._subscribers.get(manifest.id)
        if subscriber is not None:
            subscriber.go_by(manifest)
        elif manifest.permissions.events_subscribe:
            self._subscribers[manifest.id] = Subscriber(manifest, provider, self._depths, metrics=self._metrics, events=self._events)
        self._arrange()

    def remove(self, plugin: str) -> None:
        """Let go of a plugin; what waits for it is lost."""
        self._buckets.pop(plugin, None)
        subscriber = self._subscribers.pop(plugin, None)
        if subscriber is not None:
            subscriber.queue.drop_all("it takes part no more")
            subscriber.queue.close()
            self._arrange()

    def _arrange(self) -> None:
        told: dict[str, list[Subscriber]] = {}
        for subscriber in self._subscribers.values():
            for topic in subscriber.topics:
                told.setdefault(topic, []).append(subscriber)
        self._told = {topic: tuple(subscribers) for topic, subscribers in told.items()}

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Have a function of the application's called with each event of a topic; return what ends that.

        Raises:
            ValueError: That is no name of a topic.
        """
        _check_topic(topic)
        listener = Listener(callback, most=MAX_WAITING, loop=asyncio.get_running_loop())
        self._listeners[topic] = (*self._listeners.get(topic, ()), listener)
        return partial(self._unsubscribe, topic, listener)

    def _unsubscribe(self, topic: str, listener: Listener) -> None:
        self._listeners[topic] = tuple(other for other in self._listeners.get(topic, ()) if other is not listener)

    async def close(self) -> None:
        """Forget what waits."""
        for subscriber in self._subscribers.values():
            subscriber.queue.close()
        listeners = [listener for several in self._listeners.values() for listener in several]
        self._listeners.clear()
        for listener in listeners:
            await listener.close()

    # What is published.

    def publish(self, call: PluginCall, topic: str, value: msgspec.Raw) -> int:
        """Publish for a plugin that may; return for how many it was queued.

        Args:
            call: Its request.
            topic: A well-formed name.
            value: As it came.

        Raises:
            RateLimitedError: It publishes too much.
            PluginBusyError: Events lead to events, and on and on.
        """
        plugin = call.connection.plugin
        size = len(memoryview(value))
        if size > MAX_VALUE_BYTES:
            text = f"plugin {plugin!r} publishes {size} bytes as event {topic!r}; expected at most {MAX_VALUE_BYTES}"
            raise InvalidParamsError(text, plugin=plugin, method=call.method)
        told = len(self._told.get(topic, ())) + len(self._listeners.get(topic, ()))
        self._pay(plugin, 1 + size // _BYTES_OF_COST + told // _TOLD_OF_COST)
        # A copy: what waits must not keep the frame that it came in, which may be far larger.
        return self._spread(topic, value.copy(), call.codec, publisher=plugin, chain=call.chain)

    def _pay(self, plugin: str, cost: float) -> None:
        now_s = monotonic()
        bucket = self._buckets.get(plugin)
        if bucket is None:
            bucket = self._buckets[plugin] = RetryBucket(rate_per_s=_PER_S, burst=_AT_ONCE, now_s=now_s)
        wait_s = bucket.take(cost, now_s=now_s)
        if wait_s > 0.0:
            text = f"plugin {plugin!r} publishes too much; try again in {wait_s:.3f} s"
            raise RateLimitedError(text, plugin=plugin, retry_after_s=wait_s)

    def publish_for_application(self, topic: str, value: Any) -> int:
        """Publish for the application; return for how many it was queued.

        Raises:
            ValueError: That is no name of a topic.
            InvalidParamsError: The value cannot be sent.
        """
        _check_topic(topic)
        try:
            check_written(value)
            encoded = MSGPACK.encode(value)
        except (*ENCODE_FAULTS, InvalidValueError) as error:
            raise InvalidParamsError(f"the value of event {topic!r} cannot be sent: {error}", method="event.publish") from error
        if len(encoded) > MAX_VALUE_BYTES:
            text = f"the value of event {topic!r} takes {len(encoded)} bytes; expected at most {MAX_VALUE_BYTES}"
            raise InvalidParamsError(text, method="event.publish")
        return self._spread(topic, msgspec.Raw(encoded), "msgpack", publisher=None, chain=CHAIN.get())

    def depth_of(self, chain: Sequence[HostCall]) -> int:
        """Return how many events and observations, one out of the other, led to what open calls do."""
        behind = request_behind(chain)
        return max((0 if behind is None else behind.depth, *(self._depths.get(call, 0) for call in chain)))

    def _spread(
        self,
        topic: str,
        value: msgspec.Raw,
        codec: CodecName,
        *,
        publisher: str | None,
        chain: Sequence[HostCall],
    ) -> int:
        depth = 1 + self.depth_of(chain)
        if publisher is None:
            depth = max(depth, 1 + DEPTH.get())
        if depth > MAX_DEPTH:
            self._refuse(topic, publisher)
        meta = chain[-1].meta if chain else RequestMeta()
        event = Published(
            topic=topic,
            value=value,
            codec=codec,
            publisher=publisher,
            time=self._clock.now(),
            depth=depth,
            request=meta.request,
            traceparent=meta.traceparent,
            key=meta.key,
        )
        subscribers, listeners = self._told.get(topic, ()), self._listeners.get(topic, ())
        for subscriber in subscribers:
            subscriber.queue.add_soon(Delivery(event, subscriber))
        for listener in listeners:
            if not listener.add(partial(self._read, event), depth):
                self._note_slow(listener, event)
        return len(subscribers) + len(listeners)

    def _read(self, event: Published) -> TopicEvent | None:
        try:
            return event.read()
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            why = f"its value cannot be read: {error}"
            self._events.add(EventKind.EVENT_DROPPED, reason=why, topic=event.topic, publisher=event.publisher, dropped=1)
            return None

    def _note_slow(self, listener: Listener, event: Published) -> None:
        why, count = "a function of the application's is too slow", listener.dropped_count
        self._events.add(EventKind.EVENT_DROPPED, reason=why, topic=event.topic, publisher=event.publisher, dropped=1, dropped_count=count)

    def _refuse(self, topic: str, publisher: str | None) -> None:
        text = f"events that follow from events are {MAX_DEPTH} deep, so {topic!r} was not published; expected at most that many"
        self._events.add(EventKind.EVENT_DROPPED, plugin=publisher, reason=text, topic=topic, publisher=publisher)
        raise PluginBusyError(text, plugin=publisher, method="event.publish")


def _check_topic(topic: str) -> None:
    """Check the name of a topic.

    Raises:
        ValueError: It is none.
    """
    try:
        names.dotted_name(topic)
    except MisfitError as misfit:
        raise ValueError(f"expected {misfit.expected} as the name of a topic, got {topic!r}") from None
