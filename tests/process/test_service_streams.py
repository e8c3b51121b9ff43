"""Streams from plugin to plugin, through real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.record import EventKind
from annexe.supervision.instance import StopPolicy
from tests.process.hosts import Doc, T, connection_of, events, open_host, policies, run, until, write_plugin

pytestmark = pytest.mark.any_user

MODEL = """
import threading
released = threading.Event()

@plugin.service("model")
class Model:
    def words(self, text, ctx):
        for word in text.split():
            yield [word, ctx.caller]
    def upper(self, chunks):
        for chunk in chunks:
            yield chunk.upper()
    def total(self, numbers, start):
        return start + sum(numbers)
    def many(self, count, size):
        for number in range(count):
            yield [number, "x" * size]
    def endless(self, ctx):
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            ctx.log.info(f"left at {ctx.cancelled}")
    def breaks(self, numbers):
        for number in numbers:
            yield number
            if number == 2:
                raise ValueError("not three")
    def dies(self):
        yield 1
        os._exit(7)
    def first(self, numbers):
        for number in numbers:
            yield number
            return
    def blobs(self, count, size):
        for number in range(count):
            yield bytes([number]) * size
    def sizes(self, blobs):
        return [len(blob) for blob in blobs]
    def plain(self):
        return 1
    def hangs(self):
        yield 1
        time.sleep(60)
    def odd(self):
        yield float("inf")
"""
MODEL_AWAITED = MODEL.replace("    def ", "    async def ").replace("time.sleep(60)", "await asyncio.sleep(60)")
for what in ("chunk in chunks", "number in numbers", "blob in blobs"):
    MODEL_AWAITED = MODEL_AWAITED.replace(f"for {what}", f"async for {what}")
MODEL_AWAITED = MODEL_AWAITED.replace("sum(numbers)", "sum([number async for number in numbers])")
OFFERS = '[provides.services]\n"model" = { version = "1.0.0" }\n'
ASKS = '[requires.services]\n"model" = { version = ">=1,<2" }\n[permissions]\nservices = ["model"]\n'
CALLS = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    model = ctx.service("model")
    work = {}
    exec(doc["text"], work)
    try:
        doc["marks"].append(repr(work["work"](model)))
    except Exception as error:
        doc["marks"] += [type(error).__name__, getattr(error, "code", ""), str(error)]
    return doc
"""
CALLS_AWAITED = CALLS.replace("def edit", "async def edit").replace('work["work"]', 'await work["work"]')


def write_all(root: Path, *, model: str = MODEL, calls: str = CALLS) -> None:
    write_plugin(root / "plugins", "model", "import asyncio\n" + model, extra=OFFERS, runtime="streams = 4\n")
    write_plugin(root / "plugins", "caller", calls, hooks=["t.edit"], extra=ASKS)


class Scene:
    """A host with a provider and a caller, whose handlers are ``def`` or ``async def``."""

    def __init__(self, host: Host, *, is_async: bool) -> None:
        self.host = host
        self._is_async = is_async

    async def work(self, code: str, *, deadline_s: float = 5.0) -> list[str]:
        """Run lines of code at the caller, ``model`` being the service; return what it saw."""
        if self._is_async:
            code = code.replace("for ", "async for ").replace("= model.", "= await model.").replace("return model.", "return await model.")
            code = code.replace("list(model", "list_of(model").replace("return list_of", "return await list_of")
        head = "async def list_of(items): return [item async for item in items]\n"
        body = "".join(f"    {line}\n" for line in code.splitlines())
        text = f"{head}{'async ' if self._is_async else ''}def work(model):\n{body}"
        async with self.host.request(deadline_s=deadline_s) as scope:
            doc = await scope.hooks(T).edit(Doc(text))
        return doc.marks


def nothing_open(host: Host, plugin: str) -> bool:
    supervisor = host.plugin(plugin)._known.supervisor
    connection = supervisor.connection if supervisor is not None else None
    return connection is None or connection.in_flight == 0


@asynccontextmanager
async def scene(root: Path, *, is_async: bool, codecs: Any = ("msgpack", "json"), more: str = "") -> AsyncIterator[Scene]:
    write_all(root, model=MODEL_AWAITED if is_async else MODEL + more, calls=CALLS_AWAITED if is_async else CALLS)
    async with open_host(root, codecs=codecs) as host:
        yield Scene(host, is_async=is_async)
        for plugin in ("model", "caller"):
            await until(lambda: nothing_open(host, plugin))  # noqa: B023 - awaited at once


@pytest.mark.parametrize("is_async", [pytest.param(False, id="def"), pytest.param(True, id="async def")])
@pytest.mark.parametrize("codecs", [pytest.param(("msgpack", "json"), id="msgpack"), pytest.param(("json",), id="json")])
def test_streams_go_out_in_and_both_ways(tmp_path: Path, is_async: bool, codecs: Any) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=is_async, codecs=codecs) as caller:
            assert await caller.work("return list(model.words.stream('a b c'))") == [repr([[word, "caller"] for word in "abc"])]
            assert await caller.work("return list(model.upper.stream(items=['a', 'b']))") == [repr(["A", "B"])]
            assert await caller.work("return model.total.send(range(5), 100)") == ["110"]
            assert await caller.work("return list(model.words.stream(''))") == ["[]"]
            assert await caller.work("return list(model.first.stream(items=range(1000000)))") == ["[0]"]
            # far more than is paid for at once, both ways
            many = "got = list(model.many.stream(400, 5000))\nreturn len(got), got == [[n, 'x' * 5000] for n in range(400)]"
            if not is_async:
                assert await caller.work(many, deadline_s=20) == ["(400, True)"]
            assert await caller.work(
                "return len(list(model.upper.stream(items=['x' * 5000] * 400)))".replace("len(list", "(list"), deadline_s=20
            )

    run(scenario)


@pytest.mark.parametrize("is_async", [pytest.param(False, id="def"), pytest.param(True, id="async def")])
def test_what_ends_a_stream_is_told_to_who_reads_it(tmp_path: Path, is_async: bool) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=is_async) as caller:
            seen = "got = []\ntry:\n    for item in model.breaks.stream(items=[1, 2, 3]):\n        got.append(item)\n"
            seen += "except Exception as error:\n    return got, error.code"
            assert await caller.work(seen) == ["([1, 2], 'plugin-raised')"]
            assert (await caller.work("return list(model.nothing.stream())"))[1] == "method-not-found"
            told = await caller.work("return list(model.plain.stream())")
            assert told[1] == "invalid-params"
            assert "it yields nothing, so there is no stream of it (main.py:" in told[2]
            told = await caller.work("return model.words('a')")
            assert told[1] == "invalid-params"
            assert "ask for it as a stream" in told[2]
            bad = "def items():\n    yield 1\n    raise KeyError('mine')\nreturn list(model.upper.stream(items=items()))"
            if not is_async:
                assert await caller.work(bad) == ["KeyError", "", "'mine'"]
            # leaving it calls it off
            left = "got = []\nfor item in model.endless.stream():\n    got.append(item)\n    if len(got) == 3:\n        break\nreturn got"
            assert await caller.work(left) == ["[0, 1, 2]"]
            provider = connection_of(caller.host, "model")
            await until(lambda: provider.in_flight == 0)
            assert (await caller.work("return list(model.dies.stream())"))[1] == "outcome-unknown"

    run(scenario)


def test_time_that_a_provider_takes_for_an_item_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "model", MODEL, extra=OFFERS + '[resources]\ncall-timeout = "200ms"\n')
        write_plugin(tmp_path / "plugins", "caller", CALLS, hooks=["t.edit"], extra=ASKS)
        async with open_host(tmp_path) as host:
            caller = Scene(host, is_async=False)
            told = await caller.work("return list(model.hangs.stream())")
            assert told[1] == "deadline-exceeded"
            assert events(host, EventKind.CALL_FAILED)

    run(scenario)


def test_stream_is_over_when_the_call_that_it_belongs_to_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=False) as caller:
            kept = "global kept\nkept = model.endless.stream()\nreturn next(kept)"
            assert await caller.work(kept) == ["0"]
            provider = connection_of(caller.host, "model")
            await until(lambda: provider.in_flight == 0)
            assert await caller.work("for item in model.endless.stream():\n    pass", deadline_s=0.3) == []  # the filter is open
            await until(lambda: provider.in_flight == 0)

    run(scenario)


def test_slow_reader_slows_the_sender_down_and_nothing_piles_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=False) as caller:
            slow = "import time\ntotal = 0\nfor number, text in model.many.stream(60, 20000):\n    time.sleep(0.005)\n"
            slow += "    total += len(text)\nreturn total"
            work = asyncio.create_task(caller.work(slow, deadline_s=20))
            most = 0
            while not work.done():
                most = max(most, connection_of(caller.host, "caller").out_bytes)
                await asyncio.sleep(0.002)
            assert await work == ["1200000"]
            assert most < 300_000

    run(scenario)


@pytest.mark.parametrize("is_async", [pytest.param(False, id="def"), pytest.param(True, id="async def")])
def test_items_with_long_bytes_go_beside_the_frames(tmp_path: Path, is_async: bool) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=is_async) as caller:
            sizes = "return [len(blob) for blob in model.blobs.stream(5, 300000)]"
            assert await caller.work(sizes, deadline_s=10) == [repr([300_000] * 5)]
            assert await caller.work("return model.sizes.send([b'x' * 300000] * 5)", deadline_s=10) == [repr([300_000] * 5)]

    run(scenario)


BACK = """
@plugin.service("model")
class Model:
    def relayed(self, count, ctx):
        for number in range(count):
            yield ctx.service("helper").double(number)
"""
HELPS = (
    """
@plugin.service("helper")
class Helper:
    def double(self, number):
        return number * 2
"""
    + CALLS
)


@pytest.mark.parametrize("code", [pytest.param(HELPS, id="def"), pytest.param(HELPS.replace(CALLS, CALLS_AWAITED), id="async def")])
def test_provider_that_calls_back_while_its_stream_is_read_blocks_nobody(tmp_path: Path, code: str) -> None:
    async def scenario() -> None:
        more = '[requires.services]\n"helper" = { version = ">=1", optional = true }\n[permissions]\nservices = ["helper"]\n'
        write_plugin(tmp_path / "plugins", "model", BACK, extra=OFFERS + more)
        both = '[provides.services]\n"helper" = { version = "1.0.0" }\n' + ASKS
        write_plugin(tmp_path / "plugins", "caller", code, hooks=["t.edit"], extra=both)
        async with open_host(tmp_path) as host:
            caller = Scene(host, is_async=code is not HELPS)
            lines = (
                "import time\ngot = []\nfor number in model.relayed.stream(20):\n    time.sleep(0.002)\n    got.append(number)\nreturn got"
            )
            assert await caller.work(lines) == [repr(list(range(0, 40, 2)))]
            two = "one, two = model.relayed.stream(3), model.relayed.stream(3)\nreturn [next(one), next(two), next(one), next(two)]"
            if code is HELPS:
                assert await caller.work(two) == ["[0, 0, 2, 2]"]

    run(scenario)


NO_THREADS = """
import annexe_sdk.runner

def refuse(*_):
    raise RuntimeError("can't start new thread")

@plugin.on_activate
def start(ctx):
    annexe_sdk.runner.start_new_thread = refuse
"""


def test_plugin_that_can_have_no_thread_more_is_busy_and_lives(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=False, more=NO_THREADS) as caller:
            told = await caller.work("return list(model.words.stream('a'))")
            assert told[1] == "busy"
            assert "no thread" in told[2]
            assert (await caller.work("return model.plain()")) == ["1"]

    run(scenario)


LONG = """
@plugin.service("model")
class Model:
    def ticks(self, count, ctx):
        for number in range(count):
            yield [number, "VERSION"]
            time.sleep(0.02)
"""


def write_ticking(root: Path, version: str, drain: str, *, more: str = "", extra: str = "") -> None:
    runtime = f'stream-drain = "{drain}"\n' if drain else ""
    code = LONG.replace("VERSION", version) + more
    write_plugin(root / "plugins", "model", code, extra=OFFERS + extra, runtime=runtime, version=version)


KEEPS = """
@plugin.save_state
def save(ctx):
    return 1

@plugin.load_state
def load(state, ctx):
    pass
"""
PATIENT = '[resources]\ncall-timeout = "20s"\n'
DATA = '[permissions]\ndata = { quota = "1MiB" }\n'
WAYS = [
    pytest.param("0s", "", "", False, id="ended-at-once"),
    pytest.param("0s", KEEPS, "", False, id="ended-before-state-is-handed-over"),
    pytest.param("0s", "", DATA, False, id="ended-where-one-comes-after-the-other"),
    pytest.param("10s", "", "", True, id="finished"),
    pytest.param("", "", "", True, id="as-other-calls"),
]


@pytest.mark.parametrize(("drain", "more", "extra", "is_finished"), WAYS)
def test_stream_is_finished_or_ended_at_a_reload_as_the_manifest_says(
    tmp_path: Path, drain: str, more: str, extra: str, is_finished: bool
) -> None:
    async def scenario() -> None:
        write_ticking(tmp_path, "1.0.0", drain, more=more, extra=extra)
        write_plugin(tmp_path / "plugins", "caller", CALLS, hooks=["t.edit"], extra=ASKS + PATIENT, runtime="concurrency = 2\n")
        async with open_host(tmp_path, policies=policies(stop=StopPolicy(drain_s=10.0))) as host:
            caller = Scene(host, is_async=False)
            read = "got = []\ntry:\n    for number, version in model.ticks.stream(100):\n        got.append(version)\n"
            read += "except Exception as error:\n    got.append(error.code)\nreturn len(got), got[0], got[-1]"
            reading = asyncio.create_task(caller.work(read, deadline_s=15))
            await until(lambda: not nothing_open(host, "model"))
            await asyncio.sleep(0.05)
            write_ticking(tmp_path, "2.0.0", drain, more=more, extra=extra)
            await host.plugin("model").reload()
            assert await caller.work("return list(model.ticks.stream(1))") == [repr([[0, "2.0.0"]])]
            assert reading.done() is not is_finished
            (told,) = await reading
            if is_finished:
                assert told == repr((100, "1.0.0", "1.0.0"))
            else:
                assert told.endswith("'1.0.0', 'outcome-unknown')")

    run(scenario)


def test_next_reload_and_the_end_wait_for_no_stream_of_an_instance_that_was_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_ticking(tmp_path, "1.0.0", "10m")
        write_plugin(
            tmp_path / "plugins",
            "caller",
            CALLS,
            hooks=["t.edit"],
            extra='[permissions]\nservices = ["model"]\n' + PATIENT,
            runtime="concurrency = 4\n",
        )
        async with open_host(tmp_path) as host:
            caller = Scene(host, is_async=False)
            readings = []
            async with asyncio.timeout(10):
                for version in ("2.0.0", "3.0.0"):
                    readings.append(asyncio.create_task(caller.work("return list(model.ticks.stream(3000))", deadline_s=60)))
                    await until(lambda: not nothing_open(host, "model"))
                    await asyncio.sleep(0.05)
                    write_ticking(tmp_path, version, "10m")
                    await host.plugin("model").reload()
                assert (await readings[0])[1] == "outcome-unknown"
                assert not readings[1].done()
                await host.plugin("model").stop()
                assert (await readings[1])[1] == "outcome-unknown"

    run(scenario)
