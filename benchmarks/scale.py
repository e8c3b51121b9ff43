"""A thousand plugins installed, two hundred running: what they cost when nobody needs them. Source: docs/explanation/performance.md."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from annexe import Host
from annexe.host.control_client import ControlClient
from benchmarks.guards import expect, prove_one
from benchmarks.harness import Bench, Cell, Mark, Subject
from benchmarks.processes import tree_cpu_s
from benchmarks.subject import AsyncCall, Ours

__all__ = ["MARKS", "NAME", "TITLE", "Idle", "Installed", "measure"]

NAME = "scale"
TITLE = "Scale: 1,000 plugins installed, 200 running"
MARKS = (
    Mark(
        key="start_1000_s",
        limit=1.0,
        about="host start with 1,000 plugins installed, s",
        held_back_by="reading a thousand manifests, digesting a thousand folders, which tells what was granted, and a supervisor, its "
        "events and its place in what it provides for each: all of it Python's work on one core.",
    ),
    Mark(key="list_1000_ms", limit=20.0, about="list of 1,000 plugins over the control socket, ms"),
    Mark(
        key="idle_cpu_200_pct",
        limit=1.0,
        about="processor time of the host with 200 idle plugins, % of one core",
        held_back_by="a look at what each uses, every eight seconds, and a ping every thirty.",
    ),
    Mark(key="call_200_over_1", limit=1.25, about="call with 200 plugins running ÷ with one, pinned"),
)
_INSTALLED, _FEW = 1000, 10
_RUNNING = 200
_IDLE_S = 30.0  # each is pinged once and looked at four times
_SETTLE_S = 2.0  # a host stands still while another is measured, and does first what became due meanwhile
_IDLE_ROUNDS = 2


def measure(bench: Bench) -> None:
    """Measure hosts with installed plugins as scheduled, one after the other; those with running ones pinned to one core."""
    _measure_installed(bench, 30 if bench.quick else _INSTALLED)
    bench.absent.clear()
    _measure_running(bench, 3 if bench.quick else _RUNNING)


def _measure_installed(bench: Bench, many: int) -> None:
    count = {"count": bench.count(20)}
    cells = [
        Cell(f"{what}, {plugins} installed", f"{plugins} installed", do, args, "ms")
        for what, do, args in (
            ("host start", "starts", {}),
            ("list, in the host's process", "lists", count),
            ("list, over the control socket", "lists_outside", count),
            ("find, in the host's process", "finds", count),
            ("find, over the control socket", "finds_outside", count),
        )
        for plugins in (_FEW, many)
    ]
    subjects = [Subject(f"{plugins} installed", "benchmarks.scale:Installed", {"copies": plugins}, ours=True) for plugins in (_FEW, many)]
    with bench.seats(subjects) as seats:
        bench.interleave(seats, cells)
    start = bench.value(f"host start, {many} installed")
    bench.ratio("start_1000_s", start, 1000.0)
    bench.ratio("list_1000_ms", bench.value(f"list, over the control socket, {many} installed"))


def _measure_running(bench: Bench, many: int) -> None:
    seconds = {"seconds": 0.5 if bench.quick else _IDLE_S}
    subjects = [Subject(f"{plugins} running", "benchmarks.scale:Idle", {"copies": plugins}, ours=True) for plugins in (1, many)]
    calls = [Cell(f"call, {plugins} running", f"{plugins} running", args={"count": bench.count(600)}) for plugins in (1, many)]
    idle = [
        *(Cell(f"host, {plugins} idle", f"{plugins} running", "host_pct", seconds, "% of a core") for plugins in (1, many)),
        *(Cell(f"all their processes, {plugins} idle", f"{plugins} running", "others_pct", {}, "% of a core") for plugins in (1, many)),
    ]
    with bench.seats(subjects, pinned=True) as seats:
        bench.interleave(seats, calls)
        bench.interleave(seats, idle, rounds=_IDLE_ROUNDS)
    bench.ratio("idle_cpu_200_pct", bench.value(f"host, {many} idle"))
    bench.ratio("call_200_over_1", bench.value(f"call, {many} running"), bench.value("call, 1 running"))


class Installed(Ours):
    """A host whose plugins wait for their first call; a client of its control socket is another process."""

    start_mode = "lazy"

    def __init__(self, copies: int) -> None:
        super().__init__(copies=copies)
        self._count = copies
        self._wanted = f"bench-editor-{copies // 2:02}"
        self.options["control"] = True
        self._client = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    async def prove(self, host: Host) -> None:
        """See that one of them has everything on; the others must not run."""
        await prove_one(host, host.plugins[0], 0)
        expect("codec", host.plugins[0].codec, self.codec)
        expect("isolation", str(host.plugins[0].receipt and host.plugins[0].receipt.level), self.level)

    def starts(self) -> list[float]:
        """Return the milliseconds of opening a host on the same plugins and state."""
        return [self.run(self._started())]

    async def _started(self) -> float:
        await self.host.close()
        self.host = Host(contracts=self.contracts(), **self.options)
        began = time.perf_counter()
        await self.host.open()
        took = (time.perf_counter() - began) * 1000
        expect("plugins that wait for a call", [str(plugin.state) for plugin in self.host.plugins], ["stopped"] * self._count)
        return took

    def lists(self, count: int) -> list[float]:
        """Return the milliseconds of looking at all of them as an application would."""
        samples = []
        for _ in range(count):
            began = time.perf_counter()
            seen = [(plugin.id, plugin.version, str(plugin.state), plugin.enabled) for plugin in self.host.plugins]
            samples.append((time.perf_counter() - began) * 1000)
            expect("plugins listed", len(seen), self._count)
        return samples

    def finds(self, count: int) -> list[float]:
        samples = []
        for _ in range(count):
            began = time.perf_counter()
            found = self.host.plugin(self._wanted)
            samples.append((time.perf_counter() - began) * 1000)
            expect("plugin found", found.id, self._wanted)
        return samples

    def lists_outside(self, count: int) -> list[float]:
        return self.run(self._asked("list", count))

    def finds_outside(self, count: int) -> list[float]:
        return self.run(self._asked("show", count, plugin=self._wanted))

    async def _asked(self, method: str, count: int, **params: str) -> list[float]:
        loop = asyncio.get_running_loop()
        samples, told = await loop.run_in_executor(self._client, _ask, self.options["state_dir"], method, params, count)
        expect(f"plugins told by {method}", told, self._count if method == "list" else 1)
        return samples

    def close(self) -> None:
        self._client.shutdown()
        super().close()


def _ask(state_dir: Path, method: str, params: dict[str, Any], count: int) -> tuple[list[float], int]:
    """Return the milliseconds of asking a host so often from outside, and of how many plugins it told last."""
    samples: list[float] = []
    told: Any = None
    with ControlClient.connect(state_dir) as client:
        for _ in range(count):
            began = time.perf_counter()
            told = client.call(method, **params)
            samples.append((time.perf_counter() - began) * 1000)
    return samples, len(told) if method == "list" else 1


class Idle(AsyncCall):
    """A host with so many plugins that run, of which one is called at most."""

    def __init__(self, copies: int) -> None:
        super().__init__(copies=copies)
        self._others = 0.0

    def host_pct(self, seconds: float) -> list[float]:
        """Return what the host uses of one core while nobody calls."""
        return [self.run(self._idle(seconds))]

    def others_pct(self) -> list[float]:
        """Return what all other processes of the plugins used of one core meanwhile."""
        return [self._others]

    async def _idle(self, seconds: float) -> float:
        await asyncio.sleep(min(_SETTLE_S, seconds))
        began, own, all_of_them = time.perf_counter(), time.process_time(), tree_cpu_s(os.getpid())
        await asyncio.sleep(seconds)
        used, took = time.process_time() - own, time.perf_counter() - began
        expect("plugins that run", {str(plugin.state) for plugin in self.host.plugins}, {"ready"})
        self._others = max(0.0, tree_cpu_s(os.getpid()) - all_of_them - used) / took * 100
        return used / took * 100
