"""A whole host under load is killed with SIGKILL, again and again, and no plugin process outlives it.

Plugins that fork, that ignore every signal, that never look at their channel, that are in the midst of a call or of being replaced, that
start just now. Behind
walls what leaves its plugin on purpose (a daemon) ends with it. Without walls it is beyond the level, which says so ("tree kill: soft"),
and the warden or the next host sweeps it away.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.record import Event, EventKind
from tests.process import loaded_host
from tests.process.conftest import IS_ROOT, needs_namespaces
from tests.process.hosts import cmdline, events, is_alive, no_walls, open_host, run, until, wardens_of, write_plugin

GONE_WITHIN_S = 5.0

FILTER = """
@plugin.filter("t.edit")
def edit(doc):
    BODY
    return doc
@plugin.observer("t.seen")
def seen(what):
    pass
"""

PLUGINS = {
    "plain": FILTER.replace("BODY", "pass"),
    "busy": FILTER.replace("BODY", "sum(range(20000))"),
    "deaf": "for number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
    + FILTER.replace("BODY", "pass"),
    "hangs": FILTER.replace("BODY", "time.sleep(1000)"),
    "forks": """
def live_on():
    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while True: time.sleep(1000)
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0: live_on()
        live_on()
"""
    + FILTER.replace("BODY", "pass"),
    "threads": "for _ in range(5): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    + FILTER.replace("BODY", "pass"),
    "several": FILTER.replace("BODY", "pass"),  # in a pool, and reloaded all the time
    "async": FILTER.replace("def edit", "async def edit").replace("BODY", "pass"),
    "crashes": FILTER.replace("BODY", "if time.time_ns() // 1000 % 50 == 0: os._exit(1)"),
}

DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(3, 64):
            try: os.close(number)
            except OSError: pass
        time.sleep(1000)
    os._exit(0)
"""


def processes_of(mark: str) -> list[int]:
    """Return every living process of one test: plugins and all that they forked, hosts, wardens.

    Plugins of a root host, which share one runtime folder, have the mark in their environment. Those of others hide their environment
    from their own user too, but run from a folder of the test.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = path.joinpath("cmdline").read_bytes()
            marked = mark.encode() in words or (IS_ROOT and mark.encode() in path.joinpath("environ").read_bytes())
        except OSError:
            continue  # gone
        if marked and int(path.name) != os.getpid() and is_alive(int(path.name)):
            found.append(int(path.name))
    return found


def plugins_of(mark: str) -> list[int]:
    """Return the plugin processes among them."""
    return [pid for pid in processes_of(mark) if not re.search(rb"warden_main|loaded_host|\A[^\0]*bwrap\0", cmdline(pid))]


def write_all(root: Path, plugins: dict[str, str]) -> None:
    # The right to this variable is what puts the mark into plugins and all that they fork.
    for name, code in plugins.items():
        extra = '[permissions]\nenv = ["KILL9_MARK"]\nsubprocess = true\n[resources]\nprocesses = 64'
        runtime = "instances = { min = 2, max = 3 }" if name == "several" else ""
        write_plugin(root / "plugins", name, code, hooks=["t.edit", "t.seen"], extra=extra, runtime=runtime)


class LoadedHost:
    def __init__(self, root: Path, mark: str, walls: str = "all") -> None:
        self.errors = (root / "errors").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, loaded_host.__file__, str(root), walls],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "KILL9_MARK": mark},
        )

    def wait_ready(self) -> list[int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host ended before it was ready: {(Path(self.errors.name)).read_text()}"
        return list(json.loads(line))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path)
    for pid in processes_of(str(tmp_path)):
        os.kill(pid, 9)


def wait_gone(mark: str) -> float:
    """Wait until nothing is left; return how long that took."""
    started = time.monotonic()
    while left := processes_of(mark):
        if time.monotonic() - started > GONE_WITHIN_S:
            told = {pid: cmdline(pid)[-80:] for pid in left if is_alive(pid)}
            raise AssertionError(f"{len(told)} processes outlived their host: {told}")
        time.sleep(0.01)
    return time.monotonic() - started


def kill_again_and_again(root: Path, mark: str, times: int, walls: str = "all") -> None:
    seed = int(os.environ.get("KILL9_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KILL9_SEED={seed}")
    chance = random.Random(seed)
    write_all(root, PLUGINS)
    slowest_s, most = 0.0, 0
    for number in range(times):
        host = LoadedHost(root, mark, walls)
        try:
            if number % 4 == 3:
                time.sleep(chance.uniform(0.3, 1.2))  # also in the midst of starting
            else:
                assert len(host.wait_ready()) == len(PLUGINS)
                time.sleep(chance.uniform(0.0, 0.2))
            most = max(most, len(plugins_of(mark)))
        finally:
            host.kill()
        slowest_s = max(slowest_s, wait_gone(mark))
    print(f"up to {most} plugin processes, all gone within {slowest_s:.2f} s, {times} times")
    assert most >= len(PLUGINS) + 6  # the forks were there to be left behind


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("walls", "times"), [("all", 5), ("none", 4)])
def test_killed_host_leaves_no_plugin_process(tmp_path: Path, mark: str, walls: str, times: int) -> None:
    kill_again_and_again(tmp_path, mark, times, walls)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("walls", ["all", "none"])
def test_host_killed_two_hundred_times_leaves_no_plugin_process(tmp_path: Path, mark: str, walls: str) -> None:
    kill_again_and_again(tmp_path, mark, 200, walls)


def test_daemon_of_a_killed_host_is_ended_by_the_warden(tmp_path: Path, mark: str) -> None:
    write_all(tmp_path, {"daemon": DAEMON + FILTER.replace("BODY", "pass")})
    host = LoadedHost(tmp_path, mark, walls="none")
    host.wait_ready()
    wait_for_count(mark, 2)
    host.kill()
    wait_gone(mark)


@needs_namespaces
def test_daemon_behind_walls_ends_with_a_killed_host_without_a_warden(tmp_path: Path, mark: str) -> None:
    write_all(tmp_path, {"daemon": DAEMON + FILTER.replace("BODY", "pass")})
    host = LoadedHost(tmp_path, mark)
    host.wait_ready()
    wait_for_count(mark, 2)
    (warden,) = wardens_of(host.process.pid)
    os.kill(warden, 9)
    host.kill()
    wait_gone(mark)


def wait_for_count(mark: str, count: int) -> list[int]:
    """Wait until so many plugin processes are there: what forks in the middle of a daemon's making has ended."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while len(found := plugins_of(mark)) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) == count
    return found


def test_without_its_warden_a_killed_host_leaves_children_and_the_next_host_sweeps_them(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, {"daemon": DAEMON + FILTER.replace("BODY", "pass"), "forks": PLUGINS["forks"]})
    host = LoadedHost(tmp_path, mark, walls="none")
    host.wait_ready()
    wardens = wardens_of(host.process.pid)
    assert len(wardens) == 1
    wait_for_count(mark, 9)
    os.kill(wardens[0], 9)
    host.kill()
    left = wait_for_count(mark, 7)  # the attack works when nobody watches: one daemon and six forks are left

    async def scenario() -> None:
        for name in ("daemon", "forks"):
            (tmp_path / "plugins" / name / "main.py").write_text("from annexe_sdk import Plugin\nplugin = Plugin()\n" + FILTER)
        async with open_host(tmp_path) as host:
            swept = {event.plugin: event.facts for event in events(host, EventKind.ORPHAN_SWEPT)}
            assert {name: (facts["killed"], facts["gone"]) for name, facts in swept.items()} == {"daemon": (1, True), "forks": (6, True)}
            assert not any(is_alive(pid) for pid in left)
            receipt = host.plugin("forks").receipt
            assert receipt is not None
            assert receipt.tree_kill == ("hard" if IS_ROOT else "soft")

    monkeypatch.setenv("KILL9_MARK", mark)
    with no_walls(loaded_host.own_users(tmp_path)):
        run(scenario)


def test_closed_host_sends_its_warden_home(tmp_path: Path, mark: str) -> None:
    write_all(tmp_path, {"plain": PLUGINS["plain"]})

    async def scenario() -> list[int]:
        async with open_host(tmp_path):
            return wardens_of(os.getpid())

    (warden,) = run(scenario)
    assert not is_alive(warden)


def test_killed_warden_has_a_successor_from_the_next_start_on(tmp_path: Path, mark: str) -> None:
    write_all(tmp_path, {"plain": PLUGINS["plain"]})

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            (warden,) = wardens_of(os.getpid())
            os.kill(warden, 9)
            await until(lambda: not is_alive(warden))
            await host.plugin("plain").restart()
            (successor,) = wardens_of(os.getpid())
            assert successor != warden

    run(scenario)


def test_daemon_of_a_stopped_plugin_is_hunted_down_and_told(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_walls():
        (event,) = kills_of_a_stopped_daemon(tmp_path, mark, monkeypatch)
    assert event.facts["stragglers"] == 1 and event.facts["gone"] is True


@needs_namespaces
def test_daemon_of_a_stopped_plugin_behind_walls_ends_with_it(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not kills_of_a_stopped_daemon(tmp_path, mark, monkeypatch)


def kills_of_a_stopped_daemon(root: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Stop a plugin that has a daemon; return what is told of the killing once all of it is gone."""
    write_all(root, {"daemon": DAEMON + FILTER.replace("BODY", "pass")})
    monkeypatch.setenv("KILL9_MARK", mark)

    async def scenario() -> list[Event]:
        async with open_host(root) as host:
            plugin = host.plugin("daemon")
            await until(lambda: len(plugins_of(mark)) == 2)
            await plugin.stop()
            assert not plugins_of(mark)
            return events(host, EventKind.TREE_KILL_SOFT, "daemon")

    return run(scenario)


def test_host_that_cannot_be_told_from_a_daemon_is_not_swept(tmp_path: Path, mark: str) -> None:
    """A sweep touches only what a dead owner recorded: another living host on the machine is left alone."""
    write_all(tmp_path / "one", {"plain": PLUGINS["plain"]})
    write_all(tmp_path / "two", {"plain": PLUGINS["plain"]})
    living = LoadedHost(tmp_path / "one", mark)
    try:
        (pid,) = living.wait_ready()

        async def scenario() -> None:
            async with open_host(tmp_path / "two") as host:
                assert not events(host, EventKind.ORPHAN_SWEPT)
                await asyncio.sleep(0)

        run(scenario)
        assert is_alive(pid)
    finally:
        living.kill()
    wait_gone(mark)
