"""The proxy against real sockets: what was granted passes, everything else is told no and holds nobody up."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest

from annexe.capabilities.egress import EgressLimits, EgressRules
from annexe.capabilities.egress_dial import Dialer
from annexe.capabilities.proxy import EgressProxy
from annexe.errors import PermissionDeniedError
from annexe.launch.egress import egress_orders
from tests.process.egress_servers import rules_for, serving, talking, to_names
from tests.process.hosts import run, until

pytestmark = pytest.mark.any_user

OK = b"HTTP/1.1 200 OK\r\n"
LIMITS = EgressLimits(connections=2, head_s=2.0, idle_s=5.0, connect_s=2.0, connections_per_s=1000.0)


@dataclass
class Door:
    """An open proxy, and what it told."""

    proxy: EgressProxy
    port: int
    denied: list[PermissionDeniedError] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, raw: bytes) -> bytes:
        """Send something and return all that comes until the proxy hangs up."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            return b""
        finally:
            writer.transport.abort()


@asynccontextmanager
async def door(rules: EgressRules, *, limits: EgressLimits = LIMITS, secret: str | None = None, resolve: Any = None) -> AsyncIterator[Door]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    found = Door(None, listener.getsockname()[1])  # type: ignore[arg-type]  # set below
    found.proxy = EgressProxy(
        listener,
        rules,
        limits=limits,
        secret=secret,
        dialer=Dialer(rules, limits, resolve=resolve),
        on_denied=found.denied.append,
        on_used=found.used.append,
    )
    await found.proxy.open()
    try:
        yield found
    finally:
        await found.proxy.close()


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


async def output_of(command: list[str], *, env: dict[str, str], pass_fds: tuple[int, ...] = ()) -> bytes:
    def done() -> bytes:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=15, env=env, pass_fds=pass_fds).stdout

    return await asyncio.to_thread(done)


# Tunnels.


def test_connect_passes_bytes_both_ways_and_the_use_is_told() -> None:
    async def scenario() -> None:
        async with talking(echo) as server, door(rules_for(server.target)) as gate:
            reader, writer = await gate.connect()
            # What is sent before the answer belongs to the tunnel.
            writer.write(f"CONNECT {server.target} HTTP/1.1\r\nHost: {server.target}\r\n\r\nearly".encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
            assert await reader.readexactly(5) == b"early"
            sent = os.urandom(3_000_000)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read(-1) == sent
            writer.close()
            right = f"network:{server.target}"
            assert server.connections == 1
            assert (gate.used, gate.denied) == ([right], [])

    run(scenario)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("CONNECT 127.0.0.1:1 HTTP/1.1", id="other-port"),
        pytest.param("CONNECT localhost:{port} HTTP/1.1", id="name-for-the-address"),
        pytest.param("CONNECT [::ffff:127.0.0.1]:{port} HTTP/1.1", id="mapped"),
        pytest.param("CONNECT 169.254.169.254:80 HTTP/1.1", id="metadata"),
        pytest.param("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example", id="plain"),
    ],
)
def test_target_that_was_not_granted_is_answered_403_with_the_manifests_line(asked: str) -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nsecret") as server, door(rules_for(server.target)) as gate:
            answer = await gate.ask(asked.format(port=server.port).encode() + b"\r\n\r\n")
            assert status_of(answer) == 403 and b"Connection: close" in answer
            (error,) = gate.denied
            assert error.data["manifest_line"].encode() in answer and answer.endswith(f"{error.message}\n".encode())
            assert (server.connections, gate.used) == (0, [])

    run(scenario)


def test_name_that_leads_inside_is_answered_403() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nsecret") as server:
            rules = rules_for(f"h.example:{server.port}")
            async with door(rules, resolve=to_names(h_example=["127.0.0.1"])) as gate:
                answer = await gate.ask(f"CONNECT h.example:{server.port} HTTP/1.1\r\n\r\n".encode())
                assert status_of(answer) == 403 and b"leads to 127.0.0.1, which is a loopback address" in answer
                assert [error.data["permission"] for error in gate.denied] == [f"network:{server.target}"]
                assert server.connections == 0

    run(scenario)


def test_target_that_nobody_answers_at_is_answered_502() -> None:
    async def scenario() -> None:
        async with serving(b"") as server:
            pass
        async with door(rules_for(server.target, "h.example:80"), resolve=to_names()) as gate:
            assert status_of(await gate.ask(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode())) == 502
            assert status_of(await gate.ask(b"CONNECT h.example:80 HTTP/1.1\r\n\r\n")) == 502

    run(scenario)


def test_lookup_that_hangs_is_answered_504() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        await asyncio.get_running_loop().create_future()
        return []

    async def scenario() -> None:
        async with door(rules_for("h.example:80"), resolve=resolve, limits=EgressLimits(connect_s=0.05)) as gate:
            assert status_of(await gate.ask(b"CONNECT h.example:80 HTTP/1.1\r\n\r\n")) == 504

    run(scenario)


def test_tunnel_that_moves_nothing_ends() -> None:
    async def scenario() -> None:
        async with talking(echo) as server, door(rules_for(server.target), limits=EgressLimits(idle_s=0.1)) as gate:
            answer = await gate.ask(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode())
            assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"

    run(scenario)


def test_client_that_does_not_read_is_idle_and_keeps_little_waiting() -> None:
    written = 0

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            written += 65536

    async def scenario() -> None:
        async with talking(talk) as server, door(rules_for(server.target), limits=EgressLimits(idle_s=0.3)) as gate:
            reader, writer = await gate.connect()
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode())
            await until(lambda: gate.used and not gate.proxy._tasks)
            assert 0 < written < 64 * 1024 * 1024
            writer.transport.abort()

    run(scenario)


def test_tunnel_is_cut_at_its_cap() -> None:
    async def scenario() -> None:
        limits = EgressLimits(relayed_bytes=1000)
        async with talking(echo) as server, door(rules_for(server.target), limits=limits) as gate:
            answer = await gate.ask(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode() + bytes(2000))
            assert len(answer) < 1100

    run(scenario)


# Who may come.


def test_without_the_secret_nothing_is_told_but_that_it_is_wanted() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nsecret") as server, door(rules_for(server.target), secret="secret") as gate:
            for header in ("", "Proxy-Authorization: Basic eDp5\r\n", "Proxy-Authorization: Bearer secret\r\n"):
                for target in (server.target, "evil.example:1"):
                    answer = await gate.ask(f"CONNECT {target} HTTP/1.1\r\n{header}\r\n".encode())
                    assert status_of(answer) == 407 and b'Proxy-Authenticate: Basic realm="annexe"' in answer
            assert (server.connections, gate.denied) == (0, [])

    run(scenario)


def test_ordinary_client_uses_the_environment_and_the_secret_stays_here() -> None:
    orders = egress_orders(in_namespaces=False)
    secret = orders["secret"]
    code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"

    async def scenario() -> None:
        async with serving(OK + b"Content-Length: 5\r\n\r\nhello") as server, door(rules_for(server.target), secret=secret) as gate:
            environment = dict.fromkeys(orders["names"], orders["url"] % gate.port)
            assert set(environment) == {"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
            printed = await output_of([sys.executable, "-c", code, f"{server.url}/x"], env=environment)
            assert printed == b"hello\n"
            assert server.requests[0].startswith(b"GET /x HTTP/1.1\r\n") and b"roxy" not in server.requests[0]

    run(scenario)


INSIDE = """
import fcntl, os, socket, struct, subprocess, sys
channel = socket.socket(fileno=int(sys.argv[1]))
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
listener = socket.create_server(("127.0.0.1", 8080))
listener.setblocking(False)
socket.send_fds(channel, [b"x"], [listener.fileno()])
listener.close()
channel.close()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), 5)
except OSError:
    print("no other way")
import urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/x").read().decode())
"""


@pytest.mark.both_users
def test_listener_of_a_private_network_is_served_from_outside_it() -> None:
    command = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine gives no network namespaces")

    async def scenario() -> None:
        async with serving(OK + b"Content-Length: 5\r\n\r\nhello") as server:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                inside = [*command, sys.executable, "-c", INSIDE, str(theirs.fileno()), str(server.port)]
                printing = asyncio.ensure_future(
                    output_of(inside, pass_fds=(theirs.fileno(),), env={"http_proxy": "http://127.0.0.1:8080"})
                )
                _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 1, 1)
                proxy = EgressProxy(socket.socket(fileno=descriptors[0]), rules_for(server.target))
                await proxy.open()
                assert await printing == b"no other way\nhello\n"
                await proxy.close()

    run(scenario)


# Plain requests.


def test_plain_request_is_written_anew() -> None:
    async def scenario() -> None:
        answer = b"HTTP/1.1 201 Made\r\nX-B: c\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nhi"
        async with serving(answer) as server, door(rules_for(server.target)) as gate:
            got = await gate.ask(
                f"POST {server.url}/a?b HTTP/1.1\r\nX-A: b\r\nHost: {server.target}\r\nProxy-Connection: keep-alive\r\nTE: x\r\n"
                f"Proxy-Authorization: Basic eDp5\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nabc".encode()
            )
            assert server.requests == [
                f"POST /a?b HTTP/1.1\r\nHost: {server.target}\r\nX-A: b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc".encode()
            ]
            assert got == b"HTTP/1.1 201 Made\r\nX-B: c\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "version", "got"),
    [
        pytest.param(
            OK + b"\r\nabc", "1.1", b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="until-close"
        ),
        pytest.param(OK + b"\r\nabc", "1.0", b"200 OK\r\nConnection: close\r\n\r\nabc", id="until-close-for-1.0"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n",
            "1.1",
            b"200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            id="chunks",
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "1.0",
            b"200 OK\r\nConnection: close\r\n\r\nabc",
            id="chunks-for-1.0",
        ),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", "1.1", b"204 No\r\nConnection: close\r\n\r\n", id="no-content"),
        pytest.param(
            b"HTTP/1.1 103 Hints\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
            "1.1",
            b"OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            id="hints",
        ),
        pytest.param(
            OK + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\nsecond",
            "1.1",
            b"3\r\nConnection: close\r\n\r\nabc",
            id="second-answer",
        ),
    ],
)
def test_answer_is_written_anew_with_one_length(answer: bytes, version: str, got: bytes) -> None:
    async def scenario() -> None:
        async with serving(answer) as server, door(rules_for(server.target)) as gate:
            told = await gate.ask(f"GET {server.url}/ HTTP/{version}\r\nHost: {server.target}\r\n\r\n".encode())
            assert told.startswith(b"HTTP/1.1 20") and told.endswith(got)

    run(scenario)


def test_chunked_request_passes_without_its_trailers_and_is_told_to_go_on() -> None:
    async def scenario() -> None:
        async with serving(OK + b"Content-Length: 0\r\n\r\n") as server, door(rules_for(server.target)) as gate:
            reader, writer = await gate.connect()
            head = f"POST {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
            writer.write(head.encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"2;x\r\nab\r\n1\r\nc\r\n0\r\nHost: evil.example\r\n\r\n")
            assert status_of(await reader.read()) == 200
            writer.transport.abort()
            (request,) = server.requests
            assert request.endswith(b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
            assert b"Expect" not in request and b"evil" not in request

    run(scenario)


def test_second_request_on_a_connection_goes_nowhere() -> None:
    async def scenario() -> None:
        async with serving(OK + b"Content-Length: 2\r\n\r\nhi") as server, door(rules_for(server.target)) as gate:
            one = f"GET {server.url}/1 HTTP/1.1\r\nHost: {server.target}\r\n\r\n"
            told = await gate.ask((one + one.replace("/1", "/2")).encode())
            assert told.count(b"HTTP/1.1") == 1
            assert [request.split(b" ")[1] for request in server.requests] == [b"/1"]

    run(scenario)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("Content-Length: 5\r\nTransfer-Encoding: chunked", id="length-and-chunks"),
        pytest.param("Transfer-Encoding: chunked\r\nContent-Length: 5", id="chunks-and-length"),
        pytest.param("Content-Length: 5\r\nContent-Length: 6", id="two-lengths"),
        pytest.param("Content-Length: 5\r\ncontent-length: 5", id="same-length-twice"),
        pytest.param("Content-Length: 5, 5", id="lengths-in-one"),
        pytest.param("Content-Length: +5", id="sign"),
        pytest.param("Content-Length : 5", id="blank-before-colon"),
        pytest.param("Transfer-Encoding: gzip, chunked", id="other-coding"),
        pytest.param("Transfer-Encoding:\x0bchunked", id="control-before-chunked"),
        pytest.param("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", id="two-codings"),
        pytest.param("Transfer-Encoding\r\n : chunked", id="folded-name"),
        pytest.param("A: b\r\n Content-Length: 5", id="folded"),
        pytest.param("A: b\nContent-Length: 5", id="bare-line-feed"),
        pytest.param("A: b\rContent-Length: 5", id="bare-return"),
        pytest.param("A: \x00", id="nul"),
        pytest.param("Host: evil.example", id="two-hosts"),
    ],
)
def test_request_that_two_could_read_differently_is_answered_400(lines: str) -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\n") as server, door(rules_for(server.target)) as gate:
            raw = f"POST {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\n{lines}\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"
            answer = await gate.ask(raw.encode("latin-1"))
            assert status_of(answer) == 400
            assert server.connections == 0

    run(scenario)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", id="tls"),
        pytest.param(b"\r\n\r\n", id="empty"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n", id="path"),
        pytest.param(b"GET https://h.example/ HTTP/1.1\r\nHost: h.example\r\n\r\n", id="https"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http-2"),
        pytest.param(b"GET http://h.example/\r\n\r\n", id="http-0.9"),
        pytest.param(b"GET http://h.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", id="host-mismatch"),
        pytest.param(b"GET http://h.example@evil.example/ HTTP/1.1\r\nHost: h.example\r\n\r\n", id="user"),
        pytest.param(b"CONNECT h.example:80@evil.example:80 HTTP/1.1\r\n\r\n", id="user-in-connect"),
        pytest.param(b"CONNECT \xe4.example:80 HTTP/1.1\r\n\r\n", id="letters"),
    ],
)
def test_garbage_is_answered_400(raw: bytes) -> None:
    async def scenario() -> None:
        async with door(rules_for("h.example:80")) as gate:
            assert status_of(await gate.ask(raw)) == 400

    run(scenario)


def test_body_that_is_no_body_is_answered_400() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\n") as server, door(rules_for(server.target)) as gate:
            head = f"POST {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            assert status_of(await gate.ask(head + b"0x3\r\nabc\r\n")) == 400
            assert server.requests == []

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(b"nothing of the kind\r\n\r\n", 502, id="no-http"),
        pytest.param(b"", 502, id="nothing"),
        pytest.param(OK + b"A: b\r\n c\r\n\r\n", 502, id="folded"),
        pytest.param(OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 502, id="two-lengths"),
        pytest.param(b"HTTP/1.1 101 Go\r\n\r\n", 502, id="other-protocol"),
        pytest.param(OK + b"A: " + b"x" * 200_000, 502, id="endless-head"),
        pytest.param(OK + b"Content-Length: 9\r\n\r\nabc", 200, id="cut-short"),
    ],
)
def test_answer_that_is_none_is_answered_502_or_cut_off(answer: bytes, status: int) -> None:
    async def scenario() -> None:
        async with serving(answer) as server, door(rules_for(server.target)) as gate:
            told = await gate.ask(f"GET {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\n\r\n".encode())
            assert status_of(told) == status
            assert not told.endswith(b"0\r\n\r\n")

    run(scenario)


def test_server_that_says_nothing_is_answered_504() -> None:
    async def scenario() -> None:
        async with serving(b"", hold=True) as server, door(rules_for(server.target), limits=EgressLimits(idle_s=0.1)) as gate:
            assert status_of(await gate.ask(f"GET {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\n\r\n".encode())) == 504

    run(scenario)


def test_answer_before_the_whole_request_reaches_the_client() -> None:
    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await reader.read(-1)

    async def scenario() -> None:
        async with talking(talk) as server, door(rules_for(server.target)) as gate:
            head = f"POST {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\nContent-Length: 9000\r\n\r\nabc"
            told = await gate.ask(head.encode())
            assert told.endswith(b"no") and status_of(told) == 413

    run(scenario)


# How much.


def test_head_sent_slowly_is_given_up_while_others_are_served() -> None:
    async def scenario() -> None:
        answer = OK + b"Content-Length: 2\r\n\r\nhi"
        async with serving(answer) as server, door(rules_for(server.target), limits=EgressLimits(head_s=1.0)) as gate:
            began = monotonic()
            reader, writer = await gate.connect()
            slow = asyncio.ensure_future(reader.read())
            for letter in b"GET http":
                writer.write(bytes([letter]))
                await writer.drain()
                assert status_of(await gate.ask(f"GET {server.url}/ HTTP/1.1\r\nHost: {server.target}\r\n\r\n".encode())) == 200
            assert status_of(await slow) == 408
            assert monotonic() - began < 10.0
            writer.transport.abort()

    run(scenario)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GET http://h.example/" + b"a" * 20_000, 431, id="line-without-end"),
        pytest.param(b"GET http://h.example/ HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n", 431, id="large"),
        pytest.param(b"GET http://h.example/ HTTP/1.1\r\nHost: h.example\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400, id="many"),
    ],
)
def test_large_head_is_refused(raw: bytes, status: int) -> None:
    async def scenario() -> None:
        async with door(rules_for("h.example:80")) as gate:
            assert status_of(await gate.ask(raw)) == status

    run(scenario)


def test_client_that_goes_away_leaves_nothing() -> None:
    async def scenario() -> None:
        async with talking(echo) as server, door(rules_for(server.target)) as gate:
            for sent in (b"", b"GET htt", f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode()):
                _, writer = await gate.connect()
                writer.write(sent)
                await writer.drain()
                writer.transport.abort()
            await until(lambda: not gate.proxy._tasks)

    run(scenario)


def test_connections_above_the_bound_are_answered_503_until_one_ends() -> None:
    async def scenario() -> None:
        async with talking(echo) as server, door(rules_for(server.target)) as gate:
            open_ones = [await gate.connect() for _ in range(2)]
            for reader, writer in open_ones:
                writer.write(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
            assert status_of(await gate.ask(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode())) == 503
            assert server.connections == 2
            for _, writer in open_ones:
                writer.transport.abort()
            await until(lambda: not gate.proxy._tasks)
            assert status_of(await gate.ask(b"CONNECT evil.example:1 HTTP/1.1\r\n\r\n")) == 403

    run(scenario)


def test_flood_of_connections_is_held_back() -> None:
    async def scenario() -> None:
        limits = EgressLimits(connections_per_s=10.0, connections_burst=5.0)
        async with door(rules_for("h.example:80"), limits=limits) as gate:
            began = monotonic()
            for _ in range(8):
                assert status_of(await gate.ask(b"CONNECT evil.example:1 HTTP/1.1\r\n\r\n")) == 403
            assert monotonic() - began > 0.2

    run(scenario)


def test_closed_proxy_ends_what_is_open_and_frees_its_port() -> None:
    async def scenario() -> None:
        async with talking(echo) as server:
            async with door(rules_for(server.target)) as gate:
                reader, writer = await gate.connect()
                writer.write(f"CONNECT {server.target} HTTP/1.1\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
            assert await reader.read() == b""
            writer.transport.abort()
            with pytest.raises(ConnectionRefusedError):
                await gate.connect()

    run(scenario)


def test_listening_socket_that_is_gone_ends_the_proxy_quietly() -> None:
    async def scenario() -> None:
        async with door(rules_for("h.example:80")) as gate:
            gate.proxy._listener.shutdown(2)
            accepting = gate.proxy._accepting
            assert accepting is not None
            await until(accepting.done)
            assert accepting.exception() is None

    run(scenario)
