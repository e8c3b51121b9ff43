"""A plugin that is replaced a hundred times under load: no call is lost, and what callers notice of it.

Source: docs/explanation/performance.md.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, final

from benchmarks.contracts import Bench
from benchmarks.harness import Bench as Run
from benchmarks.harness import Cell, Mark, Subject
from benchmarks.payload import check, requests
from benchmarks.subject import Ours

__all__ = ["MARKS", "NAME", "TITLE", "Metronome", "Reloads", "measure"]

NAME = "reload"
TITLE = "Replacing a plugin 100 times under 2,000 calls a second"
MARKS = (
    Mark(key="lost", limit=0, about="calls without an answer, worst round"),
    Mark(key="failed", limit=0, about="calls that failed, worst round"),
    Mark(
        key="p99_over_baseline",
        limit=3,
        about="p99 of calls while the plugin is replaced twice a second ÷ without",
        held_back_by="each replacement starts a process behind all walls, twice a second, and the calls share two cores with that: who "
        "finds both taken waits for the end of a slice, which is 4 ms with this kernel (no pre-emption, 250 Hz).",
    ),
)
_PER_S = 2000
_RELOADS = 15  # a round: 105 in all of them
_EVERY_S = 0.5
_ALONE = "edit, without"
_REPLACED = "edit, while the plugin is replaced twice a second"
_HURRIED = "edit, while it is replaced again and again without a pause"


def measure(bench: Run) -> None:
    """Measure as scheduled: the same load on two hosts, of which one has its plugin replaced again and again."""
    reloads = {"count": 2 if bench.quick else _RELOADS}
    every_s = 0.15 if bench.quick else _EVERY_S
    alone = {"count": int(reloads["count"] * every_s * _PER_S)}
    subjects = [Subject(name, "benchmarks.reload:Reloads", ours=True) for name in ("steady", "replaced", "hurried")]
    cells = [
        Cell(_ALONE, "steady", "load", alone),
        Cell(_REPLACED, "replaced", "load_with_reloads", {**reloads, "every_s": every_s}),
        Cell(_HURRIED, "hurried", "load_with_reloads", {**reloads, "every_s": 0.0}),
        Cell("one replacement, from asking to taken over", "replaced", "reloads_ms", unit="ms"),
        Cell("calls in a round, twice a second", "replaced", "sent", unit="calls", worst=min),
        Cell("calls in a round, without a pause", "hurried", "sent", unit="calls", worst=min),
    ]
    for subject, when in (("steady", "without"), ("replaced", "twice a second"), ("hurried", "without a pause")):
        cells.append(Cell(f"calls that got no answer, {when}", subject, "lost", unit="calls", worst=max))
        cells.append(Cell(f"calls that failed, {when}", subject, "failed", unit="calls", worst=max))
    with bench.seats(subjects) as seats:
        bench.interleave(seats, cells)
    for key, what in (("lost", "got no answer"), ("failed", "failed")):
        worst = [bench.value(f"calls that {what}, {when}", percentile="p99") for when in ("twice a second", "without a pause")]
        bench.ratio(key, None if None in worst else sum(filter(None, worst)))
    for end, row in (("", _REPLACED), ("_without_pause", _HURRIED)):
        bench.ratio(f"p99_over_baseline{end}", bench.value(row, percentile="p99"), bench.value(_ALONE, percentile="p99"))
        bench.ratio(f"p50_over_baseline{end}", bench.value(row), bench.value(_ALONE))


@final
class Metronome:
    """Ticks by the kernel's clock, however late the loop is: what was due meanwhile is told at once.

    A loop's own timers are good to a millisecond, two calls of this load.
    """

    _MONOTONIC, _ABSOLUTE, _NON_BLOCKING = 1, 1, os.O_NONBLOCK | os.O_CLOEXEC

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.timerfd_create(self._MONOTONIC, self._NON_BLOCKING)
        self.first_ns = time.monotonic_ns() + 20_000_000
        spans = [*divmod(period_ns, 10**9), *divmod(self.first_ns, 10**9)]
        if self._descriptor < 0 or libc.timerfd_settime(self._descriptor, self._ABSOLUTE, (ctypes.c_long * 4)(*spans), None):
            raise OSError(ctypes.get_errno(), "no timer of the kernel's")
        self._told = 0

    def start(self, tick: Callable[[int], None]) -> None:
        """Call ``tick`` with the planned time of each tick, in nanoseconds of the monotonic clock."""

        def due() -> None:
            for _ in range(int.from_bytes(os.read(self._descriptor, 8), "little")):
                tick(self.first_ns + self._told * self._period_ns)
                self._told += 1

        asyncio.get_running_loop().add_reader(self._descriptor, due)

    def stop(self) -> None:
        """Tick no more."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)


class Reloads(Ours):
    """A host whose plugin is called by the clock, whatever became of the calls before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(concurrency=4, **options)
        self.requests = requests(16)
        self._planned = self._answered = self._failed = self._number = 0
        self._took_ms: list[float] = []
        self._seen: set[str] = set()
        self._source = next((self.folder / "plugins").glob("*/bench_editor/plugin.py"))
        self._text = self._source.read_text(encoding="utf-8")

    def load(self, count: int) -> list[float]:
        """Return microseconds of so many calls, each from when it was to be made."""
        return self.run(self._loaded(lambda: asyncio.sleep(count / _PER_S)))

    def load_with_reloads(self, count: int, every_s: float) -> list[float]:
        """Return the same while the plugin is replaced so many times, at most one replacement at a time."""
        return self.run(self._loaded(lambda: self._reload(count, every_s)))

    def reloads_ms(self) -> list[float]:
        return self._took_ms

    def sent(self) -> list[float]:
        return [float(self._planned)]

    def lost(self) -> list[float]:
        return [float(self._planned - self._answered - self._failed)]

    def failed(self) -> list[float]:
        return [float(self._failed)]

    async def _loaded(self, meanwhile: Callable[[], Awaitable[None]]) -> list[float]:
        samples: list[float] = []
        calls: set[asyncio.Task[None]] = set()
        self._planned = self._answered = self._failed = 0
        self._seen.clear()

        def begin(planned_ns: int) -> None:
            self._planned += 1
            task = asyncio.get_running_loop().create_task(self._call(planned_ns, samples))
            calls.add(task)
            task.add_done_callback(calls.discard)

        metronome = Metronome(10**9 // _PER_S)
        metronome.start(begin)
        try:
            await meanwhile()
        finally:
            metronome.stop()
        if calls:
            await asyncio.wait(calls, timeout=60.0)
        return samples

    async def _call(self, planned_ns: int, samples: list[float]) -> None:
        sent = self.requests[self._planned % len(self.requests)]
        try:
            reply = await self.host.hooks(Bench).edit(sent)
            took_ns = time.monotonic_ns() - planned_ns
            check(sent, reply, edits=1)
        except Exception as error:
            self._failed += 1
            print(f"call failed: {type(error).__name__}: {error}", flush=True)
            return
        self._answered += 1
        samples.append(took_ns / 1000)
        self._seen.add(reply.labels.get("revision", ""))

    async def _reload(self, count: int, every_s: float = 0.0) -> None:
        plugin, took, next_at = self.host.plugins[0], [], time.monotonic()
        for _ in range(count):
            next_at += every_s
            self._number += 1
            line = f'    request["labels"]["revision"] = "{self._number}"\n    return request\n'
            await asyncio.to_thread(self._source.write_text, self._text.replace("    return request\n", line), encoding="utf-8")
            began = time.perf_counter()
            await plugin.reload()
            took.append((time.perf_counter() - began) * 1000)
            await self._until_seen(str(self._number))
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        self._took_ms = took

    async def _until_seen(self, revision: str) -> None:
        """Wait until a call of the load was answered by what was just put in place."""
        async with asyncio.timeout(10.0):
            while revision not in self._seen:
                await asyncio.sleep(0.002)
