"""Watch what all running plugins use.

One task for the whole host. Every few seconds it looks at each running plugin, some at a time in a worker thread, spread over the interval,
so that many idle plugins cost next to nothing and none of them waits for a look at another. What is dear is looked at seldom: connections,
and the folders of plugins, which get no more than a hundredth of a thread.

* It measures and decides by the policy; what an action means is its caller's business.
* A plugin that vanishes, or fails to be measured, disturbs nobody else.
* What is kept of each plugin is bounded, and given back by ``forget``.

Callbacks are called on the loop; those of ``Watched`` that measure are called in a worker thread.

Source: feature IS8; docs/adr/0075-one-task-monitors-all.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter
from typing import final

from annexe.clock import Clock
from annexe.launch.data_folders import DataUsage
from annexe.sandbox.cgroup import GroupUsage
from annexe.supervision.usage import ProcessMeter, SocketTables
from annexe.supervision.violations import Action, Judged, MonitorPolicy, Resource, Usage, Violation
from annexe.supervision.watched import Watched

__all__ = ["Monitor", "MonitorPace", "Sample"]

_LOG = logging.getLogger("annexe.supervision")
_STILL_LOOKS = 3  # after so many that found nothing new
_STILL_ROUNDS = 4  # a plugin is looked at in every fourth round only
_AT_ONCE = 50  # some milliseconds of a worker thread
_DATA_BUDGET_S = 0.1  # of counting folders, before processes are looked at again
_DATA_SHARE = 0.01  # of one thread, for each folder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorPace:
    """How often things are looked at, in seconds.

    Attributes:
        interval_s: Processes.
        data_s: Data folders, at most; a large one less often.
        connections_s: Connections.
    """

    interval_s: float = 2.0
    data_s: float = 10.0
    connections_s: float = 30.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one plugin used at one time.

    Attributes:
        at: Unix time in seconds.
        usage: What it used; disk and connections as they were when last counted.
        cpu_cores: Processors used on average since the sample before; None with an instance's first.
        violated: What was over its limit.
    """

    at: float
    usage: Usage
    cpu_cores: float | None
    violated: tuple[Resource, ...]


@final
@dataclass(slots=True)
class _Ward:
    """What is kept of one plugin."""

    samples: deque[Sample]
    instance: str | int | None = None
    meter: ProcessMeter = field(default_factory=ProcessMeter)
    judged: Judged | None = None
    data: DataUsage | None = None
    is_data_new: bool = False
    data_due_s: float = 0.0
    connections: int | None = None
    connections_due_s: float = 0.0
    is_failing: bool = False
    measured: Usage | None = None
    still_looks: int = 0
    due_s: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class _Look:
    """One plugin to be measured."""

    watched: Watched
    ward: _Ward
    with_connections: bool


@final
class Monitor:
    """The monitor of one host; open it on the host's loop.

    Args:
        watched: Returns the plugins that run now. Called on the loop.
        policy: Returns the rules for a plugin, by its id. Called on the loop.
        on_violation: Told of every violation's beginning and end.
        act: Told of a violation to do what its action says; it must not block and starts what takes time.
        clock: For rates and for the samples' time.
        pace: How often.
        kept_samples: How many samples are kept of each plugin.
    """

    def __init__(
        self,
        watched: Callable[[], Iterable[Watched]],
        *,
        policy: Callable[[str], MonitorPolicy],
        on_violation: Callable[[str, Violation], None],
        act: Callable[[str, Violation], None],
        clock: Clock,
        pace: MonitorPace | None = None,
        kept_samples: int = 60,
    ) -> None:
        self._watched = watched
        self._policy = policy
        self._on_violation = on_violation
        self._act = act
        self._clock = clock
        self._pace = pace or MonitorPace()
        self._kept_samples = kept_samples
        self._wards: dict[str, _Ward] = {}
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look; once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="annexe-monitor")

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def samples(self, plugin: str) -> tuple[Sample, ...]:
        """Return what a plugin used lately, oldest first; nothing for one that was never looked at."""
        ward = self._wards.get(plugin)
        return tuple(ward.samples) if ward is not None else ()

    def latest(self, plugin: str) -> Sample | None:
        """Return what a plugin used when it was last looked at."""
        ward = self._wards.get(plugin)
        return ward.samples[-1] if ward is not None and ward.samples else None

    def forget(self, plugin: str) -> None:
        """Give back what is kept of a plugin that the host knows no more, and of its further instances (``words#1``)."""
        for name in [name for name in self._wards if name.partition("#")[0] == plugin]:
            del self._wards[name]

    async def poll(self) -> None:
        """Look at every running plugin once, now; not while it is open."""
        watched = self._begin_round()
        for some in _portions(watched):
            await self._look(some)
        await self._count_data(watched)

    async def _run(self) -> None:
        while True:
            portions = 1
            try:
                watched = self._begin_round()
                due = [each for each in watched if self._is_due(each)]
                portions = max(-(-len(due) // _AT_ONCE), 1)
                for number, some in enumerate(_portions(due)):
                    if number:
                        await asyncio.sleep(self._pace.interval_s / portions)
                    await self._look(some)
                await self._count_data(watched)
            except Exception:  # noqa: BLE001 - whatever it was, plugins are still to be watched
                _LOG.exception("a look at what plugins use failed inside the host")
            await asyncio.sleep(self._pace.interval_s / portions)

    def _begin_round(self) -> list[Watched]:
        """Return whom to look at; end what is told of those that run no more."""
        watched = list(self._watched())
        running = {each.id: each.instance for each in watched}
        for plugin, ward in self._wards.items():
            if ward.instance is not None and running.get(plugin) != ward.instance:
                self._end_instance(plugin, ward)
        return watched

    def _is_due(self, watched: Watched) -> bool:
        ward = self._wards.get(watched.id)
        return ward is None or ward.instance != watched.instance or self._clock.monotonic() >= ward.due_s

    def _end_instance(self, plugin: str, ward: _Ward) -> None:
        judged, ward.judged, ward.instance = ward.judged, None, None
        ward.meter, ward.measured, ward.still_looks = ProcessMeter(), None, 0
        if judged is not None:
            for violation in self._policy(plugin).close(judged, now_s=self._clock.monotonic()):
                self._tell(plugin, violation)

    async def _look(self, some: Sequence[Watched]) -> None:
        now_s = self._clock.monotonic()
        looks = []
        for watched in some:
            ward = self._wards.get(watched.id)
            if ward is None:
                ward = self._wards[watched.id] = _Ward(deque(maxlen=self._kept_samples))
            ward.instance = watched.instance
            with_connections = now_s >= ward.connections_due_s
            if with_connections:
                ward.connections_due_s = now_s + self._pace.connections_s
            looks.append(_Look(watched, ward, with_connections))
        measured = await asyncio.to_thread(_measure_all, looks, self._clock)
        for look, result in zip(looks, measured, strict=True):
            if self._wards.get(look.watched.id) is look.ward and result is not None:
                self._judge(look, *result)

    def _judge(self, look: _Look, usage: Usage, at_s: float) -> None:
        watched, ward = look.watched, look.ward
        if ward.instance != watched.instance:  # started again while it was measured
            return
        if look.with_connections:
            ward.connections = usage.connections
        if ward.is_data_new and ward.data is not None:
            usage = replace(usage, disk_bytes=ward.data.allocated_bytes, disk_entries=ward.data.entries)
        ward.is_data_new = False
        ward.judged, violations = self._policy(watched.id).judge(ward.judged, usage=usage, limits=watched.limits, now_s=at_s)
        is_calm = ward.still_looks >= _STILL_LOOKS and not ward.judged.violated
        ward.due_s = at_s + self._pace.interval_s * (_STILL_ROUNDS - 0.5) if is_calm else 0.0
        ward.samples.append(
            Sample(at=self._clock.now(), usage=_shown(usage, ward), cpu_cores=ward.judged.cpu_cores, violated=ward.judged.violated)
        )
        for violation in violations:
            self._tell(watched.id, violation)

    def _tell(self, plugin: str, violation: Violation) -> None:
        try:
            self._on_violation(plugin, violation)
            if violation.is_to_be_acted_on and violation.action is not Action.WARN:
                self._act(plugin, violation)
        except Exception:  # noqa: BLE001 - the other plugins are still to be looked at
            _LOG.exception("a violation of plugin %r could not be dealt with: %s", plugin, violation.reason)

    async def _count_data(self, watched: Sequence[Watched]) -> None:
        now_s = self._clock.monotonic()
        due = [(each, ward) for each in watched if (ward := self._wards.get(each.id)) is not None and now_s >= ward.data_due_s]
        if not due:
            return
        due.sort(key=lambda pair: pair[1].data_due_s)
        for (_, ward), (usage, cost_s) in zip(due, await asyncio.to_thread(_count_some, due), strict=False):
            ward.data, ward.is_data_new = usage, True
            ward.data_due_s = now_s + max(self._pace.data_s, cost_s / _DATA_SHARE)


def _portions(watched: Sequence[Watched]) -> Iterable[Sequence[Watched]]:
    left = iter(watched)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _shown(usage: Usage, ward: _Ward) -> Usage:
    """Fill in what was not counted this time; of a plugin that does nothing, that is nothing, and its samples share what it used."""
    data = ward.data
    disk_bytes, disk_entries = (data.allocated_bytes, data.entries) if data is not None else (None, None)
    if (usage.disk_bytes, usage.disk_entries, usage.connections) == (disk_bytes, disk_entries, ward.connections):
        return usage
    return replace(usage, disk_bytes=disk_bytes, disk_entries=disk_entries, connections=ward.connections)


# -- in a worker thread


def _measure_all(looks: Sequence[_Look], clock: Clock) -> list[tuple[Usage, float] | None]:
    tables = SocketTables()
    return [_measure(look, tables, clock) for look in looks]


def _measure(look: _Look, tables: SocketTables, clock: Clock) -> tuple[Usage, float] | None:
    """Return what one plugin uses and when that was; None when it has gone, or cannot be measured."""
    try:
        pids = look.watched.pids()
        found = look.ward.meter.measure(pids)
        at_s = clock.monotonic()
        if found.processes == 0:
            return None
        is_same = look.ward.meter.is_same and not look.watched.may_fork and look.ward.measured is not None
        look.ward.still_looks = look.ward.still_looks + 1 if is_same else 0
        if is_same and look.ward.meter.is_still and look.ward.measured is not None:
            # What has not run since uses what it used: most plugins do nothing most of the time, and a group is dear to ask.
            if look.ward.measured.connections != look.ward.connections:
                look.ward.measured = replace(look.ward.measured, connections=look.ward.connections)
            return look.ward.measured, at_s
        group = look.watched.group_usage()
        usage = Usage(
            memory_bytes=found.memory_bytes,
            cpu_s=found.cpu_s,
            processes=found.processes,
            threads=found.threads,
            open_files=found.open_files,
            connections=tables.count(pids) if look.with_connections else None,
        )
        usage = usage if group is None else _as_group_says(usage, group)
    except Exception:  # noqa: BLE001 - whatever it was, the others are still to be measured
        _note_failure(look.watched.id, look.ward)
        return None
    look.ward.is_failing, look.ward.measured = False, usage
    return usage, at_s


def _as_group_says(usage: Usage, group: GroupUsage) -> Usage:
    """Prefer what the group tells: it misses nothing that came and went between two looks."""
    memory_bytes = usage.memory_bytes
    if group.memory_bytes is not None and memory_bytes is not None:
        # Both are too much: processes' for what they share, the group's for pages of files that the kernel can drop.
        memory_bytes = min(memory_bytes, group.memory_bytes)
    return replace(
        usage,
        memory_bytes=memory_bytes,
        cpu_s=usage.cpu_s if group.cpu_s is None else group.cpu_s,
        threads=usage.threads if group.tasks is None else group.tasks,
        oom_kills=group.oom_kills or 0,
    )


def _count_some(due: Sequence[tuple[Watched, _Ward]]) -> list[tuple[DataUsage | None, float]]:
    """Count the first folders, for as long as there is time."""
    counted: list[tuple[DataUsage | None, float]] = []
    began_s = perf_counter()
    for watched, ward in due:
        at_s = perf_counter()
        if counted and at_s - began_s > _DATA_BUDGET_S:
            break
        try:
            usage = watched.data_usage()
        except Exception:  # noqa: BLE001 - as above
            _note_failure(watched.id, ward)
            usage = None
        counted.append((usage, perf_counter() - at_s))
    return counted


def _note_failure(plugin: str, ward: _Ward) -> None:
    if not ward.is_failing:  # every two seconds would be too often
        _LOG.exception("what plugin %r uses cannot be measured", plugin)
    ward.is_failing = True
