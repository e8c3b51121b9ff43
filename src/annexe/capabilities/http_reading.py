"""Read HTTP/1.1 messages off a connection, no more of them than is wanted.

* A head is read whole or not at all, within a bound.
* A body comes piece by piece, none longer than one read; trailers are read and left out.
* Whoever else the host serves gets a turn between pieces, however small and many they are.

Source: RFC 9112; ADR-0073.
"""

from __future__ import annotations

import asyncio
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader
from typing import final

from annexe.capabilities.egress_http import Headers
from annexe.capabilities.http_grammar import BadMessageError, Framing, Length, StatusLine, chunk_bytes, parse_fields, parse_status_line

__all__ = ["HEAD_END", "AnswerReader", "BodyReader"]

HEAD_END = b"\r\n\r\n"

_LINE_END = b"\r\n"
_READ_BYTES = 64 * 1024
_MAX_INFORMATIONAL = 16
_PIECES_A_TURN = 32
_MAX_CHUNK_LINE_BYTES = 4096
_MAX_TRAILERS = 128
_SWITCHING = 101


@final
class AnswerReader:
    """Reads the head of an answer.

    Args:
        reader: Whose limit is at least ``head_bytes``.
        head_bytes: Most that a head may have.
        headers: Most headers.
    """

    def __init__(self, reader: StreamReader, *, head_bytes: int, headers: int) -> None:
        self._reader = reader
        self._head_bytes = head_bytes
        self._headers = headers

    async def head(self) -> tuple[StatusLine, Headers]:
        """Return the head of the answer; provisional ones are passed over.

        Raises:
            BadMessageError: It is none of HTTP/1.1, is too large, or begins another protocol.
            OSError: The connection failed.
        """
        for _ in range(_MAX_INFORMATIONAL):
            lines = (await self._raw_head()).removesuffix(HEAD_END).split(_LINE_END)
            first, fields = parse_status_line(lines[0]), parse_fields(lines[1:], most=self._headers)
            if first.status == _SWITCHING:
                raise BadMessageError("the beginning of another protocol")
            if first.status >= 200:
                return first, fields
        raise BadMessageError("one provisional answer after the other")

    async def _raw_head(self) -> bytes:
        try:
            head = await self._reader.readuntil(HEAD_END)
        except IncompleteReadError as error:
            raise BadMessageError("no whole head of HTTP/1.1" if error.partial else "nothing") from error
        except LimitOverrunError as error:
            raise BadMessageError(f"a head of more than {self._head_bytes} bytes", is_too_large=True) from error
        if len(head) > self._head_bytes:
            raise BadMessageError(f"a head of more than {self._head_bytes} bytes", is_too_large=True)
        return head


@final
class BodyReader:
    """Reads a body.

    Args:
        reader: Behind the head.
        framing: Where the body ends.
    """

    def __init__(self, reader: StreamReader, framing: Framing) -> None:
        self._reader = reader
        self._length = framing.length
        self._left_bytes = framing.size_bytes  # of the body, or of the chunk at hand
        self._has_ended = False
        self._turn = 0

    async def next(self) -> bytes:
        """Return the next piece; empty at the end.

        Raises:
            BadMessageError: It is cut short, or no chunks where there should be.
            OSError: The connection failed.
        """
        self._turn += 1
        if self._turn % _PIECES_A_TURN == 0:
            await asyncio.sleep(0)
        if self._length is Length.CHUNKED:
            return b"" if self._has_ended else await self._next_of_chunks()
        if self._length is Length.COUNTED:
            return await self._next_counted() if self._left_bytes else b""
        return await self._reader.read(_READ_BYTES)

    async def _next_counted(self) -> bytes:
        data = await self._reader.read(min(self._left_bytes, _READ_BYTES))
        if not data:
            raise BadMessageError("a body that ended too soon")
        self._left_bytes -= len(data)
        return data

    async def _next_of_chunks(self) -> bytes:
        if not self._left_bytes:
            self._left_bytes = chunk_bytes(await self._line())
            if not self._left_bytes:
                await self._skip_trailers()
                self._has_ended = True
                return b""
        data = await self._next_counted()
        if not self._left_bytes and await self._line():
            raise BadMessageError("a chunk longer than it said")
        return data

    async def _skip_trailers(self) -> None:
        for _ in range(_MAX_TRAILERS):
            if not await self._line():
                return
        raise BadMessageError(f"more than {_MAX_TRAILERS} trailers", is_too_large=True)

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readuntil(_LINE_END)
        except IncompleteReadError as error:
            raise BadMessageError("a body that ended too soon") from error
        except LimitOverrunError as error:
            raise BadMessageError("a line without an end", is_too_large=True) from error
        if len(line) > _MAX_CHUNK_LINE_BYTES:
            raise BadMessageError(f"a line of {len(line)} bytes within a body", is_too_large=True)
        return line.removesuffix(_LINE_END)
