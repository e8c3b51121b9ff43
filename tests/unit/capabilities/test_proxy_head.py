"""What is asked of the proxy: one address, one length, one Host, and the secret."""

from __future__ import annotations

from base64 import b64encode

import pytest

from annexe.capabilities.egress import Target
from annexe.capabilities.http_grammar import BadMessageError, Framing, Length
from annexe.capabilities.proxy_head import is_authorised, parse_head


def head(first: str, *lines: str) -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def test_connect_is_read() -> None:
    asked = parse_head(head("CONNECT API.example.org.:443 HTTP/1.1", "Host: other.example", "A: b"))
    assert (asked.method, asked.target, asked.url, asked.is_http_10) == ("CONNECT", Target("api.example.org", 443), None, False)
    assert (asked.value("a"), asked.value("b")) == ("b", None)


@pytest.mark.parametrize("host", ["Host: API.example.org", "Host: api.example.org:80", "Host: api.example.org."])
def test_plain_request_is_read(host: str) -> None:
    asked = parse_head(head("POST http://api.example.org/x?y HTTP/1.1", host, "Content-Length: 5"))
    assert (str(asked.url), asked.framing) == ("http://api.example.org/x?y", Framing(Length.COUNTED, 5))


def test_http_10_may_come_without_a_host() -> None:
    asked = parse_head(head("GET http://api.example.org/ HTTP/1.0"))
    assert (asked.is_http_10, asked.target) == (True, Target("api.example.org", 80))


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("GET http://h.example/", [], id="http-0.9"),
        pytest.param("GET http://h.example/ HTTP/2.0", ["Host: h.example"], id="http-2"),
        pytest.param("GET http://h.example/ HTTP/1.1 ", ["Host: h.example"], id="blank-at-end"),
        pytest.param("GET  http://h.example/ HTTP/1.1", ["Host: h.example"], id="two-blanks"),
        pytest.param("GET\thttp://h.example/ HTTP/1.1", ["Host: h.example"], id="tab"),
        pytest.param("GET /x HTTP/1.1", ["Host: h.example"], id="path"),
        pytest.param("OPTIONS * HTTP/1.1", ["Host: h.example"], id="star"),
        pytest.param("GET h.example:80 HTTP/1.1", ["Host: h.example"], id="authority"),
        pytest.param("GET https://h.example/ HTTP/1.1", ["Host: h.example"], id="https"),
        pytest.param("GET ftp://h.example/ HTTP/1.1", ["Host: h.example"], id="ftp"),
        pytest.param("GET http://u@h.example/ HTTP/1.1", ["Host: h.example"], id="user"),
        pytest.param("TRACE http://h.example/ HTTP/1.1", ["Host: h.example"], id="trace"),
        pytest.param("connect h.example:80 HTTP/1.1", ["Host: h.example"], id="connect-in-small-letters"),
        pytest.param("CONNECT h.example HTTP/1.1", [], id="connect-without-port"),
        pytest.param("CONNECT http://h.example/ HTTP/1.1", [], id="connect-to-url"),
        pytest.param("CONNECT u@h.example:80 HTTP/1.1", [], id="connect-with-user"),
        pytest.param("CONNECT 127.1:80 HTTP/1.1", [], id="connect-to-short-address"),
        pytest.param("CONNECT h.example:80 HTTP/1.1", ["Content-Length: 1"], id="connect-with-body"),
        pytest.param("CONNECT h.example:80 HTTP/1.1", ["Transfer-Encoding: chunked"], id="connect-with-chunks"),
        pytest.param("GET http://h.example/ HTTP/1.1", [], id="no-host"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host: evil.example"], id="other-host"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host: h.example:81"], id="other-port"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host: u@h.example"], id="user-in-host"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host:"], id="empty-host"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host: h.example", "Host: h.example"], id="two-hosts"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host: h.example", " folded"], id="folded"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host : h.example"], id="blank-before-colon"),
        pytest.param("GET http://h.example/ HTTP/1.1", ["Host: h.example", *["A: b"] * 128], id="many"),
        pytest.param(
            "POST http://h.example/ HTTP/1.1", ["Host: h.example", "Content-Length: 1", "Transfer-Encoding: chunked"], id="two-lengths"
        ),
        pytest.param("POST http://h.example/ HTTP/1.0", ["Host: h.example", "Transfer-Encoding: chunked"], id="chunks-in-http-1.0"),
    ],
)
def test_request_with_another_reading_is_refused(first: str, lines: list[str]) -> None:
    with pytest.raises(BadMessageError):
        parse_head(head(first, *lines))


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        pytest.param(basic("annexe:secret"), True, id="right"),
        pytest.param(basic("anybody:secret").replace("Basic", "bAsIc"), True, id="any-user"),
        pytest.param(basic("annexe:Secret"), False, id="wrong"),
        pytest.param(basic("annexe:secret2"), False, id="longer"),
        pytest.param(basic("annexe:"), False, id="empty"),
        pytest.param(basic("secret"), False, id="no-user"),
        pytest.param(basic("annexe:secret").replace("Basic", "Bearer"), False, id="scheme"),
        pytest.param("Basic !!!", False, id="no-base64"),
        pytest.param("Basic é", False, id="no-ascii"),
        pytest.param("Basic", False, id="no-credentials"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_secret_is_asked_for(value: str, holds: bool) -> None:
    asked = parse_head(head("CONNECT h.example:443 HTTP/1.1", f"Proxy-Authorization: {value}"))
    assert is_authorised(asked, "secret") is holds
    assert not is_authorised(parse_head(head("CONNECT h.example:443 HTTP/1.1")), "secret")
