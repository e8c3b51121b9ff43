"""What plugins take of memory: a plugin's whole process tree, and the host for each more plugin. Source: ADR-0077."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from annexe.host.known import KnownPlugin
from annexe.supervision.instance import Instance
from benchmarks.harness import Bench, Cell, Mark, Subject, reference
from benchmarks.processes import tree
from benchmarks.subject import Ours

__all__ = ["MARKS", "NAME", "TITLE", "Crowd", "Pool", "measure"]

NAME = "memory"
TITLE = "Memory: a plugin with all its processes, and the host for each plugin"
MARKS = (
    Mark(key="tree_pss_mb_1", limit=8.0, about="one idle instance, launcher and all, MB of PSS"),
    Mark(key="tree_pss_mb_8", limit=4.0, about="of eight instances of one plugin, launcher and fork server shared, MB of PSS each"),
    Mark(key="host_kb_per_plugin", limit=150.0, about="what the host grows for each more plugin, KB of RSS"),
)
_CROWD = 200
_FEWER = 50
_SUBJECTS = (
    reference("pyisolate", "Pyisolate"),
    Subject("annexe, one instance", "benchmarks.memory:Pool", ours=True),
    Subject("annexe, eight instances", "benchmarks.memory:Pool", {"instances": 8}, ours=True),
    Subject("annexe, host", "benchmarks.memory:Crowd", ours=True),
)


def measure(bench: Bench) -> None:
    """Measure idle processes; what the host grows is measured in a host of its own."""
    cells = [
        Cell("python -I -S, waiting", "annexe, one instance", "bare", {}, "MB"),
        Cell("one instance", "annexe, one instance", "tree_mb", {}, "MB"),
        Cell("each of eight instances", "annexe, eight instances", "tree_mb", {}, "MB"),
        Cell("pyisolate, one extension", "pyisolate", "memory_mb", {}, "MB"),
        Cell(f"host, for each plugin from 1 to {_FEWER}", "annexe, host", "growth_kb", {"plugins": _FEWER}, "KB"),
        Cell(f"host, for each plugin from 1 to {_CROWD}", "annexe, host", "growth_kb", {"plugins": _CROWD}, "KB"),
    ]
    if bench.quick:
        cells = [cell for cell in cells if str(_CROWD) not in cell.what]
    with bench.seats(_SUBJECTS) as seats:
        bench.interleave(seats, cells)
    bench.ratio("tree_pss_mb_1", bench.value("one instance"))
    bench.ratio("tree_pss_mb_8", bench.value("each of eight instances"))
    bench.ratio("host_kb_per_plugin", bench.value(f"host, for each plugin from 1 to {_FEWER if bench.quick else _CROWD}"))


class Pool(Ours):
    """So many instances of one plugin, ready and idle, forked from its fork server where there are several."""

    def __init__(self, instances: int = 1) -> None:
        super().__init__()
        self._wanted = instances
        self._more: list[Instance] = []

    async def open(self) -> None:
        await super().open()
        if self._wanted > 1:
            known = self._known()
            await self.host.plugins[0].stop()  # it was started by itself
            for number in range(1, self._wanted + 1):
                plan = await self.host._registry._planner.plan(known, number)
                plan = replace(plan, launch=replace(plan.launch, warm=True))
                self._more.append(await Instance.start(plan, self.host._registry._strategies["process"], self.host.logs.sink(known.id)))

    def _known(self) -> KnownPlugin:
        (known,) = self.host._registry.plugins.values()
        return known

    def tree_mb(self) -> list[float]:
        """Return what the plugin's whole process tree takes, for each instance."""
        pid = self._more[0].launched.pid if self._more else self.host.plugins[0].pid
        assert pid is not None
        return [sum(map(_pss_mb, tree(_outermost(pid)))) / self._wanted]

    def bare(self) -> list[float]:
        """Return what the plugin's own interpreter takes when it waits."""
        python = Path(f"/proc/{self.host.plugins[0].pid}/cmdline").read_text().split("\0")[0]
        child = subprocess.Popen([python, "-I", "-S", "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None and child.stdin is not None
            child.stdout.readline()
            found = _pss_mb(child.pid)
            child.stdin.close()
        return [found]

    def close(self) -> None:
        self.run(self._discard())
        super().close()

    async def _discard(self) -> None:
        for instance in self._more:
            await instance.discard(kill_s=5.0)


class Crowd:
    """Hosts that are opened with one plugin, and with many."""

    def start(self) -> None:
        """Open nothing yet."""

    def growth_kb(self, plugins: int) -> list[float]:
        """Return what the host grows for each plugin more.

        Each time in a process of its own that only opens hosts: one that has had many plugins does not give all of their memory back.
        """
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
            few, many = (fresh.submit(_taken_kb, count).result() for count in (1, plugins))
        return [(many - few) / (plugins - 1)]

    def close(self) -> None:
        """Close nothing any more."""


def _taken_kb(plugins: int) -> float:
    """Return what this process takes once a host with so many plugins is open."""
    crowd = Ours(copies=plugins)
    crowd.start()
    crowd.run(asyncio.sleep(0.5))
    gc.collect()
    taken = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
    crowd.close()
    return taken


def _outermost(pid: int) -> int:
    """Return the process below this one that a process descends from: the launcher."""
    while True:
        parent = int(_field(pid, "PPid:"))
        if parent in (1, os.getpid()):
            return pid
        pid = parent


def _field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(name)).split()[1]


def _pss_mb(pid: int) -> float:
    lines: Any = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
