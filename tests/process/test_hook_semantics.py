"""What docs/reference/hooks.md promises of order, kinds, time, failure and state, asked of real plugins."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annexe import Host, Responded
from annexe.dispatch.breaker import BreakerPolicy
from annexe.errors import ContractError, HookError, InvalidParamsError, RejectedError
from annexe.record import EventKind
from annexe.supervision.health import HealthPolicy
from tests.process.hosts import (
    Doc,
    Reply,
    T,
    events,
    open_host,
    outcome_of,
    policies,
    run,
    steps,
    until,
    wait_state,
    write_plugin,
)

pytestmark = pytest.mark.any_user

MARK = """
@plugin.filter("t.edit")
def mark(doc):
    doc["marks"].append("NAME")
    return doc
"""


def marker(root: Path, name: str, line: str = "") -> None:
    write_plugin(root / "plugins", name, MARK.replace("NAME", name), hooks={"t.edit": line})


def filter_plugin(root: Path, name: str, body: str, *, hook: str = "t.edit", line: str = "", **more: Any) -> None:
    lines = "\n".join(f"    {row}" for row in body.strip("\n").splitlines())
    write_plugin(root / "plugins", name, f'@plugin.filter("{hook}")\ndef handle(doc, ctx):\n{lines}\n', hooks={hook: line}, **more)


# Order.


def test_order_is_priority_then_id_then_before_and_after(tmp_path: Path) -> None:
    marker(tmp_path, "delta", "priority = 1")
    marker(tmp_path, "beta")
    marker(tmp_path, "alpha")
    marker(tmp_path, "omega", 'priority = 900, before = ["delta"]')
    marker(tmp_path, "early", 'priority = 0, after = ["beta", "nobody"]')

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            edited = await request.hooks(T).edit(Doc("x"))
            assert edited.marks == ["alpha", "beta", "early", "omega", "delta"]
            assert [plugin for plugin, _ in steps(host, "r")] == edited.marks
            assert host.explain("r")["absent"] == [{"hook": "t.edit", "names": ["nobody"]}]

    run(scenario)


def test_operators_order_wins_over_priority_and_before(tmp_path: Path) -> None:
    marker(tmp_path, "alpha", 'priority = 1, before = ["gamma"]')
    marker(tmp_path, "beta", "priority = 2")
    marker(tmp_path, "gamma", "priority = 3")

    async def scenario() -> None:
        async with open_host(tmp_path, order={"t.edit": ["gamma", "absent-one"]}) as host, host.request(id="r") as request:
            assert (await request.hooks(T).edit(Doc("x"))).marks == ["gamma", "alpha", "beta"]
            assert host.explain("r")["absent"] == [{"hook": "t.edit", "names": ["absent-one"]}]

    run(scenario)


def test_plugin_whose_place_makes_a_cycle_is_refused_and_the_others_keep_theirs(tmp_path: Path) -> None:
    marker(tmp_path, "alpha", 'before = ["beta"]')
    marker(tmp_path, "beta")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            marker(tmp_path, "gamma", 'after = ["beta"], before = ["alpha"]')
            await host.scan()
            refused = host.plugin("gamma")
            assert refused.state == "blocked"
            assert "gamma" in refused.reason and "alpha" in refused.reason and "beta" in refused.reason
            assert isinstance(refused._known.error, ContractError)
            assert refused.pid is None
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["alpha", "beta"]

    run(scenario)


def test_plugin_whose_place_makes_a_cycle_stays_blocked_whatever_is_asked_until_there_is_room(tmp_path: Path) -> None:
    marker(tmp_path, "alpha", 'before = ["beta"]')
    marker(tmp_path, "beta", 'before = ["alpha"]')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            alpha, beta = host.plugin("alpha"), host.plugin("beta")
            assert (alpha.state, beta.state) == ("ready", "blocked")
            for ask in (beta.restart, beta.enable, beta.start, beta.disable, beta.enable):
                await ask()
                assert beta.state in ("blocked", "stopped")
                assert beta.pid is None
            assert beta.state == "blocked"
            assert isinstance(beta._known.error, ContractError)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["alpha"]
            await alpha.disable()
            await beta.restart()
            assert beta.state == "ready"
            await alpha.enable()
            assert alpha.state == "blocked"
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["beta"]

    run(scenario)


def test_changed_priority_and_policy_take_effect_at_restart(tmp_path: Path) -> None:
    marker(tmp_path, "alpha", "priority = 1")
    marker(tmp_path, "beta", "priority = 2")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["alpha", "beta"]
            filter_plugin(tmp_path, "alpha", "raise ValueError('no')", line='priority = 3, on-failure = "closed"')
            await host.plugin("alpha").restart()
            with pytest.raises(HookError) as caught:
                await host.hooks(T).edit(Doc("x"))
            assert (caught.value.plugin, caught.value.reason) == ("alpha", "plugin-raised")

    run(scenario)


def test_hook_that_a_new_version_no_longer_provides_is_not_called(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", MARK.replace("NAME", "old"), hooks={"t.edit": 'on-failure = "closed"'})

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            write_plugin(tmp_path / "plugins", "alpha", "@plugin.action('t.act')\ndef act(doc): pass\n", hooks=["t.act"])
            await host.plugin("alpha").restart()
            assert host.plugin("alpha").state == "ready", host.plugin("alpha").reason
            assert (await host.hooks(T).edit(Doc("x"))).marks == []
            await host.hooks(T).act(Doc("x"))

    run(scenario)


# Kinds and outcomes.


def test_filter_sees_earlier_edits_and_explain_shows_what_each_changed(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "one", 'doc["text"] = doc["text"] + "1"\nreturn doc')
    filter_plugin(tmp_path, "three", "return ctx.unchanged")
    filter_plugin(tmp_path, "two", 'doc["text"] = doc["text"] + "2"; doc["marks"].append("m")\nreturn doc')

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            assert await request.hooks(T).edit(Doc("x")) == Doc("x12", ["m"])
            shown = host.explain("r")["steps"]
            assert steps(host, "r") == [("one", "changed"), ("three", "unchanged"), ("two", "changed")]
            assert shown[0]["changes"] == [{"op": "replace", "path": "/text", "value": "x1", "before": "x"}]
            assert "changes" not in shown[1]
            assert {change["path"] for change in shown[2]["changes"]} == {"/text", "/marks/0"}
            assert all(step["duration_ms"] > 0 and step["hook"] == "t.edit" for step in shown)

    run(scenario)


def test_filter_that_responds_ends_the_pipeline(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", 'raise Respond({"answer": "early"})', hook="t.ask")
    filter_plugin(tmp_path, "beta", 'raise Respond({"text": "own type", "marks": []})', hook="t.edit")
    filter_plugin(tmp_path, "later", "raise ValueError('never called')", hook="t.ask")
    filter_plugin(tmp_path, "later-too", "raise ValueError('never called')", hook="t.edit")

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            with pytest.raises(Responded) as caught:
                await request.hooks(T).ask(Doc("x"))
            assert (caught.value.value, caught.value.plugin, caught.value.hook) == (Reply("early"), "alpha", "t.ask")
            # Without ``responds=`` the value has the hook's own type and is returned.
            assert await request.hooks(T).edit(Doc("x")) == Doc("own type")
            assert steps(host, "r") == [("alpha", "responded"), ("beta", "responded")]

    run(scenario)


def test_wrong_response_is_a_failure_like_any_other(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", 'raise Respond({"answer": 5})', hook="t.ask")

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            assert await request.hooks(T).ask(Doc("x")) == Doc("x")
            step = host.explain("r")["steps"][0]
            assert step["outcome"] == "failed"
            assert step["reason"].startswith("invalid-result") and "answer" in step["reason"]

    run(scenario)


def test_rejection_reaches_the_application_whatever_the_policy(tmp_path: Path) -> None:
    body = 'raise Reject("too-many", "slow down", status=429)'
    filter_plugin(tmp_path, "alpha", body, hook="t.edit")
    filter_plugin(tmp_path, "beta", body, hook="t.strict")

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            for call, plugin in ((request.hooks(T).edit, "alpha"), (request.hooks(T).strict, "beta")):
                with pytest.raises(RejectedError) as caught:
                    await call(Doc("x"))
                error = caught.value
                assert (error.plugin, error.reject_code, error.status, str(error)) == (plugin, "too-many", 429, "slow down")
            assert steps(host, "r") == [("alpha", "rejected"), ("beta", "rejected")]
            assert not events(host, EventKind.HOOK_FAILED)

    run(scenario)


def test_none_from_a_filter_names_the_handlers_file_and_line(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "doc['text'] = 'forgot to return'", hook="t.strict")
    filter_plugin(tmp_path, "beta", "return None", hook="t.maybe")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(HookError) as caught:
                await host.hooks(T).strict(Doc("x"))
            assert caught.value.reason == "invalid-result"
            cause: Any = caught.value.__cause__
            assert (cause.plugin, cause.hook, cause.path, cause.at) == ("alpha", "t.strict", "$", "main.py:4")
            assert "Doc" in cause.expected or "object" in cause.expected
            assert "null" in cause.actual.lower() or "none" in cause.actual.lower()
            assert "main.py:4" in str(caught.value)
            assert await host.hooks(T).maybe(Doc("x")) is None  # here the type admits it

    run(scenario)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        pytest.param('{"text": 5, "marks": []}', "$.text", id="field"),
        pytest.param('{"text": "x", "marks": ["a", 7]}', "$.marks[1]", id="item"),
        pytest.param('{"marks": []}', "$", id="missing"),
        pytest.param('"a string"', "$", id="whole"),
    ],
)
def test_wrong_result_names_path_expected_and_actual(tmp_path: Path, value: str, path: str) -> None:
    filter_plugin(tmp_path, "alpha", f"return {value}", hook="t.strict")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(HookError) as caught:
                await host.hooks(T).strict(Doc("x"))
            cause: Any = caught.value.__cause__
            assert (cause.plugin, cause.hook, cause.path) == ("alpha", "t.strict", path)
            assert cause.expected and cause.actual

    run(scenario)


def test_actions_run_in_order_and_are_awaited(tmp_path: Path) -> None:
    for name, priority in (("second", 2), ("first", 1)):
        code = '@plugin.action("t.act")\ndef act(doc, ctx):\n    time.sleep(0.05)\n    ctx.log.info("acted")\n    return "ignored"\n'
        write_plugin(tmp_path / "plugins", name, code, hooks={"t.act": f"priority = {priority}"})

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            await request.hooks(T).act(Doc("x"))
            assert steps(host, "r") == [("first", "done"), ("second", "done")]
            shown = host.explain("r")["steps"]
            assert shown[1]["started_ms"] >= shown[0]["duration_ms"] >= 50

    run(scenario)


def test_first_result_asks_in_order_until_one_answers(tmp_path: Path) -> None:
    for name, value in (("a", None), ("b", "'b'"), ("c", "'c'")):
        write_plugin(tmp_path / "plugins", name, f'@plugin.first_result("t.find")\ndef find(doc):\n    return {value}\n', hooks=["t.find"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            assert await request.hooks(T).find(Doc("x")) == "b"
            assert steps(host, "r") == [("a", "none"), ("b", "answered")]
            await host.plugin("b").disable()
            await host.plugin("c").disable()
            assert await host.hooks(T).find(Doc("x")) is None

    run(scenario)


# Time.


def test_slow_early_plugin_cannot_starve_a_later_one(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "time.sleep(5)\nreturn doc", extra='[resources]\ncall-timeout = "30s"')
    marker(tmp_path, "beta")
    marker(tmp_path, "gamma")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            started = loop.time()
            async with host.request(id="r", deadline_s=3.0) as request:
                assert (await request.hooks(T).edit(Doc("x"))).marks == ["beta", "gamma"]
            assert 0.98 <= loop.time() - started < 2.8  # a third of the deadline, and what a loaded machine takes
            assert steps(host, "r") == [("alpha", "failed"), ("beta", "changed"), ("gamma", "changed")]
            assert host.explain("r")["steps"][0]["reason"].startswith("deadline-exceeded")

    run(scenario)


@pytest.mark.parametrize(
    ("hook", "extra", "least_s", "most_s", "told"),
    [
        pytest.param("t.timed", '[resources]\ncall-timeout = "30s"', 0.98, 2.5, "1 s, the budget of the hook", id="budget of the hook"),
        pytest.param("t.edit", '[resources]\ncall-timeout = "200ms"', 0.18, 2.5, "0.2 s, call-timeout", id="call time-out of the plugin"),
        pytest.param("t.timed", '[resources]\ncall-timeout = "100ms"', 0.08, 2.5, "0.1 s, call-timeout", id="the smaller of the two"),
    ],
)
def test_plugin_gets_no_more_than_budget_and_call_timeout(
    tmp_path: Path, hook: str, extra: str, least_s: float, most_s: float, told: str
) -> None:
    filter_plugin(tmp_path, "alpha", "time.sleep(3)\nreturn doc", hook=hook, extra=extra)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert await getattr(host.hooks(T), hook[2:])(Doc("x")) == Doc("x")
            assert least_s <= loop.time() - started <= most_s
            (skipped,) = events(host, EventKind.HOOK_SKIPPED, "alpha")
            assert f"within its deadline of {told}" in skipped.reason

    run(scenario)


def test_waiting_for_a_slot_is_not_counted_against_the_budget(tmp_path: Path) -> None:
    # Six calls of 0.3 s, one after the other, each within a budget of 1 s: the last one waits for 1.5 s.
    filter_plugin(tmp_path, "alpha", "time.sleep(0.3)\ndoc['marks'].append('m')\nreturn doc", hook="t.timed")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            edited = await asyncio.gather(*(host.hooks(T).timed(Doc("x")) for _ in range(6)))
            assert all(doc.marks == ["m"] for doc in edited)

    run(scenario)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_as_many_calls_run_at_once_as_the_manifest_says_also_those_that_come_later(tmp_path: Path, kind: str) -> None:
    # Each call waits until three have been inside at once, and then a little, so that a fourth would be seen.
    code = f"""
    import asyncio
    inside = most = 0
    lock = threading.Lock()
    @plugin.filter("t.edit")
    {kind} edit(doc):
        global inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        while most < 3:
            {"await asyncio" if kind == "async def" else "time"}.sleep(0.01)
        {"await asyncio" if kind == "async def" else "time"}.sleep(0.3)
        doc["marks"] = [str(most)]
        with lock:
            inside -= 1
        return doc
    """
    limits = '[resources]\ncall-timeout = "10s"'
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.edit"], runtime="concurrency = 3", extra=limits)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            calls = []
            for _ in range(4):
                calls.append(asyncio.create_task(host.hooks(T).edit(Doc("x"))))
                await asyncio.sleep(0.05)
            assert [doc.marks for doc in await asyncio.gather(*calls)] == [["3"]] * 4

    run(scenario)


def test_waiting_for_a_slot_is_counted_against_the_share_of_the_deadline(tmp_path: Path) -> None:
    # A hook without a budget: the second call ends 0.6 s before the deadline, the third would end as long after it.
    limits = '[resources]\ncall-timeout = "30s"'
    filter_plugin(tmp_path, "alpha", "time.sleep(1.2)\ndoc['marks'].append('m')\nreturn doc", extra=limits)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:

            async def one() -> Doc:
                async with host.request(deadline_s=3.0) as request:
                    return await request.hooks(T).edit(Doc("x"))

            edited = await asyncio.gather(*(one() for _ in range(6)))
            assert [doc.marks for doc in edited] == [["m"], ["m"], [], [], [], []]

    run(scenario)


def test_waiting_for_a_lazy_start_is_not_counted_against_the_budget(tmp_path: Path) -> None:
    code = """
    time.sleep(1.3)
    @plugin.filter("t.timed")
    def mark(doc):
        doc["marks"].append("m")
        return doc
    """
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.timed"], runtime='start = "lazy"')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert host.plugin("alpha").pid is None
            assert (await host.hooks(T).timed(Doc("x"))).marks == ["m"]

    run(scenario)


def test_deadline_is_the_roof_and_what_is_left_unasked_says_so(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "time.sleep(5)\nreturn doc", hook="t.edit")
    filter_plugin(tmp_path, "beta", "return doc", hook="t.strict")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            started = loop.time()
            async with host.request(id="r", deadline_s=0.2) as request:
                assert await request.hooks(T).edit(Doc("x")) == Doc("x")
                with pytest.raises(HookError) as caught:
                    await request.hooks(T).strict(Doc("x"))
            assert caught.value.reason == "deadline-exceeded"
            assert loop.time() - started < 4.0

    run(scenario)


# Failure policies.


@pytest.mark.parametrize(
    ("hook", "line", "operator", "closed"),
    [
        pytest.param("t.edit", "", {}, False, id="open everywhere"),
        pytest.param("t.strict", 'on-failure = "open"', {}, True, id="hook closed, manifest open"),
        pytest.param("t.edit", 'on-failure = "closed"', {}, True, id="manifest closed"),
        pytest.param("t.edit", "", {"t.edit": "closed"}, True, id="operator closed by hook"),
        pytest.param("t.edit", "", {"alpha": "closed"}, True, id="operator closed by plugin"),
        pytest.param("t.strict", "", {"t.strict": "open", "alpha": "open"}, True, id="operator cannot loosen"),
    ],
)
def test_strictest_policy_wins(tmp_path: Path, hook: str, line: str, operator: dict[str, str], closed: bool) -> None:
    filter_plugin(tmp_path, "alpha", "raise KeyError('x')", hook=hook, line=line)

    async def scenario() -> None:
        async with open_host(tmp_path, on_failure=operator) as host:
            outcome = await outcome_of(getattr(host.hooks(T), hook[2:])(Doc("x")))
            if not closed:
                assert outcome == Doc("x")
                assert events(host, EventKind.HOOK_SKIPPED, "alpha")[0].facts["code"] == "plugin-raised"
            else:
                assert isinstance(outcome, HookError)
                assert (outcome.plugin, outcome.hook, outcome.reason) == ("alpha", hook, "plugin-raised")
                assert "main.py:6" in str(outcome)
                assert events(host, EventKind.HOOK_FAILED, "alpha")[0].facts["code"] == "plugin-raised"

    run(scenario)


def test_one_plugins_failure_stops_no_other_where_all_are_open(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "raise KeyError('x')")
    filter_plugin(tmp_path, "beta", "os._exit(3)")
    filter_plugin(tmp_path, "gamma", "return 'not a doc'")
    marker(tmp_path, "omega")

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            assert (await request.hooks(T).edit(Doc("x"))).marks == ["omega"]
            assert steps(host, "r") == [("alpha", "failed"), ("beta", "failed"), ("gamma", "failed"), ("omega", "changed")]
            reasons = [step["reason"].partition(":")[0] for step in host.explain("r")["steps"][:3]]
            assert reasons == ["plugin-raised", "outcome-unknown", "invalid-result"]

    run(scenario)


def test_closed_covers_out_of_time_wrong_type_and_raising(tmp_path: Path) -> None:
    slow = '[resources]\ncall-timeout = "100ms"'
    filter_plugin(tmp_path, "alpha", "time.sleep(2)", hook="t.strict", extra=slow)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(HookError) as caught:
                await host.hooks(T).strict(Doc("x"))
            assert (caught.value.plugin, caught.value.reason) == ("alpha", "deadline-exceeded")

    run(scenario)


def test_closed_covers_a_plugin_that_is_still_starting(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "return doc", hook="t.strict")
    main = tmp_path / "plugins" / "alpha" / "main.py"
    main.write_text("import time\ntime.sleep(3)\n" + main.read_text())

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            async with host.request(deadline_s=0.3) as request:
                with pytest.raises(HookError) as caught:
                    await request.hooks(T).strict(Doc("x"))
            assert caught.value.reason == "unavailable"
            assert getattr(caught.value.__cause__, "state", "") == "starting"

    # Entering waits for eager plugins, so this one is lazy: its first call starts it.
    (tmp_path / "plugins" / "alpha" / "plugin.toml").write_text(
        (tmp_path / "plugins" / "alpha" / "plugin.toml").read_text().replace('entry = "main"', 'entry = "main"\nstart = "lazy"')
    )
    run(scenario)


@pytest.mark.parametrize(("max_failures", "state"), [(2, "backing-off"), (1, "quarantined")])
def test_closed_covers_blocked_backing_off_quarantined_and_stopped(tmp_path: Path, max_failures: int, state: str) -> None:
    filter_plugin(tmp_path, "alpha", "os._exit(1)", hook="t.strict", extra='[permissions]\nkv = { quota = "1MiB" }')

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(first_delay_s=30.0, max_failures=max_failures), grants="stored") as host:

            async def refused_in(state: str) -> str:
                assert host.plugin("alpha").state == state
                outcome = await outcome_of(host.hooks(T).strict(Doc("x")))
                assert isinstance(outcome, HookError)
                assert (outcome.plugin, outcome.hook, outcome.reason) == ("alpha", "t.strict", "unavailable")
                assert getattr(outcome.__cause__, "state", "") == state
                return str(outcome)

            plugin = host.plugin("alpha")
            assert "annexe grant alpha" in await refused_in("blocked")
            await plugin.grant()
            assert (await outcome_of(host.hooks(T).strict(Doc("x")))).reason == "outcome-unknown"
            await wait_state(plugin, state)
            text = await refused_in(state)
            assert "annexe restart alpha" in text if state == "quarantined" else "exited with status 1" in text
            await plugin.restart()
            await plugin.stop()
            await refused_in("stopped")

    run(scenario)


# Breaker.


def test_breaker_opens_half_opens_and_closes_for_one_plugin_at_one_hook(tmp_path: Path) -> None:
    code = """
    @plugin.filter("t.edit")
    def edit(doc):
        if doc["text"] == "bad":
            raise ValueError("bad")
        doc["marks"].append("a")
        return doc
    @plugin.filter("t.timed")
    def timed(doc):
        doc["marks"].append("t")
        return doc
    """
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.edit", "t.timed"])
    marker(tmp_path, "beta")

    async def scenario() -> None:
        async with open_host(tmp_path, breaker=BreakerPolicy(max_failures=3, open_s=1.0)) as host:
            for _ in range(3):
                assert (await host.hooks(T).edit(Doc("bad"))).marks == ["beta"]
            opened = events(host, EventKind.BREAKER_OPENED, "alpha")
            assert [event.facts["hook"] for event in opened] == ["t.edit"]
            async with host.request(id="open") as request:
                assert (await request.hooks(T).edit(Doc("good"))).marks == ["beta"]
                assert (await request.hooks(T).timed(Doc("x"))).marks == ["t"]  # the other hook has a breaker of its own
            shown = host.explain("open")["steps"]
            assert (shown[0]["plugin"], shown[0]["outcome"]) == ("alpha", "skipped")
            assert "failed too often" in shown[0]["reason"] and "tried again in" in shown[0]["reason"]
            assert f"see: annexe logs alpha --state {host.state_dir.path}" in shown[0]["reason"]
            await asyncio.sleep(1.01)
            assert (await host.hooks(T).edit(Doc("bad"))).marks == ["beta"]  # the trial fails: open again
            assert (await host.hooks(T).edit(Doc("good"))).marks == ["beta"]
            await asyncio.sleep(1.01)
            assert (await host.hooks(T).edit(Doc("good"))).marks == ["a", "beta"]  # the trial succeeds: closed
            assert (await host.hooks(T).edit(Doc("good"))).marks == ["a", "beta"]
            assert len(events(host, EventKind.BREAKER_CLOSED, "alpha")) == 1
            assert len(events(host, EventKind.BREAKER_OPENED, "alpha")) == 1

    run(scenario)


def test_breaker_is_opened_by_timeouts_and_then_costs_no_time(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "time.sleep(0.4)\nreturn doc", extra='[resources]\ncall-timeout = "100ms"')

    async def scenario() -> None:
        async with open_host(tmp_path, breaker=BreakerPolicy(max_failures=2, open_s=20.0)) as host:
            loop = asyncio.get_running_loop()
            for _ in range(2):
                await host.hooks(T).edit(Doc("x"))
                await asyncio.sleep(0.4)
            started = loop.time()
            for _ in range(50):
                assert await host.hooks(T).edit(Doc("x")) == Doc("x")
            assert loop.time() - started < 3.0  # with the time-outs it would be 5

    run(scenario)


def test_open_breaker_fails_a_closed_hook(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "raise ValueError('x')", hook="t.strict")

    async def scenario() -> None:
        async with open_host(tmp_path, breaker=BreakerPolicy(max_failures=2, open_s=20.0)) as host:
            for _ in range(2):
                assert (await outcome_of(host.hooks(T).strict(Doc("x")))).reason == "plugin-raised"
            error = await outcome_of(host.hooks(T).strict(Doc("x")))
            assert (error.plugin, error.reason) == ("alpha", "unavailable")
            assert error.__cause__.breaker == "open"

    run(scenario)


def test_restart_closes_the_breakers_and_show_tells_of_them(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "if doc['text'] == 'bad': raise ValueError('x')\ndoc['marks'].append('a')\nreturn doc")

    async def scenario() -> None:
        async with open_host(tmp_path, breaker=BreakerPolicy(max_failures=2, open_s=20.0)) as host:
            for _ in range(2):
                await host.hooks(T).edit(Doc("bad"))
            (left_s,) = host._dispatcher.open_breakers("alpha").values()
            assert 0 < left_s <= 20
            assert (await host.hooks(T).edit(Doc("good"))).marks == []
            await host.plugin("alpha").restart()
            assert not host._dispatcher.open_breakers("alpha")
            await host.hooks(T).edit(Doc("bad"))
            assert (await host.hooks(T).edit(Doc("good"))).marks == ["a"]  # nor do the failures before count

    run(scenario)


def test_rejections_and_cancelled_calls_open_no_breaker(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "if doc['text'] == 'slow': time.sleep(1)\nraise Reject('no', 'no')", runtime="concurrency = 5")

    async def scenario() -> None:
        async with open_host(tmp_path, breaker=BreakerPolicy(max_failures=2, open_s=20.0)) as host:
            for _ in range(4):
                assert isinstance(await outcome_of(host.hooks(T).edit(Doc("x"))), RejectedError)
            for _ in range(4):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await host.hooks(T).edit(Doc("slow"))
            assert isinstance(await outcome_of(host.hooks(T).edit(Doc("x"))), RejectedError)
            assert not events(host, EventKind.BREAKER_OPENED)

    run(scenario)


# Observers.


def observer(root: Path, name: str, body: str, **more: Any) -> None:
    write_plugin(root / "plugins", name, f'@plugin.observer("t.seen")\ndef seen(what, ctx):\n    {body}\n', hooks=["t.seen"], **more)


def test_observers_run_in_parallel_and_never_delay(tmp_path: Path) -> None:
    for name in ("alpha", "beta", "gamma"):
        observer(tmp_path, name, "time.sleep(1.5)", extra='[resources]\ncall-timeout = "30s"')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            async with host.request(id="r") as request:
                started = loop.time()
                await request.hooks(T).seen("x")
                assert loop.time() - started < 1.4
            await until(lambda: request._request.record is not None and len(steps(host, "r")) == 3)
            assert loop.time() - started < 4.0  # one after the other it would be 4.5
            assert sorted(steps(host, "r")) == [(name, "observed") for name in ("alpha", "beta", "gamma")]

    run(scenario)


@pytest.mark.parametrize("body", ["raise ValueError('x')", "raise Reject('no', 'no')", "os._exit(1)", "return {'any': 'thing'}"])
@pytest.mark.parametrize("policy", ["open", "closed"])
def test_observer_cannot_fail_the_request_whatever_it_does_and_whatever_the_policy(tmp_path: Path, body: str, policy: str) -> None:
    observer(tmp_path, "alpha", body)

    async def scenario() -> None:
        async with open_host(tmp_path, on_failure={"alpha": policy, "t.seen": policy}) as host, host.request(id="r") as request:
            await request.hooks(T).seen("x")
            await until(lambda: request._request.record is not None)
            assert steps(host, "r") == [("alpha", "observed" if "any" in body else "failed")]

    run(scenario)


class Teller:
    """A capability that tells observers on behalf of the call that a plugin works on."""

    name: ClassVar[str] = "teller"
    host: Host

    async def tell(self, count: int) -> None:
        for number in range(count):
            await self.host.hooks(T).seen(str(number))


TELLS = """
@plugin.action("t.act")
def act(doc, ctx): ctx.cap("teller").tell(4)
"""
MAY_TELL = '[permissions]\ncapabilities = ["teller"]\n[resources]\ncall-timeout = "1s"'


def test_observer_told_within_a_call_is_not_bound_by_that_call_nor_are_those_after_it(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", TELLS, hooks=["t.act"], extra=MAY_TELL)
    observer(tmp_path, "beta", "time.sleep(0.6)")

    async def scenario() -> None:
        teller = Teller()
        async with open_host(tmp_path, capabilities=[teller]) as host:
            teller.host = host
            await host.hooks(T).act(Doc("x"))
            async with host.request(id="other") as request:
                await request.hooks(T).seen("other")
                assert len(host._dispatcher._queues["beta"]._waiting) >= 3  # those of the call are still to come
                await until(lambda: request._request.record is not None)
            assert steps(host, "other") == [("beta", "observed")]
            assert not events(host, EventKind.HOOK_SKIPPED)

    run(scenario)


def test_plugin_first_called_within_a_call_is_not_bound_by_that_call_later(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", TELLS, hooks=["t.act"], extra=MAY_TELL)
    observer(tmp_path, "beta", "pass", runtime='start = "lazy"')

    async def scenario() -> None:
        teller = Teller()
        rules = policies(health=HealthPolicy(ping_interval_s=0.1, ping_timeout_s=5.0))
        async with open_host(tmp_path, capabilities=[teller], policies=rules) as host:
            teller.host = host
            await host.hooks(T).act(Doc("x"))
            await wait_state(host.plugin("beta"), "ready")
            await asyncio.sleep(1.2)  # that call's time is over, and pings go on
            assert [str(change.state) for change in host.plugin("beta").history][-2:] == ["starting", "ready"]

    run(scenario)


def test_observations_are_bounded_oldest_dropped_and_counted(tmp_path: Path) -> None:
    observer(
        tmp_path,
        "alpha",
        "while what == '0' and not ctx.kv.get('go'): time.sleep(0.01)\n    ctx.kv.increment('n'); ctx.kv.set('last', what)\n"
        "    if ctx.kv.get('first') is None and what != '0': ctx.kv.set('first', what)",
        extra='[permissions]\nkv = { quota = "1MiB" }',
    )

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            hooks = host.hooks(T)
            for number in range(1500):
                await hooks.seen(str(number))
            queue = host._dispatcher._queues["alpha"]
            assert len(queue._waiting) <= 1000
            assert queue.dropped_count == 499  # one is under way, a thousand wait
            kv = host._registry._kv.handle("alpha", 1024 * 1024).call
            await _value(kv("kv.set", {"key": "go", "value": True}))
            await until(lambda: not queue._waiting and not queue._under_way, within_s=15)
            assert await _value(kv("kv.get", {"key": "n"})) == 1001
            assert await _value(kv("kv.get", {"key": "first"})) == "500"
            assert await _value(kv("kv.get", {"key": "last"})) == "1499"
            assert events(host, EventKind.OBSERVER_DROPPED, "alpha")

    run(scenario)


async def _value(answer: Any) -> Any:
    return await answer if asyncio.isfuture(answer) else answer


def test_awaited_calls_go_before_observations(tmp_path: Path) -> None:
    code = """
    @plugin.observer("t.seen")
    def seen(what):
        time.sleep(0.02)
    @plugin.filter("t.edit")
    def edit(doc):
        doc["marks"].append("a")
        return doc
    """
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.seen", "t.edit"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            for number in range(200):
                await host.hooks(T).seen(str(number))
            started = loop.time()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            assert loop.time() - started < 2.5  # all observations would take 4 s

    run(scenario)


def test_observer_is_found_again_after_its_crash(tmp_path: Path) -> None:
    observer(tmp_path, "alpha", "if what == 'crash': os._exit(1)")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            await host.hooks(T).seen("crash")
            await wait_state(host.plugin("alpha"), "backing-off")
            await wait_state(host.plugin("alpha"), "ready")
            async with host.request(id="r") as request:
                await request.hooks(T).seen("fine")
                await until(lambda: request._request.record is not None)
            assert steps(host, "r") == [("alpha", "observed")]

    run(scenario)


def test_what_waits_for_an_observer_outlives_its_crash(tmp_path: Path) -> None:
    body = "if what == '0': os._exit(1)\n    ctx.log.info('saw', what=what)"
    observer(tmp_path, "alpha", body)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            hooks = host.hooks(T)
            for number in range(50):
                await hooks.seen(str(number))

            def seen() -> list[int]:
                return [int(line["fields"]["what"]) for line in host.logs.tail("alpha", 200) if line["message"] == "saw"]

            await until(lambda: len(seen()) == 49)
            assert seen() == list(range(1, 50))
            assert host._dispatcher._queues["alpha"].dropped_count == 0

    run(scenario)


def test_what_waits_for_an_observer_that_does_not_come_back_is_dropped_and_counted(tmp_path: Path) -> None:
    observer(tmp_path, "alpha", "os._exit(1)")

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(max_failures=1)) as host:
            hooks = host.hooks(T)
            for number in range(50):
                await hooks.seen(str(number))
            await wait_state(host.plugin("alpha"), "quarantined")
            await until(lambda: host._dispatcher._queues["alpha"].dropped_count == 49)
            (event,) = events(host, EventKind.OBSERVER_DROPPED, "alpha")
            assert event.facts["dropped_count"] == 49

    run(scenario)


# State.


STATE = """
@plugin.filter("t.edit")
def put(doc, ctx):
    if doc["text"] == "big":
        ctx.state["big"] = "x" * 70000
    elif doc["text"] == "none":
        del ctx.state["kept"]
    elif doc["text"] == "fail":
        ctx.state["kept"] = "lost"
        raise ValueError("after a change")
    else:
        ctx.state["kept"] = doc["text"]
    return doc
@plugin.filter("t.timed")
def get(doc, ctx):
    doc["text"] = repr(sorted(ctx.state.items()))
    return doc
"""


def test_state_lasts_for_the_request_across_a_restart_and_not_beyond(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", STATE, hooks=["t.edit", "t.timed"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            async with host.request() as request:
                await request.hooks(T).edit(Doc("secret"))
                assert (await request.hooks(T).timed(Doc(""))).text == "[('kept', 'secret')]"
                plugin = host.plugin("alpha")
                assert plugin.pid is not None
                os.kill(plugin.pid, signal.SIGKILL)
                await wait_state(plugin, "backing-off")
                await wait_state(plugin, "ready")
                assert (await request.hooks(T).timed(Doc(""))).text == "[('kept', 'secret')]"
                assert (await request.hooks(T).edit(Doc("fail"))).text == "fail"  # discarded on failure
                assert (await request.hooks(T).timed(Doc(""))).text == "[('kept', 'secret')]"
                await request.hooks(T).edit(Doc("none"))
                assert (await request.hooks(T).timed(Doc(""))).text == "[]"
            async with host.request() as other:
                assert (await other.hooks(T).timed(Doc(""))).text == "[]"

    run(scenario)


def test_state_is_kept_apart_between_plugins_and_capped(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", STATE, hooks=["t.edit", "t.timed"])
    spy = "@plugin.filter('t.timed')\ndef get(doc, ctx):\n    doc['marks'] = sorted(ctx.state)\n    return doc\n"
    write_plugin(tmp_path / "plugins", "spy", spy, hooks=["t.timed"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            await request.hooks(T).edit(Doc("mine"))
            assert await request.hooks(T).edit(Doc("big")) == Doc("big")
            step = host.explain("r")["steps"][-1]
            assert step["outcome"] == "failed" and "65536" in step["reason"]
            seen = await request.hooks(T).timed(Doc(""))
            assert (seen.text, seen.marks) == ("[('kept', 'mine')]", [])

    run(scenario)


# Cancelling.


def test_cancelling_the_applications_task_cancels_the_call_and_what_it_asked(tmp_path: Path) -> None:
    class Slow:
        name: ClassVar[str] = "slow"

        def __init__(self) -> None:
            self.cancelled = asyncio.Event()
            self.begun = asyncio.Event()

        async def wait(self) -> None:
            self.begun.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    code = """
    @plugin.filter("t.edit")
    async def edit(doc, ctx):
        await ctx.cap("slow").wait()
        return doc
    @plugin.filter("t.timed")
    async def timed(doc, ctx):
        import asyncio
        ctx.log.info("waits")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ctx.log.info("was cancelled")
            raise
    """
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.edit", "t.timed"], extra='[permissions]\ncapabilities = ["slow"]')

    async def scenario() -> None:
        slow = Slow()
        async with open_host(tmp_path, capabilities=[slow]) as host:
            task = asyncio.create_task(host.hooks(T).edit(Doc("x")))
            await slow.begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(10):
                await slow.cancelled.wait()

            def has_said(text: str) -> bool:
                return any(line["message"] == text for line in host.logs.tail("alpha", 50))

            task = asyncio.create_task(host.hooks(T).timed(Doc("x")))
            await until(lambda: has_said("waits"))
            task.cancel()
            await asyncio.wait([task])
            await until(lambda: has_said("was cancelled"))
            connection = host.plugin("alpha")._known.supervisor.connection  # type: ignore[union-attr]
            assert connection is not None
            await until(lambda: connection.in_flight == 0, what="the slots to be given back")

    run(scenario)


def test_value_that_cannot_be_sent_is_the_applications_own_mistake(tmp_path: Path) -> None:
    filter_plugin(tmp_path, "alpha", "return doc")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            wrong: Any = Doc(object())  # type: ignore[arg-type]
            with pytest.raises(InvalidParamsError):
                await host.hooks(T).edit(wrong)
            assert await host.hooks(T).edit(Doc("fine")) == Doc("fine")

    run(scenario)
