"""One HTTP/1.1 message, read in one way or refused. For the answers to ``fetch``, and for both sides of the proxy.

Pure. Whatever two readers could read in two ways is no message here, so that the host and whoever it talks to cannot differ about where a
message ends (request smuggling, response splitting):

* Lines end in CR LF. No other control character, no folded line, no blank before a colon.
* One length at most: ``Content-Length`` once and in digits, or ``Transfer-Encoding: chunked`` once and in HTTP/1.1; never both.
* Reading costs time in proportion to what is read: no pattern here can go back over a line more than once.

Source: RFC 9112, 2 to 7; ADR-0073.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import final

from annexe.capabilities.egress_http import Headers

__all__ = ["BadMessageError", "Framing", "Length", "StatusLine", "chunk_bytes", "framing_of", "parse_fields", "parse_status_line"]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_ONCE = ("content-length", "host", "location", "proxy-authorization", "transfer-encoding")
_SHOWN_BYTES = 60


@final
class BadMessageError(Exception):
    """A message that is none, has more than one reading, or is too much.

    Args:
        text: What it is.
        is_too_large: A bound was passed.
    """

    def __init__(self, text: str, *, is_too_large: bool = False) -> None:
        super().__init__(text)
        self.is_too_large = is_too_large


@final
class Length(StrEnum):
    """How the end of a body is told."""

    COUNTED = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


@final
@dataclass(frozen=True, slots=True)
class Framing:
    """Where a body ends.

    Attributes:
        size_bytes: When it is counted.
    """

    length: Length
    size_bytes: int = 0


@final
@dataclass(frozen=True, slots=True)
class StatusLine:
    """The first line of an answer.

    Attributes:
        reason: For people; may be empty.
    """

    status: int
    reason: str
    is_http_10: bool


def parse_status_line(line: bytes) -> StatusLine:
    """Read the first line of an answer, without its line end.

    Raises:
        BadMessageError: It is none of HTTP/1.0 or 1.1.
    """
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadMessageError(f"no status line of HTTP/1.1: {line[:_SHOWN_BYTES]!r}")
    return StatusLine(int(match[2]), (match[3] or b"").strip(b" \t").decode("latin-1"), match[1] == b"0")


def parse_fields(lines: Sequence[bytes], *, most: int) -> Headers:
    """Read headers.

    Args:
        lines: Without line ends.
        most: How many there may be.

    Returns:
        Names as they came; values without the blanks around them, one character an octet.

    Raises:
        BadMessageError: A line is no header, is folded, or there are too many of them.
    """
    if len(lines) > most:
        raise BadMessageError(f"{len(lines)} headers; expected at most {most}", is_too_large=True)
    found = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise BadMessageError(f"a header line that is none, or is folded: {line[:_SHOWN_BYTES]!r}")
        found.append((name.decode("ascii"), value.decode("latin-1")))
    names = [name.lower() for name, _ in found]
    for name_once in _ONCE:
        if (count := names.count(name_once)) > 1:
            raise BadMessageError(f"{count} headers {name_once}; expected one")
    return tuple(found)


def framing_of(headers: Headers, *, is_http_10: bool, otherwise: Framing) -> Framing:
    """Decide where a body ends that a message may have.

    Args:
        headers: Of the message.
        is_http_10: The message is of HTTP/1.0, which knows no chunks.
        otherwise: When the headers say nothing.

    Raises:
        BadMessageError: They say more than one thing, or what nobody here understands.
    """
    by_name = {name.lower(): value for name, value in headers}
    size, coding = by_name.get("content-length"), by_name.get("transfer-encoding")
    if coding is not None:
        if size is not None or is_http_10 or coding.lower() != "chunked":
            raise BadMessageError("expected one length of the body: Content-Length, or in HTTP/1.1 Transfer-Encoding: chunked")
        return Framing(Length.CHUNKED)
    if size is None:
        return otherwise
    if _LENGTH.fullmatch(size) is None:
        raise BadMessageError(f"a Content-Length of {size[:_SHOWN_BYTES]!r}; expected digits")
    return Framing(Length.COUNTED, int(size))


def chunk_bytes(line: bytes) -> int:
    """Read the line before a chunk, without its line end: return the chunk's length, 0 for the last.

    Raises:
        BadMessageError: It is none.
    """
    match = _CHUNK.fullmatch(line)
    if match is None:
        raise BadMessageError(f"no length of a chunk: {line[:_SHOWN_BYTES]!r}")
    return int(match[1], 16)
