"""One HTTP/1.1 request and its answer, on a connection that serves nothing else.

* What is in a request was checked before; here it is written, with the headers that frame it.
* Head, number of headers, body packed and unpacked, number of pieces: each has a bound, and beyond it the answer is an error.
* A gzip body is unpacked no further than the bound on bodies, however little it was on the wire.
* The connection is closed afterwards: nothing that a server says too much can become the answer to another request.

Source: RFC 9112; RFC 9110, 6.4.1 and 8.4; ADR-0073.
"""

from __future__ import annotations

import zlib
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from typing import final

from annexe.capabilities.egress import EgressLimits
from annexe.capabilities.egress_http import Headers, HttpRequest, redirected, without_connection_headers
from annexe.capabilities.http_grammar import BadMessageError, Framing, Length, framing_of
from annexe.capabilities.http_reading import AnswerReader, BodyReader

__all__ = ["Answer", "exchange"]

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_WINDOW = 31  # zlib's way to say: with a gzip head and trailer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered.

    Attributes:
        headers: Names in lower case; without those of the connection.
        body: Unpacked; empty when there is a next request.
        next: The request it redirects to, not yet held against the grant.
    """

    status: int
    headers: Headers
    body: bytes
    next: HttpRequest | None


async def exchange(reader: StreamReader, writer: StreamWriter, request: HttpRequest, *, limits: EgressLimits, body_bytes: int) -> Answer:
    """Send a request, checked already, and read the answer.

    Args:
        reader: Of a connection to the request's target.
        writer: Of the same.
        request: What to send.
        limits: Bounds.
        body_bytes: Most that the answer's body may have.

    Raises:
        BadMessageError: The answer is no HTTP/1.1, is cut short or is too much.
        OSError: The connection failed.
        InvalidParamsError: It redirects to what is no address to connect to.
    """
    # All at once and without waiting: the body is in memory anyway, and a server may answer before it has read it.
    writer.write(_written(request))
    first, fields = await AnswerReader(reader, head_bytes=limits.header_bytes, headers=limits.headers).head()
    headers = tuple((name.lower(), value) for name, value in fields)
    following = redirected(request, first.status, [value for name, value in headers if name == "location"])
    if following is not None:
        return Answer(status=first.status, headers=(), body=b"", next=following)
    framing = framing_of(headers, is_http_10=first.is_http_10, otherwise=Framing(Length.UNTIL_CLOSE))
    if request.method == "HEAD" or first.status in (204, 304):
        framing = Framing(Length.COUNTED, 0)
    coding = ",".join(value for name, value in headers if name == "content-encoding").strip().lower()
    body = _Body(body_bytes, pieces=limits.pieces, is_packed=coding in _GZIP)
    pieces = BodyReader(reader, framing)
    while data := await pieces.next():
        body.add(data)
    dropped = ("content-encoding", "content-length") if body.is_packed and body.has_begun else ()
    kept = tuple(pair for pair in without_connection_headers(headers) if pair[0] not in dropped)
    return Answer(status=first.status, headers=kept, body=body.finish(), next=None)


def _written(request: HttpRequest) -> bytes:
    given = {name.lower() for name, _ in request.headers}
    headers = [("Host", request.url.authority), *request.headers]
    headers.extend(pair for pair in (("Accept", "*/*"), ("Accept-Encoding", "gzip")) if pair[0].lower() not in given)
    if request.body is not None or request.method in _WITH_BODY:
        headers.append(("Content-Length", str(len(request.body or b""))))
    headers.append(("Connection", "close"))
    lines = [f"{request.method} {request.url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (request.body or b"")


@final
class _Body:
    """Collects a body, unpacked.

    Args:
        limit_bytes: Most it may have, packed and unpacked.
        pieces: Into how many it may be cut.
        is_packed: It is gzip.
    """

    def __init__(self, limit_bytes: int, *, pieces: int, is_packed: bool) -> None:
        self._limit_bytes = limit_bytes
        self._pieces_left = pieces
        self.is_packed = is_packed
        self.has_begun = False
        self._received_bytes = 0
        self._kept = bytearray()
        self._unpacker = zlib.decompressobj(_GZIP_WINDOW)

    def add(self, data: bytes) -> None:
        """Take in what came.

        Raises:
            BadMessageError: It is too much, or is no gzip.
        """
        self.has_begun = True
        self._pieces_left -= 1
        if self._pieces_left < 0:
            raise BadMessageError("a body cut into too many pieces", is_too_large=True)
        self._received_bytes += len(data)
        self._check_size(self._received_bytes)
        if not self.is_packed:
            self._kept += data
            return
        try:
            self._unpack(data)
        except zlib.error as error:
            raise BadMessageError(f"a body that is no gzip: {error}") from error

    def _unpack(self, data: bytes) -> None:
        while data:
            if self._unpacker.eof:  # gzip files may follow each other
                self._unpacker = zlib.decompressobj(_GZIP_WINDOW)
            # One byte beyond what is allowed tells that there is more; 0 would mean without bound.
            self._kept += self._unpacker.decompress(data, self._limit_bytes - len(self._kept) + 1)
            self._check_size(len(self._kept))
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise BadMessageError(f"a body of more than {self._limit_bytes} bytes", is_too_large=True)

    def finish(self) -> bytes:
        """Return the body.

        Raises:
            BadMessageError: Its gzip ends too soon.
        """
        if self.is_packed and self.has_begun and not self._unpacker.eof:
            raise BadMessageError("a gzip body that ended too soon")
        return bytes(self._kept)
