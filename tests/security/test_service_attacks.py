"""A plugin that attacks others, or the host's memory, by way of a service that it may call."""

from __future__ import annotations

import asyncio
from pathlib import Path

from annexe import Host
from tests.process.hosts import Doc, T, connection_of, open_host, run, until, write_plugin
from tests.support.hostile import write_plugin as write_hostile

_TERMS = """
[permissions]
services = ["store"]
[provides.hooks]
"t.edit" = { revision = 1 }
[resources]
call-timeout = "20s"
memory = "1GiB"
"""
_STORE = """
@plugin.service("store")
class Store:
    def keep(self, value, ctx):
        while not ctx.cancelled:
            time.sleep(0.01)
    def fill(self, count):
        return b"x" * count
"""
_HEAD = r"""
from kit import *
wire = Wire()
wire.greet(codec="msgpack", hooks={"t.edit": {"kind": "filter"}})


def text(value):
    return b"\xd9" + bytes([len(value)]) + value


def ask(method, argument, parent):
    wire.last_id += 2
    head = b"\x95\x00\xce" + struct.pack(">I", wire.last_id) + text(b"svc.store." + method) + b"\x91" + argument
    wire.frame(head + b"\x81" + text(b"parent") + b"\xce" + struct.pack(">I", parent))
    return wire.last_id


def blob(count):
    return b"\xc6" + struct.pack(">I", count) + bytes(count)


def code(answer):
    return answer[2]["code"] if answer[2] else "answered"


"""


def write_scene(root: Path, body: str) -> None:
    (root / "plugins").mkdir()
    extra = '[provides.services]\n"store" = { version = "1.0.0" }\n[resources]\ncall-timeout = "20s"\n'
    # It reads a cancel while it works because it could run a second call.
    write_plugin(root / "plugins", "store", _STORE, extra=extra, runtime="concurrency = 2")
    write_hostile(root / "plugins", "hostile", _HEAD + body, more=_TERMS)


async def attacked(host: Host) -> list[str]:
    async with host.request(deadline_s=15) as scope:
        return (await scope.hooks(T).edit(Doc(""))).marks


def test_long_requests_that_wait_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_scene(
            tmp_path,
            """
for call in wire.calls():
    for _ in range(80):
        ask(b"keep", b"\\xc0", call[1])  # all that the provider is sent before others wait in the host
    asked = [ask(b"keep", blob(9 * 1024 * 1024), call[1]) for _ in range(12)]
    marks = [code(wire.read_response(asked[at])) for at in range(7, 12)]
    for ident in asked[:7]:
        wire.send(CANCEL, ident)
        wire.read_response(ident)
    again = ask(b"keep", blob(9 * 1024 * 1024), call[1])  # there is room again
    wire.send(CANCEL, again)
    marks.append(code(wire.read_response(again)))
    wire.answer(call, {"text": "", "marks": marks})
""",
        )
        async with open_host(tmp_path) as host:
            assert await attacked(host) == ["busy"] * 5 + ["cancelled"]

    run(scenario)


def test_requests_that_were_called_off_take_nobodys_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_scene(
            tmp_path,
            """
for call in wire.calls():
    for _ in range(80):
        ask(b"keep", b"\\xc0", call[1])
    for _ in range(200):
        wire.send(CANCEL, ask(b"keep", b"\\xc0", call[1]))
    wire.read_response(wire.last_id)
    wire.answer(call, {"text": "", "marks": []})
    wire.read()
""",
        )
        async with open_host(tmp_path) as host:
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, connection_of(host, "store").queued)
                    await asyncio.sleep(0.001)

            watching = asyncio.create_task(watch())
            await attacked(host)
            watching.cancel()
            await asyncio.wait([watching])
            assert 0 < most < 50
            await until(lambda: connection_of(host, "store").queued == 0)

    run(scenario)


def test_answers_to_a_plugin_that_does_not_read_are_dropped_beyond_a_bound(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_scene(
            tmp_path,
            """
import time
for call in wire.calls():
    asked = [ask(b"fill", b"\\xce" + struct.pack(">I", 9 * 1024 * 1024), call[1]) for _ in range(12)]
    time.sleep(3)
    marks = []
    while len(marks) < len(asked):
        answer = wire.read()
        if answer[0] == RESPONSE:
            marks.append(code(answer))
    wire.answer(call, {"text": "", "marks": marks})
""",
        )
        async with open_host(tmp_path) as host:
            marks = await attacked(host)
            assert set(marks) == {"answered", "outcome-unknown"}
            assert marks.count("answered") <= 9

    run(scenario)


def test_provider_that_claims_not_to_have_taken_a_call_has_had_it(tmp_path: Path) -> None:
    """A call that may have happened is not made a second time elsewhere because the first plugin says that it was busy."""

    async def scenario() -> None:
        offered = '[provides.services]\n"store" = { version = "1.0.0" }\n'
        body = """
from kit import *
wire = Wire()
wire.greet(services={"store": {"methods": {"keep": {}}}})
for call in wire.calls():
    wire.refuse(call, "busy", "not now")
"""
        (tmp_path / "plugins").mkdir()
        write_hostile(tmp_path / "plugins", "a-liar", body, more=offered)
        write_plugin(
            tmp_path / "plugins", "b-honest", '@plugin.service("store")\nclass S:\n    def keep(self): return "twice"\n', extra=offered
        )
        caller = """
        @plugin.filter("t.edit")
        def edit(doc, ctx):
            try:
                doc["marks"].append(ctx.service("store").keep())
            except Exception as error:
                doc["marks"].append(error.code)
            return doc
        """
        write_plugin(tmp_path / "plugins", "caller", caller, hooks=["t.edit"], extra='[permissions]\nservices = ["store"]\n')
        async with open_host(tmp_path) as host:
            assert await attacked(host) == ["busy"]

    run(scenario)
