"""Move what the proxy moves: bytes of a tunnel, or one plain request and its answer.

* Both directions share one clock: where neither moves a byte for a while, both end. A side that does not read is a side that moves nothing.
* No more is read than could be written: what waits is one buffer a direction.
* Of a plain request nothing is passed on as it came: head and body are read, and written anew with one length. What belongs to one
  connection, the proxy's credentials among it, stays here. The connection ends with the answer.

Source: RFC 9112; RFC 9110, 7.6; ADR-0073.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter, Task
from collections.abc import Coroutine
from time import monotonic
from typing import Any, final

from annexe.capabilities.egress import EgressLimits
from annexe.capabilities.egress_http import Headers, without_connection_headers
from annexe.capabilities.http_grammar import BadMessageError, Framing, Length, framing_of
from annexe.capabilities.http_reading import AnswerReader, BodyReader
from annexe.capabilities.proxy_head import ProxyRequest

__all__ = ["BadRequestError", "Relay"]

_READ_BYTES = 64 * 1024
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_NO_BODY = Framing(Length.COUNTED, 0)
_WRITTEN_ANEW = ("content-length", "expect", "host", "http2-settings")


@final
class BadRequestError(Exception):
    """The client's body is none.

    Args:
        text: For whoever sent it.
    """


@final
class Relay:
    """Two connections, and what goes from one to the other.

    Args:
        client: The plugin's end.
        server: The target's end.
        limits: Bounds.

    Attributes:
        has_answered: Something of the answer went to the client.
    """

    def __init__(
        self, client: tuple[StreamReader, StreamWriter], server: tuple[StreamReader, StreamWriter], *, limits: EgressLimits
    ) -> None:
        self._client = client
        self._server = server
        self._limits = limits
        self._moved_at = monotonic()
        self._sent_bytes = 0
        self._received_bytes = 0
        self.has_answered = False

    async def tunnel(self) -> None:
        """Move bytes both ways until both sides have ended.

        Raises:
            TimeoutError: Nothing moved for ``idle_s``.
            BadMessageError: More moved than may.
            OSError: A connection failed.
        """
        await self._together(self._copy(to_server=True), self._copy(to_server=False), wait_for_both=True)

    async def exchange(self, request: ProxyRequest) -> None:
        """Send a plain request to the server, and its answer to the client.

        Raises:
            TimeoutError: Nothing moved for ``idle_s``.
            BadMessageError: The answer is no HTTP/1.1, or is too much.
            BadRequestError: The request's body is no body.
            OSError: A connection failed.
        """
        await self._to_server(_request_head(request))
        if request.framing != _NO_BODY and (request.value("expect") or "").lower() == "100-continue":
            await self._write(self._client[1], _GO_ON)
        await self._together(self._answer(request), self._upload(request), wait_for_both=False)

    async def _together(self, main: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None], *, wait_for_both: bool) -> None:
        first, second = asyncio.ensure_future(main), asyncio.ensure_future(other)
        pending: set[Task[None]] = {first, second}
        try:
            while pending:
                left_s = self._moved_at + self._limits.idle_s - monotonic()
                if left_s <= 0:
                    raise TimeoutError
                done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if first in done:
                    first.result()
                    if not wait_for_both:
                        return
                if second in done:
                    second.result()
        finally:
            for task in (first, second):
                task.cancel()
            await asyncio.gather(first, second, return_exceptions=True)

    # Bytes.

    async def _copy(self, *, to_server: bool) -> None:
        reader = (self._client if to_server else self._server)[0]
        writer = (self._server if to_server else self._client)[1]
        while data := await reader.read(_READ_BYTES):
            await (self._to_server(data) if to_server else self._to_client(data))
        if writer.can_write_eof():
            writer.write_eof()

    async def _to_server(self, data: bytes) -> None:
        self._sent_bytes += len(data)
        self._check_cap(self._sent_bytes)
        await self._write(self._server[1], data)

    async def _to_client(self, data: bytes) -> None:
        self.has_answered = True
        self._received_bytes += len(data)
        self._check_cap(self._received_bytes)
        await self._write(self._client[1], data)

    async def _write(self, writer: StreamWriter, data: bytes) -> None:
        self._moved_at = monotonic()
        writer.write(data)
        await writer.drain()
        self._moved_at = monotonic()

    def _check_cap(self, moved_bytes: int) -> None:
        cap = self._limits.relayed_bytes
        if cap is not None and moved_bytes > cap:
            raise BadMessageError(f"more than the {cap} bytes that may pass in one connection", is_too_large=True)

    # HTTP.

    async def _upload(self, request: ProxyRequest) -> None:
        is_chunked = request.framing.length is Length.CHUNKED
        pieces = BodyReader(self._client[0], request.framing)
        try:
            while data := await pieces.next():
                await self._pass_to_server(_chunk(data) if is_chunked else data)
        except BadMessageError as error:
            if error.is_too_large:
                raise
            raise BadRequestError(str(error)) from error
        if is_chunked:
            await self._pass_to_server(_LAST_CHUNK)  # without its trailers

    async def _pass_to_server(self, data: bytes) -> None:
        try:
            await self._to_server(data)
        except OSError:
            # It reads no more. What it has answered is for the other direction to read, which ends both.
            await asyncio.get_running_loop().create_future()

    async def _answer(self, request: ProxyRequest) -> None:
        reader = self._server[0]
        first, headers = await AnswerReader(reader, head_bytes=self._limits.header_bytes, headers=self._limits.headers).head()
        framing = framing_of(headers, is_http_10=first.is_http_10, otherwise=Framing(Length.UNTIL_CLOSE))
        has_body = request.method != "HEAD" and first.status not in (204, 304)
        kept = list(without_connection_headers(headers))
        # HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
        is_chunked = has_body and framing.length is not Length.COUNTED and not request.is_http_10
        if is_chunked:
            kept.append(("Transfer-Encoding", "chunked"))
        await self._to_client(_head(f"HTTP/1.1 {first.status} {first.reason}", tuple(kept)))
        pieces = BodyReader(reader, framing if has_body else _NO_BODY)
        while data := await pieces.next():
            await self._to_client(_chunk(data) if is_chunked else data)
        if is_chunked:
            await self._to_client(_LAST_CHUNK)


def _request_head(request: ProxyRequest) -> bytes:
    assert request.url is not None
    kept = tuple(pair for pair in without_connection_headers(request.headers) if pair[0].lower() not in _WRITTEN_ANEW)
    if request.framing.length is Length.CHUNKED:
        kept = (*kept, ("Transfer-Encoding", "chunked"))
    elif request.value("content-length") is not None:
        kept = (*kept, ("Content-Length", str(request.framing.size_bytes)))
    return _head(f"{request.method} {request.url.path} HTTP/1.1", (("Host", request.url.authority), *kept))


def _head(first: str, headers: Headers) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers), "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
