"""``fetch`` against real sockets: it gets what was granted, and nothing that a name, a redirect or a server could make of it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import ssl
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from pathlib import Path
from time import monotonic, process_time, thread_time
from typing import Any, cast

import msgspec
import pytest

from annexe.capabilities.egress import EgressLimits, EgressRules, Target
from annexe.capabilities.egress_dial import Dialer, SystemResolver
from annexe.capabilities.fetch import FetchService
from annexe.channel import CodecName, PluginCall
from annexe.errors import CallError, CallTimeoutError, InvalidParamsError, PermissionDeniedError, PluginBusyError
from annexe.record import EventKind
from tests.process.egress_servers import Server, rules_for, serving, talking, to_names
from tests.process.hosts import Doc, T, events, open_host, run, write_plugin

pytestmark = pytest.mark.any_user

LIMITS = EgressLimits(response_bytes=1000, redirects=2, time_s=5.0, fetches=2, header_bytes=2000, headers=20, connect_s=2.0)
OK = b"HTTP/1.1 200 OK\r\n"


def call_for(params: dict[str, Any], *, codec: CodecName = "msgpack", within_s: float = 5.0) -> PluginCall:
    raw = msgspec.msgpack.encode(params) if codec == "msgpack" else msgspec.json.encode(params)
    return PluginCall(cast(Any, None), 2, "fetch", msgspec.Raw(raw), codec=codec, deadline=monotonic() + within_s, parent=None)


def service(rules: EgressRules, *, resolve: Any = None, **more: Any) -> FetchService:
    limits = more.pop("limits", LIMITS)
    return FetchService(rules, limits=limits, dialer=Dialer(rules, limits, resolve=resolve), **more)


async def fetch(rules: EgressRules, url: str, *, within_s: float = 5.0, resolve: Any = None, **params: Any) -> dict[str, Any]:
    return await service(rules, resolve=resolve).serve(call_for({"url": url, **params}, within_s=within_s))


def answered(answer: bytes, **params: Any) -> dict[str, Any]:
    """Return what a plugin gets for one answer of a granted server."""

    async def scenario() -> dict[str, Any]:
        async with serving(answer) as server:
            return await fetch(rules_for(server.target), f"{server.url}/x", **params)

    return run(scenario)


def fault(answer: bytes, **params: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        answered(answer, **params)
    return caught.value


# What comes back.


def test_fetch_gives_status_headers_and_body() -> None:
    got = answered(b"HTTP/1.1 404 Nope\r\nX-A: b\r\nx-a:  c\r\nConnection: close, X-Own\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nabc")
    assert (got["status"], got["body"]) == (404, b"abc")
    assert got["headers"] == [("x-a", "b"), ("x-a", "c"), ("content-length", "3")]
    assert got["url"].endswith("/x")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(OK + b"\r\nabc", b"abc", id="until-close"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc", id="http-1.0"),
        pytest.param(OK + b"Content-Length: 0\r\n\r\n", b"", id="empty"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", b"abc", id="chunks"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nSet-Cookie: x\r\n\r\n", b"abc", id="trailers-left-out"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK + b"\r\nabc", b"abc", id="provisional"),
        pytest.param(OK + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\nsecond", b"abc", id="second-answer-left-out"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", b"", id="no-content"),
        pytest.param(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"abc") + gzip.compress(b"def"), b"abcdef", id="gzip-members"),
        pytest.param(OK + b"Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", b"abc", id="other-coding"),
        pytest.param(OK + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", b"", id="gzip-of-nothing"),
    ],
)
def test_fetch_reads_a_body_to_its_end(answer: bytes, body: bytes) -> None:
    got = answered(answer)
    assert got["body"] == body
    assert "set-cookie" not in dict(got["headers"])


def test_unpacked_answer_no_longer_says_that_it_is_packed() -> None:
    packed = gzip.compress(b"abc")
    got = answered(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    assert (got["body"], got["headers"]) == (b"abc", [])


def test_head_has_no_body() -> None:
    got = answered(OK + b"Content-Length: 5\r\nContent-Encoding: gzip\r\n\r\n", method="HEAD")
    assert (got["body"], dict(got["headers"])) == (b"", {"content-length": "5", "content-encoding": "gzip"})


def test_request_is_written_with_the_hosts_own_framing() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\n") as server:
            await fetch(
                rules_for(server.target), f"{server.url}/a?b", method="POST", headers=[["X-A", "b"], ["Accept", "a/b"]], body=b"hello"
            )
            await fetch(rules_for(server.target), f"{server.url}/", method="PUT")
        port = str(server.port).encode()
        assert server.requests == [
            b"POST /a?b HTTP/1.1\r\nHost: 127.0.0.1:" + port + b"\r\nX-A: b\r\nAccept: a/b\r\nAccept-Encoding: gzip\r\n"
            b"Content-Length: 5\r\nConnection: close\r\n\r\nhello",
            b"PUT / HTTP/1.1\r\nHost: 127.0.0.1:" + port + b"\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n",
        ]

    run(scenario)


def test_large_request_that_nobody_reads_gets_its_answer() -> None:
    async def scenario() -> None:
        async def talk(reader: StreamReader, writer: StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
            await reader.read()

        async with talking(talk) as server:
            got = await fetch(rules_for(server.target), f"{server.url}/", method="POST", body=bytes(8 * 1024 * 1024))
        assert (got["status"], got["body"]) == (413, b"no")

    run(scenario)


def test_json_connection_brings_a_body_and_bounds_it_by_the_frame() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\n") as server:
            rules = rules_for(server.target)
            body = base64.b64encode(b"\x00\xff").decode()
            call = call_for({"url": server.url, "method": "POST", "headers": [], "body": body, "timeout_s": None}, codec="json")
            await service(rules).serve(call)
            limit = service(rules, limits=EgressLimits())._body_bytes("json")
        assert server.requests[0].endswith(b"\r\n\r\n\x00\xff")
        assert limit > 7_000_000 and len(msgspec.json.encode(bytes(limit))) < 10 * 1024 * 1024 - 400_000

    run(scenario)


# What servers may not do.


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", "protocol", id="nothing"),
        pytest.param(b"hello, this is no HTTP\r\n\r\n", "protocol", id="http-0.9"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b", "protocol", id="half-a-head"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "protocol", id="bare-line-feeds"),
        pytest.param(b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n", "protocol", id="other-protocol"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 17, "protocol", id="provisional-for-ever"),
        pytest.param(OK + b"A: b\r\n c\r\n\r\n", "protocol", id="folded"),
        pytest.param(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "protocol", id="two-lengths"),
        pytest.param(OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "protocol", id="length-and-chunks"),
        pytest.param(OK + b"Content-Length: 4\r\n\r\nabc", "protocol", id="cut-short"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", "protocol", id="chunk-cut-short"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "protocol", id="no-last-chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", "protocol", id="chunk-too-long"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", "protocol", id="negative-chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 129 + b"\r\n", "too-large", id="many-trailers"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000 + b"\r\na\r\n", "too-large", id="long-chunk-line"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000, "too-large", id="endless-chunk-line"),
        pytest.param(OK + b"A: " + b"x" * 3000 + b"\r\n\r\n", "too-large", id="large-head"),
        pytest.param(OK + b"A: " + b"x" * 200_000, "too-large", id="endless-head"),
        pytest.param(OK + b"A: b\r\n" * 21 + b"\r\n", "too-large", id="many-headers"),
        pytest.param(OK + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, "too-large", id="large-body"),
        pytest.param(OK + b"Content-Length: 999999999999999\r\n\r\n" + b"x" * 2000, "too-large", id="huge-body"),
        pytest.param(OK + b"\r\n" + b"x" * 2000, "too-large", id="large-body-until-close"),
        pytest.param(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(1001)), "too-large", id="gzip-bomb"),
        pytest.param(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(1000))[:-4], "protocol", id="gzip-cut-short"),
        pytest.param(OK + b"Content-Encoding: gzip\r\n\r\nplain", "protocol", id="no-gzip"),
        pytest.param(b"HTTP/1.1 302 Go\r\nLocation: file:///etc/passwd\r\n\r\n", "redirect", id="redirect-to-a-file"),
        pytest.param(b"HTTP/1.1 302 Go\r\nLocation: /a\r\nLocation: /b\r\n\r\n", "protocol", id="redirect-to-two"),
        pytest.param(b"HTTP/1.1 302 Go\r\nLocation: /x\r\n\r\n", "redirect", id="redirects-for-ever"),
    ],
)
def test_answer_that_may_not_be_is_an_error_with_its_reason(answer: bytes, reason: str) -> None:
    error = fault(answer)
    assert (type(error), error.data["reason"], error.plugin) == (CallError, reason, "sample")
    assert error.message.isprintable()


def test_gzip_bomb_is_unpacked_no_further_than_its_bound() -> None:
    bomb = gzip.compress(bytes(500 * 1024 * 1024), 1)[: 8 * 1024 * 1024]

    async def scenario() -> float:
        async with serving(OK + b"Content-Encoding: gzip\r\n\r\n" + bomb) as server:
            rules = rules_for(server.target)
            began = process_time()
            with pytest.raises(CallError, match="more than 8388608 bytes"):
                await service(rules, limits=EgressLimits()).serve(call_for({"url": server.url}))
            return process_time() - began

    assert run(scenario) < 2.0


def test_body_in_tiny_pieces_holds_nobody_up_and_has_an_end() -> None:
    pieces = b"1\r\nx\r\n" * 30_000

    async def scenario() -> float:
        async with serving(OK + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n") as server:
            rules = rules_for(server.target)
            limits = EgressLimits(pieces=20_000)
            work = service(rules, limits=limits).serve(call_for({"url": server.url}))
            longest, last = 0.0, thread_time()  # processor time: others use this machine, too
            while not work.done():
                await asyncio.sleep(0)
                longest, last = max(longest, thread_time() - last), thread_time()
            with pytest.raises(CallError, match="too many pieces"):
                await work
            return longest

    assert run(scenario) < 0.1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA", id="half-a-head"),
        pytest.param(OK + b"Content-Length: 9\r\n\r\nabc", id="half-a-body"),
    ],
)
@pytest.mark.parametrize(
    ("within_s", "timeout_s"),
    [pytest.param(0.1, None, id="deadline-of-the-call"), pytest.param(5.0, 0.1, id="own"), pytest.param(0.1, 1e300, id="own-longer")],
)
def test_slow_answer_meets_the_deadline(answer: bytes, within_s: float, timeout_s: float | None) -> None:
    async def scenario() -> None:
        async with serving(answer, hold=True) as server:
            began = monotonic()
            with pytest.raises(CallTimeoutError):
                await fetch(rules_for(server.target), server.url, within_s=within_s, timeout_s=timeout_s)
            assert monotonic() - began < 3.0

    run(scenario)


# Where it goes.


def test_redirect_is_followed_within_the_grant() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nthere") as second:
            hop = f"HTTP/1.1 303 See\r\nLocation: {second.url}/y\r\nContent-Length: 9\r\n\r\n".encode()
            async with serving(hop) as first:
                rules = rules_for(first.target, second.target)
                got = await fetch(rules, f"{first.url}/x", method="POST", headers=[["Authorization", "secret"], ["X-A", "b"]], body=b"body")
            assert (got["body"], got["url"]) == (b"there", f"{second.url}/y")
            assert second.requests[0].startswith(b"GET /y HTTP/1.1\r\n")
            assert b"X-A: b" in second.requests[0] and b"secret" not in second.requests[0] and b"body" not in second.requests[0]

    run(scenario)


def test_redirect_out_of_the_grant_is_denied_with_the_manifests_line() -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nsecret") as second:
            async with serving(f"HTTP/1.1 307 Go\r\nLocation: {second.url}/\r\n\r\n".encode()) as first:
                with pytest.raises(PermissionDeniedError) as caught:
                    await fetch(rules_for(first.target), first.url)
            assert caught.value.data["permission"] == f"network:{second.target}"
            assert caught.value.data["manifest_line"] == f'network = ["{second.target}"]'
            assert second.connections == 0

    run(scenario)


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(["127.0.0.1"], id="loopback"),
        pytest.param(["::ffff:127.0.0.1"], id="mapped"),
        pytest.param(["169.254.169.254"], id="metadata"),
        pytest.param(["1.1.1.1", "127.0.0.1"], id="one-of-several"),
        pytest.param(["0.0.0.0"], id="unspecified"),
        pytest.param(["fe80::1%lo"], id="link-local"),
    ],
)
def test_name_that_leads_inside_is_denied_before_anything_is_connected(addresses: list[str]) -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nsecret") as server:
            with pytest.raises(PermissionDeniedError) as caught:
                await fetch(
                    rules_for(f"h.example:{server.port}", server.target),
                    f"http://h.example:{server.port}/",
                    resolve=to_names(h_example=addresses),
                )
            assert "h.example leads to" in caught.value.message
            assert server.connections == 0

    run(scenario)


def test_name_is_looked_up_once_for_one_connection() -> None:
    asked: list[str] = []

    async def resolve(name: str, port: int) -> list[str]:
        asked.append(name)
        return ["192.0.2.1"] if len(asked) > 1 else ["127.0.0.1"]

    async def scenario() -> None:
        with pytest.raises(PermissionDeniedError, match=r"127\.0\.0\.1"):
            await fetch(rules_for("h.example:80"), "http://h.example/", resolve=resolve)

    run(scenario)
    assert asked == ["h.example"]


def test_addresses_beyond_the_bound_are_not_used() -> None:
    async def scenario() -> None:
        rules = rules_for("h.example:80")
        dialer = Dialer(rules, EgressLimits(addresses=1), resolve=to_names(h_example=["127.0.0.1", "192.168.0.1"]))
        with pytest.raises(PermissionDeniedError, match=r"127\.0\.0\.1"):
            await dialer.connect(Target("h.example", 80))

    run(scenario)


def test_unknown_name_and_closed_port_have_their_reasons() -> None:
    async def scenario() -> None:
        async with serving(b"") as server:
            pass
        for url, reason in (("http://h.example/", "dns"), (server.url, "connect")):
            with pytest.raises(CallError) as caught:
                await fetch(rules_for("h.example:80", server.target), url, resolve=to_names())
            assert caught.value.data["reason"] == reason

    run(scenario)


def test_system_resolver_knows_localhost_and_refuses_what_is_no_name() -> None:
    async def scenario() -> None:
        resolve = SystemResolver(threads=1)
        found = await asyncio.gather(*[resolve("localhost", 80) for _ in range(3)])
        assert all(set(addresses) & {"127.0.0.1", "::1"} for addresses in found)
        with pytest.raises(OSError):
            await resolve("a" * 70 + ".invalid", 80)
        async with serving(OK + b"\r\n") as server:
            with pytest.raises(PermissionDeniedError):
                await fetch(rules_for(f"localhost:{server.port}"), f"http://localhost:{server.port}/")
            assert server.connections == 0

    run(scenario)


def test_lookup_that_hangs_is_given_up() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        await asyncio.get_running_loop().create_future()
        return []

    async def scenario() -> None:
        rules = rules_for("h.example:80")
        limits = EgressLimits(connect_s=0.05)
        with pytest.raises(CallError) as caught:
            await service(rules, limits=limits, resolve=resolve).serve(call_for({"url": "http://h.example/"}))
        assert caught.value.data["reason"] == "connect"

    run(scenario)


def test_proxies_of_the_hosts_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serving(OK + b"\r\nproxy") as proxy, serving(OK + b"\r\ndirect") as server:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            assert (await fetch(rules_for(server.target), server.url))["body"] == b"direct"
            assert proxy.connections == 0

    run(scenario)


# TLS.


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
    ]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-addext", f"subjectAltName={name}"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.mark.parametrize(
    ("name", "is_trusted", "reason"),
    [
        pytest.param("IP:127.0.0.1", True, None, id="holds"),
        pytest.param("IP:127.0.0.2", True, "tls", id="of-another-host"),
        pytest.param("IP:127.0.0.1", False, "tls", id="of-nobody-trusted"),
    ],
)
def test_certificate_is_held_against_the_target(tmp_path: Path, name: str, is_trusted: bool, reason: str | None) -> None:
    context = certificate(tmp_path, name)

    def make_tls() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(tmp_path / "cert.pem") if is_trusted else None)

    async def scenario() -> None:
        async def talk(reader: StreamReader, writer: StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + b"Content-Length: 6\r\n\r\nsecure")
            await writer.drain()
            await reader.read()

        async with talking(talk, tls=context) as server:
            work = service(rules_for(server.target), make_tls=make_tls).serve(call_for({"url": f"https://{server.target}/"}))
            if reason is None:
                assert (await work)["body"] == b"secure"
            else:
                with pytest.raises(CallError) as caught:
                    await work
                assert caught.value.data["reason"] == reason

    run(scenario)


@pytest.mark.parametrize("error", [FileNotFoundError("no such file"), ssl.SSLError("not a certificate")])
def test_certificates_that_cannot_be_read_are_an_error_of_tls(error: OSError) -> None:
    def make_tls() -> ssl.SSLContext:
        raise error

    async def scenario() -> None:
        work = service(rules_for("127.0.0.1:1"), make_tls=make_tls).serve(call_for({"url": "https://127.0.0.1:1/"}))
        with pytest.raises(CallError, match="certificates of this machine cannot be read") as caught:
            await work
        assert caught.value.data["reason"] == "tls"

    run(scenario)


# What is asked.


@pytest.mark.parametrize(
    ("params", "told"),
    [
        pytest.param({}, "url", id="no-url"),
        pytest.param([], "object", id="no-map"),
        pytest.param({"url": 1}, "str", id="number"),
        pytest.param({"url": "http://h.example/", "more": 1}, "more", id="unknown"),
        pytest.param({"url": "http://h.example/", "body": "text"}, "bytes", id="text-for-bytes"),
        pytest.param({"url": "http://h.example/", "headers": {"A": "b"}}, "array", id="headers-as-a-map"),
        pytest.param({"url": "http://h.example/", "headers": [["A", "b\r\nC: d"]]}, "header 'A'", id="line-in-header"),
        pytest.param({"url": "http://h.example/ HTTP/1.1\r\nA: b"}, "blanks", id="line-in-url"),
        pytest.param({"url": "http://h.example/", "method": "G\r\n"}, "method", id="line-in-method"),
        pytest.param({"url": "http://h.example/", "timeout_s": 0}, "timeout_s", id="no-time"),
        pytest.param({"url": "http://h.example/", "timeout_s": -1.0}, "timeout_s", id="negative-time"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_at_once(params: Any, told: str) -> None:
    async def scenario() -> InvalidParamsError:
        with pytest.raises(InvalidParamsError) as caught:
            service(rules_for("h.example:80")).serve(call_for(params))
        return caught.value

    assert told in run(scenario).message


def test_fetches_at_once_are_bounded_and_can_be_called_off() -> None:
    used: list[str] = []

    async def scenario() -> None:
        async with serving(b"", hold=True) as server:
            desk = service(rules_for(server.target), on_used=used.append)
            open_ones = [desk.serve(call_for({"url": server.url})) for _ in range(2)]
            with pytest.raises(PluginBusyError):
                desk.serve(call_for({"url": server.url}))
            open_ones[0].cancel()  # before its first step
            await asyncio.wait(open_ones[:1])
            open_ones.append(desk.serve(call_for({"url": server.url})))
            await asyncio.sleep(0)
            desk.close()
            done, _ = await asyncio.wait(open_ones)
            assert all(task.cancelled() for task in done)
            assert set(used) == {f"network:{server.target}"}

    run(scenario)


# Through a plugin.

PLUGIN = """
import json
from annexe_sdk.errors import CallFailed
def told(error): return [error.code, error.message]
@plugin.filter("t.strict")
def do(doc, ctx):
    try:
        got = ctx.fetch(doc["text"], method="POST", headers={"X-A": "b"}, body="h\\u00e9", timeout_s=5)
        doc["marks"] = [str(got.status), got.text, got.header("X-B"), json.dumps(got.json()), got.url]
    except CallFailed as error:
        doc["marks"] = told(error)
    return doc
@plugin.filter("t.edit")
async def do_async(doc, ctx):
    try:
        got = await ctx.fetch(doc["text"])
        doc["marks"] = [str(got.status), got.text, got.header("X-B"), json.dumps(got.json()), got.url]
    except CallFailed as error:
        doc["marks"] = told(error)
    return doc
"""
JSON_ANSWER = OK + b'X-B: c\r\nX-B: d\r\nContent-Type: a/b; charset="latin-1"\r\nContent-Length: 5\r\n\r\n["x"]'


def ask_plugin(tmp_path: Path, server: Server, *, granted: bool, codecs: tuple[CodecName, ...]) -> Coroutine[Any, Any, list[list[str]]]:
    extra = f'[permissions]\nnetwork = ["{server.target}"]' if granted else ""
    write_plugin(tmp_path / "plugins", "alpha", PLUGIN, hooks=["t.edit", "t.strict"], extra=extra)

    async def asked() -> list[list[str]]:
        async with open_host(tmp_path, codecs=codecs) as host:
            hooks = host.hooks(T)
            marks = [(await hook(Doc(f"{server.url}/p"))).marks for hook in (hooks.strict, hooks.edit)]
            denied = events(host, EventKind.PERMISSION_DENIED, "alpha")
            assert len(denied) == (0 if granted else 2)
            return marks

    return asked()


@pytest.mark.both_users
@pytest.mark.parametrize("codecs", [pytest.param(("msgpack", "json"), id="msgpack"), pytest.param(("json",), id="json")])
def test_plugin_fetches_what_it_was_granted(tmp_path: Path, codecs: tuple[CodecName, ...]) -> None:
    async def scenario() -> None:
        async with serving(JSON_ANSWER) as server:
            marks = await ask_plugin(tmp_path, server, granted=True, codecs=codecs)
            assert marks == [["200", '["x"]', "c, d", '["x"]', f"{server.url}/p"]] * 2
            assert server.requests[0].startswith(b"POST /p ") and server.requests[0].endswith(b"\r\n\r\nh\xc3\xa9")
            assert server.requests[1].startswith(b"GET /p ")

    run(scenario)


def test_plugin_without_the_right_is_told_the_line_that_it_needs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(JSON_ANSWER) as server:
            marks = await ask_plugin(tmp_path, server, granted=False, codecs=("msgpack",))
            for code, message in marks:
                assert code == "permission-denied" and f'network = ["{server.target}"]' in message
            assert server.connections == 0

    run(scenario)
