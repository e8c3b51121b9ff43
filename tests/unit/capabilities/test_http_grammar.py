"""HTTP/1.1 as it is read here: strictly, in one way, in time that grows with what is read and no faster."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pytest

from annexe.capabilities.http_grammar import (
    BadMessageError,
    Framing,
    Length,
    StatusLine,
    chunk_bytes,
    framing_of,
    parse_fields,
    parse_status_line,
)

NONE = Framing(Length.COUNTED, 0)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"HTTP/1.1 200 OK", StatusLine(200, "OK", False)),
        (b"HTTP/1.0 404 Not \xe9", StatusLine(404, "Not é", True)),
        (b"HTTP/1.1 204 ", StatusLine(204, "", False)),
        (b"HTTP/1.1 599", StatusLine(599, "", False)),
    ],
)
def test_status_line_is_read(line: bytes, read: StatusLine) -> None:
    assert parse_status_line(line) == read


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"<html>",
        b"HTTP/0.9 200 OK",
        b"HTTP/2 200",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1  200",
        b"HTTP/1.1 099",
        b"HTTP/1.1 600",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 200 O\rK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200\x00",
    ],
)
def test_what_is_no_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessageError) as caught:
        parse_status_line(line)
    assert not caught.value.is_too_large


def test_headers_are_read_in_order() -> None:
    read = parse_fields([b"A: b", b"a:c \t", b"D:", b"E-f:\t g\th\xe9"], most=4)
    assert read == (("A", "b"), ("a", "c"), ("D", ""), ("E-f", "g\thé"))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"A", id="no-colon"),
        pytest.param(b": b", id="no-name"),
        pytest.param(b"A : b", id="blank-before-colon"),
        pytest.param(b" A: b", id="folded"),
        pytest.param(b"\tb", id="folded-tab"),
        pytest.param(b"A: b\nC: d", id="bare-line-feed"),
        pytest.param(b"A: b\rC: d", id="bare-return"),
        pytest.param(b"A: b\x00", id="nul"),
        pytest.param(b"A: \x0b", id="control"),
        pytest.param(b"A\xe9: b", id="letter-in-name"),
        pytest.param(b"A" * 129 + b": b", id="long-name"),
    ],
)
def test_what_is_no_header_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessageError):
        parse_fields([b"X: y", line], most=9)


def test_headers_above_the_bound_are_refused() -> None:
    with pytest.raises(BadMessageError) as caught:
        parse_fields([b"A: b"] * 3, most=2)
    assert caught.value.is_too_large


@pytest.mark.parametrize("name", [b"Content-Length", b"HOST", b"location", b"Transfer-Encoding", b"Proxy-Authorization"])
def test_header_that_may_come_once_is_refused_twice(name: bytes) -> None:
    with pytest.raises(BadMessageError, match="2 headers"):
        parse_fields([name + b": 1", name.lower() + b": 1"], most=9)


@pytest.mark.parametrize(
    ("headers", "framing"),
    [
        ((), NONE),
        ((("content-length", "0"),), NONE),
        ((("Content-Length", "007"),), Framing(Length.COUNTED, 7)),
        ((("Transfer-Encoding", "Chunked"),), Framing(Length.CHUNKED)),
    ],
)
def test_length_is_told_by_the_headers(headers: tuple[tuple[str, str], ...], framing: Framing) -> None:
    assert framing_of(headers, is_http_10=False, otherwise=NONE) == framing


@pytest.mark.parametrize(
    "headers",
    [
        (("Content-Length", "5"), ("Transfer-Encoding", "chunked")),
        (("Transfer-Encoding", "gzip, chunked"),),
        (("Transfer-Encoding", "chunked, chunked"),),
        (("Transfer-Encoding", "xchunked"),),
        (("Transfer-Encoding", "identity"),),
        (("Transfer-Encoding", ""),),
        (("Content-Length", "-1"),),
        (("Content-Length", "+1"),),
        (("Content-Length", "0x10"),),
        (("Content-Length", "1, 1"),),
        (("Content-Length", "1_0"),),
        (("Content-Length", "\xb2"),),
        (("Content-Length", ""),),
        (("Content-Length", "9" * 16),),
    ],
)
def test_length_with_two_readings_is_refused(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(BadMessageError):
        framing_of(headers, is_http_10=False, otherwise=NONE)


def test_chunks_in_http_10_are_refused() -> None:
    with pytest.raises(BadMessageError):
        framing_of((("Transfer-Encoding", "chunked"),), is_http_10=True, otherwise=NONE)


@pytest.mark.parametrize(("line", "size"), [(b"0", 0), (b"1F", 31), (b"00a", 10), (b"5 ;x=y", 5), (b"5;", 5), (b"5  ", 5)])
def test_chunk_line_is_read(line: bytes, size: int) -> None:
    assert chunk_bytes(line) == size


@pytest.mark.parametrize("line", [b"", b" 5", b"0x5", b"-5", b"+5", b"5_0", b"g", b"5 x", b"5;\n", b"5\n", b"f" * 13, b"5;\x00"])
def test_what_is_no_chunk_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessageError):
        chunk_bytes(line)


@pytest.mark.parametrize(
    "filling",
    [
        pytest.param(b" " * 60_000, id="blanks"),
        pytest.param(b"x " * 30_000, id="words"),
        pytest.param(b"\t " * 30_000 + b"b", id="tabs"),
        pytest.param(b";" * 60_000, id="semicolons"),
    ],
)
def test_line_made_to_be_slow_is_refused_at_once(filling: bytes) -> None:
    # A pattern that may try each blank as one of two kinds needs ten seconds for the first of these.
    line = filling + b"\x00"
    reads: list[Callable[[], object]] = [
        lambda: parse_fields([b"a:" + line], most=9),
        lambda: parse_status_line(b"HTTP/1.1 200 " + line),
        lambda: chunk_bytes(b"1" + line),
    ]
    began = process_time()
    for read in reads:
        with pytest.raises(BadMessageError):
            read()
    assert process_time() - began < 0.5
