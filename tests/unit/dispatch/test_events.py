"""The bus of events, with plugins that are played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec
import pytest

from annexe.channel import CHAIN, ChannelLimits, Connection, HostCall, PluginCall, RequestMeta
from annexe.channel.messages import JSON, MSGPACK, Response, ResponseMeta, WireError
from annexe.dispatch import events as bus_module
from annexe.dispatch.events import MAX_DEPTH, MAX_SUBSCRIBERS, MAX_VALUE_BYTES, EventBus
from annexe.dispatch.subscribers import MAX_WAITING, MAX_WAITING_BYTES
from annexe.errors import InvalidParamsError, PluginBusyError, PluginUnavailableError, RateLimitedError
from annexe.manifest import Manifest, Permissions
from annexe.manifest.model import Runtime
from annexe.record import EventKind, Events, Metrics
from annexe.supervision.state import PluginState
from tests.unit.record.clocks import StillClock


class Peer:
    """A connection that keeps what it is sent until the test answers."""

    def __init__(self, plugin: str, *, concurrency: int = 4) -> None:
        self.plugin, self.codec, self.closed, self.waiting = plugin, MSGPACK, False, 0
        self.limits = ChannelLimits(concurrency=concurrency, streams=1)
        self.calls: list[HostCall] = []
        self.is_busy = False

    def begin(
        self, method: str, params: Any, meta: RequestMeta, *, deadline: float, run_s: float | None = None, chain: Any = None
    ) -> HostCall:
        assert chain == ()  # it belongs to no request
        if self.is_busy:
            raise PluginBusyError("busy", plugin=self.plugin, method=method)
        sent = self.codec.decode(self.codec.encode(params))
        call = HostCall(self, method, sent, meta, deadline, run_s, asyncio.get_running_loop().create_future(), chain)
        self.calls.append(call)
        return call

    def values(self) -> list[Any]:
        return [call.params["value"] for call in self.calls]

    async def answer(self, error: WireError | None = None) -> None:
        """Answer the oldest that is not answered."""
        call = next(call for call in self.calls if not call.future.done())
        call.future.set_result(Response(call.id, error, msgspec.Raw(b"\xc0"), ResponseMeta()))
        await asyncio.sleep(0)


class Provider:
    """A plugin that is there, or not."""

    def __init__(self, plugin: str, peer: Peer | None) -> None:
        self.id, self.last_used, self.state = plugin, 0.0, PluginState.READY
        self.connection = cast(Connection | None, peer)
        self.is_there = peer is not None
        self.awaited: list[str] = []

    async def wait_ready(self, _deadline: float, *, method: str) -> Connection:
        self.awaited.append(method)
        raise PluginUnavailableError(f"plugin {self.id!r} is stopped", plugin=self.id, state="stopped")

    def where(self, _hook: str) -> str | None:
        return None


class Desk:
    """A bus and who takes part."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.events = Events(StillClock(), count=self.metrics.count_event)
        self.bus = EventBus(metrics=self.metrics, events=self.events, clock=StillClock())

    def join(self, plugin: str, *topics: str, is_there: bool = True, concurrency: int = 4) -> Peer:
        peer = Peer(plugin, concurrency=concurrency)
        self.bus.add(asking(plugin, *topics), Provider(plugin, peer if is_there else None))
        return peer

    async def say(self, plugin: str, value: Any, *, parent: HostCall | None = None, codec: Any = MSGPACK, topic: str = "a.done") -> int:
        call = PluginCall(cast(Connection, Peer(plugin)), 2, "event.publish", msgspec.Raw(), codec=codec.name, deadline=0.0, parent=parent)
        count = self.bus.publish(call, topic, msgspec.Raw(codec.encode(value)))
        await asyncio.sleep(0)
        return count

    def told(self, kind: EventKind) -> list[tuple[str | None, str]]:
        return [(event.plugin, event.reason) for event in self.events.latest(kind=kind)]


def asking(plugin: str, *topics: str) -> Manifest:
    return Manifest(
        id=plugin, version="1.0.0", runtime=Runtime(kind="python", entry="main"), permissions=Permissions(events_subscribe=topics)
    )


def run(scenario: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        desk = Desk()
        try:
            await scenario(desk)
        finally:
            await desk.bus.close()

    asyncio.run(opened())


def test_only_those_who_subscribed_are_told_and_of_the_hosts_facts() -> None:
    async def scenario(desk: Desk) -> None:
        peer, other = desk.join("keeper", "a.done", "c.done"), desk.join("other", "b.done")
        parent = HostCall(peer, "hook.x.y", None, RequestMeta(request="r", traceparent="t", key="k", state={"s": 1}), 0.0, None, None, ())
        assert await desk.say("teller", {"n": 1}, parent=parent) == 1
        assert await desk.say("teller", 1, topic="nobody.cares") == 0
        (call,) = peer.calls
        assert (call.method, call.params) == (
            "event.a.done",
            {"topic": "a.done", "value": {"n": 1}, "publisher": "teller", "time": StillClock().now()},
        )
        assert call.meta == RequestMeta(request="r", traceparent="t", key="k", caller="teller")
        assert not other.calls

    run(scenario)


def test_a_publisher_comes_in_order_one_at_a_time_and_others_beside_it() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        for value in (1, 2, 3):
            await desk.say("teller", value)
        await desk.say("other", 9)
        assert peer.values() == [1, 9]
        await peer.answer()
        assert peer.values() == [1, 9, 2]

    run(scenario)


def test_no_more_is_under_way_than_the_plugin_runs_at_once() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done", concurrency=2)
        for publisher in ("a", "b", "c"):
            await desk.say(publisher, publisher)
        assert peer.values() == ["a", "b"]
        await peer.answer()
        assert peer.values() == ["a", "b", "c"]

    run(scenario)


def test_events_wait_while_a_call_waits_or_the_plugin_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annexe.dispatch.side_queue._LOOK_AGAIN_S", 0.0)

    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        peer.waiting = 1
        await desk.say("teller", 1)
        assert not peer.calls
        peer.waiting, peer.is_busy = 0, True
        for _ in range(10):
            await asyncio.sleep(0)
        assert not peer.calls
        peer.is_busy = False
        await desk.say("teller", 2)
        while not peer.calls:
            await asyncio.sleep(0)
        assert peer.values() == [1]  # in order still

    run(scenario)


def test_the_oldest_is_lost_when_too_many_wait() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        for value in range(MAX_WAITING + 3):
            desk.bus.publish_for_application("a.done", value)
            await asyncio.sleep(0)
        await peer.answer()
        assert peer.values() == [0, 3]
        assert desk.told(EventKind.EVENT_DROPPED) == [("keeper", "too slow")] * 2
        assert desk.metrics.snapshot()["keeper"]["life"]["events_dropped"] == 2

    run(scenario)


def test_a_flood_pushes_out_its_own() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done", concurrency=1)
        await desk.say("calm", "first")
        await desk.say("calm", "kept")
        for value in range(MAX_WAITING + 500):
            await desk.say("flood", value)
        await peer.answer()
        await peer.answer()
        assert peer.values()[:1] == ["first"] and "kept" in peer.values()

    run(scenario)


def test_what_waits_is_bounded_in_bytes() -> None:
    async def scenario(desk: Desk) -> None:
        desk.join("keeper", "a.done")
        value = "x" * 60_000
        for _ in range(300):
            desk.bus.publish_for_application("a.done", value)
        assert desk.told(EventKind.EVENT_DROPPED)
        queue = desk.bus._subscribers["keeper"].queue
        assert len(cast(Any, queue)._waiting) * 60_000 <= MAX_WAITING_BYTES

    run(scenario)


def test_events_for_who_is_not_there_are_lost_and_counted_together() -> None:
    async def scenario(desk: Desk) -> None:
        desk.join("keeper", "a.done", is_there=False)
        for value in range(3):
            desk.bus.publish_for_application("a.done", value)
        for _ in range(5):
            await asyncio.sleep(0)
        assert desk.told(EventKind.EVENT_DROPPED) == [("keeper", "plugin 'keeper' is stopped")]
        assert desk.metrics.snapshot()["keeper"]["life"]["events_dropped"] == 3

    run(scenario)


def test_who_leaves_loses_what_waits_and_is_told_no_more() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        await desk.say("teller", 1)
        await desk.say("teller", 2)
        desk.bus.remove("keeper")
        assert desk.told(EventKind.EVENT_DROPPED) == [("keeper", "it takes part no more")]
        await peer.answer()
        assert await desk.say("teller", 3) == 0
        assert peer.values() == [1]

    run(scenario)


def test_another_manifest_changes_what_is_told() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        provider = Provider("keeper", peer)
        desk.bus.add(asking("keeper", "b.done"), provider)
        assert (await desk.say("teller", 1), await desk.say("teller", 2, topic="b.done")) == (0, 1)
        desk.bus.add(asking("keeper"), provider)
        assert await desk.say("teller", 3, topic="b.done") == 0

    run(scenario)


def test_failures_are_told_and_not_tried_again() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        await desk.say("teller", 1)
        await peer.answer(WireError("plugin-raised", "no", msgspec.Raw(b"\xc0")))
        await desk.say("teller", 2)
        peer.calls[-1].future.cancel()
        await asyncio.sleep(0)
        (raised, cancelled) = desk.events.latest(kind=EventKind.CALL_FAILED)
        assert (raised.facts["code"], raised.facts["caller"], cancelled.facts["code"]) == ("plugin-raised", "teller", "cancelled")
        assert desk.metrics.snapshot()["keeper"]["methods"]["event.a.done"]["failures"] == {"plugin-raised": 1, "cancelled": 1}
        assert peer.values() == [1, 2]

    run(scenario)


@pytest.mark.parametrize("value", [float("nan"), {1: 2}], ids=["nan", "number as key"])
def test_what_the_subscribers_codec_cannot_say_is_lost_and_told(value: Any) -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        peer.codec = JSON
        assert await desk.say("teller", value) == 1
        await desk.say("teller", "next")
        assert peer.values() == ["next"]
        ((plugin, reason),) = desk.told(EventKind.CALL_FAILED)
        assert plugin == "keeper" and "event 'a.done' of plugin 'teller' cannot be passed on to plugin 'keeper'" in reason

    run(scenario)


def test_bytes_that_nobody_can_read_reach_no_function_of_the_applications() -> None:
    async def scenario(desk: Desk) -> None:
        got: list[Any] = []
        desk.bus.subscribe("a.done", lambda event: got.append(event.value))
        call = PluginCall(cast(Connection, Peer("teller")), 2, "event.publish", msgspec.Raw(), codec="msgpack", deadline=0.0, parent=None)
        for value in (b"\xc1", b"\xa2\xff\xff", b"\x91" * 5000 + b"\xc0", MSGPACK.encode(float("inf"))):
            desk.bus.publish(call, "a.done", msgspec.Raw(value))
        await desk.say("teller", "fine", codec=JSON)
        for _ in range(20):
            await asyncio.sleep(0)
        assert got == ["fine"]
        assert len(desk.told(EventKind.EVENT_DROPPED)) == 4

    run(scenario)


def test_publishing_costs_by_size_and_by_who_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "monotonic", lambda: 5.0)

    async def scenario(desk: Desk) -> None:
        for number in range(25):
            desk.join(f"keeper-{number}", "b.done")
        for _ in range(500):
            await desk.say("one", 1)
            await desk.say("two", "x" * 3_100)
            await desk.say("three", 1, topic="b.done")
        await desk.say("one", 1)
        with pytest.raises(RateLimitedError, match="plugin 'two' publishes too much; try again in") as limited:
            await desk.say("two", "x" * 3_100)
        assert limited.value.data["retry_after_s"] > 0
        for _ in range(166):
            await desk.say("three", 1, topic="b.done")
        with pytest.raises(RateLimitedError):
            await desk.say("three", 1, topic="b.done")

    run(scenario)


def test_value_that_is_too_long_is_refused() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.say("teller", "x" * (MAX_VALUE_BYTES - 5))
        with pytest.raises(InvalidParamsError, match=f"expected at most {MAX_VALUE_BYTES}"):
            await desk.say("teller", "x" * MAX_VALUE_BYTES)

    run(scenario)


def test_depth_is_that_of_the_deepest_event_in_the_chain() -> None:
    async def scenario(desk: Desk) -> None:
        peer = desk.join("keeper", "a.done")
        parent: HostCall | None = None
        for depth in range(MAX_DEPTH):
            assert await desk.say("keeper", depth, parent=parent) == 1
            if depth:
                await peer.answer()  # the handler that published it is done
            event = peer.calls[-1]
            assert event.params["value"] == depth
            # What a service does for the handler is deeper in the chain, but led to by the same event.
            parent = HostCall(peer, "svc.x.y", None, RequestMeta(), 0.0, None, None, (event,))
        with pytest.raises(PluginBusyError, match=f"events that follow from events are {MAX_DEPTH} deep"):
            await desk.say("keeper", "too deep", parent=parent)
        token = CHAIN.set((event,))
        with pytest.raises(PluginBusyError):
            desk.bus.publish_for_application("a.done", "too deep as well")
        CHAIN.reset(token)
        await peer.answer()
        assert await desk.say("keeper", "anew", parent=None) == 1
        assert [plugin for plugin, _ in desk.told(EventKind.EVENT_DROPPED)] == ["keeper", None]
        assert desk.metrics.snapshot()["keeper"]["life"]["events_dropped"] == 0

    run(scenario)


def test_one_plugin_too_many_for_a_topic_is_a_problem_of_its_own() -> None:
    async def scenario(desk: Desk) -> None:
        for number in range(MAX_SUBSCRIBERS):
            assert not desk.bus.problems(asking(f"keeper-{number}", "a.done"))
            desk.join(f"keeper-{number}", "a.done")
        assert not desk.bus.problems(asking("keeper-0", "a.done"))
        (problem,) = desk.bus.problems(asking("last", "a.done", "b.done"))
        assert f"{MAX_SUBSCRIBERS} plugins subscribe to event 'a.done' already" in problem.message

    run(scenario)
