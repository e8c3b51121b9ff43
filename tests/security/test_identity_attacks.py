"""Who somebody says it is: never what counts. One test per attack.

Where a defence can be taken away by itself, the attack is shown to succeed without it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import b64encode
from pathlib import Path

import pytest

from annexe.capabilities.proxy_head import is_authorised, parse_head
from annexe.host.control_socket import connect_control
from tests.process.hosts import Doc, T, open_host, run, write_plugin
from tests.support.hostile import write_plugin as write_hostile

pytestmark = pytest.mark.any_user

_TERMS = """
[permissions]
services = ["store"]
[provides.hooks]
"t.edit" = { revision = 1 }
[resources]
call-timeout = "20s"
"""
_STORE = """
@plugin.service("store")
class Store:
    def who(self, ctx):
        return [ctx.caller, ctx.request_id, ctx.key, ctx.traceparent]
"""
_FORGES = """
from kit import *
wire = Wire()
wire.greet(hooks={"t.edit": {"kind": "filter"}})
call = next(wire.calls())
wire.last_id += 2
forged = {"caller": "victim", "plugin": "victim", "request": "r-victim", "traceparent": "00-" + "c" * 32 + "-" + "d" * 16 + "-01"}
wire.send(REQUEST, wire.last_id, "svc.store.who", [], {"parent": call[1], "key": "victim", **forged})
answer = wire.read_response(wire.last_id)
wire.answer(call, {"text": "", "marks": [repr(answer[3] if answer[2] is None else answer[2])]})
for call in wire.calls():
    pass
"""


def test_a_plugin_that_says_it_is_another_one_is_known_as_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "plugins").mkdir()
        write_plugin(tmp_path / "plugins", "store", _STORE, extra='[provides.services]\n"store" = { version = "1.0.0" }\n')
        write_hostile(tmp_path / "plugins", "hostile", _FORGES, more=_TERMS)
        write_plugin(tmp_path / "plugins", "victim", "", extra='[permissions]\nservices = ["store"]\n')
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        async with open_host(tmp_path) as host, host.request(id="r-1", key="tenant", traceparent=trace, deadline_s=15.0) as request:
            assert (await request.hooks(T).edit(Doc(""))).marks == [repr(["hostile", "r-1", "tenant", trace])]

    run(scenario)


@pytest.mark.parametrize("defence", ["on", "off"])
def test_it_is_the_comparison_in_constant_time_that_keeps_a_wrong_control_token_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defence: str
) -> None:
    def knock(state: Path) -> bytes:
        with connect_control(state / "control" / "socket", timeout_s=5.0) as client:
            client.sendall(json.dumps({"id": 0, "method": "hello", "params": {"token": "x" * 43, "protocol": 1}}).encode() + b"\n")
            return client.recv(4096)

    async def scenario() -> None:
        (tmp_path / "plugins").mkdir()
        async with open_host(tmp_path, control=True):
            if defence == "off":
                monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: True)
            told = json.loads(await asyncio.to_thread(knock, tmp_path / "state"))
            assert ("result" in told) is (defence == "off")

    run(scenario)


@pytest.mark.parametrize("defence", ["on", "off"])
def test_it_is_the_comparison_in_constant_time_that_keeps_a_wrong_secret_out_of_the_proxy(
    monkeypatch: pytest.MonkeyPatch, defence: str
) -> None:
    secret = b64encode(b"annexe:wrong").decode()
    asked = parse_head(f"CONNECT h.example:443 HTTP/1.1\r\nProxy-Authorization: Basic {secret}\r\n\r\n".encode())
    if defence == "off":
        monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: True)
    assert is_authorised(asked, "right") is (defence == "off")
