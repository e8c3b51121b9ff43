"""Faults while plugins call one another and are exchanged: each ends in a typed error or a clean recovery, and hurts nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import DependencyError, ManifestError
from annexe.record import EventKind
from tests.process.hosts import (
    Doc,
    T,
    connection_of,
    events,
    open_host,
    outcome_of,
    policies,
    run,
    until,
    wait_state,
    write_plugin,
)
from tests.process.test_kill9 import processes_of, wait_gone
from tests.process.test_services import ASKS, called, write_caller, write_words

pytestmark = pytest.mark.any_user

_SIX_HOURS_S = 6 * 3600.0
_LONG = '[resources]\ncall-timeout = "20s"\n'
_CALLS = '[permissions]\nservices = ["tokenizer"]\n'  # requires nothing: it runs on, whatever the provider does


# The wall clock jumps.


class Wall:
    """The wall clock of this process, which can be set; the monotonic one goes on as ever."""

    def __init__(self) -> None:
        self.offset_s = 0.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall, real = Wall(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + wall.offset_s)
    return wall


jumps = pytest.mark.parametrize("jump_s", [pytest.param(_SIX_HOURS_S, id="forward"), pytest.param(-_SIX_HOURS_S, id="back")])


@jumps
def test_wall_clock_that_jumps_ends_no_call_early_and_none_late(tmp_path: Path, wall: Wall, jump_s: float) -> None:
    async def scenario() -> None:
        write_words(tmp_path, extra=_LONG, runtime="concurrency = 4")
        write_caller(tmp_path, extra=ASKS + _LONG, runtime="concurrency = 4")
        async with open_host(tmp_path) as host:
            long = asyncio.ensure_future(called(host, "slow", 0.4, deadline_s=15.0))
            began = asyncio.get_running_loop().time()
            short = asyncio.ensure_future(called(host, "slow", 10, deadline_s=1.0))
            await until(lambda: len(connection_of(host, "words").open_calls) == 2, what="both calls to be under way")
            wall.offset_s += jump_s
            assert await short == []  # the hook fails open
            assert 0.99 < asyncio.get_running_loop().time() - began < 5.0
            assert await long == [repr("slept")]
            assert await called(host, "count", "a b") == ["2"]

    run(scenario)


@jumps
def test_wall_clock_that_jumps_neither_hurries_nor_delays_a_start_a_pool_or_a_reload(tmp_path: Path, wall: Wall, jump_s: float) -> None:
    async def scenario() -> None:
        slow = "@plugin.on_activate\ndef slow(ctx):\n    time.sleep(0.3)\n"
        works = '@plugin.filter("t.strict")\ndef strict(doc, ctx):\n    time.sleep(0.02)\n    return doc\n' + slow
        runtime = "instances = { min = 1, max = 3 }"
        async with open_host(tmp_path, policies=replace(policies(), shrink_after_s=3600.0)) as host:
            write_plugin(tmp_path / "plugins", "pool", works, hooks=["t.strict"], runtime=runtime, extra=_LONG)
            write_plugin(tmp_path / "plugins", "waits", "", extra='[requires.plugins]\n"pool" = ">=1"\n')
            scan = asyncio.create_task(host.scan())
            await until(lambda: any(one.id == "waits" and one.state == "starting" for one in host.plugins), what="it to wait for the pool")
            wall.offset_s += jump_s
            await scan
            assert (host.plugin("pool").state, host.plugin("waits").state) == ("ready", "ready")
            assert not events(host, EventKind.LAUNCH_FAILED)

            pool = host.plugin("pool")
            calls = [asyncio.create_task(host.hooks(T).strict(Doc(""))) for _ in range(60)]
            await until(lambda: len(pool.pids) > 1 or connection_of(host, "pool").in_flight, what="the pool to be in use")
            wall.offset_s -= jump_s
            await asyncio.gather(*calls)
            await until(lambda: len(pool.pids) == 3, what="the pool to grow")

            reload = asyncio.create_task(pool.reload())
            await until(lambda: pool._known.supervisor is not None and pool._known.supervisor.starts > 3, what="the next one to start")
            wall.offset_s += jump_s
            assert (await host.hooks(T).strict(Doc(""))).marks == []
            await reload
            assert pool.state == "ready" and len(events(host, EventKind.REPLACED, "pool")) == 1

    run(scenario)


@jumps
def test_wall_clock_that_jumps_leaves_back_off_and_stored_failures_as_they_are(tmp_path: Path, wall: Wall, jump_s: float) -> None:
    rules = policies(first_delay_s=0.4, max_failures=3, healthy_after_s=60.0, jitter_ratio=0.0)

    async def scenario() -> None:
        write_words(tmp_path)
        async with open_host(tmp_path, policies=rules) as host:
            words, loop = host.plugin("words"), asyncio.get_running_loop()
            await _kill(host, "words")
            await wait_state(words, "backing-off")
            began = loop.time()
            wall.offset_s += jump_s
            await wait_state(words, "ready")
            assert 0.2 < loop.time() - began < 3.0
            await _kill(host, "words")  # after what looks like six hours: still the second one in a row
            await wait_state(words, "backing-off")
        wall.offset_s += jump_s
        async with open_host(tmp_path, policies=rules) as host:
            words = host.plugin("words")
            await wait_state(words, "ready")
            await _kill(host, "words")
            await wait_state(words, "quarantined")

    run(scenario)


async def _kill(host: Host, plugin: str) -> None:
    pid = host.plugin(plugin).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# Ten thousand requirements.


@asynccontextmanager
async def _never_held(limit_s: float = 0.05) -> AsyncIterator[None]:
    """Fail when the event loop works for longer at a stretch. In processor time: others use this machine, too."""
    worst_s = 0.0

    async def watch() -> None:
        nonlocal worst_s
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            worst_s = max(worst_s, time.thread_time() - began)

    gc.collect()
    gc.freeze()  # what a collection costs depends on all that the tests before have left; and so it stays, as tests/conftest.py wants it
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield
        await asyncio.sleep(0.005)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    assert worst_s < limit_s


def _rows(count: int, *, first: int = 0) -> str:
    return "\n".join(f'r{number} = ">=1"' for number in range(first, first + count))


@pytest.mark.parametrize(
    ("count", "error", "text"),
    [
        pytest.param(10_000, ManifestError, "expected at most 65536 bytes, got more", id="longer-than-a-manifest"),
        pytest.param(4_000, DependencyError, "it has 4000 requirements; expected at most 128", id="as-many-as-fit"),
    ],
)
def test_plugin_of_thousands_of_requirements_is_refused_at_once(tmp_path: Path, count: int, error: type[Exception], text: str) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path)
        async with open_host(tmp_path) as host:
            write_plugin(tmp_path / "plugins", "greedy", "", extra=f"[requires.plugins]\n{_rows(count)}\n")
            async with _never_held():
                await asyncio.wait_for(host.scan(), 5)
            tracemalloc.start()
            await outcome_of(host.plugin("greedy").restart())  # reads it once more
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 16 * 1024 * 1024
            greedy = host.plugin("greedy")
            assert greedy.state == "blocked" and text in greedy.reason and isinstance(greedy._known.error, error)
            assert await called(host, "count", "a b") == ["2"]

    run(scenario)


def test_ten_thousand_requirements_of_many_plugins_hold_nobody_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path)
        async with open_host(tmp_path) as host:
            for number in range(100):
                lines = f"[requires.plugins]\n{_rows(100, first=100 * number)}\n"
                write_plugin(tmp_path / "plugins", f"greedy-{number}", "", extra=lines)
            async with _never_held():
                scan = asyncio.create_task(host.scan())
                while not scan.done():
                    assert await called(host, "count", "a b") == ["2"]
                await scan
            greedy = host.plugin("greedy-99")
            assert greedy.state == "blocked" and "plugin 'r9900' >=1: there is no such plugin" in greedy.reason
            await host.plugin("words").reload()  # looks at all that requires it
            assert await called(host, "count", "a b") == ["2"]

    run(scenario)


# One of two that are in a call goes away.


def test_caller_that_dies_mid_call_has_its_call_cancelled_and_the_provider_serves_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path, extra=_LONG, runtime="concurrency = 2")
        write_caller(tmp_path, extra=ASKS + _LONG)
        async with open_host(tmp_path) as host:
            call = asyncio.ensure_future(called(host, "slow", 10))
            await until(lambda: connection_of(host, "words").open_calls, what="the call to reach the provider")
            pid, killed = host.plugin("words").pid, host.plugin("caller").pid
            await _kill(host, "caller")
            assert await call == []  # the hook fails open
            await until(lambda: not connection_of(host, "words").open_calls, what="the provider to be asked to stop")
            await until(lambda: "was cancelled" in str(host.logs.tail("words", 20)), what="the provider to tell of it")
            await until(lambda: host.plugin("caller").pid not in (None, killed), what="the caller's end to be seen")
            await wait_state(host.plugin("caller"), "ready")
            assert await called(host, "count", "a b") == ["2"] and host.plugin("words").pid == pid

    run(scenario)


@pytest.mark.parametrize("act", ["stop", "reload"])
def test_provider_that_dies_while_it_is_drained_leaves_the_outcome_unknown(tmp_path: Path, act: str) -> None:
    async def scenario() -> None:
        write_words(tmp_path, extra=_LONG)
        write_caller(tmp_path, extra=_CALLS + _LONG)
        async with open_host(tmp_path, policies=policies()) as host:
            words = host.plugin("words")
            call = asyncio.ensure_future(called(host, "slow", 10))
            await until(lambda: connection_of(host, "words").open_calls, what="the call to reach the provider")
            pid = words.pid
            acting = asyncio.create_task(getattr(words, act)())
            await until(lambda: words.state == "draining" or words.pid not in (pid, None), what="the old one to drain")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert (await call)[1] == "outcome-unknown"
            await acting
            if act == "stop":
                assert words.state == "stopped"
                assert (await called(host, "count", "a b"))[1] == "unavailable"
                await words.start()
            assert await called(host, "count", "a b") == ["2"]

    run(scenario)


_DIES_ONCE = """
@plugin.on_activate
def once(ctx):
    tried = ctx.data_dir + "/tried"
    if not os.path.exists(tried):
        open(tried, "w").close()
        time.sleep(0.2)
        os._exit(9)
"""


def test_provider_that_dies_while_it_starts_is_told_to_who_waits_and_serves_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path, runtime='start = "lazy"', extra='[permissions]\ndata = { quota = "1MiB" }\n')
        main = tmp_path / "plugins" / "words" / "main.py"
        main.write_text(main.read_text() + _DIES_ONCE)
        write_caller(tmp_path)
        async with open_host(tmp_path, policies=policies(first_delay_s=0.5)) as host:
            words = host.plugin("words")
            assert (await called(host, "count", "a b"))[1] == "unavailable"
            assert host.plugin("caller").state == "ready"  # what it requires comes back by itself
            await wait_state(words, "ready")
            assert await called(host, "count", "a b") == ["2"]
            assert "backing-off" in [change.state for change in words.history]

    run(scenario)


def test_provider_that_dies_while_it_starts_keeps_its_dependent_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path, extra='[permissions]\ndata = { quota = "1MiB" }\n')
        main = tmp_path / "plugins" / "words" / "main.py"
        main.write_text(main.read_text() + _DIES_ONCE)
        write_caller(tmp_path)
        async with open_host(tmp_path) as host:
            await wait_state(host.plugin("caller"), "ready")
            assert await called(host, "count", "a b") == ["2"]
            assert "backing-off" in [change.state for change in host.plugin("words").history]

    run(scenario)


# The host is killed while one instance hands over to the next.

_COUNTS = """
@plugin.save_state
def save(ctx):
    ctx.log.info("in save")
    {save}
    return {"seen": 1}

@plugin.load_state
def load(state, ctx):
    ctx.log.info("in load")
    {load}

@plugin.filter("t.strict")
def strict(doc, ctx):
    ctx.kv.set("seen", (ctx.kv.get("seen") or 0) + 1)
    doc["marks"].append(str(ctx.kv.get("seen")))
    return doc
"""
_KILLED = """
import asyncio, pathlib, sys
from tests.process.hosts import Doc, T, open_host, outcome_of, until
async def main():
    async with open_host(pathlib.Path(sys.argv[1])) as host:
        for _ in range(3):
            await host.hooks(T).strict(Doc("x"))
        reloading = asyncio.create_task(outcome_of(host.plugin("p").reload()))
        while not any(line["message"] == sys.argv[2] for line in await asyncio.to_thread(host.logs.tail, "p", 50)):
            await asyncio.sleep(0.01)
        print("now", flush=True)
        await reloading
asyncio.run(main())
"""


@pytest.fixture
def swept(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    yield lambda: processes_of(str(tmp_path))
    for pid in processes_of(str(tmp_path)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("where", ["save", "load"])
def test_host_killed_in_the_midst_of_a_hand_over_leaves_nothing_and_comes_up_whole(
    tmp_path: Path, where: str, swept: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = _COUNTS.replace("{save}", "time.sleep(60)" if where == "save" else "").replace(
        "{load}", "time.sleep(60)" if where == "load" else ""
    )
    extra = '[permissions]\nkv = { quota = "64KiB" }\nenv = ["KILL9_MARK"]\n'  # the variable is what finds its processes
    write_plugin(tmp_path / "plugins", "p", code, hooks=["t.strict"], extra=extra)
    (tmp_path / "state").mkdir(mode=0o700)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "KILL9_MARK": str(tmp_path)}
    process: Any = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path), f"in {where}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        assert process.stdout.readline() == b"now\n"
        assert len(swept()) >= 3  # the host, the old instance and the next one
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    wait_gone(str(tmp_path))

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert host.plugin("p").state == "ready" and not events(host, EventKind.ORPHAN_SWEPT)
            assert (await host.hooks(T).strict(Doc("x"))).marks == ["4"]  # what it stored is whole
            write_plugin(tmp_path / "plugins", "p", code.replace("time.sleep(60)", "pass"), hooks=["t.strict"], extra=extra)
            await host.plugin("p").restart()
            await host.plugin("p").reload()
            assert (await host.hooks(T).strict(Doc("x"))).marks == ["5"]

    monkeypatch.setenv("KILL9_MARK", str(tmp_path))
    run(scenario)
