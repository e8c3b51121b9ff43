"""A plugin that attacks others, or the host's time and memory, by way of hooks that plugins define."""

from __future__ import annotations

import asyncio
import json
import textwrap
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import pytest

from annexe.dispatch.events import MAX_DEPTH
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, outcome_of, run, until, write_plugin

pytestmark = pytest.mark.any_user

ANY = {"type": "object"}
LOOKED_AT_AGAIN: Any = {"type": "object"}
for _ in range(24):
    LOOKED_AT_AGAIN = {"allOf": [LOOKED_AT_AGAIN], "unevaluatedProperties": False}
CALLS = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    codes = {}
    for name, value in eval(doc["text"]):
        try:
            ctx.hook(name, value)
            code = "answered"
        except Exception as error:
            code = getattr(error, "code", type(error).__name__)
        codes[code] = codes.get(code, 0) + 1
    doc["marks"] = [repr(codes)]
    return doc
"""
PASSES = """
@plugin.filter("{hook}")
def passes(value, ctx):
    return value
"""
TIME = '[resources]\ncall-timeout = "20s"\n'


def write(
    root: Path,
    plugin: str,
    *,
    code: str = CALLS,
    hooks: Any = ("t.edit",),
    spec: str = "",
    schema: Any = ANY,
    extra: str = "",
    rights: str = "",
) -> None:
    offer = f'[provides.hook-specs]\n"{spec}" = {{ schema = "value.json", kind = "{extra or "filter"}" }}\n' if spec else ""
    folder = write_plugin(root / "plugins", plugin, code, hooks=hooks, extra=offer + TIME + rights)
    (folder / "value.json").write_text(json.dumps(schema, separators=(",", ":")))


async def attacked(host: Any, calls: str) -> dict[str, int]:
    async with host.request(deadline_s=15) as scope:
        doc = await scope.hooks(T).edit(Doc(calls))
    codes: dict[str, int] = eval(doc.marks[0])
    return codes


def test_plugin_cannot_call_a_hook_that_is_not_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "thief")
        write(tmp_path, "owner", code="", hooks=(), spec="sums.add")
        write(tmp_path, "worker", code=PASSES.format(hook="sums.add"), hooks=("sums.add",))
        async with open_host(tmp_path) as host:
            # Another plugin's, the application's, one that nobody defines, and names that are none.
            calls = repr([(name, {}) for name in ("sums.add", "t.edit", "t.strict", "no.body")])
            assert await attacked(host, calls) == {"permission-denied": 4}
            assert await attacked(host, repr([("x", {}), ("a..b", {}), ("", {}), ("A.b", {})])) == {"method-not-found": 4}
            reasons = [event.reason for event in events(host, EventKind.PERMISSION_DENIED, "thief")]
            assert any("calls hook 'sums.add', which it does not define" in reason for reason in reasons)
            assert host.metrics.snapshot_of("worker")["methods"]["hook.sums.add"]["calls"] == 0

    run(scenario)


def test_plugin_whose_right_is_taken_back_calls_its_hook_no_more(tmp_path: Path) -> None:
    slow = CALLS.replace("for name", "time.sleep(0.3)\n    for name")

    async def scenario() -> None:
        write(tmp_path, "owner", code=slow, spec="sums.add")
        async with open_host(tmp_path, grants="stored") as host:
            owner = host.plugin("owner")
            await owner.grant()
            await until(lambda: owner.state == "ready")
            work = asyncio.ensure_future(outcome_of(attacked(host, repr([("sums.add", {})]))))
            await until(lambda: connection_of(host, "owner").open_calls)
            await owner.revoke()  # it drains: the call is under way
            outcome = await work
            assert outcome == {"permission-denied": 1} or isinstance(outcome, Exception)

    run(scenario)


def test_values_that_take_long_to_check_are_limited_and_the_host_goes_on(tmp_path: Path) -> None:
    # About as dear as a schema may be, and a value as large as it may be with that.
    schema = {"type": "array", "items": {"allOf": [{"type": "integer", "minimum": number} for number in range(-900, 0)]}}

    async def scenario() -> None:
        write(tmp_path, "flood", spec="sums.add", schema=schema)
        write(tmp_path, "worker", code=PASSES.format(hook="sums.add"), hooks=("sums.add",))
        write(tmp_path, "other", code="@plugin.filter('t.strict')\ndef strict(doc, ctx):\n    return ctx.unchanged\n", hooks=("t.strict",))
        async with open_host(tmp_path) as host:
            work = asyncio.ensure_future(attacked(host, "[('sums.add', [1] * 2300)] * 600"))
            took = []
            while not work.done():
                began = perf_counter()
                await host.hooks(T).strict(Doc("x"))
                took.append(perf_counter() - began)
            codes = await work
            assert codes["rate-limited"] > 0 and codes["answered"] > 0
            assert sorted(took)[len(took) // 2] < 0.25
            assert events(host, EventKind.RATE_LIMITED, "flood")

    run(scenario)


def test_schemas_that_are_refused_do_not_stop_the_host_each_time_their_plugin_is_judged(tmp_path: Path) -> None:
    async def scenario() -> None:
        rows = "".join(f'"many.h{n}" = {{ schema = "{n}.json", kind = "filter" }}\n' for n in range(16))
        folder = write_plugin(tmp_path / "plugins", "many", "", extra=f"[provides.hook-specs]\n{rows}")
        for n in range(16):
            (folder / f"{n}.json").write_text(json.dumps({"title": str(n), "enum": [{"a": [0] * 8}] * 2500}, separators=(",", ":")))
        async with open_host(tmp_path) as host:
            assert host.plugin("many").reason.count("is refused") == 16
            began = thread_time()
            await host.scan()
            assert thread_time() - began < 0.5

    run(scenario)


def test_observers_that_have_each_other_observe_come_to_an_end(tmp_path: Path) -> None:
    hears = """
    @plugin.observer("{other}.said")
    def heard(value, ctx):
        ctx.log.info("heard", n=value["n"])
        ctx.hook("{plugin}.said", {{"n": value["n"] + 1}})
    """

    async def scenario() -> None:
        for plugin, other, first in (("ping", "pong", CALLS), ("pong", "ping", "")):
            code = first + textwrap.dedent(hears.format(plugin=plugin, other=other))
            hooks = ("t.edit", "pong.said") if first else ("ping.said",)
            write(tmp_path, plugin, code=code, hooks=hooks, spec=f"{plugin}.said", extra="observer")
        async with open_host(tmp_path) as host:
            assert await attacked(host, "[('ping.said', {'n': 1})]") == {"answered": 1}
            await until(lambda: events(host, EventKind.HOOK_SKIPPED))
            (last,) = events(host, EventKind.HOOK_SKIPPED)
            assert f"what observers have others observe is {MAX_DEPTH} deep, so hook.ping.said is not called" in last.reason

            def heard() -> list[int]:
                lines = [line for plugin in ("ping", "pong") for line in host.logs.tail(plugin, 1000)]
                return sorted(line["fields"]["n"] for line in lines if line["message"] == "heard")

            await until(lambda: len(heard()) >= MAX_DEPTH)
            assert heard() == list(range(1, MAX_DEPTH + 1))

    run(scenario)


def test_observers_and_events_that_follow_from_each_other_come_to_an_end(tmp_path: Path) -> None:
    goes = """
    @plugin.on_event("all.news")
    def told(event, ctx):
        ctx.hook("ping.said", {"n": 1})
    """
    answers = """
    @plugin.observer("ping.said")
    def heard(value, ctx):
        ctx.publish("all.news", 1)
    """

    rights = "[permissions]\nevents = { "

    async def scenario() -> None:
        write(
            tmp_path,
            "ping",
            code=CALLS + textwrap.dedent(goes),
            spec="ping.said",
            extra="observer",
            rights=f'{rights}subscribe = ["all.news"] }}',
        )
        write(
            tmp_path,
            "pong",
            code=answers,
            hooks=("ping.said",),
            rights=f'[provides.topics]\n"all.news" = {{}}\n{rights}publish = ["all.news"] }}',
        )
        async with open_host(tmp_path) as host:
            assert await attacked(host, "[('ping.said', {'n': 1})]") == {"answered": 1}
            await until(lambda: events(host, EventKind.HOOK_SKIPPED) or events(host, EventKind.CALL_FAILED))
            calls = host.metrics.snapshot_of("pong")["methods"]["hook.ping.said"]["calls"]
            assert calls == MAX_DEPTH // 2

    run(scenario)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"items": {"multipleOf": 5e-324}}, "[1e308] * 25_000", id="fractions"),
        pytest.param({"pattern": "[ab]*a[ab]{1000}c"}, "''.join(__import__('random').choices('ab', k=150_000))", id="pattern"),
        pytest.param({"items": {"const": {f"a{n}": 0 for n in range(4000)}}}, "[0] * 40_000", id="errors"),
    ],
)
def test_value_that_would_stop_the_host_for_long_is_refused(tmp_path: Path, schema: Any, value: str) -> None:
    async def scenario() -> None:
        write(tmp_path, "flood", spec="sums.add", schema=schema)
        write(tmp_path, "worker", code=PASSES.format(hook="sums.add"), hooks=("sums.add",))
        async with open_host(tmp_path) as host:
            await host.hooks(T).edit(Doc("[]"))  # it is there
            began = thread_time()
            assert await attacked(host, f"[('sums.add', {value})]") == {"invalid-params": 1}
            assert thread_time() - began < 0.5

    run(scenario)


def test_huge_and_deep_values_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "owner", spec="sums.add")
        grows = "@plugin.filter('sums.add')\ndef grow(value, ctx):\n    return {'x': 'y' * 300_000}\n"
        write(tmp_path, "worker", code=grows, hooks=("sums.add",))
        async with open_host(tmp_path) as host:
            assert await attacked(host, "[('sums.add', {'x': 'y' * 300_000})] * 3") == {"invalid-params": 3}
            assert await attacked(host, "[('sums.add', {'x': b'y' * 3_000_000})] * 3") == {"invalid-params": 3}
            deep = "[('sums.add', {'x': __import__('functools').reduce(lambda value, _: [value], range(60), 1)})]"
            assert await attacked(host, deep) == {"answered": 1}
            assert await attacked(host, deep.replace("60", "64")) == {"invalid-params": 1}
            assert await attacked(host, "[('sums.add', {'x': 'y'})]") == {"answered": 1}
            (bad, *_) = events(host, EventKind.INVALID_RESULT, "worker")
            assert "expected at most 262144 bytes" in bad.reason

    run(scenario)


def test_flood_of_observations_pushes_out_none_of_the_applications(tmp_path: Path) -> None:
    watches = """
    @plugin.observer("sums.seen")
    def seen(value, ctx):
        time.sleep(0.002)
    @plugin.observer("t.seen")
    def own(what, ctx):
        ctx.log.info("own", what=what)
    """

    async def scenario() -> None:
        write(tmp_path, "flood", spec="sums.seen", extra="observer")
        write(tmp_path, "worker", code=watches, hooks=("sums.seen", "t.seen"))
        async with open_host(tmp_path) as host:
            work = asyncio.ensure_future(attacked(host, "[('sums.seen', {})] * 3000"))
            for number in range(50):
                await host.hooks(T).seen(str(number))
                await asyncio.sleep(0.005)
            assert await work == {"answered": 3000}

            def own() -> list[str]:
                return [line["fields"]["what"] for line in host.logs.tail("worker", 1000) if line["message"] == "own"]

            await until(lambda: own() == [str(number) for number in range(50)])
            assert events(host, EventKind.OBSERVER_DROPPED, "worker")

    run(scenario)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        pytest.param({"$ref": "file:///etc/passwd"}, "nothing is fetched from elsewhere", id="a file of the host's"),
        pytest.param({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "does it refer to itself", id="itself"),
        pytest.param({"items": {"enum": list(range(6000))}}, "at most 5000 parts", id="many parts"),
        pytest.param({"pattern": "(a+)+\\1$"}, "", id="a pattern that looks back"),
        pytest.param([], "expected an object", id="no object"),
        # Each of these took the host's loop for many seconds at a value of a few bytes, or of a few kilobytes.
        pytest.param(LOOKED_AT_AGAIN, "at most 5000 parts", id="parts that look at all inside them again"),
        pytest.param({"pattern": "[ab]*a([ab]{50}){100}c"}, "at most 5000 parts", id="a pattern that is at many places at once"),
        pytest.param({"items": {"dependentSchemas": {f"{n}": True for n in range(5100)}}}, "at most 5000 parts", id="many names"),
        pytest.param({"items": {"const": {f"{n}": 0 for n in range(5100)}}}, "at most 5000 parts", id="a large value in each error"),
    ],
)
def test_schema_that_the_host_could_not_run_blocks_its_plugin(tmp_path: Path, schema: Any, why: str) -> None:
    async def scenario() -> None:
        write(tmp_path, "owner", spec="sums.add", schema=schema)
        async with open_host(tmp_path) as host:
            owner = host.plugin("owner")
            assert owner.state == "blocked"
            assert "the schema value.json of hook 'sums.add' is refused" in owner.reason and why in owner.reason

    run(scenario)
