"""A plugin that attacks the host, or another plugin, by way of streams of a service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from annexe import Host
from annexe.channel import stream_ends
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, run, until, write_plugin
from tests.support.hostile import write_plugin as write_hostile

pytestmark = pytest.mark.any_user

_TERMS = """
[permissions]
services = ["store"]
kv = {}
[provides.hooks]
"t.edit" = { revision = 1 }
[resources]
call-timeout = "20s"
"""
_STORE = """
import asyncio

@plugin.service("store")
class Store:
    async def numbers(self, ctx):
        number = 0
        while True:
            yield [number, "x" * 20000]
            number += 1
    async def length(self, items):
        return len([item async for item in items])
    async def slow(self, items, ctx):
        await asyncio.sleep(60)
        yield 1
"""
_HEAD = """
from kit import *
wire = Wire()
wire.greet(hooks={"t.edit": {"kind": "filter"}})

def ask(method, direction, parent):
    wire.last_id += 2
    wire.send(REQUEST, wire.last_id, method, [], {"parent": parent, "stream": direction})
    return wire.last_id

def code(ident):
    answer = wire.read_response(ident)
    return answer[2]["code"] if answer[2] else repr(answer[3])

call = next(wire.calls())
"""


def write_scene(root: Path, body: str) -> None:
    (root / "plugins").mkdir()
    extra = '[provides.services]\n"store" = { version = "1.0.0" }\n[resources]\ncall-timeout = "20s"\n'
    write_plugin(root / "plugins", "store", _STORE, extra=extra, runtime="streams = 64\n")
    write_hostile(root / "plugins", "hostile", _HEAD + body, more=_TERMS)


async def attacked(host: Host, *, deadline_s: float = 15.0) -> list[str]:
    async with host.request(deadline_s=deadline_s) as scope:
        return (await scope.hooks(T).edit(Doc(""))).marks


def test_what_is_no_stream_is_refused_and_so_are_too_many(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_scene(
            tmp_path,
            """
wrong = (("kv.get", "out"), ("svc.store.numbers", "sideways"), ("svc.store.length", "out"))
marks = [code(ask(method, way, call[1])) for method, way in wrong]
many = [ask("svc.store.slow", "both", call[1]) for _ in range(65)]
marks.append(code(many[-1]))
for ident in many[:-1]:
    wire.send(CANCEL, ident)
    marks.append(code(ident))
wire.send(ITEM, many[0], 1, {})  # what comes too late crossed on the wire
wire.send(CREDIT, many[0], 1)
wire.send(END, many[0])
while marks[-1] in ("cancelled", "busy"):  # they keep their places until the provider has answered
    odd = ask("svc.store.length", "in", call[1])
    wire.frame(b'[4,%d,"\\xff",{}]' % odd)
    marks.append(code(odd))
wire.answer(call, {"text": "", "marks": marks})
wire.read()
""",
        )
        async with open_host(tmp_path) as host:
            marks = await attacked(host)
            assert marks[:4] == ["invalid-params", "invalid-params", "invalid-params", "busy"]
            assert marks[4:68] == ["cancelled"] * 64
            assert marks[-1] == "invalid-params"
            await until(lambda: connection_of(host, "store").in_flight == 0)

    run(scenario)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        pytest.param(
            'ident = ask("svc.store.slow", "both", call[1])\nfor _ in range(40): wire.send(ITEM, ident, "x" * 20000, {})',
            "more than its credit",
            id="items-that-nobody-paid-for",
        ),
        pytest.param(
            'ident = ask("svc.store.numbers", "out", call[1])\nfor _ in range(40): wire.send(ITEM, ident, "x" * 20000, {})',
            "more than its credit",
            id="items-of-a-stream-that-takes-none",
        ),
        pytest.param('ident = ask("svc.store.numbers", "out", call[1])\nwire.send(CREDIT, ident, 0)', "credit of 0 bytes", id="no-credit"),
        pytest.param("wire.send(ITEM, 2, 1, {})", "a message for id 2, which was never used", id="item-before-its-request"),
    ],
)
def test_what_breaks_the_rules_of_streams_ends_that_connection_alone(tmp_path: Path, body: str, rule: str) -> None:
    async def scenario() -> None:
        write_scene(tmp_path, body + "\nwhile True: wire.read()\n")
        async with open_host(tmp_path) as host:
            await attacked(host)
            await until(lambda: bool(events(host, EventKind.PLUGIN_EXITED)))
            assert rule in events(host, EventKind.PLUGIN_EXITED)[0].reason
            store = connection_of(host, "store")
            await until(lambda: store.in_flight == 0)
            assert host.plugin("store").state == "ready"

    run(scenario)


@pytest.mark.parametrize("defended", [pytest.param(True, id="defended"), pytest.param(False, id="careless")])
def test_credit_without_reading_does_not_fill_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defended: bool) -> None:
    async def scenario() -> int:
        write_scene(
            tmp_path,
            """
ident = ask("svc.store.numbers", "out", call[1])
for _ in range(200):
    wire.send(CREDIT, ident, 200000)
    time.sleep(0.005)
time.sleep(20)
""".replace("time.", "__import__('time')."),
        )
        if not defended:
            monkeypatch.setattr(stream_ends, "_MAX_UNREAD_BYTES", 2**40)
        async with open_host(tmp_path) as host:
            work = asyncio.create_task(attacked(host, deadline_s=2.5))
            most = 0
            while not work.done():
                if host.plugin("hostile").state == "ready":
                    most = max(most, connection_of(host, "hostile").out_bytes)
                await asyncio.sleep(0.01)
            return most

    most = run(scenario)
    assert most < 1.5 * 1024 * 1024 if defended else most > 3 * 1024 * 1024


def test_provider_that_sends_items_where_none_were_asked_for_fails_its_caller_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "plugins").mkdir()
        code = """
            @plugin.filter("t.edit")
            def edit(doc, ctx):
                try:
                    doc["marks"].append(repr(ctx.service("store").length.send([1, 2])))
                except Exception as error:
                    doc["marks"].append(error.code)
                return doc
        """
        asks = '[requires.services]\n"store" = { version = ">=1" }\n[permissions]\nservices = ["store"]\n'
        write_plugin(tmp_path / "plugins", "caller", code, hooks=["t.edit"], extra=asks)
        body = (
            'from kit import *\nwire = Wire()\nwire.greet(services={"store": {"methods": {"length": {}}}})\n'
            "for call in wire.calls():\n    wire.send(ITEM, call[1], 1, {})\n"
        )
        write_hostile(tmp_path / "plugins", "store", body, more='[provides.services]\n"store" = { version = "1.0.0" }\n')
        async with open_host(tmp_path) as host:
            assert await attacked(host) == ["invalid-result"]

    run(scenario)
