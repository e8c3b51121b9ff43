"""A call from plugin to plugin beside one from the application; starting plugins that require each other.

Source: docs/explanation/performance.md.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path

import msgspec

from annexe import Host
from benchmarks.contracts import Caller, Carrier, Editor
from benchmarks.guards import expect, prove_guards
from benchmarks.harness import Bench, Cell, Mark, Subject
from benchmarks.payload import ChatRequest, check, requests
from benchmarks.processes import tree_cpu_s
from benchmarks.subject import Ours, installed

__all__ = ["MARKS", "NAME", "TITLE", "Graph", "Neighbours", "measure", "request_of"]

NAME = "services"
TITLE = "Services: from plugin to plugin, and starting plugins that require each other"
_TWO_HOPS = "two processes are woken on the way there and two on the way back, where a call has one each."
MARKS = (
    Mark(key="plugin_to_plugin_over_call_1kib", limit=2.2, about="plugin to plugin ÷ call, 1 KiB, pinned", held_back_by=_TWO_HOPS),
    Mark(key="plugin_to_plugin_over_call_16kib", limit=2.2, about="plugin to plugin ÷ call, 16 KiB, pinned", held_back_by=_TWO_HOPS),
    Mark(key="plugin_to_plugin_over_call_64kib", limit=2.2, about="plugin to plugin ÷ call, 64 KiB, pinned", held_back_by=_TWO_HOPS),
    Mark(
        key="graph_start_over_bound",
        limit=1.3,
        about="starting 100 plugins, 10 deep ÷ (ten starts one after the other + the work divided by cores)",
    ),
)
_KIB = 1024
_SIZES = {_KIB: 300, 16 * _KIB: 200, 64 * _KIB: 100}  # bytes, and how often each is sent at a time
_DEPTH, _WIDTH = 10, 10


def measure(bench: Bench) -> None:
    """Measure calls as scheduled and pinned, starts as scheduled."""
    for suffix in ("", " (pinned)"):
        with bench.seats([Subject("neighbours", "benchmarks.services:Neighbours", ours=True)], pinned=bool(suffix)) as seats:
            cells = [
                Cell(f"{size // _KIB} KiB {what}, {how}", "neighbours", do, {"size": size, "count": bench.count(full)})
                for size, full in _SIZES.items()
                for what, how, do in (
                    ("edited", "call", "call"),
                    ("edited", "plugin to plugin", "pass_on"),
                    ("of bytes", "call", "call_bytes"),
                    ("of bytes", "plugin to plugin", "pass_bytes_on"),
                )
            ]
            bench.interleave(seats, cells, suffix=suffix)
        for size, (what, end) in itertools.product(_SIZES, (("edited", ""), ("of bytes", "_bytes"))):
            call, passed = (bench.value(f"{size // _KIB} KiB {what}, {how}{suffix}") for how in ("call", "plugin to plugin"))
            bench.ratio(f"plugin_to_plugin_over_call_{size // _KIB}kib{end}{'' if suffix else '_as_scheduled'}", passed, call)
        bench.absent.clear()
    _measure_graph(bench)


def _measure_graph(bench: Bench) -> None:
    depth, width = (3, 1) if bench.quick else (_DEPTH, _WIDTH)
    subjects = [
        Subject("one", "benchmarks.subject:Starts", ours=True),
        Subject("work", "benchmarks.services:Graph", {"depth": 1, "width": 1}, ours=True),
        Subject("graph", "benchmarks.services:Graph", {"depth": depth, "width": width}, ours=True),
    ]
    together = f"{depth * width} plugins, {depth} deep, from opening the host to all ready"
    cells = [
        Cell("one plugin alone, to ready", "one", "starts", {"count": bench.count(20)}, "ms"),
        Cell("processor time of one start, host's and plugin's", "work", "work_of_one", {"count": bench.count(20)}, "ms"),
        Cell(together, "graph", "opened", unit="ms"),
        Cell("processor time of these, each", "graph", "work_each", unit="ms"),
    ]
    with bench.seats(subjects) as seats:
        bench.interleave(seats, cells)
    alone, work = bench.value(cells[0].what), bench.value(cells[1].what)
    if alone is not None and work is not None:
        bound = depth * alone + depth * width * work / len(os.sched_getaffinity(0))
        bench.ratio("graph_start_over_bound", bench.value(together), bound)
        bench.ratio("graph_work_over_alone", bench.value(cells[3].what), work)


def request_of(size: int) -> ChatRequest:
    """Return a request that is at least so many bytes long as MessagePack, and less than one message longer."""
    request = requests(1)[0]
    turns = itertools.cycle(request.messages)
    request.messages = [next(turns)]
    while len(msgspec.msgpack.encode(request)) < size:
        request.messages.append(next(turns))
    return request


class Neighbours(Ours):
    """A plugin with a service, and one that calls it; the application calls the first one's very same methods."""

    plugin = "provider"
    rights = ("provide:bench-editing", "services:bench-editing")

    def __init__(self) -> None:
        super().__init__()
        installed(self.folder, plugin="caller", copies=1, rights=self.rights)

    def contracts(self) -> list[type]:
        return [*super().contracts(), Caller, Carrier]

    def call(self, size: int, count: int) -> list[float]:
        return self.run(self._calls(request_of(size), count))

    async def _calls(self, sent: ChatRequest, count: int) -> list[float]:
        clock, host, samples = time.perf_counter_ns, self.host, []
        for _ in range(count):
            began = clock()
            reply = await host.extension(Editor).edit(sent)
            samples.append((clock() - began) / 1000)
            check(sent, reply, edits=1)
        return samples

    def call_bytes(self, size: int, count: int) -> list[float]:
        return self.run(self._calls_with_bytes(os.urandom(size), count))

    async def _calls_with_bytes(self, sent: bytes, count: int) -> list[float]:
        clock, host, samples = time.perf_counter_ns, self.host, []
        for _ in range(count):
            began = clock()
            got = await host.extension(Carrier).echo(sent)
            samples.append((clock() - began) / 1000)
            expect("bytes that came back", got, sent)
        return samples

    def pass_on(self, size: int, count: int) -> list[float]:
        return self.run(self._counted("svc.bench-editing.edit", count, size=size))

    def pass_bytes_on(self, size: int, count: int) -> list[float]:
        return self.run(self._counted("svc.bench-editing.echo", count, size=size))

    async def _counted(self, method: str, count: int, *, size: int) -> list[float]:
        """Return what the calling plugin measured; see that each of its calls went through the host."""
        before, caller = self._calls_of(method), self.host.extension(Caller)
        samples = await (caller.edits(request_of(size), count) if method.endswith("edit") else caller.echoes(size, count))
        expect(f"calls of {method} that the host counted", self._calls_of(method) - before, count)
        return samples

    def _calls_of(self, method: str) -> int:
        counted = self.host.metrics.snapshot()["bench-provider-01"]["methods"].get(method, {"calls": 0})
        return int(counted["calls"])


class Graph(Ours):
    """A host whose plugins stand in layers, each requiring two of the layer below; opened afresh for each sample."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(copies=depth * width)
        self._count = depth * width
        if depth > 1:
            for path in sorted((self.folder / "plugins").glob("*/plugin.toml")):
                self._require(path, width)
        self._work_ms = 0.0

    @staticmethod
    def _require(path: Path, width: int) -> None:
        layer, place = divmod(int(path.parent.name.rpartition("-")[2]) - 1, width)
        if layer:
            below = sorted({(layer - 1) * width + (place + step) % width + 1 for step in (0, 1)})
            required = "".join(f'"bench-editor-{number:02}" = ">=1,<2"\n' for number in below)
            path.write_text(f"{path.read_text(encoding='utf-8')}\n[requires.plugins]\n{required}", encoding="utf-8")

    async def prove(self, host: Host) -> None:
        await prove_guards(host, codec=self.codec, level=self.level)

    def opened(self) -> list[float]:
        """Return the milliseconds from opening a host to all plugins ready."""
        return [self.run(self._opened())]

    def work_each(self) -> list[float]:
        """Return the processor time of that for each plugin."""
        return [self._work_ms / self._count]

    async def _opened(self) -> float:
        await self.host.close()
        self.host = Host(contracts=self.contracts(), **self.options)
        used, began = tree_cpu_s(os.getpid()), time.perf_counter()
        await self.host.open()
        took = (time.perf_counter() - began) * 1000
        self._work_ms = (tree_cpu_s(os.getpid()) - used) * 1000
        for plugin in self.host.plugins:
            expect(f"state of {plugin.id}", str(plugin.state), "ready")
            expect(f"isolation of {plugin.id}", plugin.receipt and str(plugin.receipt.level), self.level)
        return took

    def work_of_one(self, count: int) -> list[float]:
        """Return the milliseconds of processor time that one start takes in all, host, launcher and plugin together."""
        return self.run(self._work_of_one(count))

    async def _work_of_one(self, count: int) -> list[float]:
        plugin, samples = self.host.plugins[0], []
        for _ in range(count):
            await plugin.stop()
            await asyncio.sleep(0.05)  # what the end of the last one takes is not this one's
            used = tree_cpu_s(os.getpid())
            await plugin.start()
            await asyncio.sleep(0.1)  # it is not done when it is ready: the last imports come then
            samples.append((tree_cpu_s(os.getpid()) - used) * 1000)
        return samples
