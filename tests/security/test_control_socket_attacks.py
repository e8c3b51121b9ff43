"""What a hostile client of the control socket can do: nothing. One test per attack.

The clients here run as the host's own user: others do not get as far as the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import HostError, PluginBusyError
from annexe.host import control
from annexe.host.control import ControlLimits, ControlServer
from annexe.host.control_client import ControlClient
from annexe.host.control_socket import connect_control, peer_uid
from annexe.host.control_wire import MAX_HELLO_BYTES, MAX_REQUEST_BYTES
from tests.process.hosts import Doc, T, open_descriptors, open_host, run, until, write_plugin


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.any_user)], autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each attack on both loops: their transports differ where a client misbehaves."""
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", pytest.importorskip("uvloop").run)


CODE = "@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    return {**doc, 'text': doc['text'].upper()}\n"


def attacked(root: Path, attack: Callable[[Path], None], *, limits: ControlLimits | None = None, monkeypatch: Any = None) -> None:
    """Open a host, attack it from a thread, and see that it works as before, with as many descriptors."""
    write_plugin(root / "plugins", "one", CODE, hooks=["t.edit"])
    if limits is not None:
        real = ControlServer.__init__
        monkeypatch.setattr(ControlServer, "__init__", lambda self, state_dir, methods: real(self, state_dir, methods, limits))

    async def scenario() -> None:
        async with open_host(root, control=True) as host:
            await works(host, root)
            before = open_descriptors()
            await asyncio.to_thread(attack, root / "state")
            await works(host, root)
            await until(lambda: open_descriptors() <= before, what="descriptors are closed")

    run(scenario)


async def works(host: Host, root: Path) -> None:
    assert (await host.hooks(T).edit(Doc("hi"))).text == "HI"
    await until_answered(root / "state")


async def until_answered(state: Path) -> None:
    def ask() -> bool:
        try:
            with ControlClient.connect(state) as client:
                return bool(client.call("list")[0]["state"] == "ready")
        except PluginBusyError:
            return False

    for _ in range(1000):
        if await asyncio.to_thread(ask):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the control socket answers no more")


def connected(state: Path) -> socket.socket:
    return connect_control(state / "control" / "socket", timeout_s=10.0)


def welcomed(state: Path) -> socket.socket:
    client = connected(state)
    hello = {"id": 0, "method": "hello", "params": {"token": (state / "control" / "token").read_text(), "protocol": 1}}
    client.sendall(json.dumps(hello).encode() + b"\n")
    assert b'"result"' in client.recv(4096)
    return client


def told(client: socket.socket) -> dict[str, Any]:
    """Read until the host hangs up; return the one error it told."""
    heard = b""
    while True:
        try:
            chunk = client.recv(65536)
        except ConnectionResetError:
            break
        if not chunk:
            break
        heard += chunk
    client.close()
    return json.loads(heard)["error"] if heard else {}


@pytest.mark.parametrize(
    ("garbage", "rule"),
    [
        pytest.param(b"\n", "request", id="empty line"),
        pytest.param(os.urandom(100).replace(b"\n", b"x") + b"\n", "request", id="random bytes"),
        pytest.param(b"[" * 4000 + b"\n", "request", id="deep nesting"),
        pytest.param(b'{"id": 1}\n', "request", id="no method"),
        pytest.param(b'{"id": 1, "method": "list", "params": [], "more": 1}\n', "request", id="unknown field"),
        pytest.param(b'{"id": 1, "method": "list"}\n', "hello-first", id="no hello"),
        pytest.param(b"x" * (MAX_HELLO_BYTES + 1), "request-size", id="more than a hello may have"),
    ],
)
def test_garbage_before_hello_ends_the_connection(tmp_path: Path, garbage: bytes, rule: str) -> None:
    def attack(state: Path) -> None:
        client = connected(state)
        client.sendall(garbage)
        error = told(client)
        assert (error["code"], error["data"]["rule"]) == ("protocol-error", rule)

    attacked(tmp_path, attack)


@pytest.mark.parametrize(
    ("garbage", "rule"),
    [
        pytest.param(b"\xff\xfe\n", "request", id="no text"),
        pytest.param(b'{"id": 1, "method": "call", "params": {"args": ' + b"[" * 300_000 + b"\n", "request", id="deep nesting"),
        pytest.param(b"x" * (MAX_REQUEST_BYTES + 1), "request-size", id="huge, without an end"),
        pytest.param(b"x" * (MAX_REQUEST_BYTES + 1) + b"\n", "request-size", id="huge"),
    ],
)
def test_garbage_after_hello_ends_the_connection(tmp_path: Path, garbage: bytes, rule: str) -> None:
    def attack(state: Path) -> None:
        client = welcomed(state)
        client.sendall(garbage)
        error = told(client)
        assert (error["code"], error["data"]["rule"]) == ("protocol-error", rule)

    attacked(tmp_path, attack)


@pytest.mark.parametrize("token", ["", "x", "é" * 43, "\x00"])
def test_wrong_token_is_refused(tmp_path: Path, token: str) -> None:
    def attack(state: Path) -> None:
        client = connected(state)
        client.sendall(json.dumps({"id": 0, "method": "hello", "params": {"token": token, "protocol": 1}}).encode() + b"\n")
        error = told(client)
        assert (error["code"], error["data"]) == ("host-error", {"reason": "token"})

    attacked(tmp_path, attack)


def test_other_protocol_is_refused_with_both_versions(tmp_path: Path) -> None:
    def attack(state: Path) -> None:
        client = connected(state)
        hello = {"id": 0, "method": "hello", "params": {"token": (state / "control" / "token").read_text(), "protocol": 2}}
        client.sendall(json.dumps(hello).encode() + b"\n")
        assert told(client)["data"] == {"reason": "protocol", "expected": 2, "actual": 1}

    attacked(tmp_path, attack)


def test_unknown_method_and_params_leave_the_connection_open(tmp_path: Path) -> None:
    def attack(state: Path) -> None:
        client = welcomed(state)
        for request, code in (
            ({"id": "a", "method": "__class__"}, "method-not-found"),
            ({"id": "b", "method": "show"}, "invalid-params"),
            ({"id": "c", "method": "show", "params": {"plugin": "../one"}}, "unknown-plugin"),
            ({"id": "d", "method": "logs", "params": {"plugin": "../../etc"}}, "unknown-plugin"),
            ({"id": "e", "method": "hello", "params": {}}, "method-not-found"),
        ):
            client.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(client.recv(65536))
            assert (answer["id"], answer["error"]["code"]) == (request["id"], code)
        client.close()

    attacked(tmp_path, attack)


def test_thousand_connections_are_turned_away_beyond_the_limit(tmp_path: Path) -> None:
    def attack(state: Path) -> None:
        held = [welcomed(state) for _ in range(control.MAX_CONNECTIONS)]
        for _ in range(1000):
            error = told(connected(state))
            assert (error["code"], error["data"]["limit"]) == ("busy", control.MAX_CONNECTIONS)
        with pytest.raises(PluginBusyError):
            ControlClient.connect(state)
        for client in held:
            client.close()

    attacked(tmp_path, attack)


def test_thousand_connections_that_hang_up_at_once_leave_nothing(tmp_path: Path) -> None:
    def attack(state: Path) -> None:
        for number in range(1000):
            with connected(state) as client, contextlib.suppress(BrokenPipeError):  # turned away already
                if number % 3:
                    client.sendall(b'{"id": 1, "meth')

    attacked(tmp_path, attack)


@pytest.mark.parametrize("begun", [b"", b'{"id": 0, "method"'])
def test_client_that_says_nothing_is_hung_up_on(tmp_path: Path, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(state: Path) -> None:
        client = connected(state)
        client.sendall(begun)
        assert told(client) == {}
        idle = welcomed(state)
        assert told(idle) == {}

    attacked(tmp_path, attack, limits=ControlLimits(hello_s=0.5, idle_s=0.5), monkeypatch=monkeypatch)


def test_client_that_never_reads_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(state: Path) -> None:
        client = welcomed(state)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                client.sendall(b'{"id": 1, "method": "schema"}\n' * 100)
        client.close()

    attacked(tmp_path, attack, limits=ControlLimits(write_s=0.1), monkeypatch=monkeypatch)


def test_follower_that_never_reads_holds_up_neither_log_nor_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = CODE + "\n@plugin.action('t.act')\ndef act(doc, ctx):\n    for number in range(500):\n        ctx.log.info('x' * 4000)\n"
    write_plugin(tmp_path / "plugins", "loud", code.replace("t.edit", "t.timed"), hooks=["t.timed", "t.act"])

    def attack(state: Path) -> None:
        deaf = welcomed(state)
        deaf.sendall(b'{"id": 1, "method": "logs", "params": {"plugin": "loud", "follow": true}}\n')
        with ControlClient.connect(state) as client:
            client.call("call", method="t.act", args=[{"text": "go"}], deadline_s=10)
        poll = select.poll()
        poll.register(deaf, 0)
        assert poll.poll(10_000) == [(deaf.fileno(), select.POLLHUP)]
        # It is hung up on while there is more to come: what arrived before that is all there is.
        assert b'"result"' not in _all_of(deaf)

    attacked(tmp_path, attack, limits=ControlLimits(write_s=0.1), monkeypatch=monkeypatch)


def test_requests_in_one_go_are_answered_in_order(tmp_path: Path) -> None:
    def attack(state: Path) -> None:
        client = welcomed(state)
        client.sendall(b"".join(b'{"id": %d, "method": "requests"}\n' % number for number in range(2000)))
        reader = client.makefile("rb")
        assert [json.loads(reader.readline())["id"] for _ in range(2000)] == list(range(2000))
        reader.close()
        client.close()

    attacked(tmp_path, attack)


def test_huge_answer_is_refused_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_RESPONSE_BYTES", 1000)

    def attack(state: Path) -> None:
        with ControlClient.connect(state) as client, pytest.raises(HostError) as caught:
            client.call("schema")
        assert caught.value.data == {"reason": "response-size"}

    write_plugin(tmp_path / "plugins", "one", CODE, hooks=["t.edit"])

    async def scenario() -> None:
        async with open_host(tmp_path, control=True):
            await asyncio.to_thread(attack, tmp_path / "state")

    run(scenario)


def test_peer_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(state: Path) -> None:
        monkeypatch.setattr(control, "peer_uid", lambda _: os.geteuid() + 1)
        try:
            error = told(connected(state))
        finally:
            monkeypatch.undo()
        assert error["data"] == {"reason": "uid", "uid": os.geteuid() + 1}

    attacked(tmp_path, attack)


def test_peer_whose_user_is_not_told_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(state: Path) -> None:
        monkeypatch.setattr(control, "peer_uid", lambda _: None)
        try:
            error = told(connected(state))
        finally:
            monkeypatch.undo()
        assert error["data"] == {"reason": "uid", "uid": None}

    attacked(tmp_path, attack)


def test_kernel_tells_the_peers_user() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()
    assert peer_uid(ours) is None


def test_host_with_hanging_clients_closes_at_once(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "one", CODE, hooks=["t.edit"])

    async def scenario() -> None:
        clients = []
        async with open_host(tmp_path, control=True):
            clients = [await asyncio.to_thread(welcomed, tmp_path / "state") for _ in range(8)]
            for client in clients:
                client.sendall(b'{"id": 1, "method": "logs", "params": {"plugin": "one", "follow": true}}\n')
            begun = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begun < 5.0
        for client in clients:
            client.close()

    run(scenario)


def _all_of(client: socket.socket) -> bytes:
    heard = bytearray()
    with client:
        while True:
            try:
                chunk = client.recv(65536)
            except ConnectionResetError:
                break
            if not chunk:
                break
            heard += chunk
    return bytes(heard)
