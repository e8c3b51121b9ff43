"""Streams of services while something else goes wrong: through real processes."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest

from annexe.channel import PluginStream, Stream
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, outcome_of, run, until, wait_state, write_plugin
from tests.process.test_service_stream_leaks import left_behind
from tests.process.test_service_streams import ASKS, BACK, CALLS, HELPS, OFFERS, Scene, scene
from tests.support.hostile import write_plugin as write_hostile

pytestmark = pytest.mark.any_user
PATIENT = '\n[resources]\ncall-timeout = "20s"\n'
HELPER = '[requires.services]\n"helper" = { version = ">=1", optional = true }\n[permissions]\nservices = ["helper"]\n'
YIELDS = """
@plugin.service("own")
class Own:
    def few(self):
        yield 1
"""


def test_threads_of_one_handler_read_streams_beside_each_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_plugin(
            tmp_path / "plugins",
            "model",
            BACK.replace('ctx.service("helper").double(number)', "(time.sleep(0.002), number)[1]"),
            extra=OFFERS,
        )
        own = '[provides.services]\n"own" = { version = "1.0.0" }\n' + ASKS + PATIENT
        write_plugin(tmp_path / "plugins", "caller", YIELDS + CALLS, hooks=["t.edit"], extra=own)
        async with open_host(tmp_path) as host:
            caller = Scene(host, is_async=False)
            lines = "import threading\ngot = []\ndef read():\n    try:\n        got.append(sum(model.relayed.stream(10)))\n"
            lines += "    except Exception as error:\n        got.append(repr(error))\n"
            lines += "threads = [threading.Thread(target=read) for _ in range(4)]\n"
            lines += "for thread in threads: thread.start()\nfor thread in threads: thread.join()\nreturn got"
            assert await caller.work(lines, deadline_s=10) == [repr([45] * 4)]
            assert await caller.work("return sum(model.relayed.stream(10))") == ["45"]

    run(scenario)


def test_calls_back_to_a_handler_that_has_ended_keep_no_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "model", BACK, extra=OFFERS + HELPER)
        both = '[provides.services]\n"helper" = { version = "1.0.0" }\n' + ASKS
        write_plugin(tmp_path / "plugins", "caller", HELPS, hooks=["t.edit"], extra=both)
        async with open_host(tmp_path) as host:
            caller = Scene(host, is_async=False)
            kept = "import time\nglobal kept\nkept = model.relayed.stream(100)\nfirst = next(kept)\ntime.sleep(0.1)\nreturn first"
            for _ in range(3):
                assert await caller.work(kept) == ["0"]
            connection = connection_of(host, "caller")
            await until(lambda: connection.in_flight == 0 and connection._slots.nested == 0)

    run(scenario)


def test_stream_that_the_collector_finds_while_something_is_sent_stops_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path, is_async=False) as caller:
            lines = "import gc\nfrom annexe_sdk import session\nclass Keeps: pass\nkeeps = Keeps()\n"
            lines += "keeps.itself, keeps.stream = keeps, model.endless.stream()\nfirst = next(keeps.stream)\ndel keeps\n"
            # it may come at any allocation; here it comes while a request is made, which is under the lock for sending
            lines += "request = session.Session.request\ndef collects(*args):\n    gc.collect()\n    return request(*args)\n"
            lines += "session.Session.request = collects\ntry:\n    return first, model.plain()\n"
            lines += "finally:\n    session.Session.request = request"
            assert await caller.work(lines) == ["(0, 1)"]

    run(scenario)


COUNTED = """
held = []

@plugin.service("model")
class Model:
    def held(self):
        held.append(1)
        try:
            while True:
                yield 1
        finally:
            held.pop()
    def count(self):
        return len(held)
"""
NO_THREAD = """
import annexe_sdk.service_streams

def refuse(*_):
    refused.append(1)
    raise RuntimeError("can't start new thread")

refused = []
annexe_sdk.service_streams.start_new_thread = refuse
"""


def test_stream_that_the_collector_finds_where_no_thread_can_be_started_is_ended_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "model", COUNTED, extra=OFFERS)
        write_plugin(tmp_path / "plugins", "caller", NO_THREAD + CALLS, hooks=["t.edit"], extra=ASKS)
        async with open_host(tmp_path) as host:
            lines = "import gc, sys, time\nfrom annexe_sdk import session\nclass Keeps: pass\nkeeps = Keeps()\nraised = []\n"
            lines += "sys.unraisablehook = lambda what: raised.append(repr(what.exc_value))\n"
            lines += "keeps.itself, keeps.stream = keeps, model.held.stream()\nfirst = next(keeps.stream)\ndel keeps\n"
            lines += "request = session.Session.request\ndef collects(*args):\n    gc.collect()\n    return request(*args)\n"
            lines += "session.Session.request = collects\nwhile_sending = model.count()\nsession.Session.request = request\n"
            lines += "until = time.monotonic() + 2\nwhile model.count() and time.monotonic() < until: time.sleep(0.01)\n"
            lines += "refused = sys.modules['annexe_sdk.service_streams'].start_new_thread.__globals__['refused']\n"
            lines += "return raised, len(refused), model.count()"
            assert await Scene(host, is_async=False).work(lines) == ["([], 1, 0)"]
            assert not left_behind(host)

    run(scenario)


def test_stream_is_not_whole_when_the_connection_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        code = """
            @plugin.filter("t.edit")
            def edit(doc, ctx):
                seen = []
                try:
                    for item in ctx.service("model").endless.stream():
                        seen.append(item)
                        if len(seen) == 2:
                            ctx._runner.stop()  # as when the host is gone
                    ctx_end = "whole"
                except BaseException as error:
                    ctx_end = type(error).__name__
                print("ended:", ctx_end, file=sys.stderr, flush=True)
                return doc
        """
        slow = '@plugin.service("model")\nclass Model:\n    def endless(self):\n        yield 1\n        yield 2\n        time.sleep(0.3)\n'
        write_plugin(tmp_path / "plugins", "model", slow, extra=OFFERS)
        write_plugin(tmp_path / "plugins", "caller", code, hooks=["t.edit"], extra=ASKS)
        async with open_host(tmp_path) as host:
            async with host.request(deadline_s=5) as scope:
                await outcome_of(scope.hooks(T).edit(Doc("")))
            log = tmp_path / "state" / "logs" / "caller"
            text = await until(lambda: "".join(path.read_text() for path in log.iterdir() if "ended:" in path.read_text()))
            assert "ended: Stopped" in text

    run(scenario)


def test_what_a_caller_sends_wrongly_is_not_told_of_its_provider(tmp_path: Path) -> None:
    async def scenario() -> None:
        body = """
from kit import *
import time
wire = Wire()
wire.greet(hooks={"t.edit": {"kind": "filter"}})
call = next(wire.calls())
wire.last_id += 2
wire.send(REQUEST, wire.last_id, "svc.model.echo", [], {"parent": call[1], "stream": "both"})
while wire.read()[0] != ITEM: pass
time.sleep(0.2)  # nothing is granted: the host waits with the next item
wire.frame(b'[4,%d,{"a":nope},{}]' % wire.last_id + b'')
wire.send(CREDIT, wire.last_id, 200000)
answer = wire.read_response(wire.last_id)
wire.answer(call, {"text": "", "marks": [answer[2]["code"], answer[2]["message"]]})
wire.read()
"""
        terms = '[permissions]\nservices = ["model"]\n[provides.hooks]\n"t.edit" = { revision = 1 }\n' + PATIENT
        code = """
            @plugin.service("model")
            class Model:
                def echo(self, items):
                    while True:
                        yield "x" * 20000
        """
        write_plugin(tmp_path / "plugins", "model", code, extra=OFFERS + PATIENT)
        write_hostile(tmp_path / "plugins", "hostile", body, more=terms)
        async with open_host(tmp_path) as host:
            async with host.request(deadline_s=5) as scope:
                marks = (await scope.hooks(T).edit(Doc(""))).marks
            assert marks[0] == "invalid-params", marks
            assert "plugin 'model' sent" not in marks[1]
            told = events(host, EventKind.CALL_FAILED, "model")
            assert all(event.facts["code"] != "invalid-result" for event in told), told

    run(scenario)


def test_blobs_on_their_way_to_json_do_not_hold_the_event_loop_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = 'from kit import *\nwire = Wire()\nwire.greet(services={"model": {"methods": {"take": {}}}})\n'
        store += "for call in wire.calls(): pass\n"
        (tmp_path / "plugins").mkdir()
        write_hostile(tmp_path / "plugins", "model", store, more=OFFERS + PATIENT)
        write_plugin(tmp_path / "plugins", "caller", CALLS, hooks=["t.edit"], extra=ASKS + PATIENT)
        async with open_host(tmp_path) as host:
            caller = Scene(host, is_async=False)
            told = await caller.work("return model.take.send([b'x' * 60000000])", deadline_s=10)
            assert told[1] == "invalid-params"
            assert "speaks JSON" in told[2], told  # refused before it was written out, which takes 100 ms

    run(scenario)


SOAK = (
    "return len(list(model.words.stream('a b c')))",
    "for item in model.endless.stream():\n    if item > 3: break",
    "for item in model.blobs.stream(30, 300000): break",
    "return model.sizes.send([b'x' * 300000] * 5)",
    "return list(model.first.stream(items=[b'x' * 200000] * 9))",
    "return list(model.breaks.stream(items=range(9)))",
    "raise KeyError(next(model.endless.stream()))",
    "def items():\n    yield 1\n    raise ValueError('mine')\nreturn list(model.upper.stream(items=items()))",
    "return list(model.upper.stream(items=['a', object()]))",
    "import time\nfor item in model.blobs.stream(90, 900000):\n    time.sleep(0.01)\n    break",
)


def test_nothing_is_left_of_many_streams_that_ended_by_chance(tmp_path: Path) -> None:
    async def scenario() -> None:
        chance = random.Random(4)
        async with scene(tmp_path, is_async=False) as caller:
            plugin = caller.host.plugin("model")

            async def one() -> None:
                work = asyncio.create_task(outcome_of(caller.work(chance.choice(SOAK))))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * 0.02)
                    work.cancel()
                await asyncio.wait([work])

            async def some() -> None:
                for _ in range(25):
                    await one()

            await asyncio.gather(plugin.reload(), *(some() for _ in range(4)))
            await until(lambda: not left_behind(caller.host), within_s=5.0)
            await outcome_of(caller.work("return list(model.dies.stream())"))
            await wait_state(plugin, "backing-off", "starting")
            await wait_state(plugin, "ready")
            await until(lambda: not left_behind(caller.host), within_s=5.0)
            gc.collect()
            assert not [thing for thing in gc.get_objects() if type(thing) in (PluginStream, Stream)]

    run(scenario)
