"""Every kind of plugin fault, many times, in random order, beside polite callers: nobody is left waiting and nothing is left behind.

Three plugins do what they are told, one after the other each; one of them may not have children, and is refused them. Two polite ones
work for callers who never stop. The seed is printed; set ``CHAOS_SEED`` to run an order again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from annexe import HookSpec, Host, hook
from annexe.dispatch.breaker import BreakerPolicy
from annexe.errors import AnnexeError
from annexe.host.plugin_handle import PluginHandle
from annexe.launch.processes import ProcessIdentity, identity_of, is_alive
from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from tests.process.hosts import open_descriptors, open_host, policies, run, until, write_plugin

pytestmark = pytest.mark.any_user

# What each fault may come back as: outcomes of the call, "value" for an answer. Anything else is a wrong blame.
GONE = {"outcome-unknown", "deadline-exceeded"}
FLOODED = {"value", "deadline-exceeded"}  # it takes its time
FAULTS: dict[str, set[str]] = {
    "raise": {"plugin-raised"},
    "reject": {"rejected"},
    "none": {"invalid-result"},
    "wrong_type": {"invalid-result"},
    "nan": {"invalid-result"},
    "unserialisable": {"invalid-result"},
    "deep": {"invalid-result", "plugin-raised", "value"},
    "recursion": {"plugin-raised"},
    "system_exit": {"plugin-raised", *GONE},
    "crash": GONE,
    "exit": GONE,
    "sigkill": GONE,
    "sigsegv": GONE,
    "hang": {"deadline-exceeded"},
    "stop_itself": {"deadline-exceeded"},
    "slow": {"value"},
    "garbage": GONE,
    "oversized_frame": GONE,
    "truncated_frame": GONE,
    "zero_frame": GONE,
    "answer_twice": {"value", *GONE},
    "answer_unknown_id": GONE,
    "not_a_message": GONE,
    "huge_result": {"invalid-result", "plugin-raised", *GONE},
    "large_result": {"value"},
    "state_flood": {"invalid-result"},
    "log_flood": FLOODED,
    "stdout_flood": FLOODED,
    "kv_flood": FLOODED | {"plugin-raised"},
    "capability_flood": FLOODED | {"plugin-raised"},
    "memory_hog": {"plugin-raised", *GONE},
    "descriptor_leak": {"plugin-raised", "value", *GONE},
    "thread_leak": {"plugin-raised", "value", *GONE},
    "fork_and_exit": {"value", *GONE},
    "child_that_lingers": {"value"},
    "daemon": {"value"},
    "parent_dies_child_lives": GONE,
    "close_descriptor": GONE,
    "shut_down_socket": GONE,
}

FORKS = {"fork_and_exit", "child_that_lingers", "daemon", "parent_dies_child_lives"}
MAY_NOT_FORK = "c"
LEAKS = {"memory_hog", "descriptor_leak", "thread_leak"}

IMP = """
import json, socket, struct
FD = int(os.environ["ANNEXE_FD"])

def frame(body):
    return struct.pack(">I", len(body)) + body

def write(raw):
    while raw:
        raw = raw[os.write(FD, raw):]

def die_soon():
    time.sleep(10)

class Faults:
    def raise_(self, order, ctx): raise ValueError("on purpose")
    def reject(self, order, ctx): raise Reject("no", "on purpose", status=418)
    def none(self, order, ctx): return None
    def wrong_type(self, order, ctx): return {"kind": 5, "payload": []}
    def nan(self, order, ctx): return {"kind": "nan", "payload": "", "number": float("nan")}
    def unserialisable(self, order, ctx): return {"kind": object()}
    def deep(self, order, ctx):
        value = []
        for _ in range(3000): value = [value]
        return value
    def recursion(self, order, ctx): return self.recursion(order, ctx)
    def system_exit(self, order, ctx): raise SystemExit(3)
    def crash(self, order, ctx): os.abort()
    def exit(self, order, ctx): os._exit(7)
    def sigkill(self, order, ctx): os.kill(os.getpid(), signal.SIGKILL); die_soon()
    def sigsegv(self, order, ctx): os.kill(os.getpid(), signal.SIGSEGV); die_soon()
    def hang(self, order, ctx):
        while True: time.sleep(100)
    def stop_itself(self, order, ctx): os.kill(os.getpid(), signal.SIGSTOP); return order
    def slow(self, order, ctx): time.sleep(0.15); return order
    def garbage(self, order, ctx): write(os.urandom(300)); die_soon()
    def oversized_frame(self, order, ctx): write(struct.pack(">I", 2**31 - 1) + b"x" * 100); die_soon()
    def truncated_frame(self, order, ctx): write(struct.pack(">I", 5000) + b"[1,"); os._exit(0)
    def zero_frame(self, order, ctx): write(struct.pack(">I", 0)); die_soon()
    def answer_twice(self, order, ctx):
        raw = frame(json.dumps([1, ctx._call.id, None, order, {}]).encode())
        write(raw + raw)
        return order
    def answer_unknown_id(self, order, ctx): write(frame(b'[1,999999999,null,null,{}]')); die_soon()
    def not_a_message(self, order, ctx): write(frame(b'{"no": "array"}')); die_soon()
    def huge_result(self, order, ctx): return {**order, "payload": "x" * (11 * 1024 * 1024)}
    def large_result(self, order, ctx): return {**order, "payload": "x" * (2 * 1024 * 1024)}
    def state_flood(self, order, ctx): ctx.state["x"] = "x" * 200_000; return order
    def log_flood(self, order, ctx):
        for number in range(2000): ctx.log.error("flood", number=number, long="x" * 200)
        return order
    def stdout_flood(self, order, ctx):
        for _ in range(200): print("x" * 5000)
        sys.stdout.flush()
        sys.stderr.write("y" * 1_000_000); sys.stderr.flush()
        return order
    def kv_flood(self, order, ctx):
        for number in range(300): ctx.kv.set(f"key-{number}", "x" * 5000)
        return order
    def capability_flood(self, order, ctx):
        for _ in range(200): ctx.cap("orders").echo("x")
        return order
    def memory_hog(self, order, ctx):
        held = []
        while True: held.append(bytearray(8 * 1024 * 1024))
    def descriptor_leak(self, order, ctx):
        while True: os.dup(0)
    def thread_leak(self, order, ctx):
        for _ in range(500): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        return order
    def fork_and_exit(self, order, ctx):
        if os.fork() == 0: os._exit(0)
        return order
    def child_that_lingers(self, order, ctx):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3); os._exit(0)
        return order
    def daemon(self, order, ctx):
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            time.sleep(3); os._exit(0)
        return order
    def parent_dies_child_lives(self, order, ctx):
        if os.fork() == 0: time.sleep(3); os._exit(0)
        os._exit(1)
    def close_descriptor(self, order, ctx): os.close(FD); die_soon()
    def shut_down_socket(self, order, ctx):
        socket.socket(fileno=os.dup(FD)).shutdown(socket.SHUT_RDWR); die_soon()

FAULTS = Faults()

@plugin.filter("chaos.NAME")
def fault(order, ctx):
    kind = order["kind"]
    return getattr(FAULTS, "raise_" if kind == "raise" else kind)(order, ctx)

@plugin.filter("chaos.through")
def through(order, ctx):
    return ctx.unchanged

@plugin.observer("chaos.seen")
def seen(what):
    pass

@plugin.stream_filter("chaos.stream")
def stream(chunks):
    for chunk in chunks:
        yield chunk
"""

POLITE = """
@plugin.filter("chaos.through")
def through(order, ctx):
    order["marks"].append("NAME")
    ctx.kv.increment("n")
    return order

@plugin.stream_filter("chaos.stream")
def stream(chunks):
    for chunk in chunks:
        yield chunk + "."
"""


@dataclass
class Order:
    kind: str
    payload: str = ""
    number: float = 0.0
    marks: list[str] = field(default_factory=list)


class Chaos(HookSpec, name="chaos", revision=1):
    @hook.filter(on_failure="closed")
    async def a(self, order: Order) -> Order: ...  # type: ignore[empty-body]

    @hook.filter(on_failure="closed")
    async def b(self, order: Order) -> Order: ...  # type: ignore[empty-body]

    @hook.filter(on_failure="closed")
    async def c(self, order: Order) -> Order: ...  # type: ignore[empty-body]

    @hook.filter
    async def through(self, order: Order) -> Order: ...  # type: ignore[empty-body]

    @hook.observer
    async def seen(self, what: str) -> None: ...

    @hook.stream_filter
    def stream(self, chunks: AsyncIterator[str]) -> AsyncIterator[str]: ...  # type: ignore[empty-body]


class Orders:
    name = "orders"

    async def echo(self, text: str) -> str:
        await asyncio.sleep(0)
        return text


IMPS = ("a", "b", "c")
FAULT_DEADLINE_S = 1.0
# Two cores are shared with processes that are being started and killed; a lost wake-up would take for ever, not for seconds.
MARGIN_S = 3.0
# What one fault of thousands may leave behind is far below a page: 4 KiB each. The first 8 MiB are what the allocator keeps.
RSS_FREE_BYTES = 8 * 1024 * 1024
RSS_PER_FAULT_BYTES = 4096


@dataclass
class Tally:
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    forks: Counter[str] = field(default_factory=Counter)  # outcomes of those that are refused
    late: list[str] = field(default_factory=list)
    polite: int = 0
    streams: int = 0
    processes: set[ProcessIdentity] = field(default_factory=set)


def write_all(root: Path) -> None:
    rights, limits = (
        '[permissions]\nkv = { quota = "1MiB" }\ncapabilities = ["orders"]',
        '[resources]\nmemory = "128MiB"\ncall-timeout = "5s"',
    )
    for name in IMPS:
        hooks = [f"chaos.{name}", "chaos.through", "chaos.seen", "chaos.stream"]
        extra = f"{rights}\nsubprocess = {'false' if name == MAY_NOT_FORK else 'true'}\n{limits}"
        write_plugin(root / "plugins", f"imp-{name}", IMP.replace("NAME", name), hooks=hooks, extra=extra)
    for name in ("polite-one", "polite-two"):
        hooks = ["chaos.through", "chaos.stream"]
        write_plugin(root / "plugins", name, POLITE.replace("NAME", name), hooks=hooks, extra=f"{rights}\n{limits}")


def takes_calls(plugin: PluginHandle) -> bool:
    connection = plugin._known.supervisor.connection if plugin._known.supervisor is not None else None
    return connection is not None and not connection.closed


def is_free(plugin: PluginHandle) -> bool:
    """Say whether its one slot is free: a call that was given up holds it until it is answered."""
    supervisor = plugin._known.supervisor
    return supervisor is not None and supervisor.connection is not None and supervisor.connection.in_flight == 0


async def provoke(host: Host, name: str, kind: str, tally: Tally) -> None:
    """Have one plugin do one thing, and note what its caller got, and when."""
    plugin = host.plugin(f"imp-{name}")
    await until(lambda: takes_calls(plugin), within_s=30, what=f"{plugin!r} {plugin.reason}")
    pid = plugin.pid
    if pid is not None and (identity := identity_of(pid)) is not None:
        tally.processes.add(identity)  # numbers are given out again
    started = time.monotonic()
    try:
        async with asyncio.timeout(FAULT_DEADLINE_S + MARGIN_S), host.request(deadline_s=FAULT_DEADLINE_S) as request:
            await getattr(request.hooks(Chaos), name)(Order(kind))
        outcome = "value"
    except AnnexeError as error:
        outcome = getattr(error, "reason", error.code)
    except TimeoutError:
        tally.late.append(f"{kind}: unanswered")
        return
    took_s = time.monotonic() - started
    if took_s > FAULT_DEADLINE_S + MARGIN_S:
        tally.late.append(f"{kind}: {took_s:.1f} s")
    (tally.forks if kind in FORKS and name == MAY_NOT_FORK else tally.outcomes.setdefault(kind, Counter()))[outcome] += 1
    if kind in LEAKS and pid is not None:
        # What it leaked would be in the way of the next fault.
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.kill(pid, signal.SIGKILL)
        await until(lambda: plugin.pid != pid, within_s=10, what=f"{plugin!r} to be replaced after {kind}")
    elif outcome == "deadline-exceeded":
        await until(lambda: plugin.pid != pid or is_free(plugin), within_s=10, what=f"{plugin!r} to be there again after {kind}")


async def imp(host: Host, name: str, kinds: list[str], tally: Tally) -> None:
    for kind in kinds:
        await provoke(host, name, kind, tally)


async def polite_caller(host: Host, tally: Tally, over: asyncio.Event) -> None:
    """Never stop calling; the polite plugins answer every time, whatever the others do."""
    while not over.is_set():
        started = time.monotonic()
        async with host.request(deadline_s=10.0) as request:
            order = await request.hooks(Chaos).through(Order("polite"))
            await request.hooks(Chaos).seen("x")
        assert order.marks == ["polite-one", "polite-two"], order
        if time.monotonic() - started > 10.0 + MARGIN_S:
            tally.late.append("polite caller")
        tally.polite += 1
        await asyncio.sleep(0.01)


async def polite_reader(host: Host, tally: Tally, over: asyncio.Event) -> None:
    """Never stop streaming. A plugin that dies in the midst ends a stream with a typed error; a whole one is whole."""

    async def source() -> AsyncIterator[str]:
        for letter in "abc":
            yield letter
            await asyncio.sleep(0)

    while not over.is_set():
        async with asyncio.timeout(10.0 + MARGIN_S), host.request(deadline_s=10.0) as request:
            try:
                items = [item async for item in request.hooks(Chaos).stream(source())]
            except AnnexeError as error:
                assert error.plugin is not None and error.plugin.startswith("imp-"), error
            else:
                assert items == ["a..", "b..", "c.."]
        tally.streams += 1
        await asyncio.sleep(0.02)


async def storm(host: Host, kinds: list[str], chance: random.Random, tally: Tally) -> None:
    """All kinds in random order, dealt out to the three plugins, under load; returns when all is calm again."""
    over = asyncio.Event()
    chance.shuffle(kinds)
    load = [asyncio.create_task(polite_caller(host, tally, over)) for _ in range(4)]
    load.append(asyncio.create_task(polite_reader(host, tally, over)))
    try:
        await asyncio.gather(*(imp(host, name, kinds[index :: len(IMPS)], tally) for index, name in enumerate(IMPS)))
    finally:
        over.set()
        await asyncio.gather(*load)
    for plugin in host.plugins:
        await until(partial(takes_calls, plugin), within_s=30, what=f"{plugin!r} {plugin.reason}")


@dataclass
class Holdings:
    """What the host's process holds when all is calm."""

    descriptors: int
    threads: list[str]
    rss_bytes: int


async def holdings() -> Holdings:
    await asyncio.sleep(1.0)  # what is being given back on other threads
    gc.collect()
    # The default pool's threads come as needed, up to a fixed number.
    threads = sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_"))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Holdings(open_descriptors(), threads, pages * os.sysconf("SC_PAGE_SIZE"))


def chaos(root: Path, *, warm_up: int, times: int) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"CHAOS_SEED={seed}")
    chance = random.Random(seed)
    write_all(root)
    rules = policies(
        first_delay_s=0.01,
        max_failures=10**9,
        health=HealthPolicy(stuck_after_s=0.2),
        stop=StopPolicy(drain_s=1.0, shutdown_s=0.5, exit_s=0.5, terminate_s=0.5),
    )
    never = BreakerPolicy(max_failures=10**9)

    async def scenario() -> None:
        tally = Tally()
        async with open_host(root, contracts=[Chaos], capabilities=[Orders()], policies=rules, breaker=never) as host:
            # Caches, rings and pools fill first.
            await storm(host, list(FAULTS) * warm_up, chance, Tally())
            before = await holdings()
            await storm(host, list(FAULTS) * times, chance, tally)
            after = await holdings()
            tally.processes |= {identity for plugin in host.plugins if (identity := identity_of(plugin.pid or 0)) is not None}
        print(f"polite calls {tally.polite}, streams {tally.streams}; RSS {before.rss_bytes >> 20} -> {after.rss_bytes >> 20} MiB")
        print("\n".join(f"  {kind:24} {dict(outcomes)}" for kind, outcomes in sorted(tally.outcomes.items())))
        assert not tally.late
        assert set(tally.forks) <= {"plugin-raised"}
        assert sum(outcomes.total() for outcomes in tally.outcomes.values()) + tally.forks.total() == times * len(FAULTS)
        assert all(tally.outcomes[kind].total() == times for kind in set(FAULTS) - FORKS)
        wrong = {kind: set(outcomes) - FAULTS[kind] for kind, outcomes in tally.outcomes.items() if set(outcomes) - FAULTS[kind]}
        assert not wrong
        assert tally.polite > 20 and tally.streams > 10
        assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
        grown_bytes = after.rss_bytes - before.rss_bytes
        assert grown_bytes <= RSS_FREE_BYTES + RSS_PER_FAULT_BYTES * times * len(FAULTS)
        await until(lambda: not any(map(is_alive, tally.processes)), what="plugin processes to be gone")

    run(scenario)


@pytest.mark.timeout(120)
def test_every_fault_in_random_order_leaves_nobody_waiting_and_nothing_behind(tmp_path: Path) -> None:
    chaos(tmp_path, warm_up=1, times=int(os.environ.get("CHAOS_TIMES", "3")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_two_hundred_times_leaves_nobody_waiting_and_nothing_behind(tmp_path: Path) -> None:
    chaos(tmp_path, warm_up=10, times=200)
