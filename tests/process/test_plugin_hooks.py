"""Hooks that plugins define, through real processes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from annexe import Host
from annexe.channel.messages import JSON
from annexe.cli.app import cli
from annexe.dispatch.plugin_hooks import HookRoute
from annexe.errors import InvalidParamsError
from annexe.host.control_client import ControlClient
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, outcome_of, policies, run, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}, "by": {"type": "array"}}, "required": ["n"]}
CALLS = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    name, value = eval(doc["text"])
    try:
        doc["marks"].append(repr(ctx.hook(name, value)))
    except Exception as error:
        doc["marks"] += [type(error).__name__, getattr(error, "code", ""), str(error)]
    return doc
"""
CALLS_AWAITED = CALLS.replace("def edit", "async def edit").replace("ctx.hook", "await ctx.hook")
ADDS = """
@plugin.filter("sums.add")
def add(value, ctx):
    value["n"] += 1
    value.setdefault("by", []).append("{plugin}")
    return value
"""


def write_definer(
    root: Path,
    plugin: str = "definer",
    *,
    code: str = CALLS,
    name: str = "sums.add",
    hooks: Iterable[str] = ("t.edit",),
    schema: Any = NUMBER,
    extra: str = "",
    runtime: str = "",
    **terms: Any,
) -> Path:
    line = {"schema": "number.json", "kind": "filter", **terms}
    offer = ", ".join(f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in line.items())
    extra = f'[provides.hook-specs]\n"{name}" = {{ {offer} }}\n{extra}'
    folder = write_plugin(root / "plugins", plugin, code, hooks=hooks, extra=extra, runtime=runtime)
    (folder / "number.json").write_text(json.dumps(schema))
    (folder / "text.json").write_text('{"type": "string"}')
    return folder


def write_adder(root: Path, plugin: str, *, code: str = ADDS, more: str = "", hook: str = "sums.add", **options: Any) -> Path:
    return write_plugin(root / "plugins", plugin, code.replace("{plugin}", plugin), hooks={hook: more}, **options)


async def called(host: Host, value: Any, *, hook: str = "sums.add", deadline_s: float = 5.0, **request: Any) -> list[str]:
    """Have the definer call a hook; return what it saw."""
    async with host.request(deadline_s=deadline_s, **request) as scope:
        doc = await scope.hooks(T).edit(Doc(repr((hook, value))))
    return doc.marks


@pytest.mark.both_users
@pytest.mark.parametrize("code", [pytest.param(CALLS, id="def"), pytest.param(CALLS_AWAITED, id="async def")])
@pytest.mark.parametrize("codecs", [pytest.param(("msgpack", "json"), id="msgpack"), pytest.param(("json",), id="json")])
def test_filter_passes_the_value_in_order_and_explain_shows_it(open_folder: Path, tmp_path: Path, code: str, codecs: Any) -> None:
    async def scenario() -> None:
        write_definer(tmp_path, code=code)
        write_adder(tmp_path, "alpha", more="priority = 200")
        write_adder(tmp_path, "beta")
        write_adder(tmp_path, "gamma", more='before = ["beta"]')
        async with open_host(tmp_path, codecs=codecs) as host:
            assert await called(host, {"n": 1}, id="r") == [repr({"n": 4, "by": ["gamma", "beta", "alpha"]})]
            told = host.explain("r")["steps"]
            assert [(step["plugin"], step["hook"], step["outcome"], step.get("within")) for step in told] == [
                ("definer", "t.edit", "changed", None),
                ("gamma", "sums.add", "changed", "definer"),
                ("beta", "sums.add", "changed", "definer"),
                ("alpha", "sums.add", "changed", "definer"),
            ]
            assert told[1]["changes"]

    run(scenario)


def test_wrong_types_are_the_fault_of_whoever_sends_them(tmp_path: Path) -> None:
    wrong = """
    @plugin.filter("sums.add")
    def add(value, ctx):
        return {"n": "one"}
    """

    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha", code=wrong, more="priority = 1")
        write_adder(tmp_path, "beta")
        async with open_host(tmp_path) as host:
            assert await called(host, {"n": 1}, id="r") == [repr({"n": 2, "by": ["beta"]})]
            bad = host.explain("r")["steps"][1]
            assert (bad["plugin"], bad["outcome"], bad["within"]) == ("alpha", "failed", "definer")
            assert 'at $.n: expected type "integer", got "one"' in bad["reason"]
            assert events(host, EventKind.INVALID_RESULT, "alpha") and events(host, EventKind.HOOK_SKIPPED, "alpha")
            told = await called(host, {"n": 1.5})
            assert told[:2] == ["CallFailed", "invalid-params"]
            assert told[2].endswith("hook.sums.add: parameter 'value' at $.n: expected type \"integer\", got 1.5.")
            assert 'expected required ["n"], got {}' in (await called(host, {}))[2]
            assert "expected a plain JSON value" in (await called(host, {"n": 1, "x": b"raw"}))[2]
            assert not events(host, EventKind.HOOK_SKIPPED, "beta")

    run(scenario)


@pytest.mark.parametrize(
    ("who", "policy"),
    [
        pytest.param("nobody", "open", id="nobody's"),
        pytest.param("definer", "closed", id="definer's"),
        pytest.param("implementer", "closed", id="implementer's"),
    ],
)
def test_failure_follows_the_strictest_policy(tmp_path: Path, policy: str, who: str) -> None:
    faults = """
    @plugin.filter("sums.add")
    def add(value, ctx):
        match value["n"]:
            case 1: raise ValueError("not today")
            case 2: os._exit(3)
            case 3: time.sleep(5)
            case 4: raise Reject("too-many", "four is too many", status=429)
            case 5: raise Respond({"n": 50})
        return ctx.unchanged
    """
    codes = {1: "plugin-raised", 2: "outcome-unknown", 3: "deadline-exceeded"}

    async def scenario() -> None:
        patient = '[resources]\ncall-timeout = "10s"\n'
        write_definer(tmp_path, on_failure=policy if who == "definer" else "open", budget="1s", extra=patient)
        write_adder(tmp_path, "alpha", code=faults, more=f'on-failure = "{policy}"' if who == "implementer" else "", extra=patient)
        write_adder(tmp_path, "beta")
        async with open_host(tmp_path) as host:
            assert (await called(host, {"n": 4}))[1:] == ["rejected", "rejected: four is too many"]
            assert await called(host, {"n": 5}) == [repr({"n": 50})]
            pid = host.plugin("alpha").pid
            for number, code in codes.items():
                told = await called(host, {"n": number}, id=f"r-{number}")
                step = host.explain(f"r-{number}")["steps"][1]
                assert (step["plugin"], step["outcome"]) == ("alpha", "failed") and step["reason"].startswith(code)
                if policy == "open":
                    assert told == [repr({"n": number + 1, "by": ["beta"]})]
                else:
                    assert told[1] == "hook-failed" and "sums.add failed closed: plugin 'alpha'" in told[2]
                if number == 2:
                    await until(lambda: host.plugin("alpha").pid not in (None, pid) and host.plugin("alpha").state == "ready")

    run(scenario)


@pytest.mark.parametrize("kind", ["action", "first_result", "observer"])
def test_other_kinds_of_hook(tmp_path: Path, kind: str) -> None:
    code = """
    @plugin.{kind}("sums.add")
    def add(value, ctx):
        ctx.log.info("told", n=value["n"], caller=ctx.caller, request=ctx.request_id, key=ctx.key)
        return {answer}
    """

    def told(host: Host, plugin: str) -> list[Any]:
        return [line["fields"] for line in host.logs.tail(plugin, 100) if line["message"] == "told"]

    async def scenario() -> None:
        write_definer(tmp_path, kind=kind, **({"result": "text.json"} if kind == "first_result" else {}))
        answers = (
            {"alpha": "None", "beta": "5", "gamma": "'found'", "omega": "'late'"}
            if kind == "first_result"
            else dict.fromkeys("abc", "None")
        )
        for plugin, answer in answers.items():
            write_adder(tmp_path, plugin, code=code.format(kind=kind, answer=answer))
        async with open_host(tmp_path) as host:
            result = await called(host, {"n": 3}, id="r", key="tenant-1")
            last = [*answers][2]
            (line,) = await until(lambda: told(host, last))
            assert line == {"n": 3, "caller": "definer", "request": "r", "key": "tenant-1"}
            if kind == "first_result":
                assert result == ["'found'"]
                assert [(step["plugin"], step["outcome"]) for step in host.explain("r")["steps"]][1:] == [
                    ("alpha", "none"),
                    ("beta", "failed"),
                    ("gamma", "answered"),
                ]
                assert not told(host, "omega")
            else:
                assert result == ["None"]
                wanted = {"done"} if kind == "action" else {"observed"}
                await until(lambda: {step["outcome"] for step in host.explain("r")["steps"] if "within" in step} == wanted)

    run(scenario)


def test_definer_that_comes_later_brings_those_to_work_that_were_there_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_adder(tmp_path, "alpha")
        write_adder(tmp_path, "beta", hook="sums.ad")
        async with open_host(tmp_path) as host:
            alpha, beta = host.plugin("alpha"), host.plugin("beta")
            assert alpha.state == beta.state == "blocked"
            assert "which the host does not open" in alpha.reason
            assert "install the plugin that has it under [provides.hook-specs]: this one starts once that is there" in alpha.reason
            write_definer(tmp_path)
            await host.scan()
            await wait_state(alpha, "ready")
            assert await called(host, {"n": 1}) == [repr({"n": 2, "by": ["alpha"]})]
            await beta.restart()
            assert "provides hook 'sums.ad', which the host does not open; expected 'sums.add'" in beta.reason
            shutil.rmtree(tmp_path / "plugins" / "definer")
            await host.scan()
            await alpha.restart()  # nobody defines its hook any more, which somebody did
            assert alpha.state == "ready"
            (line,) = [line for line in host.logs.tail("alpha", 100) if "is not called" in line["message"]]
            assert line["message"] == "it is not called at hook 'sums.add': no enabled plugin that was granted define:sums.add defines it"
            write_definer(tmp_path)
            await host.scan()
            assert await called(host, {"n": 1}) == [repr({"n": 2, "by": ["alpha"]})]

    run(scenario)


def test_other_revision_is_passed_over_until_it_fits(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path, revision=1)
        folder = write_adder(tmp_path, "alpha")
        write_adder(tmp_path, "beta")
        text = (folder / "plugin.toml").read_text()
        (folder / "plugin.toml").write_text(text.replace("revision = 1", "revision = 2"))
        async with open_host(tmp_path, control=True) as host:
            assert host.plugin("alpha").state == "ready"
            done = await asyncio.to_thread(CliRunner().invoke, cli, ["reload", "alpha", "--state", str(tmp_path / "state")])
            why = "it is not called at sums.add: it implements revision 2, and plugin 'definer' defines revision 1"
            assert (done.exit_code, done.output.splitlines()[1:]) == (0, [why])
            assert await called(host, {"n": 1}) == [repr({"n": 2, "by": ["beta"]})]
            assert host._dispatcher.implementers("sums.add") == (
                ["beta"],
                {"alpha": "it implements revision 2, and plugin 'definer' defines revision 1"},
            )
            write_definer(tmp_path, revision=2, schema={"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}})
            await host.plugin("definer").reload()
            assert await called(host, {"n": 5}) == [repr({"n": 6, "by": ["alpha"]})]
            assert (await called(host, {"n": 1}))[1] == "invalid-params"

    run(scenario)


def test_other_kind_is_refused_at_activation_and_passed_over_when_the_definer_changes_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha")
        write_adder(tmp_path, "beta", code=ADDS.replace("plugin.filter", "plugin.action"))
        async with open_host(tmp_path, policies=policies(max_failures=1)) as host:
            beta = host.plugin("beta")
            assert beta.state == "quarantined"
            told = [event.reason for event in host.events.latest(1000)] + [line["message"] for line in host.logs.tail("beta", 100)]
            assert any("answers sums.add as action (at main.py:5), expected filter" in text for text in told)
            write_definer(tmp_path, kind="action")
            await host.plugin("definer").reload()
            await beta.restart()
            assert host._dispatcher.implementers("sums.add") == (
                ["beta"],
                {"alpha": "it answers it as filter, and plugin 'definer' defines it as action"},
            )
            write_adder(tmp_path, "alpha", code=ADDS.replace("plugin.filter", "plugin.action"))
            await host.plugin("alpha").reload()
            assert host._dispatcher.implementers("sums.add") == (["alpha", "beta"], {})

    run(scenario)


def test_name_belongs_to_one_plugin_until_it_leaves(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path, "first")
        write_definer(tmp_path, "second", hooks=["t.strict"], code=CALLS.replace("t.edit", "t.strict"))
        write_definer(tmp_path, "thief", name="t.edit", hooks=(), code="")
        async with open_host(tmp_path) as host:
            second, thief = host.plugin("second"), host.plugin("thief")
            assert second.state == "blocked"
            assert "plugin 'second' defines hook 'sums.add', which plugin 'first' defines already; it starts once that" in second.reason
            assert thief.state == "blocked" and "the hooks of 't' are the application's own" in thief.reason
            await host.plugin("first").disable()
            await wait_state(second, "ready")
            await host.plugin("first").enable()
            assert host.plugin("first").state == "blocked"
            assert (await host.hooks(T).strict(Doc(repr(("sums.add", {"n": 1}))))).marks == [repr({"n": 1})]

    run(scenario)


@pytest.mark.both_users
def test_name_is_nobodys_until_it_is_granted(open_folder: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha")
        async with open_host(tmp_path, grants="stored") as host:
            definer, alpha = host.plugin("definer"), host.plugin("alpha")
            assert definer.state == "blocked" and "it asks for define:sums.add, which nobody has granted" in definer.reason
            assert alpha.state == "ready"
            assert host._dispatcher.implementers("sums.add") == (
                [],
                {"alpha": "no enabled plugin that was granted define:sums.add defines it"},
            )
            await definer.grant()
            await wait_state(definer, "ready")
            assert await called(host, {"n": 1}) == [repr({"n": 2, "by": ["alpha"]})]
            await definer.revoke(rights=["define:sums.add"])
            assert definer.state == "blocked" and alpha.state == "ready"
            assert host._dispatcher.implementers("sums.add")[0] == []

    run(scenario)


def test_contradicting_order_is_refused_to_whoever_closes_the_ring_though_nobody_defines_the_hook_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha", more='before = ["beta"]')
        write_adder(tmp_path, "beta", more='before = ["alpha"]')
        async with open_host(tmp_path, grants="stored") as host:
            assert host.plugin("alpha").state == "ready"
            assert "before and after contradict each other: alpha → beta → alpha" in host.plugin("beta").reason
            await host.plugin("definer").grant()
            await wait_state(host.plugin("definer"), "ready")
            assert await called(host, {"n": 1}) == [repr({"n": 2, "by": ["alpha"]})]

    run(scenario)


def test_operator_orders_a_hook_that_a_plugin_defines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha")
        write_adder(tmp_path, "beta")
        order = {"sums.add": ["beta", "absent"], "other.hook": ["beta"]}
        async with open_host(tmp_path, order=order) as host:
            assert await called(host, {"n": 1}, id="r") == [repr({"n": 3, "by": ["beta", "alpha"]})]
            assert host.explain("r")["absent"] == [{"hook": "sums.add", "names": ["absent"]}]

    run(scenario)
    assert "order names hook 'other.hook', which the host does not open and no plugin defines" in caplog.text


@pytest.mark.parametrize("code", [pytest.param(CALLS, id="def"), pytest.param(CALLS_AWAITED, id="async def")])
def test_what_is_cancelled_or_late_ends_everywhere(tmp_path: Path, code: str) -> None:
    slow = """
    @plugin.filter("sums.add")
    def add(value, ctx):
        ctx.log.info("began", left_s=ctx.deadline_s)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if ctx.cancelled:
                ctx.log.info("was cancelled")
                return value
            time.sleep(0.005)
    """

    def lines(host: Host, message: str) -> list[Any]:
        return [line for line in host.logs.tail("alpha", 100) if line["message"] == message]

    async def scenario() -> None:
        write_definer(tmp_path, code=code, extra='[resources]\ncall-timeout = "20s"\n')
        # It reads the cancel while it works because it could run a second call.
        write_adder(tmp_path, "alpha", code=slow, extra='[resources]\ncall-timeout = "20s"\n', runtime="concurrency = 2")
        async with open_host(tmp_path) as host:
            work = asyncio.ensure_future(called(host, {"n": 1}))
            await until(lambda: lines(host, "began"))
            work.cancel()
            assert isinstance(await outcome_of(asyncio.gather(work, return_exceptions=True)), list)
            await until(lambda: lines(host, "was cancelled"))
            await called(host, {"n": 1}, deadline_s=1.5)
            await until(lambda: len(lines(host, "was cancelled")) == 2)
            assert lines(host, "began")[1]["fields"]["left_s"] < 1.5
            work = asyncio.ensure_future(called(host, {"n": 1}))
            await until(lambda: len(lines(host, "began")) == 3)
            os.kill(host.plugin("definer").pid or 0, signal.SIGKILL)  # it goes away in the middle
            await until(lambda: len(lines(host, "was cancelled")) == 3)
            assert await work == []
            await wait_state(host.plugin("definer"), "ready")

    run(scenario)


def test_plugins_of_two_codecs_pass_a_value_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha")
        write_adder(tmp_path, "beta")
        async with open_host(tmp_path) as host:
            value = {"n": 1, "deep": [1, 2.5, None, "é", True, {"k": []}]}
            wanted = [repr({**value, "n": 3, "by": ["alpha", "beta"]})]
            for plugin in ("alpha", "definer"):
                connection_of(host, plugin).codec = JSON  # as with an SDK that has no MessagePack
                assert await called(host, value) == wanted
            assert (await called(host, {"n": 2**70}))[0] == "CodecError"

    run(scenario)


def test_hooks_and_services_nest_without_a_deadlock_and_to_a_bounded_depth(tmp_path: Path) -> None:
    service = """
    @plugin.service("deep")
    class Deep:
        def dive(self, value, ctx):
            return ctx.hook("sums.add", value)
    """
    dives = """
    @plugin.filter("sums.add")
    def add(value, ctx):
        value["n"] += 1
        if value["n"] == 3:
            return value
        try:
            return ctx.service("deep").dive(value)
        except Exception as error:
            value["by"] = [*value.get("by", []), getattr(error, "code", repr(error))]
            return value
    """
    offers = '[provides.services]\n"deep" = { version = "1.0.0" }\n[resources]\ncall-timeout = "10s"\n'
    asks = '[permissions]\nservices = ["deep"]\n[resources]\ncall-timeout = "10s"\n'

    async def scenario() -> None:
        write_definer(tmp_path, code=CALLS + textwrap.dedent(service), extra=offers)
        write_adder(tmp_path, "alpha", code=dives, extra=asks)
        async with open_host(tmp_path) as host:
            assert await called(host, {"n": 1}, id="r") == [repr({"n": 3})]
            assert [(step["plugin"], step.get("within")) for step in host.explain("r")["steps"]] == [
                ("definer", None),
                ("alpha", "definer"),
                ("alpha", "definer"),
            ]
            (told,) = await called(host, {"n": 3 + 1}, deadline_s=10.0)
            found = eval(told)
            assert 7 <= found["n"] - 4 <= 9 and found.get("by", ["busy"]) == ["busy"]  # about half of the 16 calls are of the hook

    run(scenario)


def test_state_and_request_are_those_that_the_definer_works_on(tmp_path: Path) -> None:
    keeps = """
    @plugin.filter("sums.add")
    def add(value, ctx):
        ctx.state["seen"] = ctx.state.get("seen", 0) + 1
        return {"n": ctx.state["seen"], "by": [ctx.caller, ctx.request_id, ctx.key, ctx.traceparent]}

    @plugin.filter("t.edit")
    def edit(doc, ctx):
        doc["marks"].append(str(ctx.state.get("seen")))
        return doc
    """

    async def scenario() -> None:
        write_definer(tmp_path)
        write_plugin(tmp_path / "plugins", "keeper", keeps, hooks={"sums.add": "", "t.edit": "priority = 1"})
        async with open_host(tmp_path) as host:
            trace = f"00-{'a' * 32}-{'b' * 16}-01"
            async with host.request(id="r-7", key="tenant-1", traceparent=trace) as scope:
                doc = Doc(repr(("sums.add", {"n": 1})))
                for count in (1, 2):
                    doc = await scope.hooks(T).edit(doc)
                    assert doc.marks[-1] == repr({"n": count, "by": ["definer", "r-7", "tenant-1", trace]})
            assert doc.marks[0] == "None" and doc.marks[2] == "1"

    run(scenario)


def test_definer_calls_its_hook_outside_of_any_request_and_from_an_event(tmp_path: Path) -> None:
    own = """
    @plugin.on_activate
    def start(ctx):
        ctx.log.info("told", result=ctx.hook("sums.add", {"n": 1}))

    @plugin.on_event("t.done")
    def done(event, ctx):
        ctx.log.info("told", result=ctx.hook("sums.add", event.value))
    """

    async def scenario() -> None:
        write_definer(tmp_path, code=own, hooks=(), extra='[permissions]\nevents = { subscribe = ["t.done"] }\n')
        write_adder(tmp_path, "alpha", runtime='start = "lazy"')
        async with open_host(tmp_path) as host:
            wanted = {"n": 2, "by": ["alpha"]}

            def results() -> list[Any]:
                return [line["fields"]["result"] for line in host.logs.tail("definer", 100) if line["message"] == "told"]

            await until(lambda: results() == [wanted])
            host.publish("t.done", {"n": 1})
            await until(lambda: results() == [wanted, wanted])

    run(scenario)


def test_reload_of_the_definer_loses_no_call_and_the_old_instance_goes_by_its_own_schema(tmp_path: Path) -> None:
    code = """
    @plugin.filter("t.edit")
    def edit(doc, ctx):
        time.sleep(0.002)
        doc["marks"].append(str(ctx.hook("sums.add", {FIELD: 1})[FIELD]))
        return doc
    """
    adds = """
    @plugin.filter("sums.add")
    def add(value, ctx):
        return {name: number + 1 for name, number in value.items()}
    """

    def write(field: str) -> None:
        schema = {"type": "object", "properties": {field: {"type": "integer"}}, "additionalProperties": False, "required": [field]}
        write_definer(tmp_path, code=code.replace("FIELD", repr(field)), schema=schema)

    async def scenario() -> None:
        write("old")
        write_adder(tmp_path, "alpha", code=adds)
        async with open_host(tmp_path) as host:
            stop = asyncio.Event()

            async def load() -> int:
                count = 0
                while not stop.is_set():
                    doc = await host.hooks(T).edit(Doc(""))
                    assert doc.marks == ["2"]
                    count += 1
                return count

            loads = [asyncio.ensure_future(load()) for _ in range(4)]
            for field in ("new", "old", "new"):
                write(field)
                await host.plugin("definer").reload()
            stop.set()
            assert sum(await asyncio.gather(*loads)) > 20
            assert not events(host, EventKind.HOOK_SKIPPED)

    run(scenario)


def test_manifest_that_defines_hooks_wrongly_is_refused_with_every_problem(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write_definer(tmp_path, schema={"$ref": "https://example.org/x.json"})
        async with open_host(tmp_path) as host:
            definer = host.plugin("definer")
            assert definer.state == "blocked"
            assert (
                "the schema number.json of hook 'sums.add' is refused: /$ref: $ref 'https://example.org/x.json' is refused"
                in definer.reason
            )
            (folder / "number.json").write_text("{" + " " * 70_000 + "}")
            await host.scan()
            assert "expected a schema of at most 65536 bytes, got more" in definer.reason
            write_definer(tmp_path)
            await host.scan()
            await wait_state(definer, "ready")

    run(scenario)


def test_plugins_inside_the_host_define_and_implement_hooks(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path, runtime="concurrency = 2")
        write_adder(tmp_path, "alpha")
        for inside in ("definer", "alpha"):
            async with open_host(tmp_path, strategy={inside: "in-process"}) as host:
                assert await called(host, {"n": 1}) == [repr({"n": 2, "by": ["alpha"]})]

    run(scenario)


def test_control_socket_shows_and_calls_hooks_of_plugins(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha", more="priority = 200")
        write_adder(tmp_path, "beta")
        folder = write_adder(tmp_path, "gamma")
        (folder / "plugin.toml").write_text((folder / "plugin.toml").read_text().replace("revision = 1", "revision = 3"))
        async with open_host(tmp_path, control=True) as host:

            def ask(name: str, params: dict[str, Any]) -> Any:
                with ControlClient.connect(tmp_path / "state") as client:
                    return client.call(name, **params)

            async def asked(name: str, /, **params: Any) -> Any:
                return await asyncio.to_thread(ask, name, params)

            told = await asked("show", plugin="definer")
            why = "it implements revision 3, and plugin 'definer' defines revision 1"
            assert told["defines"] == [
                {
                    "hook": "sums.add",
                    "kind": "filter",
                    "revision": 1,
                    "on_failure": "open",
                    "open": True,
                    "implemented_by": ["beta", "alpha"],
                    "passed_over": {"gamma": why},
                }
            ]
            assert (await asked("show", plugin="gamma"))["passed_over"] == {"sums.add": why}
            called = await asked("call", method="sums.add", args=[{"n": 1}])
            assert called["value"] == {"n": 3, "by": ["beta", "alpha"]}
            assert host.plugin("definer").state == "ready"
            with pytest.raises(InvalidParamsError, match=r"parameter 'value' at \$\.n: expected type \"integer\""):
                await asked("call", method="sums.add", args=[{"n": "one"}])

    run(scenario)


def test_what_a_reload_replaces_is_kept_no_longer_than_it_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_definer(tmp_path)
        write_adder(tmp_path, "alpha")
        async with open_host(tmp_path) as host:
            for revision in range(2, 7):
                write_definer(tmp_path, revision=revision)
                await host.plugin("definer").reload()

            def routes() -> int:
                gc.collect()
                return sum(isinstance(found, HookRoute) for found in gc.get_objects())

            await until(lambda: routes() <= 2)  # of the last one it replaced something may be on its way
            assert await called(host, {"n": 1}) == [repr({"n": 1})]

    run(scenario)
