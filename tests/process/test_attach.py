"""A process that was started by hand takes the place of an installed plugin, and the installed one is back when it goes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from annexe import Host
from annexe.errors import HookError, PluginBusyError
from annexe.record import EventKind
from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from annexe.supervision.supervisor import Supervisor
from annexe.supervision.violations import Action, Phase, Resource, Violation
from tests.process.attached import Operator, attached, invited, process, write
from tests.process.hosts import Doc, T, events, is_alive, open_host, outcome_of, policies, run, until, wait_state

pytestmark = pytest.mark.any_user


async def who(host: Host, text: str = "x") -> tuple[str, int]:
    """Return who answers, and in which process."""
    name, pid = (await host.hooks(T).strict(Doc(text))).marks
    return name, int(pid)


def by_hand(root: Path, **fields: str) -> Path:
    """Write the same plugin as somebody has it in an editor; return its file."""
    return write(root / "mine", who="by hand", **fields) / "main.py"


@pytest.mark.both_users
def test_a_process_takes_the_place_of_the_installed_one_which_is_back_when_it_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            assert (await who(host))[0] == "installed"
            async with attached(tmp_path, by_hand(tmp_path)) as (operator, process):
                assert await who(host) == ("by hand", process.pid)
                assert host.plugin("p").pid == process.pid
                process.kill()
                await operator.news("detached")
                assert (await who(host))[0] == "installed"
                assert (await operator.news("back"))["plugin_state"] == "ready"
            assert [event.facts["pid"] for event in events(host, EventKind.ATTACHED, "p")] == [process.pid]
            assert len(events(host, EventKind.DETACHED, "p")) == 1
            assert not events(host, EventKind.PLUGIN_EXITED, "p")

    run(scenario)


# Coming and going.


async def calls_all_the_time(host: Host, seen: Counter[str], over: asyncio.Event) -> None:
    while not over.is_set():
        seen[(await who(host))[0]] += 1


def test_no_call_is_lost_when_it_comes_nor_when_it_is_let_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            seen: Counter[str] = Counter()
            over = asyncio.Event()
            callers = [asyncio.create_task(calls_all_the_time(host, seen, over)) for _ in range(4)]
            for _ in range(2):
                async with attached(tmp_path, by_hand(tmp_path)) as (operator, process):
                    before = seen["by hand"]
                    await until(lambda: seen["by hand"] > before + 3, what="it to be called")  # noqa: B023
                    await operator.leave()
                    assert await process.wait() == 0  # by itself, told by annexe.shutdown
                await until(lambda: host.plugin("p").state == "ready" and not host.plugin("p").is_attached)
            over.set()
            await asyncio.gather(*callers)
            assert set(seen) == {"installed", "by hand"}

    run(scenario)


def test_when_it_dies_the_call_it_had_is_lost_and_those_that_follow_wait_for_the_installed_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path)) as (operator, process):
            lost = asyncio.create_task(outcome_of(who(host, "hang")))
            later = [asyncio.create_task(who(host)) for _ in range(200)]  # more than it was sent ahead
            await asyncio.sleep(0.1)
            process.kill()
            assert isinstance(await lost, HookError)
            outcomes = await asyncio.gather(*map(outcome_of, later))
            assert [one for one in outcomes if isinstance(one, HookError)] == []
            assert {name for name, _ in outcomes} == {"installed"}
            await operator.news("detached")

    run(scenario)


def test_the_operators_leaving_before_anybody_came_makes_the_token_worthless(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            async with invited(tmp_path) as operator:
                invitation = operator.invitation
            async with process(by_hand(tmp_path), invitation) as started:
                _, said = await started.communicate()
                assert started.returncode == 69
                assert "the token is wrong, was used, or is older than 300 s" in said.decode()
            assert (await who(host))[0] == "installed"

    run(scenario)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        pytest.param("@plugin.on_activate\ndef start(ctx):\n    raise RuntimeError('no')\n", "activation-failed", id="its code fails"),
        pytest.param(
            "@plugin.filter('t.edit')\ndef more(doc, ctx):\n    return doc\n", "activation-failed", id="it provides something else"
        ),
    ],
)
def test_one_that_does_not_become_ready_changes_nothing(tmp_path: Path, more: str, code: str) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            before = await who(host)
            async with invited(tmp_path) as operator, process(by_hand(tmp_path, more=more), operator.invitation):
                assert (await operator.news("failed"))["error"]["code"] == code
                assert await who(host) == before
            assert [event.plugin for event in events(host, EventKind.ATTACH_REFUSED)] == ["p"]

    run(scenario)


@pytest.mark.parametrize("act", ["reload", "restart", "stop", "disable"])
def test_acting_on_the_plugin_lets_it_go_first(tmp_path: Path, act: str) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path)) as (operator, process):
            await getattr(host.plugin("p"), act)()
            assert await process.wait() == 0
            why = {"reload": "another instance took over", "restart": "restarted", "stop": "asked to", "disable": "disabled"}[act]
            assert (await operator.news("detached"))["reason"] == f"the host let it go: {why}"
            state = (await operator.news("back"))["plugin_state"]
            assert state == ("ready" if act.startswith("re") else "stopped")
            if state == "ready":
                assert (await who(host))[0] == "installed"

    run(scenario)


def test_a_second_one_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as other:  # noqa: SIM117 - in this order
            async with attached(tmp_path, by_hand(tmp_path)) as (_, holder):
                refused = Operator(tmp_path / "state", "p")
                error = (await refused.news("error"))["error"]
                assert isinstance(error, PluginBusyError)
                assert f"process {holder.pid} is attached" in error.message
                await refused.leave()
                async with process(by_hand(tmp_path), other.invitation) as late:  # invited before the first one came
                    assert await late.wait() == 69
                assert await who(host) == ("by hand", holder.pid)

    run(scenario)


# From whatever state.


def test_every_instance_of_a_pool_gives_way_and_the_pool_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, runtime="instances = { min = 2, max = 3 }")
        async with open_host(tmp_path, control=True) as host:
            await until(lambda: len(host.plugin("p").pids) == 2)
            async with attached(tmp_path, by_hand(tmp_path)) as (operator, process):
                assert host.plugin("p").pids == (process.pid,)
                answers = await asyncio.gather(*(who(host) for _ in range(20)))
                assert set(answers) == {("by hand", process.pid)}
                await operator.leave()
            await until(lambda: len(host.plugin("p").pids) == 2)

    run(scenario)


@pytest.mark.parametrize("how", ["data", "in-process"])
def test_where_two_must_not_run_at_once_the_installed_one_ends_first(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        write(tmp_path, extra='[permissions]\ndata = { quota = "1MiB" }' if how == "data" else "")
        async with open_host(tmp_path, control=True, strategy="in-process" if how == "in-process" else "process") as host:
            before = host.plugin("p").pid
            async with attached(tmp_path, by_hand(tmp_path)) as (_, process):
                assert before is None or not is_alive(before)
                assert await who(host) == ("by hand", process.pid)
            assert (await who(host))[0] == "installed"

    run(scenario)


def test_one_can_attach_to_a_plugin_that_fails_and_is_in_quarantine(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, more="raise RuntimeError('broken')")
        async with open_host(tmp_path, control=True, policies=policies(max_failures=1)) as host:
            await wait_state(host.plugin("p"), "quarantined")
            async with attached(tmp_path, by_hand(tmp_path)) as (_, process):
                assert await who(host) == ("by hand", process.pid)
            await wait_state(host.plugin("p"), "quarantined")

    run(scenario)


def test_a_lazy_plugin_is_attached_to_before_its_first_call_and_is_not_stopped_for_being_idle(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, runtime='start = "lazy"\nidle-stop = "100ms"')
        async with open_host(tmp_path, control=True, policies=policies(health=HealthPolicy(ping_interval_s=0.05))) as host:
            assert host.plugin("p").state == "stopped"
            async with attached(tmp_path, by_hand(tmp_path)) as (_, process):
                await asyncio.sleep(0.4)
                assert host.plugin("p").pid == process.pid
            assert (await who(host))[0] == "installed"
            await wait_state(host.plugin("p"), "stopped")

    run(scenario)


@pytest.mark.parametrize("how", ["let go", "reload"])
def test_calls_to_a_lazy_plugin_do_not_wait_for_its_life_to_end_while_the_next_instance_waits_for_the_last(
    tmp_path: Path, how: str
) -> None:
    slow = "@plugin.on_shutdown\ndef stop(ctx):\n    time.sleep(0.3)\n"

    async def scenario() -> None:
        write(tmp_path, more=slow, runtime='start = "lazy"', extra='[permissions]\ndata = { quota = "1MiB" }')
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path, more=slow)) as (operator, _):
            await operator.leave()
            if how == "reload":
                await who(host)
                reload = asyncio.create_task(host.plugin("p").reload())
            await until(lambda: host.plugin("p").state == "draining")
            async with asyncio.timeout(10):
                assert (await who(host))[0] == "installed"
                if how == "reload":
                    await reload

    run(scenario)


# Time stands still.


def test_no_time_out_ends_a_call_while_a_debugger_holds_it(tmp_path: Path) -> None:
    limits = '[resources]\ncall-timeout = "100ms"'

    async def scenario() -> None:
        write(tmp_path, extra=limits)
        write(tmp_path, "z", who="next")
        quick = policies(health=HealthPolicy(ping_interval_s=0.05, ping_timeout_s=0.4))  # three of them: over before the debugger is
        async with open_host(tmp_path, control=True, policies=quick, order={"t.strict": ["p"]}) as host:  # noqa: SIM117 - that is long enough
            async with attached(tmp_path, by_hand(tmp_path, extra=limits)) as (_, held):
                held.send_signal(signal.SIGSTOP)
                async with host.request(deadline_s=1.5) as request:
                    call = asyncio.create_task(request.hooks(T).strict(Doc("x")))
                    await asyncio.sleep(2.0)
                    assert not call.done()
                    held.send_signal(signal.SIGCONT)
                    marks = (await call).marks
                assert marks[:2] == ["by hand", str(held.pid)]
                assert marks[2] == "next"  # which has the time that was left
                assert host.plugin("p").pid == held.pid
                assert host.plugin("p").state == "ready"

    run(scenario)


def test_a_caller_that_gives_up_is_let_go_and_the_next_call_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path)) as (_, held):
            call = asyncio.create_task(who(host))
            await asyncio.sleep(0)
            held.send_signal(signal.SIGSTOP)
            given_up = asyncio.create_task(who(host))
            await asyncio.sleep(0.3)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            waits = asyncio.create_task(who(host))
            await asyncio.sleep(0.2)
            assert not waits.done()
            held.send_signal(signal.SIGCONT)
            assert await waits == ("by hand", held.pid)
            await call

    run(scenario)


def test_the_host_closes_in_time_while_a_debugger_holds_a_call_and_leaves_the_process_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        loop = asyncio.get_running_loop()
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path)) as (_, held):
            held.send_signal(signal.SIGSTOP)
            call = asyncio.create_task(outcome_of(who(host)))
            await asyncio.sleep(0.05)
            began = loop.time()
            await host.close()
            assert loop.time() - began < 8.0
            assert isinstance(await call, HookError)
            assert is_alive(held.pid)
            held.send_signal(signal.SIGCONT)
            assert await held.wait() == 0  # its channel is gone, so it ends

    run(scenario)


PROVIDES = {"extra": '[provides.services]\n"s" = { version = "1.0.0" }'}
OFFERS = "@plugin.service('s')\nclass S:\n    def slow(self, seconds):\n        time.sleep(seconds)\n        return '{who}'\n"
ASKS = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    return {**doc, "text": ctx.service("s").slow(1.3)}
"""


def test_the_time_of_a_plugin_that_waits_for_an_attached_one_stands_still(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, more=OFFERS.replace("{who}", "installed"), **PROVIDES)
        file = write(tmp_path / "mine", more=OFFERS.replace("{who}", "by hand"), **PROVIDES) / "main.py"
        limits = '[resources]\ncall-timeout = "1s"\n[permissions]\nservices = ["s"]'
        write(tmp_path, "q", more=ASKS, hooks={"t.edit": "", "t.strict": ""}, extra=limits)
        async with open_host(tmp_path, control=True) as host:
            async with host.request(deadline_s=5.0) as request:
                assert (await request.hooks(T).edit(Doc("x"))).text == "x"  # which takes longer than that plugin may
                assert "deadline" in str(host.explain(request.id)["steps"])
            async with attached(tmp_path, file):
                assert (await host.hooks(T).edit(Doc("x"))).text == "by hand"

    run(scenario)


@pytest.mark.parametrize("act", ["close", "stop", "disable"])
def test_plugins_that_wait_for_an_attached_one_do_not_keep_the_host_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    quick = StopPolicy(drain_s=0.1, shutdown_s=0.1, exit_s=0.1, terminate_s=0.1, kill_s=0.1)
    monkeypatch.setattr("annexe.supervision.instance._GUEST_STOP", quick)

    async def scenario() -> None:
        write(tmp_path, more=OFFERS, **PROVIDES)
        file = write(tmp_path / "mine", more=OFFERS, **PROVIDES) / "main.py"
        needs = '[requires.services]\ns = { version = ">=1" }\n[permissions]\nservices = ["s"]'
        write(tmp_path, "q", more=ASKS, hooks={"t.edit": "", "t.strict": ""}, extra=needs)
        slow = policies(stop=StopPolicy(drain_s=30.0))
        async with open_host(tmp_path, control=True, policies=slow) as host, attached(tmp_path, file) as (_, held):
            held.send_signal(signal.SIGSTOP)
            call = asyncio.create_task(outcome_of(host.hooks(T).edit(Doc("x"))))
            await until(lambda: host.plugin("p")._known.supervisor.connection.is_busy)  # type: ignore[union-attr]
            async with asyncio.timeout(5):
                await (host.close() if act == "close" else getattr(host.plugin("p"), act)())
                await call

    run(scenario)


def test_a_stream_through_an_attached_plugin_may_take_its_time(tmp_path: Path) -> None:
    chunks = '@plugin.stream_filter("t.strict_chunks")\ndef chunks(chunks, ctx):\n'
    chunks += "    for chunk in chunks:\n        {wait}\n        yield chunk.upper()\n"
    hooks = ["t.strict", "t.strict_chunks"]

    async def two() -> AsyncIterator[str]:
        for text in ("a", "b"):
            yield text

    async def scenario() -> None:
        write(tmp_path, more=chunks.replace("{wait}", "pass"), hooks=hooks)
        file = write(tmp_path / "mine", more=chunks.replace("{wait}", "time.sleep(1.2)"), hooks=hooks) / "main.py"
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, file):  # its budget is 1 s
            assert [chunk async for chunk in host.hooks(T).strict_chunks(two())] == ["A", "B"]

    run(scenario)


def test_an_async_plugin_attaches_too(tmp_path: Path) -> None:
    more = "@plugin.filter('t.edit')\nasync def edit(doc, ctx):\n    await asyncio.sleep(0)\n    doc['text'] = '{who}'\n    return doc\n"

    async def scenario() -> None:
        hooks = ["t.strict", "t.edit"]
        write(tmp_path, more="import asyncio\n" + more.replace("{who}", "installed"), hooks=hooks)
        file = write(tmp_path / "mine", more="import asyncio\n" + more.replace("{who}", "by hand"), hooks=hooks) / "main.py"
        async with open_host(tmp_path, control=True) as host:
            async with attached(tmp_path, file) as (operator, started):
                assert (await host.hooks(T).edit(Doc("x"))).text == "by hand"
                await operator.leave()
                assert await started.wait() == 0
            assert (await host.hooks(T).edit(Doc("x"))).text == "installed"

    run(scenario)


def test_a_configuration_that_a_held_process_does_not_take_lets_it_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure = Supervisor.configure
    monkeypatch.setattr(Supervisor, "configure", lambda self, config: configure(self, config, timeout_s=1.0))

    async def scenario() -> None:
        schema = '{"type": "object", "properties": {"word": {"type": "string"}}}'
        write(tmp_path, schema=schema)
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path)) as (operator, held):
            await host.plugin("p").configure({"word": "a"})
            assert host.plugin("p").pid == held.pid
            held.send_signal(signal.SIGSTOP)
            await host.plugin("p").configure({"word": "b"})
            assert (await who(host))[0] == "installed"
            await operator.news("detached")

    run(scenario)


def test_one_that_is_held_while_it_starts_does_not_keep_anybody_from_acting(tmp_path: Path) -> None:
    holds = "@plugin.on_activate\ndef start(ctx):\n    os.kill(os.getpid(), signal.SIGSTOP)\n"

    async def scenario() -> None:
        write(tmp_path)
        file = by_hand(tmp_path, more=holds)
        async with open_host(tmp_path, control=True) as host:
            for act in ("reload", "restart", "stop"):
                async with invited(tmp_path) as operator, process(file, operator.invitation) as started:
                    await until(lambda: is_stopped(started.pid))
                    async with asyncio.timeout(10):
                        await getattr(host.plugin("p"), act)()
                        if act != "stop":
                            assert (await who(host))[0] == "installed"
            async with invited(tmp_path) as operator, process(file, operator.invitation) as started:  # it takes the start
                await until(lambda: is_stopped(started.pid))
                waits = asyncio.create_task(who(host))
                refused = Operator(tmp_path / "state", "p")
                assert f"process {started.pid} is attached" in str((await refused.news("error"))["error"])
                await refused.leave()
                assert not waits.done()
                await operator.leave()
                assert (await waits)[0] == "installed"

    run(scenario)


def test_a_plugin_is_stopped_at_once_though_a_configuration_waits_for_one_that_is_held_while_it_starts(tmp_path: Path) -> None:
    holds = "@plugin.on_activate\ndef start(ctx):\n    os.kill(os.getpid(), signal.SIGSTOP)\n"

    async def scenario() -> None:
        write(tmp_path, runtime='start = "lazy"', schema='{"type": "object", "properties": {"word": {"type": "string"}}}')
        file = by_hand(tmp_path, more=holds)
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as operator, process(file, operator.invitation) as started:
            await until(lambda: is_stopped(started.pid))
            waits = asyncio.create_task(host.plugin("p").configure({"word": "a"}))
            await until(lambda: host.plugin("p")._known.lock.locked())
            async with asyncio.timeout(10):
                await host.plugin("p").stop()
                await waits
            assert host.plugin("p").state == "stopped"

    run(scenario)


@pytest.mark.parametrize("act", ["configure", "revoke"])
def test_one_that_was_told_what_holds_no_more_does_not_take_over(tmp_path: Path, act: str) -> None:
    holds = "@plugin.on_activate\ndef start(ctx):\n    os.kill(os.getpid(), signal.SIGSTOP)\n"

    async def scenario() -> None:
        write(tmp_path, schema='{"type": "object", "properties": {"word": {"type": "string"}}}')
        file = by_hand(tmp_path, more=holds)
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as operator, process(file, operator.invitation) as started:
            await until(lambda: is_stopped(started.pid))
            if act == "configure":
                await host.plugin("p").configure({"word": "a"})
            else:
                known = host.plugin("p")._known
                assert known.decision is not None
                known.decision = replace(known.decision, granted=frozenset({"kv"}))
            started.send_signal(signal.SIGCONT)
            assert "was changed while a process attached" in (await operator.news("failed"))["error"]["message"]
            assert (await who(host))[0] == "installed"

    run(scenario)


def test_what_was_to_run_runs_though_the_operator_left_while_it_was_stopped_for_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, was_let_go, leaving = Supervisor.stop, asyncio.Event(), asyncio.Event()

    async def stop_slowly(supervisor: Supervisor, reason: str = "asked to") -> None:
        await stop(supervisor, reason)
        if reason == "another process takes its place":
            leaving.set()
            await was_let_go.wait()

    monkeypatch.setattr(Supervisor, "stop", stop_slowly)

    async def scenario() -> None:
        write(tmp_path, runtime='start = "lazy"')
        async with open_host(tmp_path, control=True) as host:
            operator = Operator(tmp_path / "state", "p")
            invitation = (await operator.news("invited"))["invitation"]
            async with process(by_hand(tmp_path), invitation) as started:
                async with asyncio.timeout(10):
                    await leaving.wait()
                await operator.leave()
                await until(lambda: host.plugin("p")._known.coming.reason)  # type: ignore[union-attr]
                was_let_go.set()
                await started.communicate()
            assert (await who(host))[0] == "installed"

    run(scenario)


def test_what_is_not_enforced_is_told_of_the_installed_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, runtime='start = "lazy"')
        async with open_host(tmp_path, control=True) as host:
            async with attached(tmp_path, by_hand(tmp_path)):
                await who(host)
            assert not events(host, EventKind.LIMIT_NOT_ENFORCED, "p")
            assert not host.plugin("p")._known.is_told

    run(scenario)


def test_nothing_that_the_installed_one_did_is_visited_upon_a_process_that_attached(tmp_path: Path) -> None:
    violation = Violation(resource=Resource.CPU, phase=Phase.ENDED, action=Action.THROTTLE, amount=2.0, limit=1.0, peak=2.0)

    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, by_hand(tmp_path)) as (_, process):
            watch, niceness = host._watch, os.getpriority(os.PRIO_PROCESS, process.pid)
            for action in Action:
                for phase in Phase:
                    watch._on_violation("p", replace(violation, action=action, phase=phase))
                    watch._act("p", replace(violation, action=action, phase=phase))
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == niceness
            assert (await who(host)) == ("by hand", process.pid)

    run(scenario)


def test_a_fault_of_the_hosts_own_is_told_to_the_operator_and_leaves_the_plugin_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def attach(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            monkeypatch.setattr(Supervisor, "attach", attach)
            async with invited(tmp_path) as operator, process(by_hand(tmp_path), operator.invitation) as started:
                assert "failed inside the host: ZeroDivisionError" in (await operator.news("failed"))["error"]["message"]
                assert await started.wait() == 0
            assert host.plugin("p")._known.coming is None
            assert (await who(host))[0] == "installed"

    asyncio.run(scenario())  # which the host logs


@pytest.mark.parametrize("how", ["blocked", "gone"])
def test_what_may_not_run_any_more_is_not_started_for_a_process_that_attaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stop = Supervisor.stop

    async def stop_and_refuse(supervisor: Supervisor, reason: str = "asked to") -> None:
        await stop(supervisor, reason)
        if reason == "another process takes its place":
            known = hosts[0].plugin("p")._known
            known.supervisor.block("not any more") if how == "blocked" else hosts[0]._registry.plugins.pop("p")  # type: ignore[union-attr]

    hosts: list[Host] = []
    monkeypatch.setattr(Supervisor, "stop", stop_and_refuse)

    async def scenario() -> None:
        write(tmp_path, runtime='start = "lazy"')
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as operator:
            hosts.append(host)
            known = host.plugin("p")._known
            async with process(by_hand(tmp_path), operator.invitation):
                assert "was changed while a process attached" in (await operator.news("failed"))["error"]["message"]
            assert known.state == ("blocked" if how == "blocked" else "stopped")

    run(scenario)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
