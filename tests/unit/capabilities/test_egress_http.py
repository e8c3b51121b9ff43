"""What may stand in a request made for a plugin, and where a redirect leads."""

from __future__ import annotations

from typing import Any

import pytest

from annexe.capabilities.egress import EgressLimits, parse_url
from annexe.capabilities.egress_http import HttpRequest, check_request, redirected, without_connection_headers
from annexe.errors import InvalidParamsError

LIMITS = EgressLimits(headers=3, header_bytes=64, request_bytes=8)
URL = parse_url("https://api.example.org/a/b?c")


def request(**changes: Any) -> HttpRequest:
    return HttpRequest(url=URL, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"method": "POST", "body": b"x" * 8}, id="body"),
        pytest.param({"method": "DELETE", "headers": (("X-A", ""), ("x-a", "a b\tc"), ("É".encode().hex(), "\xe9"))}, id="headers"),
        pytest.param({"method": "VERSION-CONTROL"}, id="hyphen"),
    ],
)
def test_request_that_is_in_order_passes(changes: dict[str, Any]) -> None:
    check_request(request(**changes), LIMITS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"method": "GET /x HTTP/1.1\r\nA: b"}, "method", id="line-in-method"),
        pytest.param({"method": "get"}, "method", id="small-letters"),
        pytest.param({"method": ""}, "method", id="no-method"),
        pytest.param({"method": "CONNECT"}, "method", id="connect"),
        pytest.param({"method": "TRACE"}, "method", id="trace"),
        pytest.param({"method": "GET\n"}, "method", id="line-feed-after-method"),
        pytest.param({"headers": (("A", "b\r\nC: d"),)}, "'A'", id="line-in-value"),
        pytest.param({"headers": (("A", "b\nC: d"),)}, "'A'", id="line-feed-in-value"),
        pytest.param({"headers": (("A", "b\r"),)}, "'A'", id="return-in-value"),
        pytest.param({"headers": (("A", "b\x00"),)}, "'A'", id="nul-in-value"),
        pytest.param({"headers": (("A", " b"),)}, "'A'", id="blank-before"),
        pytest.param({"headers": (("A", "b "),)}, "'A'", id="blank-behind"),
        pytest.param({"headers": (("A", "\u010a"),)}, "'A'", id="letter-that-would-become-a-line-feed"),
        pytest.param({"headers": (("A: b\r\nC", "d"),)}, "header", id="line-in-name"),
        pytest.param({"headers": (("A ", "d"),)}, "header", id="blank-in-name"),
        pytest.param({"headers": (("", "d"),)}, "header", id="no-name"),
        pytest.param({"headers": (("A" * 129, "d"),)}, "header", id="long-name"),
        pytest.param({"headers": (("Host", "evil.example"),)}, "'Host'", id="host"),
        pytest.param({"headers": (("content-LENGTH", "0"),)}, "'content-LENGTH'", id="length"),
        pytest.param({"headers": (("Transfer-Encoding", "chunked"),)}, "'Transfer-Encoding'", id="coding"),
        pytest.param({"headers": (("Connection", "x"),)}, "'Connection'", id="connection"),
        pytest.param({"headers": (("Upgrade", "h2c"),)}, "'Upgrade'", id="upgrade"),
        pytest.param({"headers": (("Expect", "100-continue"),)}, "'Expect'", id="expect"),
        pytest.param({"headers": (("Proxy-Authorization", "x"),)}, "'Proxy-Authorization'", id="proxy"),
        pytest.param({"headers": (("A", "b"),) * 4}, "4 headers", id="many"),
        pytest.param({"headers": (("A", "b" * 64),)}, "of 69 bytes", id="large"),
        pytest.param({"method": "POST", "body": b"x" * 9}, "9 bytes", id="body"),
        pytest.param({"body": b""}, "GET with a body", id="get-with-body"),
    ],
)
def test_request_that_could_become_another_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        check_request(request(**changes), LIMITS)
    assert told in caught.value.message and caught.value.message.isprintable()
    assert caught.value.data == {"method": "fetch"}


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        pytest.param("/x", "https://api.example.org/x", id="path"),
        pytest.param("x", "https://api.example.org/a/x", id="relative"),
        pytest.param("?d", "https://api.example.org/a/b?d", id="query"),
        pytest.param("../../../x", "https://api.example.org/x", id="dots"),
        pytest.param("//evil.example/x", "https://evil.example/x", id="other-host"),
        pytest.param("http://127.0.0.1:9/", "http://127.0.0.1:9/", id="address"),
        pytest.param("HTTP://API.example.org:443/", "http://api.example.org:443/", id="other-scheme-same-port"),
    ],
)
def test_redirect_leads_where_it_says(location: str, leads_to: str) -> None:
    following = redirected(request(), 302, [location])
    assert following is not None and str(following.url) == leads_to


@pytest.mark.parametrize(
    "locations",
    [
        pytest.param(["/a", "/b"], id="two"),
        pytest.param(["file:///etc/passwd"], id="file"),
        pytest.param(["javascript:alert(1)"], id="script"),
        pytest.param(["http://user@h.example/"], id="user"),
        pytest.param(["http://h.example\t/"], id="tab"),
        pytest.param(["http://h .example/"], id="blank"),
        pytest.param(["\\\\h.example\\"], id="backslashes"),
        pytest.param(["http://[::1/"], id="brackets"),
        pytest.param(["//127.1/"], id="short-address"),
        pytest.param(["http://h.example/" + "a" * 9000], id="long"),
    ],
)
def test_redirect_to_no_address_is_refused(locations: list[str]) -> None:
    with pytest.raises(InvalidParamsError):
        redirected(request(), 301, locations)


@pytest.mark.parametrize(
    ("status", "locations"),
    [(200, ["/x"]), (201, ["/x"]), (300, ["/x"]), (304, ["/x"]), (302, [])],
)
def test_answer_that_leads_nowhere_is_the_answer(status: int, locations: list[str]) -> None:
    assert redirected(request(), status, locations) is None


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (303, "GET", "GET"),
        (301, "PUT", "PUT"),
        (302, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
    ],
)
def test_method_and_body_after_a_redirect(status: int, method: str, becomes: str) -> None:
    body = b"x" if method in ("POST", "PUT") else None
    following = redirected(request(method=method, body=body, headers=(("Content-Type", "a/b"), ("A", "b"))), status, ["/x"])
    assert following is not None
    assert (following.method, following.body) == (becomes, body if becomes == method else None)
    assert (("Content-Type", "a/b") in following.headers) == (becomes == method)
    assert ("A", "b") in following.headers


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        pytest.param("/x", True, id="same-origin"),
        pytest.param("https://api.example.org:443/x", True, id="same-origin-in-full"),
        pytest.param("http://api.example.org/x", False, id="no-longer-tls"),
        pytest.param("http://api.example.org:443/x", False, id="no-longer-tls-same-port"),
        pytest.param("https://api.example.org:444/x", False, id="other-port"),
        pytest.param("https://x.api.example.org/x", False, id="other-host"),
    ],
)
def test_credentials_stay_with_their_origin(location: str, kept: bool) -> None:
    headers = (("AUTHORIZATION", "Bearer x"), ("Cookie", "a=b"), ("A", "b"))
    following = redirected(request(headers=headers), 307, [location])
    assert following is not None and following.headers == (headers if kept else headers[2:])


def test_headers_of_a_connection_are_left_out() -> None:
    headers = [("Connection", "close, X-Own"), ("x-own", "1"), ("Keep-Alive", "5"), ("Proxy-Authorization", "s"), ("TE", "t"), ("A", "b")]
    assert without_connection_headers(headers) == (("A", "b"),)
