"""Plugins that break the protocol, lie or flood, in real processes beside a polite one.

Each case ends in a named error for the caller within its deadline, an event, a line in the plugin's log, and a host that goes on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from annexe import ExtensionPoint, HookSpec, Host, hook
from annexe.errors import (
    AnnexeError,
    CallError,
    CallTimeoutError,
    HookError,
    InvalidResultError,
    OutcomeUnknownError,
    PluginRaisedError,
    RejectedError,
)
from annexe.launch.removal import remove_tree
from annexe.record import Event, EventKind
from annexe.supervision.policies import Policies
from annexe.supervision.restart import RestartPolicy
from tests.support.hostile import write_plugin

pytestmark = pytest.mark.any_user

T = TypeVar("T")

_LAB = Path(__file__).parents[1] / "support" / "hostile" / "lab.py"

_LAB_TABLES = """
[provides.hooks]
"abuse.on_text" = { revision = 1 }
"abuse.strict" = { revision = 1 }
"abuse.on_chunks" = { revision = 1 }

[provides.extensions]
"lab" = { revision = 1 }

[permissions]
kv = { quota = "1MiB" }
subprocess = true

[resources]
call-timeout = "15s"
"""

_POLITE = """
from annexe_sdk import Plugin

plugin = Plugin()


@plugin.extension("polite")
class Polite:
    def greet(self, name, ctx):
        return f"good day, {name}, number {ctx.kv.increment('greeted')}"
"""

_POLITE_MANIFEST = """
manifest-version = 1
[plugin]
id = "polite"
version = "1.0.0"
name = "Polite"
[runtime]
kind = "python"
entry = "polite"
[provides.extensions]
"polite" = { revision = 1 }
[permissions]
kv = { quota = "1MiB" }
"""


class Abuse(HookSpec, name="abuse", revision=1):
    @hook.filter
    async def on_text(self, text: str) -> str: ...  # type: ignore[empty-body]

    @hook.filter(on_failure="closed")
    async def strict(self, text: str) -> str: ...  # type: ignore[empty-body]

    @hook.stream_filter
    def on_chunks(self, chunks: AsyncIterator[str], case: str) -> AsyncIterator[str]: ...  # type: ignore[empty-body]


class Lab(ExtensionPoint, name="lab", revision=1):
    async def text(self, case: str) -> str: ...  # type: ignore[empty-body]

    async def number(self, case: str) -> float: ...  # type: ignore[empty-body]

    async def anything(self, case: str) -> Any: ...


class Polite(ExtensionPoint, name="polite", revision=1):
    async def greet(self, name: str) -> str: ...  # type: ignore[empty-body]


class Scene:
    """One host with the hostile and the polite plugin, and a loop that runs only while a test does."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self.loop_errors: list[str] = []
        self.host = Host(
            plugins=folder / "plugins",
            contracts=[Abuse, Lab, Polite],
            state_dir=folder / "state",
            grants="manifest",
            control=False,
            policies=Policies(restart=RestartPolicy(max_failures=1000, first_delay_s=0.02, max_delay_s=0.02)),
        )
        self.run(self.host.open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self._runner.get_loop().set_exception_handler(lambda _loop, context: self.loop_errors.append(str(context)))
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self.host.close())
        self._runner.close()
        assert self.loop_errors == []

    @property
    def pid(self) -> int | None:
        return self.host.plugin("hostile").pid

    async def ready(self) -> int:
        """Wait until the hostile plugin takes calls; returns where the events stand."""
        deadline = time.monotonic() + 10
        while (plugin := self.host.plugin("hostile")).state != "ready":
            assert time.monotonic() < deadline, (plugin.state, plugin.reason)
            await asyncio.sleep(0.005)
        events = self.host.events.latest(1)
        return events[-1].sequence if events else 0

    def events(self, after: int, kind: EventKind) -> list[Event]:
        return [event for event in self.host.events.latest(200, plugin="hostile", kind=kind) if event.sequence > after]

    async def event(self, after: int, kind: EventKind) -> Event:
        """Wait for an event of the hostile plugin."""
        async with asyncio.timeout(10):
            while not self.events(after, kind):
                await asyncio.sleep(0.005)
        return self.events(after, kind)[0]

    def logged(self) -> list[dict[str, Any]]:
        self.host.logs.flush()
        return self.host.logs.tail("hostile", 400)

    async def politeness(self) -> None:
        """The polite plugin answers, with its store, soon."""
        async with asyncio.timeout(5):
            assert (await self.host.extension(Polite).greet("host")).startswith("good day, host")


@pytest.fixture(scope="module")
def scene(open_folder: Path) -> Iterator[Scene]:
    folder = open_folder / "abuse"
    plugins = folder / "plugins"
    (plugins / "polite").mkdir(parents=True)
    (plugins / "polite" / "plugin.toml").write_text(_POLITE_MANIFEST)
    (plugins / "polite" / "polite.py").write_text(_POLITE)
    for path in [folder, plugins, *(plugins / "polite").iterdir()]:
        path.chmod(0o755)
    write_plugin(plugins, "hostile", _LAB.read_text(), more=_LAB_TABLES)
    scene = Scene(folder)
    try:
        yield scene
    finally:
        scene.close()
        remove_tree(folder)


async def _call(scene: Scene, method: str, case: str, *, deadline_s: float = 5.0) -> Any:
    """Call the lab; the answer, or a typed error, comes within the deadline."""
    started = time.monotonic()
    try:
        async with scene.host.request(deadline_s=deadline_s) as request:
            return await getattr(request.extension(Lab), method)(case)
    finally:
        assert time.monotonic() - started < deadline_s + 3.0


BREAKS = [
    ("oversized-frame", "frame-too-large"),
    ("length-of-four-gib", "frame-too-large"),
    ("empty-frame", "frame-empty"),
    ("random-bytes", "bad-envelope"),
    ("undecodable-msgpack", "bad-envelope"),
    ("undecodable-json", "bad-envelope"),
    ("deeply-nested-envelope", "bad-envelope"),
    ("an-object", "bad-envelope"),
    ("empty-array", "bad-envelope"),
    ("unknown-kind", "bad-envelope"),
    ("kind-as-text", "bad-envelope"),
    ("extra-element", "bad-envelope"),
    ("missing-element", "bad-envelope"),
    ("meta-is-no-map", "bad-envelope"),
    ("error-is-no-map", "bad-envelope"),
    ("unknown-outcome", "bad-envelope"),
    ("very-long-method", "bad-envelope"),
    ("notification-in-bad-utf8", "bad-envelope"),
    ("asks-with-an-endless-deadline", "bad-envelope"),
    ("odd-request-id", "bad-id"),
    ("zero-request-id", "bad-id"),
    ("negative-request-id", "bad-id"),
    ("request-id-beyond-the-largest", "bad-id"),
    ("reused-request-id", "bad-id"),
    ("answer-to-what-was-never-asked", "unknown-id"),
    ("answer-to-an-even-id", "unknown-id"),
    ("second-answer-to-hello", "unknown-id"),
    ("item-for-an-id-never-used", "unknown-id"),
    ("credit-for-an-id-never-used", "unknown-id"),
    ("cancel-of-what-was-never-asked", "unknown-id"),
    ("cancel-of-the-hosts-call", "unknown-id"),
    ("end-of-the-hosts-stream", "wrong-parity"),
    ("end-for-an-id-never-used", "unknown-id"),
    ("release-without-arenas", "no-arena"),
]


@pytest.mark.parametrize(("case", "rule"), BREAKS)
def test_what_breaks_the_protocol_ends_the_connection_and_names_the_rule(scene: Scene, case: str, rule: str) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        with pytest.raises(OutcomeUnknownError) as caught:
            await _call(scene, "text", case)
        assert (caught.value.plugin, caught.value.method) == ("hostile", "ext.lab.text")
        event = await scene.event(after, EventKind.PROTOCOL_ERROR)
        assert event.facts["rule"] == rule
        await scene.event(after, EventKind.PLUGIN_EXITED)
        await scene.politeness()
        await scene.ready()
        assert await _call(scene, "text", "ping") == "pong"

    scene.run(scenario())
    assert any(line["level"] == "error" and "broke the protocol" in line["message"] for line in scene.logged())


ENDS = [
    ("truncated-frame", "exited with status 0"),
    ("exits", "exited with status 3"),
    ("dies-by-signal", "killed by SIGSEGV"),
    ("closes", "closed its connection"),
    ("forks-and-exits", "exited with status 0"),
]


@pytest.mark.parametrize(("case", "reason"), ENDS)
def test_a_plugin_that_goes_away_leaves_a_named_error_and_nothing_else(scene: Scene, case: str, reason: str) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        with pytest.raises(OutcomeUnknownError) as caught:
            await _call(scene, "text", case)
        assert (caught.value.plugin, caught.value.method) == ("hostile", "ext.lab.text")
        assert (await scene.event(after, EventKind.PLUGIN_EXITED)).reason == reason
        await scene.politeness()
        await scene.ready()

    scene.run(scenario())
    assert any(line["level"] == "error" and line["message"] == f"failed: {reason}" for line in scene.logged())


WRONG_RESULTS = [
    ("text", "broken-msgpack-result"),
    ("text", "broken-json-result"),
    ("text", "deeply-nested-json-result"),
    ("text", "deeply-nested-msgpack-result"),
    ("anything", "result-of-65-levels"),
    ("anything", "extension-type"),
    ("text", "bad-utf8-in-json"),
    ("text", "bad-utf8-in-msgpack"),
    ("anything", "bad-utf8-in-msgpack"),
    ("text", "error-in-bad-utf8"),
    ("text", "wrong-type"),
    ("number", "wrong-type"),
    ("text", "null"),
    ("number", "nan-in-json"),
    ("number", "nan-in-msgpack"),
    ("number", "infinity-in-msgpack"),
    ("anything", "nan-in-msgpack"),
    ("number", "endless-digits"),
    ("anything", "endless-digits"),
]


@pytest.mark.parametrize(("method", "case"), WRONG_RESULTS)
def test_a_result_that_does_not_fit_fails_its_call_alone(scene: Scene, method: str, case: str) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        pid = scene.pid
        with pytest.raises(InvalidResultError) as caught:
            await _call(scene, method, case)
        assert (caught.value.plugin, caught.value.method) == ("hostile", f"ext.lab.{method}")
        event = await scene.event(after, EventKind.INVALID_RESULT)
        assert event.facts["hook"] == f"ext.lab.{method}"
        await scene.politeness()
        assert await _call(scene, "text", "ping") == "pong"
        assert scene.pid == pid

    scene.run(scenario())
    assert any(line["level"] == "warning" and f"ext.lab.{method}" in line["message"] for line in scene.logged())


ERRORS = [
    ("unknown-error-code", PluginRaisedError, {}),
    ("error-of-the-hosts", PluginRaisedError, {}),
    ("rejects-with-a-wrong-status", RejectedError, {"reject_code": "gone", "status": 403}),
]


@pytest.mark.parametrize(("case", "error", "facts"), ERRORS)
def test_an_error_a_plugin_makes_up_becomes_one_of_ours(scene: Scene, case: str, error: type[AnnexeError], facts: dict[str, Any]) -> None:
    async def scenario() -> None:
        await scene.ready()
        pid = scene.pid
        with pytest.raises(error) as caught:
            await _call(scene, "text", case)
        assert caught.value.plugin == "hostile"
        assert {name: caught.value.data[name] for name in facts} == facts
        assert len(caught.value.message) < 10_000
        assert scene.pid == pid
        await scene.politeness()

    scene.run(scenario())


SKIPPED = [
    ("wrong-type", "invalid-result"),
    ("null", "invalid-result"),
    ("bad-utf8-in-json", "invalid-result"),
    ("broken-msgpack-result", "invalid-result"),
    ("deeply-nested-json-result", "invalid-result"),
    ("large-state", "invalid-result"),
    ("state-of-endless-digits", "invalid-result"),
    ("deeply-nested-state", "invalid-result"),
    ("state-in-bad-utf8", "invalid-result"),
    ("unknown-error-code", "plugin-raised"),
]


@pytest.mark.parametrize(("case", "code"), SKIPPED)
def test_a_fail_open_filter_is_skipped_and_a_fail_closed_one_fails_the_request(scene: Scene, case: str, code: str) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        async with scene.host.request(id=f"open-{case}", deadline_s=5) as request:
            assert await request.hooks(Abuse).on_text(case) == case
        event = await scene.event(after, EventKind.HOOK_SKIPPED)
        assert (event.facts["hook"], event.facts["code"]) == ("abuse.on_text", code)
        assert scene.host.explain(f"open-{case}")["steps"][0]["outcome"] == "failed"
        with pytest.raises(HookError) as caught:
            async with scene.host.request(deadline_s=5) as request:
                await request.hooks(Abuse).strict(case)
        assert (caught.value.plugin, caught.value.hook, caught.value.reason) == ("hostile", "abuse.strict", code)
        assert (await scene.event(after, EventKind.HOOK_FAILED)).facts["code"] == code
        # Answers between the failures, or the breaker would open.
        assert await scene.host.hooks(Abuse).on_text("ping") == "pong"
        assert await scene.host.hooks(Abuse).strict("ping") == "pong"
        await scene.politeness()

    scene.run(scenario())
    messages = [line["message"] for line in scene.logged() if line["level"] == "warning"]
    assert any("abuse.on_text" in message for message in messages)
    assert any("abuse.strict" in message for message in messages)


def test_a_result_of_ten_mebibytes_is_carried(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        assert len(await _call(scene, "text", "huge-result")) == 10 * 1024 * 1024 - 100
        await scene.politeness()

    scene.run(scenario())


def test_a_second_answer_leaves_the_first_and_ends_the_connection(scene: Scene) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        assert await _call(scene, "text", "answers-twice") == "first"
        assert (await scene.event(after, EventKind.PROTOCOL_ERROR)).facts["rule"] == "unknown-id"
        await scene.politeness()

    scene.run(scenario())


def test_an_answer_after_cancel_is_dropped(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        pid = scene.pid
        with pytest.raises(CallTimeoutError) as caught:
            await _call(scene, "text", "answers-after-cancel", deadline_s=0.5)
        assert (caught.value.plugin, caught.value.method) == ("hostile", "ext.lab.text")
        assert await _call(scene, "text", "ping") == "pong"
        assert scene.pid == pid
        await scene.politeness()

    scene.run(scenario())


def test_two_answers_after_cancel_end_the_connection(scene: Scene) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        with pytest.raises(CallTimeoutError):
            await _call(scene, "text", "answers-twice-after-cancel", deadline_s=0.5)
        assert (await scene.event(after, EventKind.PROTOCOL_ERROR)).facts["rule"] == "unknown-id"
        await scene.politeness()

    scene.run(scenario())


def test_what_a_plugin_prints_is_log_lines_and_never_frames(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        assert await _call(scene, "text", "prints") == "printed"
        await scene.politeness()
        async with asyncio.timeout(5):
            while not any(line["source"] == "stdout" for line in scene.logged()):
                await asyncio.sleep(0.02)

    scene.run(scenario())
    (line,) = {line["message"] for line in scene.logged() if line["source"] == "stdout"}
    assert "not a frame" in line
    assert "\x1b" not in line


def test_a_flood_of_log_lines_is_limited_and_told(scene: Scene) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        flood = asyncio.create_task(_call(scene, "text", "floods-logs"))
        await asyncio.sleep(0)
        await scene.politeness()
        assert await flood == "logged"
        event = await scene.event(after, EventKind.LOG_DROPPED)
        assert event.facts["dropped_count"] > 0
        await scene.politeness()

    scene.run(scenario())


def test_malformed_notifications_are_dropped(scene: Scene) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        pid = scene.pid
        assert await _call(scene, "text", "logs-nonsense") == "logged"
        await scene.event(after, EventKind.METRIC_DROPPED)
        assert scene.pid == pid
        await scene.politeness()

    scene.run(scenario())


def test_a_flood_of_kv_requests_is_refused_and_starves_nobody(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        flood = asyncio.create_task(_call(scene, "text", "floods-kv", deadline_s=15))
        for _ in range(5):
            await scene.politeness()
        codes = json.loads(await flood)
        assert codes.get("ok", 0) > 0
        assert codes.get("busy", 0) + codes.get("rate-limited", 0) > 0
        assert sum(codes.values()) == 3000

    scene.run(scenario())


def test_a_flood_of_calls_is_answered_and_starves_nobody(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        flood = asyncio.create_task(_call(scene, "text", "floods-calls", deadline_s=15))
        for _ in range(5):
            await scene.politeness()
        assert await flood == "answered"

    scene.run(scenario())


@pytest.mark.parametrize(
    ("case", "code"),
    [("asks-with-broken-params", "invalid-params"), ("method-in-bad-utf8", "invalid-params"), ("asks-on-behalf-of-nobody", "cancelled")],
)
def test_a_wrong_request_of_a_plugins_is_answered_with_an_error(scene: Scene, case: str, code: str) -> None:
    async def scenario() -> None:
        await scene.ready()
        assert await _call(scene, "text", case) == code
        await scene.politeness()

    scene.run(scenario())


# Streams.


async def _chunks(
    scene: Scene, case: str, *, deadline_s: float = 5.0, given: Callable[[], AsyncIterator[str]] | None = None, pause_s: float = 0.0
) -> list[str]:
    """Pass a stream through the lab; ``pause_s`` is taken by the reader after the first chunk."""

    async def source() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    passed = []
    async with scene.host.request(deadline_s=deadline_s) as request:
        async for chunk in request.hooks(Abuse).on_chunks((given or source)(), case):
            passed.append(chunk)
            await asyncio.sleep(pause_s if len(passed) == 1 else 0.0)
    return passed


async def _streams_still_work(scene: Scene) -> None:
    """An answer between failures, or the breaker would open."""
    await scene.ready()
    assert await _chunks(scene, "echo") == ["fine"]
    await scene.politeness()


STREAM_BREAKS = [
    ("item-over-its-credit", "credit-exceeded", None),
    ("item-over-64-kib", "credit-exceeded", ["a", "b"]),
    ("negative-credit", "bad-credit", ["a", "b"]),
    ("credit-of-zero", "bad-credit", ["a", "b"]),
]


@pytest.mark.parametrize(("case", "rule", "passed"), STREAM_BREAKS)
def test_what_breaks_the_rules_of_streams_ends_the_connection(scene: Scene, case: str, rule: str, passed: list[str] | None) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        if passed is None:  # it failed after its first output
            with pytest.raises(HookError) as caught:
                await _chunks(scene, case, pause_s=1.5)
            assert (caught.value.plugin, caught.value.reason) == ("hostile", "outcome-unknown")
        else:
            assert await _chunks(scene, case) == passed
        assert (await scene.event(after, EventKind.PROTOCOL_ERROR)).facts["rule"] == rule
        await scene.event(after, EventKind.HOOK_SKIPPED)
        await _streams_still_work(scene)

    scene.run(scenario())


@pytest.mark.parametrize("case", ["broken-item", "item-of-the-wrong-type"])
def test_an_item_that_does_not_fit_leaves_the_plugin_out(scene: Scene, case: str) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        pid = scene.pid
        assert await _chunks(scene, case) == ["a", "b"]
        assert (await scene.event(after, EventKind.HOOK_SKIPPED)).facts["code"] == "invalid-result"
        assert scene.pid == pid
        await _streams_still_work(scene)

    scene.run(scenario())


def test_more_credit_than_there_can_be_is_cut(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        assert await _chunks(scene, "endless-credit") == ["thanks"]
        await scene.politeness()

    scene.run(scenario())


def test_an_item_after_the_answer_is_ignored(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        pid = scene.pid
        assert await _chunks(scene, "item-after-the-answer") == []
        assert await _call(scene, "text", "ping") == "pong"
        assert scene.pid == pid

    scene.run(scenario())


def test_a_stream_without_end_fails_when_the_plugins_time_is_over(scene: Scene) -> None:
    async def scenario() -> None:
        after = await scene.ready()
        started = time.monotonic()
        with pytest.raises(HookError) as caught:
            await _chunks(scene, "stream-without-end", deadline_s=1.0)
        assert caught.value.reason == "deadline-exceeded"
        assert time.monotonic() - started < 4.0
        await scene.event(after, EventKind.HOOK_SKIPPED)
        await scene.politeness()

    scene.run(scenario())


def test_a_source_that_fails_is_not_blamed_on_the_plugin(scene: Scene) -> None:
    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise LookupError("the application's own")

    async def scenario() -> None:
        await scene.ready()
        with pytest.raises(LookupError, match="the application's own"):
            await _chunks(scene, "stream-without-end", given=failing)
        await scene.politeness()

    scene.run(scenario())


def test_a_call_that_is_never_answered_ends_at_its_deadline(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.ready()
        with pytest.raises(CallError) as caught:
            await _call(scene, "text", "never-answers", deadline_s=0.3)
        assert (caught.value.code, caught.value.plugin) == ("deadline-exceeded", "hostile")
        await scene.politeness()

    scene.run(scenario())
