"""annexe's own rows: a host as its users make one, with everything on, and benchmark plugins in processes of their own.

* Before anything is measured the host is asked to prove that its guards are on (`guards.py`); a row without them fails.
* Each reply is checked, off the clock, against the request it was made from; none is kept, as nobody would keep them.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from annexe import Host, SyncHost
from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder
from annexe.sandbox.cgroup import NoControlGroups
from benchmarks.contracts import Bench, Editor, Keeper, Ledger, Probe
from benchmarks.guards import prove_guards
from benchmarks.payload import check, requests
from benchmarks.references import timed

__all__ = [
    "AsyncCall",
    "AsyncFilters",
    "CallsWithoutWalls",
    "Keepers",
    "Ours",
    "Starts",
    "StartsWithoutWalls",
    "SyncCall",
    "WarmStarts",
    "installed",
]

T = TypeVar("T")
_PLUGINS = Path(__file__).parent / "plugins"
_POLICY = 'policy-version = 1\n[plugins."*"]\nrights = {rights}\n'


def installed(
    folder: Path, *, plugin: str, copies: int, concurrency: int = 1, start: str = "eager", rights: Sequence[str] = ("kv",)
) -> Path:
    """Copy a benchmark plugin so many times into a folder of plugins, each with an id of its own; grant each of them these rights."""
    for number in range(1, copies + 1):
        copy = folder / "plugins" / f"{plugin}-{number:02}"
        shutil.copytree(_PLUGINS / plugin, copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(_PLUGINS / "shared" / "bench_probe.py", copy)
        manifest = (copy / "plugin.toml").read_text(encoding="utf-8")
        manifest = manifest.replace(f'id = "bench-{plugin}"', f'id = "bench-{plugin}-{number:02}"')
        manifest = manifest.replace('kind = "python"', f'kind = "python"\nconcurrency = {concurrency}\nstart = "{start}"')
        (copy / "plugin.toml").write_text(manifest, encoding="utf-8")
    (folder / "policy.toml").write_text(_POLICY.format(rights=json.dumps(list(rights))), encoding="utf-8")
    return folder / "plugins"


class Ours:
    """A subject with an asyncio host."""

    plugin = "editor"
    level = "full"
    start_mode = "eager"
    rights: Sequence[str] = ("kv",)

    def __init__(
        self,
        loop: str = "uvloop",
        copies: int = 1,
        concurrency: int = 1,
        plugin: str = "",
        codec: str = "msgpack",
        strategy: str = "process",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.folder.chmod(0o755)  # as a folder of installed plugins is; in a closed one each start would look for a readable copy
        self.plugin = plugin or self.plugin
        self.codec, self.strategy = codec, strategy
        plugins = installed(
            self.folder, plugin=self.plugin, copies=copies, concurrency=concurrency, start=self.start_mode, rights=self.rights
        )
        self.options: dict[str, Any] = {
            "plugins": plugins,
            "state_dir": self.folder / "state",
            "grants": self.folder / "policy.toml",
            "capabilities": [Ledger()],
            "strategy": strategy,
            "control": False,
            **({"codecs": ("json",)} if codec == "json" else {}),
        }
        self.runner = asyncio.Runner(loop_factory=self.loop_factory(loop))

    @staticmethod
    def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
        if loop == "stock":
            return asyncio.new_event_loop
        import uvloop

        return uvloop.new_event_loop

    def contracts(self) -> list[type]:
        return [Bench, Editor, Probe, Keeper]

    def start(self) -> None:
        self.run(self.open())

    async def open(self) -> None:
        self.host = Host(contracts=self.contracts(), **self.options)
        await self.host.open()
        await self.prove(self.host)

    async def prove(self, host: Host) -> None:
        await prove_guards(host, codec=self.codec, level="none" if self.strategy == "in-process" else self.level)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self.host.close())
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class AsyncCall(Ours):
    """One method of an extension point."""

    def __init__(self, model: str = "dataclass", **options: Any) -> None:
        super().__init__(**options)
        self.editor: type[Any] = Editor
        self.requests: list[Any] = list(requests(16))
        if model == "pydantic":
            import msgspec

            from benchmarks import pydantic_contract

            self.editor = pydantic_contract.Editor
            self.requests = [pydantic_contract.ChatModel.model_validate(msgspec.to_builtins(request)) for request in self.requests]

    def contracts(self) -> list[type]:
        return [Bench, self.editor, Probe, Keeper]

    def block(self, count: int) -> list[float]:
        return self.run(self.calls(count))

    async def calls(self, count: int) -> list[float]:
        clock, host, editor, samples = time.perf_counter_ns, self.host, self.editor, []
        for request in itertools.islice(itertools.cycle(self.requests), count):
            began = clock()
            reply = await host.extension(editor).edit(request)
            samples.append((clock() - began) / 1000)
            check(request, reply, edits=1)
        return samples

    def block_in_turn(self, count: int) -> list[float]:
        return self.run(self.calls_in_turn(count))

    async def calls_in_turn(self, count: int) -> list[float]:
        """Call each plugin once, one after the other: none of them is warm from the call before."""
        clock, samples = time.perf_counter_ns, []
        editors = itertools.cycle(self.host.extensions(self.editor))
        for sent, editor in zip(itertools.islice(itertools.cycle(self.requests), count), editors, strict=False):
            began = clock()
            reply = await editor.edit(sent)
            samples.append((clock() - began) / 1000)
            check(sent, reply, edits=1)
        return samples

    def rate(self, width: int, count: int) -> list[float]:
        return [self.run(self.crowd(width, count))]

    async def crowd(self, width: int, count: int) -> float:
        """Return calls a second with ``width`` of them in flight, spread evenly over all plugins."""
        editors = self.host.extensions(self.editor)

        async def caller(number: int) -> None:
            edit, sent = editors[number % len(editors)].edit, self.requests[number % len(self.requests)]
            for _ in range(count // width):
                reply = await edit(sent)
            check(sent, reply, edits=1)

        began = time.perf_counter()
        await asyncio.gather(*map(caller, range(width)))
        return count // width * width / (time.perf_counter() - began)

    def block_unheard(self, count: int) -> list[float]:
        return self.run(self.unheard(count))

    async def unheard(self, count: int) -> list[float]:
        """Return microseconds of a hook nobody hears inside an open request; twenty at a time, as the clock costs a tenth of one."""
        clock, value, samples = time.perf_counter_ns, self.requests[0], []
        async with self.host.request(deadline_s=60.0) as request:
            hooks = request.hooks(Bench)
            for _ in range(count):
                began = clock()
                for _ in range(20):
                    await hooks.unheard(value)
                samples.append((clock() - began) / 20_000)
        return samples

    def block_unheard_alone(self, count: int) -> list[float]:
        return self.run(self.unheard_alone(count))

    async def unheard_alone(self, count: int) -> list[float]:
        clock, value, host, samples = time.perf_counter_ns, self.requests[0], self.host, []
        for _ in range(count):
            began = clock()
            await host.hooks(Bench).unheard(value)
            samples.append((clock() - began) / 1000)
        return samples


class AsyncFilters(Ours):
    """A pipeline of so many plugins."""

    def __init__(self, copies: int = 1, **options: Any) -> None:
        super().__init__(copies=copies, **options)
        self.copies = copies
        self.requests = requests(16)

    def block(self, count: int) -> list[float]:
        return self.run(self.calls(count))

    async def calls(self, count: int) -> list[float]:
        clock, host, samples = time.perf_counter_ns, self.host, []
        for request in itertools.islice(itertools.cycle(self.requests), count):
            began = clock()
            reply = await host.hooks(Bench).edit(request)
            samples.append((clock() - began) / 1000)
            check(request, reply, edits=self.copies)
        return samples

    def block_observed(self, count: int) -> list[float]:
        return self.run(self.observed(count))

    async def observed(self, count: int) -> list[float]:
        """Return what firing an observer costs the application; it gets time between, so that none is dropped."""
        clock, host, samples = time.perf_counter_ns, self.host, []
        for request in itertools.islice(itertools.cycle(self.requests), count):
            began = clock()
            await host.hooks(Bench).seen(request)
            samples.append((clock() - began) / 1000)
            await asyncio.sleep(0.0005)
        return samples


class SyncCall(Ours):
    """The same call from blocking code."""

    def start(self) -> None:
        self.requests = requests(16)
        self.sync = SyncHost(contracts=self.contracts(), **self.options)
        self.sync.open()
        self.sync.run(self.prove)

    def block(self, count: int) -> list[float]:
        clock, host, samples = time.perf_counter_ns, self.sync, []
        for request in itertools.islice(itertools.cycle(self.requests), count):
            began = clock()
            reply = host.extension(Editor).edit(request)
            samples.append((clock() - began) / 1000)
            check(request, reply, edits=1)
        return samples

    def close(self) -> None:
        self.sync.close()
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Keepers(Ours):
    """Plugins that time their own key-value calls."""

    plugin = "keeper"
    keepers: Sequence[Keeper]
    _FILLED = 600

    async def open(self) -> None:
        await super().open()
        self.keepers = self.host.extensions(Keeper)
        await self.keepers[0].fill(self._FILLED)

    def gets(self, count: int) -> list[float]:
        self.run(self.keepers[0].get(0, count))  # now all of them are in the cache
        return self.run(self.keepers[0].get(0, count))

    def cold_gets(self, count: int) -> list[float]:
        """Return the same from a host that was just started on the same state, so that nothing is in its cache."""

        async def reopen() -> list[float]:
            await self.host.close()
            await Ours.open(self)
            self.keepers = self.host.extensions(Keeper)
            await self.keepers[0].shared()  # the connection is warm, the keys are not
            return await self.keepers[0].get(0, count)

        return self.run(reopen())

    def sets(self, count: int) -> list[float]:
        return self.run(self.keepers[0].set(count))

    def swaps(self, count: int) -> list[float]:
        return self.run(self.keepers[0].swap(count))

    def lost_updates(self, writers: int, count: int) -> list[float]:
        async def write() -> float:
            before = await self.keepers[0].shared()
            await asyncio.gather(*(self.keepers[0].add(count) for _ in range(writers)))
            return before + writers * count - await self.keepers[0].shared()

        return [self.run(write())]

    def polite(self, count: int) -> list[float]:
        return self.run(self.keepers[0].polite(count))

    def polite_beside_flood(self, count: int) -> list[float]:
        async def beside() -> list[float]:
            floods = [asyncio.ensure_future(self.keepers[1].flood(0.004 * count + 1.0)) for _ in range(8)]
            await asyncio.sleep(0.2)
            samples = await self.keepers[0].polite(count)
            if any(flood.done() for flood in floods):
                raise RuntimeError("the flood ended before the polite plugin did")
            await asyncio.gather(*floods)
            return samples

        return self.run(beside())


class Starts(Ours):
    """A plugin that is stopped and started again; the host has compiled its bytecode at the first start."""

    def bare_starts(self, count: int) -> list[float]:
        """Return milliseconds of the plugin's own interpreter doing nothing: it need not be the one that the host runs on."""
        # Not /proc/PID/exe: a plugin hides from its own user.
        python = Path(f"/proc/{self.host.plugins[0].pid}/cmdline").read_text().split("\0")[0]
        return [took / 1000 for took in timed(lambda: subprocess.run([python, "-I", "-S", "-c", "pass"], check=True), count)]

    def starts(self, count: int) -> list[float]:
        return self.run(self.timed_starts(count, answered=False))

    def starts_answered(self, count: int) -> list[float]:
        return self.run(self.timed_starts(count, answered=True))

    async def timed_starts(self, count: int, *, answered: bool) -> list[float]:
        """Return milliseconds from asking for the start to ready, or to the first correct answer."""
        plugin, request, samples = self.host.plugins[0], requests(1)[0], []
        for _ in range(count):
            await plugin.stop()
            began = time.perf_counter()
            await plugin.start()
            if answered:
                reply = await self.host.extension(Editor).edit(request)
                check(request, reply, edits=1)
            samples.append((time.perf_counter() - began) * 1000)
        return samples


class WarmStarts(Starts):
    """The same, each instance forked from the plugin's fork server."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strategy="zygote", **options)

    async def timed_starts(self, count: int, *, answered: bool) -> list[float]:
        samples = await super().timed_starts(count, answered=answered)
        receipt = self.host.plugins[0].receipt
        if receipt is None or not any("warm" in layer.detail for layer in receipt.layers):
            raise RuntimeError("the plugin was not started warm")
        return samples


class WithoutWalls(Ours):
    """No wall but the plugin's own process and the kernel's limits: what the others cost is the difference."""

    level = "limits"

    async def open(self) -> None:
        bare = functools.partial(
            ProcessStrategy, offers=OfferFinder(unsafe_without=("namespaces", "landlock", "seccomp")), groups=NoControlGroups()
        )
        with mock.patch("annexe.host.host.ProcessStrategy", bare):
            await super().open()


class StartsWithoutWalls(WithoutWalls, Starts):
    """Starts without walls."""


class CallsWithoutWalls(WithoutWalls, AsyncCall):
    """Calls to a plugin without walls."""
