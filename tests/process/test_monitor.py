"""The monitor, with real processes."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from annexe.launch.data_folders import DataFolders, DataUsage
from annexe.sandbox.cgroup import GroupUsage
from annexe.supervision.monitor import Monitor, MonitorPace
from annexe.supervision.usage import family_of
from annexe.supervision.violations import Action, Limits, MonitorPolicy, Phase, Resource, Rule, Usage, Violation
from annexe.testing import FakeClock
from tests.process.hosts import run

pytestmark = [pytest.mark.any_user, pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")]
MIB = 1024**2
DONE = b"done\n"


@dataclass
class Plugin:
    """A process that does what it is told, as the monitor sees it."""

    id: str
    limits: Limits = field(default_factory=Limits)
    instance: str | int = 1
    may_fork: bool = True
    group: GroupUsage | None = None
    count_data: Callable[[], DataUsage | None] = lambda: None
    look: Callable[[], None] = lambda: None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = "import sys\nfor line in sys.stdin:\n exec(line)\n print('done', flush=True)"
        self.process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.do("pass")

    def do(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == DONE

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def pids(self) -> Sequence[int]:
        self.look()
        return family_of(self.process.pid) if self.process is not None else []

    def group_usage(self) -> GroupUsage | None:
        return self.group

    def data_usage(self) -> DataUsage | None:
        return self.count_data()


class World:
    """A monitor, its plugins, and what it told."""

    def __init__(self, policy: MonitorPolicy | None = None, **arguments: Any) -> None:
        self.clock = FakeClock()
        self.plugins: list[Plugin] = []
        self.violations: list[tuple[str, Violation]] = []
        self.acts: list[tuple[str, Violation]] = []
        self.monitor = Monitor(
            lambda: self.plugins,
            policy=lambda plugin: policy or MonitorPolicy(),
            on_violation=lambda plugin, violation: self.violations.append((plugin, violation)),
            act=lambda *act: self.acts.append(act),
            clock=self.clock,
            **arguments,
        )

    def add(self, plugin: str, *, started: bool = True, **fields: Any) -> Plugin:
        added = Plugin(plugin, **fields)
        self.plugins.append(added)
        if started:
            added.start()
        return added

    async def poll(self, *, after_s: float = 2.0) -> None:
        self.clock.advance(after_s)
        await self.monitor.poll()

    def usage(self, plugin: str) -> Usage:
        sample = self.monitor.latest(plugin)
        assert sample is not None
        return sample.usage

    def told(self) -> list[tuple[str, Resource, Phase]]:
        return [(plugin, violation.resource, violation.phase) for plugin, violation in self.violations]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    for plugin in made.plugins:
        plugin.end()


def test_memory_hog_is_noticed_with_figures_and_restarted(world: World) -> None:
    async def main() -> None:
        hog = world.add("hog", limits=Limits(memory_bytes=60 * MIB))
        world.add("other", limits=Limits(memory_bytes=60 * MIB))
        await world.poll()
        assert world.violations == []
        hog.do("x = b'x' * (80 * 1024**2)")
        await world.poll()

    run(main)
    ((plugin, violation),) = world.violations
    assert (plugin, violation.resource, violation.phase, violation.limit) == ("hog", Resource.MEMORY, Phase.BEGAN, 60 * MIB)
    assert 80 * MIB <= violation.amount < 120 * MIB
    assert world.acts == [("hog", violation)]
    assert violation.action is Action.RESTART
    sample = world.monitor.latest("hog")
    assert sample is not None
    assert sample.violated == (Resource.MEMORY,)
    assert sample.at == world.clock.now()


def test_memory_of_children_counts(world: World) -> None:
    async def main() -> None:
        parent = world.add("parent", limits=Limits(memory_bytes=60 * MIB, processes=1))
        program = "x = b'x' * (80 * 1024**2); print(flush=True); import time; time.sleep(1000)"
        parent.do(f"import subprocess; p = subprocess.Popen([sys.executable, '-c', {program!r}], stdout=-1); p.stdout.readline()")
        await world.poll()
        await world.poll()
        parent.do("p.kill(); p.communicate()")

    run(main)
    assert world.told()[0] == ("parent", Resource.MEMORY, Phase.BEGAN)
    assert ("parent", Resource.PROCESSES, Phase.BEGAN) in world.told()
    assert world.usage("parent").processes == 2


def test_processor_time_is_told_as_a_rate(world: World) -> None:
    async def main() -> None:
        busy = world.add("busy", limits=Limits(cpu_cores=0.01))
        await world.poll()
        busy.do("import time; exec('while time.process_time() < 0.3: pass')")
        for _ in range(6):
            await world.poll()

    run(main)
    samples = world.monitor.samples("busy")
    assert samples[0].cpu_cores is None
    assert samples[1].cpu_cores is not None
    assert 0.05 < samples[1].cpu_cores < 0.5
    assert samples[-1].cpu_cores == pytest.approx(0.0, abs=0.01)
    assert world.violations == []  # a burst is borne with


def test_plugin_that_vanishes_disturbs_nobody(world: World) -> None:
    async def main() -> None:
        gone = world.add("gone", limits=Limits(threads=0))
        world.add("stays")
        await world.poll()
        await world.poll()
        gone.end()
        await world.poll()
        assert len(world.monitor.samples("gone")) == 2
        assert len(world.monitor.samples("stays")) == 3
        world.plugins.remove(gone)
        await world.poll()

    run(main)
    assert world.told() == [("gone", Resource.THREADS, Phase.BEGAN), ("gone", Resource.THREADS, Phase.GONE)]
    assert len(world.monitor.samples("stays")) == 4


def test_plugin_that_ends_while_it_is_looked_at_is_left_out(world: World) -> None:
    async def main() -> None:
        gone = world.add("gone")
        gone.look = gone.end
        world.add("stays")
        await world.poll()

    run(main)
    assert world.monitor.latest("gone") is None
    assert world.usage("stays").processes == 1


def test_new_instance_begins_with_a_clean_slate(world: World) -> None:
    async def main() -> None:
        plugin = world.add("plugin", limits=Limits(memory_bytes=1))
        await world.poll()
        plugin.end()
        plugin.start()
        plugin.instance = 2
        await world.poll()

    run(main)
    assert [phase for _, _, phase in world.told()] == [Phase.BEGAN, Phase.GONE, Phase.BEGAN]
    assert [violation.action for _, violation in world.acts] == [Action.RESTART, Action.RESTART]
    assert [sample.cpu_cores for sample in world.monitor.samples("plugin")] == [None, None]


def test_plugin_that_is_started_again_while_it_is_measured_is_judged_the_next_time(world: World) -> None:
    async def main() -> None:
        plugin = world.add("plugin", limits=Limits(memory_bytes=1))
        plugin.look = lambda: setattr(plugin, "instance", 2)
        await world.poll()
        assert world.violations == []
        await world.poll()

    run(main)
    assert world.told() == [("plugin", Resource.MEMORY, Phase.BEGAN)]


def test_control_group_is_believed_before_processes(world: World) -> None:
    async def main() -> None:
        plugin = world.add("plugin", limits=Limits(memory_bytes=60 * MIB))
        plugin.do("x = b'x' * (80 * 1024**2)")
        plugin.group = GroupUsage(memory_bytes=MIB, cpu_s=7.0, tasks=9, oom_kills=0)
        await world.poll()
        plugin.limits = Limits()
        plugin.group = GroupUsage(oom_kills=2)
        await world.poll()
        plugin.group = GroupUsage(memory_bytes=10**12)
        await world.poll()

    run(main)
    first, *others = (sample.usage for sample in world.monitor.samples("plugin"))
    assert (first.memory_bytes, first.cpu_s, first.threads) == (MIB, 7.0, 9)
    for other in others:  # the group's may be pages of files
        assert other.memory_bytes is not None
        assert 80 * MIB <= other.memory_bytes < 120 * MIB
        assert other.threads == 1
    ((_, violation),) = world.violations
    assert (violation.phase, violation.kills) == (Phase.PREVENTED, 2)


def test_data_folder_over_its_quota_stops_the_plugin(world: World, tmp_path: Path) -> None:
    folders = DataFolders(tmp_path / "data")

    async def main() -> None:
        plugin = world.add("plugin", limits=Limits(disk_bytes=MIB, disk_entries=10))
        plugin.count_data = lambda: folders.usage("plugin")
        path = folders.ensure("plugin")
        await world.poll()
        plugin.do(f"open({str(path / 'big')!r}, 'wb').write(b'x' * 2 * 1024**2) and None")
        for _ in range(7):
            await world.poll()

    run(main)
    ((_, violation),) = world.violations
    assert (violation.resource, violation.limit) == (Resource.DISK, MIB)
    assert violation.amount >= 2 * MIB
    assert world.acts == [("plugin", violation)]
    assert violation.action is Action.STOP
    disk = [sample.usage.disk_bytes for sample in world.monitor.samples("plugin")]
    assert disk[:3] == [None, 0, 0]  # counted after processes, and shown until it is counted again
    assert disk[-1] == violation.amount


def test_dear_things_are_looked_at_seldom(world: World) -> None:
    counted: list[float] = []

    def count() -> DataUsage:
        counted.append(world.clock.monotonic())
        return DataUsage(allocated_bytes=1, entries=1)

    async def main() -> None:
        world.add("plugin").count_data = count
        for _ in range(30):
            await world.poll()

    run(main)
    assert len(counted) == 6
    assert all(after - before >= 10.0 for before, after in pairwise(counted))


def test_connections_are_counted_seldom_and_shown_always(world: World) -> None:
    async def main() -> None:
        plugin = world.add("plugin", limits=Limits(connections=0))
        await world.poll()
        plugin.do("import socket; a = socket.socket(); a.bind(('127.0.0.1', 0))")
        plugin.do("a.listen()")
        for _ in range(16):
            await world.poll()

    run(main)
    assert world.told() == [("plugin", Resource.CONNECTIONS, Phase.BEGAN)]
    shown = [sample.usage.connections for sample in world.monitor.samples("plugin")]
    assert shown == [*[0] * 15, 1, 1]


def test_folder_that_takes_long_keeps_others_waiting_only_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("annexe.supervision.monitor.perf_counter", lambda: float(next(ticks)))  # each step takes a second
    counted: list[str] = []

    def counter(name: str) -> Callable[[], DataUsage]:
        return lambda: counted.append(name) or DataUsage()  # type: ignore[func-returns-value]

    async def main() -> None:
        for name in ("one", "two", "three"):
            world.add(name).count_data = counter(name)
        for _ in range(3):
            await world.poll()
        assert counted == ["one", "two", "three"]
        await world.poll(after_s=50.0)
        assert len(counted) == 3  # a second of counting is a hundredth of 100 s
        await world.poll(after_s=50.0)
        assert counted[3:] == ["one"]

    run(main)


@pytest.mark.parametrize("what", ["pids", "data"])
def test_plugin_that_cannot_be_measured_is_logged_once_and_passed_over(world: World, what: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Any:
        raise RuntimeError("broken")

    async def main() -> None:
        broken = world.add("broken")
        world.add("fine")
        if what == "pids":
            broken.look = fail
        else:
            broken.count_data = fail
        for _ in range(3):
            await world.poll(after_s=1.0)
        assert len(world.monitor.samples("fine")) == 3
        assert len(world.monitor.samples("broken")) == (0 if what == "pids" else 3)

    with caplog.at_level(logging.ERROR, "annexe.supervision"):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["what plugin 'broken' uses cannot be measured"]


def test_callback_that_fails_leaves_the_others_their_turn(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def fail(plugin: str, violation: Violation) -> None:
        world.violations.append((plugin, violation))
        raise RuntimeError("broken")

    world.monitor._on_violation = fail

    async def main() -> None:
        try:
            for name in ("one", "two"):
                world.add(name, limits=Limits(memory_bytes=1))
            await world.poll()
        finally:
            for plugin in world.plugins:
                plugin.end()

    with caplog.at_level(logging.ERROR, "annexe.supervision"):
        asyncio.run(main())
    assert [plugin for plugin, _ in world.violations] == ["one", "two"]
    assert len(caplog.records) == 2


def test_warnings_are_told_and_not_acted_on(world: World) -> None:
    async def main() -> None:
        world.add("plugin", limits=Limits(threads=0))
        await world.poll()
        await world.poll()

    run(main)
    assert world.told() == [("plugin", Resource.THREADS, Phase.BEGAN)]
    assert world.acts == []


def test_samples_are_bounded_and_given_back() -> None:
    world = World(kept_samples=3)

    async def main() -> None:
        plugin = world.add("plugin")
        for _ in range(5):
            await world.poll()
        plugin.end()

    run(main)
    assert len(world.monitor.samples("plugin")) == 3
    world.monitor.forget("plugin")
    world.monitor.forget("plugin")
    assert world.monitor.samples("plugin") == ()
    assert world.monitor.latest("plugin") is None


def test_plugin_that_is_forgotten_while_it_is_measured_stays_forgotten(world: World) -> None:
    async def main() -> None:
        plugin = world.add("plugin")
        loop = asyncio.get_running_loop()

        def forget() -> None:
            forgotten = threading.Event()
            loop.call_soon_threadsafe(world.monitor.forget, "plugin")
            loop.call_soon_threadsafe(forgotten.set)
            forgotten.wait()

        plugin.look = forget
        await world.poll()

    run(main)
    assert world.monitor.latest("plugin") is None


def test_open_monitor_looks_by_itself_at_more_plugins_than_at_once() -> None:
    policy = MonitorPolicy(rules={Resource.MEMORY: Rule()})
    world = World(policy, pace=MonitorPace(interval_s=0.02))
    me = SimpleNamespace(pid=os.getpid())

    async def main() -> None:
        for number in range(120):
            world.add(f"p{number}", started=False, process=me)
        world.monitor.open()
        world.monitor.open()
        while len(world.monitor.samples("p119")) < 3:
            await asyncio.sleep(0.01)
        await world.monitor.close()
        await world.monitor.close()
        assert "annexe-monitor" not in {task.get_name() for task in asyncio.all_tasks()}

    run(main)


def test_open_monitor_goes_on_after_a_failure_of_the_hosts(caplog: pytest.LogCaptureFixture) -> None:
    world = World(pace=MonitorPace(interval_s=0.01))
    asked = 0

    def watched() -> list[Plugin]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("broken")
        return []

    world.monitor._watched = watched

    async def main() -> None:
        world.monitor.open()
        while asked < 3:
            await asyncio.sleep(0.01)
        await world.monitor.close()

    with caplog.at_level(logging.ERROR, "annexe.supervision"):
        asyncio.run(main())
    assert len(caplog.records) == 1


def test_still_process_is_not_looked_into_again_until_it_runs(world: World) -> None:
    asked: list[int] = []

    async def main() -> None:
        plugin = world.add("plugin", may_fork=False)
        plugin.group_usage = lambda: asked.append(1)  # type: ignore[method-assign]
        for _ in range(4):
            await world.poll()
        seen, looks = world.usage("plugin"), len(asked)
        assert looks < 4
        assert seen.memory_bytes
        assert seen.connections == 0
        assert world.monitor.samples("plugin")[-2].usage is seen
        plugin.do("kept = bytearray(64 * 1024 * 1024)")
        await world.poll()
        assert (world.usage("plugin").memory_bytes or 0) > seen.memory_bytes + 50 * MIB
        assert len(asked) == looks + 1
        plugin.may_fork = True  # what it started, and is gone again, shows in the group alone
        for _ in range(3):
            await world.poll()
        assert len(asked) == looks + 4

    run(main)


def test_still_plugin_is_looked_at_seldom_and_one_over_its_limit_always() -> None:
    world = World(pace=MonitorPace(interval_s=0.01))

    async def main() -> None:
        world.add("still", may_fork=False)
        world.add("over", may_fork=False, limits=Limits(memory_bytes=MIB))
        for _ in range(6):
            await world.poll()
        looks: dict[str, int] = {"still": 0, "over": 0}

        def count(plugin: str) -> None:
            looks[plugin] += 1

        for plugin in world.plugins:
            plugin.look = partial(count, plugin.id)
        plugin_rounds = 0
        world.monitor.open()
        async with asyncio.timeout(10):
            while looks["over"] < 12:
                await asyncio.sleep(0.005)
                if looks["over"] > plugin_rounds:  # a round has passed: so has its time
                    plugin_rounds = looks["over"]
                    world.clock.advance(0.01)
        await world.monitor.close()
        assert 1 <= looks["still"] <= 5

    try:
        run(main)
    finally:
        for plugin in world.plugins:
            plugin.end()
