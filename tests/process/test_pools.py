"""Several instances of one plugin: they come and go with the calls that wait, and one that fails is not missed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe import HealthPolicy, Host, PluginState
from annexe.record import EventKind
from annexe.supervision.policies import Policies
from annexe.supervision.pool import Pool
from tests.process.hosts import Doc, T, children_of, events, open_host, outcome_of, policies, run, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

WORKS = """
ME = os.urandom(4).hex()  # in a namespace of its own each has the same number

@plugin.filter("t.strict")
def strict(doc, ctx):
    time.sleep(float(doc["text"] or 0))
    doc["marks"].append(ME + "{version}")
    return doc
"""


def write(root: Path, instances: str = "min = 1, max = 4", *, version: str = "1.0.0", extra: str = "", runtime: str = "") -> None:
    code = WORKS.replace("{version}", "" if version == "1.0.0" else f" {version}")
    extra += '[resources]\ncall-timeout = "20s"\nmemory = "64MiB"\n'
    runtime += f"\ninstances = {{ {instances} }}"
    write_plugin(root / "plugins", "p", code, hooks=["t.strict"], runtime=runtime, extra=extra, version=version)


def pids(host: Host) -> tuple[int, ...]:
    return host.plugin("p").pids


def pool_of(host: Host) -> Pool:
    """Return its pool: its scaling may be changed as it runs, which no manifest can, so that it grows and shrinks when a test wants it."""
    supervisor = host.plugin("p")._known.supervisor
    assert supervisor is not None and supervisor._crew.pool is not None
    return supervisor._crew.pool


async def burst(host: Host, count: int, seconds: float = 0.02) -> Counter[str]:
    """Call so often at once; return how often each instance answered."""
    answers = await asyncio.gather(*(host.hooks(T).strict(Doc(str(seconds))) for _ in range(count)))
    return Counter(answer.marks[0] for answer in answers)


@pytest.mark.both_users
@pytest.mark.parametrize("strategy", ["process", "zygote"])
def test_burst_makes_a_pool_grow_and_it_shrinks_when_it_is_over(tmp_path: Path, strategy: Any) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 1, max = 8")
        async with open_host(tmp_path, strategy=strategy, policies=replace(policies(), health=_often())) as host:
            assert len(pids(host)) == 1
            answered: Counter[str] = Counter()
            while len(answered) < 8:  # on a busy machine one burst may be over before the last of them is ready
                part = await burst(host, 500)
                assert part.total() == 500  # none failed
                answered += part
                assert sum(answered.values()) <= 5000
            assert len(pids(host)) == 8 and host.plugin("p").state == "ready"
            pool_of(host).scaling = replace(pool_of(host).scaling, shrink_after_s=0.5)
            await until(lambda: len(pids(host)) == 1, what="the pool to shrink")
            kept = children_of(os.getpid()) if strategy == "zygote" else [0, 0]  # there they are the fork server's children
            await until(lambda: len(children_of(os.getpid())) == len(kept), what="the others to end")
            assert len(await burst(host, 1)) == 1

    run(scenario)


def _often() -> Any:
    return HealthPolicy(ping_interval_s=0.1)


def test_pool_shrinks_around_one_that_is_busy_for_long(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 3, max = 3")
        async with open_host(tmp_path, policies=replace(policies(), shrink_after_s=0.5, health=_often())) as host:
            await until(lambda: len(pids(host)) == 3, what="three to run")
            await until(lambda: len(pool_of(host).members) == 3, what="three to be ready")
            long = asyncio.create_task(burst(host, 1, 18))
            await asyncio.sleep(0.05)
            await burst(host, 2)  # the others were used later than the one that is busy
            pool_of(host).scaling = replace(pool_of(host).scaling, least=1)
            await until(lambda: len(pids(host)) == 1, what="the others to go")
            assert not long.done()
            assert [member.instance.connection.is_busy for member in pool_of(host).members] == [True]  # the one that is left
            long.cancel()

    run(scenario)


def test_least_run_from_the_start_and_calls_are_spread(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 3, max = 3")
        async with open_host(tmp_path) as host:
            await until(lambda: len(pids(host)) == 3, what="three to run")
            answered = await burst(host, 3, 0.2)
            assert sorted(answered.values()) == [1, 1, 1]

    run(scenario)


def test_calls_one_after_another_need_one_instance(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 1, max = 8")
        async with open_host(tmp_path) as host:
            for _ in range(50):
                await burst(host, 1, 0)
            await burst(host, 2, 0.01)  # one waits for the other: no reason for a second process
            assert len(pids(host)) == 1

    run(scenario)


def test_instance_that_dies_beside_others_is_not_missed_and_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 2")
        async with open_host(tmp_path) as host:
            await until(lambda: len(pids(host)) == 2, what="two to run")
            first = pids(host)[0]
            os.kill(first, signal.SIGKILL)
            await until(lambda: first not in pids(host), what="it to be missed")
            assert host.plugin("p").state == "ready" and [change.state for change in host.plugin("p").history].count(PluginState.READY) == 1
            assert sum((await burst(host, 20)).values()) == 20
            await until(lambda: len(pids(host)) == 2, what="another to come")
            assert len(events(host, EventKind.PLUGIN_EXITED, "p")) == 1

    run(scenario)


def test_all_that_die_at_once_are_one_failure_and_the_plugin_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 3, max = 3")
        async with open_host(tmp_path) as host:
            await until(lambda: len(pids(host)) == 3, what="three to run")
            for pid in pids(host):
                os.kill(pid, signal.SIGKILL)
            await wait_state(host.plugin("p"), "backing-off", "starting")
            await until(lambda: len(pids(host)) == 3 and host.plugin("p").state == "ready", what="three to be back")
            assert sum((await burst(host, 20)).values()) == 20

    run(scenario)


def test_pool_that_fails_again_and_again_is_quarantined_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 2")
        async with open_host(tmp_path, policies=policies(max_failures=3, first_delay_s=0.01)) as host:
            plugin = host.plugin("p")
            while plugin.state != "quarantined":
                for pid in pids(host)[:1]:
                    with contextlib.suppress(ProcessLookupError):  # it was killed the time before
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.02)
            assert pids(host) == ()
            await until(lambda: len(children_of(os.getpid())) == 1, what="all to be gone")

    run(scenario)


def test_pool_is_replaced_whole_without_losing_a_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 3, max = 3")
        async with open_host(tmp_path) as host:
            await until(lambda: len(pids(host)) == 3, what="three to run")
            before = set(pids(host))
            over = asyncio.Event()

            async def calls() -> int:
                count = 0
                while not over.is_set():
                    count += sum((await burst(host, 1, 0.001)).values())
                return count

            tasks = [asyncio.create_task(calls()) for _ in range(6)]
            write(tmp_path, "min = 3, max = 3", version="2.0.0")
            await host.plugin("p").reload()
            over.set()
            assert sum(await asyncio.gather(*tasks)) > 6
            assert len(pids(host)) == 3 and before.isdisjoint(pids(host))
            assert all(name.endswith(" 2.0.0") for name in await burst(host, 30))

    run(scenario)


def test_replacement_of_which_one_fails_leaves_the_old_pool(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 2")
        async with open_host(tmp_path) as host:
            await until(lambda: len(pids(host)) == 2, what="two to run")
            before = pids(host)
            once = tmp_path / "plugins" / "p" / "main.py"
            once.write_text(once.read_text() + "\n@plugin.on_activate\ndef second_fails(ctx):\n    assert ctx.kv.increment('starts') < 2\n")
            toml = tmp_path / "plugins" / "p" / "plugin.toml"
            toml.write_text(toml.read_text() + '[permissions]\nkv = { quota = "1MiB" }\n')
            fault = await outcome_of(host.plugin("p").reload())
            assert "AssertionError" in str(fault), fault
            assert pids(host) == before
            await until(lambda: len(children_of(os.getpid())) == 3, what="the half-made ones to be gone")

    run(scenario)


def test_plugin_that_keeps_files_has_one_instance(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 4", extra='[permissions]\ndata = { quota = "1MiB" }\n')
        async with open_host(tmp_path) as host:
            await burst(host, 40, 0.005)
            assert len(pids(host)) == 1

    run(scenario)


def test_lazy_pool_starts_with_its_first_call_and_stops_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 3", runtime='start = "lazy"\nidle-stop = "1s"')
        async with open_host(tmp_path, policies=replace(policies(), health=_often())) as host:
            assert pids(host) == ()
            assert sum((await burst(host, 30, 0.01)).values()) == 30
            await wait_state(host.plugin("p"), "stopped")
            await until(lambda: len(children_of(os.getpid())) <= 2, what="all to be gone")

    run(scenario)


def test_plugin_that_is_stopped_while_it_grows_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 1, max = 8")
        async with open_host(tmp_path) as host:
            calls = asyncio.gather(*(outcome_of(host.hooks(T).strict(Doc("0.05"))) for _ in range(100)))
            supervisor = host.plugin("p")._known.supervisor
            assert supervisor is not None
            await until(lambda: supervisor.starts > 1, what="it to grow")
            await host.plugin("p").stop()
            await calls
            assert host.plugin("p").state == "stopped" and pids(host) == ()
            await until(lambda: len(children_of(os.getpid())) == 1, what="all to be gone")

    run(scenario)


def test_degraded_instance_gets_what_others_cannot_take(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 2")
        rules: Policies = replace(policies(), health=_often())
        async with open_host(tmp_path, policies=rules) as host:
            await until(lambda: len(pids(host)) == 2, what="two to run")
            supervisor = host.plugin("p")._known.supervisor
            assert supervisor is not None and supervisor._crew.pool is not None
            slow, well = supervisor._crew.pool.members
            os.kill(slow.instance.launched.pid or 0, signal.SIGSTOP)
            slow.health = rules.health.after_ping(slow.health, latency_s=None)
            before = slow.instance.connection.last_id, well.instance.connection.last_id
            assert sum((await burst(host, 10)).values()) == 10
            assert slow.instance.connection.last_id <= before[0] + 2 and well.instance.connection.last_id >= before[1] + 20  # but for pings
            assert host.plugin("p").state == "ready"
            os.kill(slow.instance.launched.pid or 0, signal.SIGCONT)

    run(scenario)


def test_calls_above_the_plugins_rate_are_answered_busy_whichever_instance_is_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "min = 2, max = 2", runtime="calls-per-s = 1")
        async with open_host(tmp_path) as host:
            await until(lambda: len(pids(host)) == 2, what="two to run")
            outcomes = [await outcome_of(host.hooks(T).strict(Doc("0"))) for _ in range(4)]
            assert [isinstance(outcome, Doc) for outcome in outcomes] == [True] + [False] * 3
            refused = str(outcomes[-1])
            assert "it is called more often than calls-per-s under [runtime] allows, try again in" in refused
            await asyncio.sleep(1.05)
            assert isinstance(await outcome_of(host.hooks(T).strict(Doc("0"))), Doc)
            assert host.plugin("p").state == "ready"  # pings and the like are let through

    run(scenario)


@pytest.mark.parametrize(("a", "b"), [pytest.param(1, 1, id="1-1"), pytest.param(3, 2, id="3-2")])
def test_pools_that_call_each_other_with_every_slot_taken_come_to_an_end(tmp_path: Path, a: int, b: int) -> None:
    async def scenario() -> None:
        for one, other, count in (("a", "b", a), ("b", "a", b)):
            code = f"""
            @plugin.service("{one}")
            class Service:
                def down(self, depth, ctx):
                    time.sleep(0.01)
                    return 1 + ctx.service("{other}").down(depth - 1) if depth else 0
            """
            tables = f'[provides.services]\n"{one}" = {{ version = "1.0.0" }}\n[permissions]\nservices = ["{other}"]\n'
            runtime = f"[runtime.instances]\nmin = {count}\nmax = {count}\n"
            write_plugin(tmp_path / "plugins", one, code, extra=tables + '[resources]\ncall-timeout = "15s"\n', runtime=runtime)
        code = """
        @plugin.filter("t.edit")
        def edit(doc, ctx):
            doc["marks"].append(str(ctx.service("a").down(5)))
            return doc
        """
        tables = '[permissions]\nservices = ["a"]\n[resources]\ncall-timeout = "15s"\n'
        write_plugin(tmp_path / "plugins", "caller", code, hooks=["t.edit"], extra=tables, runtime="concurrency = 16")

        async def descend(host: Host) -> list[str]:
            async with host.request(deadline_s=15) as scope:
                return (await scope.hooks(T).edit(Doc("x"))).marks

        async with open_host(tmp_path) as host:
            for plugin in ("a", "b", "caller"):
                await wait_state(host.plugin(plugin), "ready")
            assert await asyncio.gather(*(descend(host) for _ in range(16))) == [["5"]] * 16

    run(scenario)
