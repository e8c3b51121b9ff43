"""Events between plugins and the application, through real processes."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from annexe import Host, SyncHost, TopicEvent
from annexe.channel.messages import JSON
from annexe.cli.app import cli
from annexe.dispatch.events import MAX_DEPTH
from annexe.errors import HostClosedError, InvalidParamsError
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, outcome_of, policies, run, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

PUBLISHES = """
@plugin.action("t.act")
def act(doc, ctx):
    for topic, value in eval(doc["text"]):
        try:
            ctx.log.info("told", count=ctx.publish(topic, value))
        except Exception as error:
            ctx.log.info("failed", what=[type(error).__name__, getattr(error, "code", ""), str(error)])
"""
PUBLISHES_AWAITED = PUBLISHES.replace("def act", "async def act").replace("ctx.publish(", "await ctx.publish(")
KEEPS = """
@plugin.on_event("a.done")
def done(event, ctx):
    ctx.log.info("got", value=event.value, topic=event.topic, by=event.publisher, caller=ctx.caller, request=ctx.request_id, key=ctx.key)
"""
MAY = '[provides.topics]\n"a.done" = {}\n[permissions]\nevents = { publish = ["a.done"] }\n'
WANTS = '[permissions]\nevents = { subscribe = ["a.done"] }\n'


def publisher(root: Path, plugin: str = "teller", *, code: str = PUBLISHES, extra: str = MAY, hook: str = "t.act") -> None:
    write_plugin(root / "plugins", plugin, code.replace("t.act", hook), hooks=[hook], extra=extra, runtime="concurrency = 4")


def subscriber(root: Path, plugin: str = "keeper", *, code: str = KEEPS, extra: str = WANTS, runtime: str = "") -> None:
    write_plugin(root / "plugins", plugin, code, extra=extra, runtime=runtime)


async def lines(host: Host, plugin: str, message: str = "got") -> list[dict[str, Any]]:
    found = await asyncio.to_thread(host.logs.tail, plugin, 3000)
    return [line["fields"] for line in found if line["message"] == message]


async def have(host: Host, plugin: str, count: int, message: str = "got") -> list[dict[str, Any]]:
    """Wait until a plugin has logged a message so often."""
    deadline = asyncio.get_running_loop().time() + 10
    while len(found := await lines(host, plugin, message)) < count:
        assert asyncio.get_running_loop().time() < deadline, f"{len(found)} of {count} {message!r} from {plugin}"
    assert len(found) == count
    return found


async def have_last(host: Host, plugin: str, value: Any) -> list[dict[str, Any]]:
    """Wait until what a plugin got last is this."""
    deadline = asyncio.get_running_loop().time() + 10
    while (found := await lines(host, plugin))[-1:] == [] or found[-1]["value"] != value:
        assert asyncio.get_running_loop().time() < deadline, found
    return found


async def act(host: Host, *published: tuple[Any, Any], **request: Any) -> None:
    async with host.request(deadline_s=8.0, **request) as scope:
        await scope.hooks(T).act(Doc(repr(published)))


@pytest.mark.both_users
@pytest.mark.parametrize("code", [pytest.param(PUBLISHES, id="def"), pytest.param(PUBLISHES_AWAITED, id="async def")])
@pytest.mark.parametrize("codecs", [pytest.param(("msgpack", "json"), id="msgpack"), pytest.param(("json",), id="json")])
def test_subscriber_is_told_in_order_by_whom_and_on_whose_behalf(open_folder: Path, tmp_path: Path, code: str, codecs: Any) -> None:
    async def scenario() -> None:
        publisher(tmp_path, code=code)
        subscriber(tmp_path, runtime="concurrency = 4")
        subscriber(tmp_path, "other", code=KEEPS.replace("def done", "async def done"))
        async with open_host(tmp_path, codecs=codecs) as host:
            await act(host, *(("a.done", {"n": number}) for number in range(40)), id="r-1", key="tenant")
            for plugin in ("keeper", "other"):
                got = await have(host, plugin, 40)
                assert [fields["value"] for fields in got] == [{"n": number} for number in range(40)]
                assert {fields["by"] for fields in got} == {fields["caller"] for fields in got} == {"teller"}
                assert {(fields["request"], fields["key"], fields["topic"]) for fields in got} == {("r-1", "tenant", "a.done")}
            assert {fields["count"] for fields in await lines(host, "teller", "told")} == {2}
            figures = host.metrics.snapshot()["keeper"]["methods"]["event.a.done"]
            assert (figures["calls"], figures["failures"]) == (40, {})

    run(scenario)


def test_value_goes_between_plugins_of_two_codecs(tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher(tmp_path)
        subscriber(tmp_path)
        async with open_host(tmp_path) as host:
            connection_of(host, "keeper").codec = JSON  # as with an SDK that has no MessagePack
            await act(host, ("a.done", [1, 2.5, None, "é", {"k": b"\x00\xff"}]))
            (got,) = await have(host, "keeper", 1)
            assert got["value"] == [1, 2.5, None, "é", {"k": "AP8="}]
            await act(host, ("a.done", {1: "a key that JSON has no word for"}))
            (event,) = await until(lambda: events(host, EventKind.CALL_FAILED, "keeper"))
            assert event.facts["code"] == "invalid-params" and "cannot be passed on to plugin 'keeper'" in event.reason

    run(scenario)


@pytest.mark.parametrize(
    ("topic", "value", "code", "told"),
    [
        pytest.param("b.done", 1, "permission-denied", 'events = { publish = ["a.done", "b.done"] }', id="not granted"),
        pytest.param("a.done", "x" * 70_000, "invalid-params", "expected parameters of at most 66560 bytes", id="too long"),
        pytest.param("a.done", "x" * 65_540, "invalid-params", "expected at most 65536", id="a little too long"),
        pytest.param("nonsense", 1, "invalid-params", "topic: expected", id="no name"),
    ],
)
def test_what_may_not_be_published_is_refused(tmp_path: Path, topic: str, value: Any, code: str, told: str) -> None:
    async def scenario() -> None:
        publisher(tmp_path)
        subscriber(tmp_path, code=KEEPS.replace("a.done", "b.done"), extra=WANTS.replace("a.done", "b.done"))
        async with open_host(tmp_path) as host:
            await act(host, (topic, value), ("a.done", "fine"))
            (failed,) = await have(host, "teller", 1, "failed")
            assert failed["what"][1] == code and told in failed["what"][2]
            assert (await have(host, "teller", 1, "told"))[0]["count"] == 0
            if code == "permission-denied":
                (event,) = events(host, EventKind.PERMISSION_DENIED, "teller")
                assert event.facts["permission"] == "events.publish:b.done"

    run(scenario)


def test_nothing_is_published_without_any_right(tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher(tmp_path, extra="")
        subscriber(tmp_path)
        async with open_host(tmp_path) as host:
            await act(host, ("a.done", 1))
            (failed,) = await have(host, "teller", 1, "failed")
            assert failed["what"][:2] == ["PermissionDenied", "permission-denied"]
            assert not await lines(host, "keeper")

    run(scenario)


@pytest.mark.parametrize(
    ("code", "extra", "told"),
    [
        pytest.param(KEEPS, "", 'add under [permissions]: events = { subscribe = ["a.done"] }', id="not asked for"),
        pytest.param("", WANTS, 'write @plugin.on_event("a.done")', id="not handled"),
    ],
)
def test_plugin_whose_code_and_manifest_differ_is_not_activated(tmp_path: Path, code: str, extra: str, told: str) -> None:
    async def scenario() -> None:
        subscriber(tmp_path, code=code, extra=extra)
        async with open_host(tmp_path, policies=policies(max_failures=1)) as host:
            (event,) = events(host, EventKind.LAUNCH_FAILED, "keeper")
            assert event.facts["code"] == "activation-failed" and told in event.reason

    run(scenario)


def test_topic_that_is_not_declared_is_refused_with_the_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher(tmp_path, extra='[permissions]\nevents = { publish = ["a.done"] }\n')
        async with open_host(tmp_path) as host:
            assert 'add under [provides.topics]: "a.done" = {}' in host.plugin("teller").reason

    run(scenario)


def test_slow_subscriber_loses_the_oldest_and_it_shows(tmp_path: Path) -> None:
    slow = KEEPS.replace("    ctx.log", "    while event.value == 0 and not ctx.kv.get('go'): time.sleep(0.01)\n    ctx.log")
    kv = '[permissions]\nkv = {}\nevents = { subscribe = ["a.done"] }\n[resources]\ncall-timeout = "15s"\n'

    async def scenario() -> None:
        subscriber(tmp_path, code=slow, extra=kv)
        subscriber(tmp_path, "quick")
        async with open_host(tmp_path) as host:
            bus = host._dispatcher.bus
            loop = asyncio.get_running_loop()
            for number in range(1100):
                started = loop.time()
                assert host.publish("a.done", number) == 2
                assert loop.time() - started < 1.0  # it waits for nobody
                if number % 100 == 0:
                    await until(lambda: not len(bus._subscribers["quick"].queue._waiting))
            store = host._registry._kv.handle("keeper", 1024 * 1024)
            await store.call("kv.set", {"key": "go", "value": True})
            got = [fields["value"] for fields in await have(host, "keeper", 1001)]
            assert got == [0, *range(100, 1100)]
            assert [fields["value"] for fields in await have(host, "quick", 1100)] == list(range(1100))
            dropped = events(host, EventKind.EVENT_DROPPED, "keeper")
            assert dropped[0].reason == "too slow" and dropped[0].facts["topic"] == "a.done"
            assert dropped[0].facts["dropped_count"] == 1
            figures = host.metrics.snapshot()
            assert (figures["keeper"]["life"]["events_dropped"], figures["quick"]["life"]["events_dropped"]) == (99, 0)

    run(scenario)


def test_awaited_calls_go_before_events(tmp_path: Path) -> None:
    code = KEEPS.replace("    ctx.log", "    time.sleep(0.02)\n    ctx.log") + (
        '@plugin.filter("t.edit")\ndef edit(doc):\n    doc["marks"].append("a")\n    return doc\n'
    )

    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "keeper", code, hooks=["t.edit"], extra=WANTS)
        async with open_host(tmp_path) as host:
            for number in range(200):
                host.publish("a.done", number)
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            assert loop.time() - started < 2.0  # all events would take 4 s

    run(scenario)


def test_subscriber_that_dies_loses_what_it_worked_on_and_gets_the_rest(tmp_path: Path) -> None:
    code = KEEPS.replace("    ctx.log", "    if event.value == 3: os._exit(1)\n    ctx.log")

    async def scenario() -> None:
        subscriber(tmp_path, code=code)
        async with open_host(tmp_path) as host:
            for number in range(10):
                host.publish("a.done", number)
            got = await have(host, "keeper", 9)
            assert [fields["value"] for fields in got] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
            (event,) = events(host, EventKind.CALL_FAILED, "keeper")
            assert event.facts["code"] == "outcome-unknown"

    run(scenario)


def test_handler_that_raises_or_takes_too_long_is_told_of_and_hurts_nobody(tmp_path: Path) -> None:
    code = KEEPS.replace(
        "    ctx.log", "    if event.value == 'raise': raise ValueError('no')\n    if event.value == 'slow': time.sleep(1.5)\n    ctx.log"
    )

    async def scenario() -> None:
        publisher(tmp_path)
        subscriber(tmp_path, code=code, extra=WANTS + '[resources]\ncall-timeout = "1s"\n')
        async with open_host(tmp_path) as host:
            await act(host, ("a.done", "raise"), ("a.done", "slow"), ("a.done", "fine"))
            got = await have(host, "keeper", 2)  # a `def` handler cannot be ended; what it does afterwards still counts
            assert got[-1]["value"] == "fine"
            told = [(event.facts["code"], event.facts["caller"]) for event in events(host, EventKind.CALL_FAILED, "keeper")]
            assert told == [("plugin-raised", "teller"), ("deadline-exceeded", "teller")]
            assert not await lines(host, "teller", "failed")

    run(scenario)


def test_lazy_subscriber_is_started_by_an_event(tmp_path: Path) -> None:
    async def scenario() -> None:
        subscriber(tmp_path, runtime='start = "lazy"')
        async with open_host(tmp_path) as host:
            assert host.plugin("keeper").state == "stopped"
            host.publish("a.done", "first")
            host.publish("a.done", "second")
            assert [fields["value"] for fields in await have(host, "keeper", 2)] == ["first", "second"]

    run(scenario)


@pytest.mark.parametrize("how", ["stopped", "blocked", "disabled"])
def test_subscriber_that_does_not_run_loses_events_and_it_shows(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        subscriber(tmp_path)
        async with open_host(tmp_path, grants="stored") as host:
            plugin = host.plugin("keeper")
            if how != "blocked":
                await plugin.grant()
                await (plugin.stop() if how == "stopped" else plugin.disable())
            assert host.publish("a.done", 1) == (how != "disabled")  # who is disabled takes no part
            if how != "disabled":
                (event,) = await until(lambda: events(host, EventKind.EVENT_DROPPED, "keeper"))
                assert f"it is {how}" in event.reason and event.facts["dropped"] == 1
            await (plugin.grant() if how == "blocked" else plugin.enable() if how == "disabled" else plugin.start())
            host.publish("a.done", 2)
            assert [fields["value"] for fields in await have(host, "keeper", 1)] == [2]

    run(scenario)


def test_flood_of_one_publisher_is_limited_and_another_ones_events_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few that a loaded machine gets beyond them, too.
    monkeypatch.setattr("annexe.dispatch.events._PER_S", 20.0)
    monkeypatch.setattr("annexe.dispatch.events._AT_ONCE", 40)
    flood = """
    @plugin.action("t.act")
    def act(doc, ctx):
        refused = 0
        for number in range(600):
            try:
                ctx.publish("a.done", number)
            except Exception as error:
                assert error.code == "rate-limited" and error.data["retry_after_s"] > 0, error
                refused += 1
        ctx.log.info("refused", count=refused)
    """
    slow = KEEPS.replace("    ctx.log", "    time.sleep(0.002)\n    if event.publisher == 'calm': ctx.log")

    async def scenario() -> None:
        publisher(tmp_path, "flood", code=flood, extra=MAY + '[resources]\ncall-timeout = "15s"\n')
        publisher(tmp_path, "calm", hook="t.edit", code=PUBLISHES.replace("plugin.action", "plugin.filter") + "    return doc\n")
        subscriber(tmp_path, code=slow)
        async with open_host(tmp_path) as host:
            flooding = asyncio.ensure_future(host.hooks(T).act(Doc("x")))
            for number in range(10):
                await host.hooks(T).edit(Doc(repr([("a.done", number)])))
            assert [fields["value"] for fields in await have(host, "keeper", 10)] == list(range(10))
            await flooding
            (refused,) = await have(host, "flood", 1, "refused")
            assert refused["count"] > 0
            assert events(host, EventKind.RATE_LIMITED, "flood") and not events(host, EventKind.RATE_LIMITED, "calm")

    run(scenario)


def test_application_publishes_and_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher(tmp_path)
        subscriber(tmp_path)
        got: list[TopicEvent] = []
        later: list[Any] = []

        async def slowly(event: TopicEvent) -> None:
            await asyncio.sleep(0)
            later.append(event.value)

        async with open_host(tmp_path) as host:
            end = host.subscribe("a.done", got.append)
            host.subscribe("a.done", slowly)
            await act(host, ("a.done", {"bytes": b"\x00"}), ("a.done", 2))
            await until(lambda: len(later) == 2)
            assert [(event.topic, event.value, event.publisher) for event in got] == [
                ("a.done", {"bytes": b"\x00"}, "teller"),
                ("a.done", 2, "teller"),
            ]
            assert later == [{"bytes": b"\x00"}, 2]
            end()
            end()
            assert host.publish("a.done", {"from": "us"}) == 2
            (ours,) = [fields for fields in await have(host, "keeper", 3) if fields["by"] is None]
            assert (ours["value"], ours["caller"], ours["request"]) == ({"from": "us"}, None, None)
            await until(lambda: len(later) == 3)
            assert len(got) == 2
            for value in (float("nan"), {1: 2}, object(), "x" * 70_000, [float("inf")]):
                with pytest.raises(InvalidParamsError, match=r"the value of event 'a.done'"):
                    host.publish("a.done", value)
            for call in (lambda: host.publish("nonsense"), lambda: host.subscribe("Not.This", got.append)):
                with pytest.raises(ValueError, match="as the name of a topic"):
                    call()
        with pytest.raises(HostClosedError):
            host.publish("a.done")
        with pytest.raises(HostClosedError):
            host.subscribe("a.done", got.append)

    run(scenario)


def test_function_of_the_applications_that_raises_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publisher(tmp_path)
    got: list[Any] = []

    def raises(event: TopicEvent) -> None:
        got.append(event.value)
        raise KeyError(event.value)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            host.subscribe("a.done", raises)
            await act(host, ("a.done", 1), ("a.done", 2))
            await until(lambda: got == [1, 2])
            assert not await lines(host, "teller", "failed")

    with caplog.at_level(logging.ERROR, "annexe.dispatch"):
        asyncio.run(scenario())
    assert [record.message for record in caplog.records] == ["a subscriber to events of plugins failed"] * 2


def test_slow_function_of_the_applications_loses_the_oldest_and_it_shows(tmp_path: Path) -> None:
    async def scenario() -> None:
        got: list[Any] = []
        go = asyncio.Event()

        async def slowly(event: TopicEvent) -> None:
            await go.wait()
            got.append(event.value)

        (tmp_path / "plugins").mkdir()
        async with open_host(tmp_path) as host:
            host.subscribe("a.done", slowly)
            host.publish("a.done", 0)
            await asyncio.sleep(0)
            for number in range(1, 1103):
                host.publish("a.done", number)
            go.set()
            await until(lambda: len(got) == 1001)
            assert got == [0, *range(103, 1103)]
            told = [event for event in events(host, EventKind.EVENT_DROPPED) if event.plugin is None]
            assert told[0].facts["dropped_count"] == 1

    run(scenario)


def test_events_that_wait_for_the_application_end_with_the_host(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def never(_event: TopicEvent) -> None:
            await asyncio.Event().wait()

        (tmp_path / "plugins").mkdir()
        async with open_host(tmp_path) as host:
            host.subscribe("a.done", never)
            host.publish("a.done", 1)
            host.publish("a.done", 2)
            await asyncio.sleep(0)

    run(scenario)  # which finds tasks that are left


def test_loop_of_two_plugins_ends_at_its_depth_and_shows(tmp_path: Path) -> None:
    async def scenario() -> None:
        for own, other in (("ping", "pong"), ("pong", "ping")):
            code = f"""
            @plugin.on_event("{other}.sent")
            def sent(event, ctx):
                ctx.log.info("got", value=event.value)
                ctx.publish("{own}.sent", event.value + 1)
            """
            extra = f'[provides.topics]\n"{own}.sent" = {{}}\n'
            extra += f'[permissions]\nevents = {{ publish = ["{own}.sent"], subscribe = ["{other}.sent"] }}\n'
            write_plugin(tmp_path / "plugins", own, code, extra=extra)
        async with open_host(tmp_path) as host:
            assert host.publish("ping.sent", 1) == 1
            (event,) = await until(lambda: events(host, EventKind.EVENT_DROPPED))
            assert event.plugin == "ping" and f"events that follow from events are {MAX_DEPTH} deep" in event.reason
            got = [fields["value"] for plugin in ("ping", "pong") for fields in await have(host, plugin, MAX_DEPTH // 2)]
            assert sorted(got) == list(range(1, MAX_DEPTH + 1))
            assert host.publish("ping.sent", 1) == 1  # a new one begins at the start

    run(scenario)


def test_loop_through_the_application_ends_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher(tmp_path)
        seen: list[Any] = []
        async with open_host(tmp_path) as host:

            def again(event: TopicEvent) -> None:
                seen.append(event.value)
                outcome.append(host.publish("a.done", event.value + 1) if event.value < 100 else None)

            outcome: list[Any] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("annexe.dispatch.listeners._LOG", logging.getLogger("a.test"))
                logging.getLogger("a.test").addHandler(logging.NullHandler())
                logging.getLogger("a.test").propagate = False
                host.subscribe("a.done", again)
                await act(host, ("a.done", 1))
                await until(lambda: len(seen) == MAX_DEPTH)
                await until(lambda: events(host, EventKind.EVENT_DROPPED))
            assert seen == list(range(1, MAX_DEPTH + 1))

    run(scenario)


def test_plugin_may_be_told_of_its_own_events(tmp_path: Path) -> None:
    async def scenario() -> None:
        extra = '[provides.topics]\n"a.done" = {}\n[permissions]\nevents = { publish = ["a.done"], subscribe = ["a.done"] }\n'
        publisher(tmp_path, "both", code=PUBLISHES + KEEPS, extra=extra)
        async with open_host(tmp_path) as host:
            await act(host, ("a.done", 1))
            assert (await have(host, "both", 1))[0]["by"] == "both"

    run(scenario)


SENDS_RAW = """
import msgspec
from annexe_sdk.calls import Wait

def send(ctx, value, meta):
    session, runner, wait = ctx._runner.session, ctx._runner, Wait()
    with runner.send_lock:
        session._last_own_id += 2
        session.waits[session._last_own_id] = wait
        params = {"topic": "a.done", "value": msgspec.Raw(value)}
        body = msgspec.msgpack.encode([0, session._last_own_id, "event.publish", params, meta])
        runner._sock.sendall(len(body).to_bytes(4, "big") + body)
    runner.reader.wait_for(wait)
    ctx.log.info("sent", code=(wait.error or {}).get("code"))

@plugin.action("t.act")
def act(doc, ctx):
    for value, meta in eval(doc["text"]):
        send(ctx, value, meta)
"""


def test_what_waits_keeps_no_frame_that_a_publisher_made_large(tmp_path: Path) -> None:
    """A few bytes of value in a frame of megabytes must not be worth megabytes in each queue."""

    async def scenario() -> None:
        publisher(tmp_path, code=SENDS_RAW, extra=MAY + '[resources]\ncall-timeout = "15s"\n')
        subscriber(tmp_path, code=KEEPS.replace("    ctx.log", "    time.sleep(0.5)\n    ctx.log"))
        async with open_host(tmp_path) as host:
            await host.hooks(T).act(Doc("[(b'\\x07', {'junk': 'x' * 1_000_000})] * 20"))
            await have(host, "teller", 20, "sent")
            queue = host._dispatcher.bus._subscribers["keeper"].queue
            waiting = queue._waiting.clear()
            assert len(waiting) >= 10
            for delivery in waiting:
                view = memoryview(delivery.event.value)
                assert len(view) < 10 and len(memoryview(view.obj)) < 100

    run(scenario)


def test_value_that_nobody_can_read_hurts_neither_subscribers_nor_the_host(tmp_path: Path) -> None:
    """It is not looked at on its way; each receiver refuses it and goes on."""
    broken = {
        "text that is not UTF-8": b"\xa2\xff\xff",
        "a blob without memory": b"\xd4\x01\x00",
        "some other extension": b"\xd4\x05\x00",
        "too deep": b"\x91" * 200 + b"\xc0",
        "endlessly deep": b"\x91" * 60_000 + b"\xc0",
        "not a number": b"\xca\x7f\xc0\x00\x00",
        "no key of text": b"\x81\x01\x02",
    }

    async def scenario() -> None:
        publisher(tmp_path, code=SENDS_RAW)
        subscriber(tmp_path)
        subscriber(tmp_path, "other")
        got: list[Any] = []
        async with open_host(tmp_path) as host:
            host.subscribe("a.done", lambda event: got.append(event.value))
            connection_of(host, "other").codec = JSON
            await act(host, *((value, {}) for value in broken.values()), (b"\xa4fine", {}))
            await until(lambda: got[-1:] == ["fine"])
            for plugin in ("keeper", "other"):
                await have_last(host, plugin, "fine")
                assert host.plugin(plugin).history[-1].state == "ready" and not events(host, EventKind.PLUGIN_EXITED, plugin)
            assert not events(host, EventKind.PROTOCOL_ERROR)

    run(scenario)


def test_host_for_blocking_code_publishes(tmp_path: Path) -> None:
    subscriber(tmp_path)
    got: list[Any] = []
    with SyncHost(plugins=tmp_path / "plugins", state_dir=tmp_path / "state", contracts=[T], grants="manifest", control=False) as host:
        host.run(lambda inner: inner.subscribe("a.done", lambda event: got.append(event.value)))
        assert host.publish("a.done", "hello") == 2
        host.run(lambda _: until(lambda: got))
    assert got == ["hello"]


def test_subscriber_that_is_taken_away_is_told_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher(tmp_path)
        subscriber(tmp_path)
        async with open_host(tmp_path, grants="stored") as host:
            for plugin in ("teller", "keeper"):
                await host.plugin(plugin).grant()
            await act(host, ("a.done", 1))
            await have(host, "keeper", 1)
            await host.plugin("keeper").revoke(rights=["events.subscribe:a.done"])
            await wait_state(host.plugin("keeper"), "blocked")
            await act(host, ("a.done", 2))
            await until(lambda: events(host, EventKind.EVENT_DROPPED, "keeper"))
            await host.plugin("teller").revoke()
            assert await outcome_of(act(host, ("a.done", 3))) is None
            assert len(await lines(host, "keeper")) == 1
            assert len(await lines(host, "teller", "told")) == 2

    run(scenario)


def test_use_of_the_right_to_publish_is_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        extra = MAY.replace("= {}\n", '= {}\n"b.done" = {}\n').replace('["a.done"]', '["a.done", "b.done"]')
        publisher(tmp_path, extra=extra)
        subscriber(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            await act(host, ("a.done", 1))
            words = ["permissions", "teller", "--json", "--state", str(tmp_path / "state")]
            done = await asyncio.to_thread(CliRunner().invoke, cli, words)
            assert {row["right"]: row["use"] for row in json.loads(done.output)["rights"]} == {
                "events.publish:a.done": "used",
                "events.publish:b.done": "unused",
            }

    run(scenario)
