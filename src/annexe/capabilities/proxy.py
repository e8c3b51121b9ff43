"""A proxy for the ordinary HTTP clients in one plugin: ``CONNECT``, and plain ``http://`` requests.

The listening socket is given: the trusted stub makes it before plugin code runs, on the loopback of the plugin's own network namespace, and
the host accepts from it directly, so that nothing inside has to pass bytes on. Where there is no such namespace it is the machine's
loopback, where other programs could come, too; there a secret is asked for.

* The rules are those of ``fetch``: one decision, two doors.
* Head, time to send it, idle time, connections at once and connections per second are bounded; a client that sends slowly holds one of its
  plugin's places, and nobody else's.
* What was asked in a way that has two readings is answered 400, what was not granted 403 with the manifest's line.
* Nobody else may hold the listening socket: whoever does could take connections away or make it blocking.

Source: feature HS6; docs/how-to/reach-the-network.md; ADR-0073.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter, Task
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import final

from annexe.capabilities.egress import EgressLimits, EgressRules
from annexe.capabilities.egress_dial import Dialer
from annexe.capabilities.http_grammar import BadMessageError
from annexe.capabilities.http_reading import HEAD_END
from annexe.capabilities.proxy_head import ProxyRequest, is_authorised, parse_head
from annexe.capabilities.proxy_relay import BadRequestError, Relay
from annexe.capabilities.retry_bucket import RetryBucket
from annexe.errors import CallError, PermissionDeniedError

__all__ = ["EgressProxy"]

_REFUSED_AT_ONCE = 8
_READ_BYTES = 64 * 1024
_LINGER_S = 1.0
_FLUSH_S = 5.0
_PAUSE_S = 0.2
_CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
# Of these accept recovers; any other means that the listening socket is gone.
_PASSING = frozenset({errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPROTO, errno.EPERM})


class _AnswerError(Exception):
    """An answer of the proxy's own."""

    def __init__(self, status: int, text: str, *, headers: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


@final
class EgressProxy:
    """The proxy of one plugin's instance; used on the host's loop.

    Args:
        listener: Listening, non-blocking; owned and closed by the proxy.
        rules: The plugin's.
        limits: Bounds.
        secret: Password that clients must bring; None where nobody but the plugin can connect.
        dialer: Makes the connections; one of its own when left out.
        on_denied: Told of each refusal that the grant was the reason for.
        on_used: Told of each right that is used, before it is.
    """

    def __init__(
        self,
        listener: socket.socket,
        rules: EgressRules,
        *,
        limits: EgressLimits | None = None,
        secret: str | None = None,
        dialer: Dialer | None = None,
        on_denied: Callable[[PermissionDeniedError], None] | None = None,
        on_used: Callable[[str], None] | None = None,
    ) -> None:
        self._listener = listener
        self._rules = rules
        self._limits = limits = limits or EgressLimits()
        self._secret = secret
        self._dialer = dialer or Dialer(rules, limits)
        self._on_denied = on_denied
        self._on_used = on_used
        self._accepting: Task[None] | None = None
        self._tasks: set[Task[None]] = set()
        self._unread: set[socket.socket] = set()  # accepted, and no transport's yet

    async def open(self) -> None:
        """Begin to accept."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Close the listening socket and end every connection."""
        tasks = [*self._tasks, *([self._accepting] if self._accepting is not None else [])]
        self._accepting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in (self._listener, *self._unread):
            sock.close()

    async def _accept(self) -> None:
        limits, loop = self._limits, asyncio.get_running_loop()
        bucket = RetryBucket(rate_per_s=limits.connections_per_s, burst=limits.connections_burst, now_s=monotonic())
        while True:
            if (wait_s := bucket.take(1.0, now_s=monotonic())) > 0.0:
                await asyncio.sleep(wait_s)
                continue
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno not in _PASSING:
                    return
                await asyncio.sleep(_PAUSE_S)
                continue
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        open_count = len(self._tasks)
        if open_count >= self._limits.connections + _REFUSED_AT_ONCE:
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock, is_full=open_count >= self._limits.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._unread.add(sock)

    async def _serve(self, sock: socket.socket, *, is_full: bool) -> None:
        """Serve one connection, whatever comes."""
        try:
            reader, writer = await self._streams(sock)
        except OSError:
            sock.close()
            return
        try:
            answer = self._full() if is_full else await self._converse(reader, writer)
            if answer is not None:
                await _send_answer(reader, writer, answer)
            await _flush(writer)
        except OSError:
            pass  # the client went away, or does not read
        finally:
            writer.transport.abort()

    async def _streams(self, sock: socket.socket) -> tuple[StreamReader, StreamWriter]:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        reader = StreamReader(limit=self._limits.head_bytes, loop=loop)
        protocol = StreamReaderProtocol(reader, loop=loop)
        self._unread.discard(sock)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
        return reader, StreamWriter(transport, protocol, reader, loop)

    def _full(self) -> _AnswerError:
        return _AnswerError(503, f"{self._limits.connections} connections are open; expected at most that many")

    async def _converse(self, reader: StreamReader, writer: StreamWriter) -> _AnswerError | None:
        """Do what is asked; return what is to be said instead, if it could not be done."""
        try:
            await self._do(reader, writer)
        except _AnswerError as answer:
            return answer
        return None

    async def _do(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = await self._read_head(reader)
        if not head:
            return
        request = self._checked(head)
        server = await self._connected(request)
        relay = Relay((reader, writer), server, limits=self._limits)
        try:
            if request.url is None:
                writer.write(_CONNECTED)
                relay.has_answered = True
                await relay.tunnel()
            else:
                await relay.exchange(request)
        except (BadMessageError, BadRequestError, OSError) as error:  # a time-out is an OSError
            if relay.has_answered:
                writer.transport.abort()  # an end in good order would say that this was all
                return
            raise self._failure(error) from error
        finally:
            server[1].transport.abort()

    def _failure(self, error: Exception) -> _AnswerError:
        if isinstance(error, TimeoutError):
            return _AnswerError(504, f"nothing came for {self._limits.idle_s} s")
        if isinstance(error, BadRequestError):
            return _AnswerError(400, str(error))
        return _AnswerError(502, f"the server answered with {error}" if isinstance(error, BadMessageError) else str(error))

    async def _read_head(self, reader: StreamReader) -> bytes:
        """Return the head of the request; empty when the client went away without one."""
        try:
            async with asyncio.timeout(self._limits.head_s):
                return await reader.readuntil(HEAD_END)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _AnswerError(400, "the request ended within its head") from error
            return b""
        except asyncio.LimitOverrunError as error:
            raise _AnswerError(431, f"a head of more than {self._limits.head_bytes} bytes") from error
        except TimeoutError as error:
            raise _AnswerError(408, f"no request within {self._limits.head_s} s") from error

    def _checked(self, head: bytes) -> ProxyRequest:
        """Return the request, if it may be done."""
        try:
            request = parse_head(head)
        except BadMessageError as error:
            raise _AnswerError(400, str(error)) from error
        if self._secret is not None and not is_authorised(request, self._secret):
            wanted = ('Proxy-Authenticate: Basic realm="annexe"',)
            raise _AnswerError(407, "expected the credentials that are part of HTTP_PROXY and HTTPS_PROXY", headers=wanted)
        try:
            self._rules.check_target(request.target)
        except PermissionDeniedError as error:
            raise self._denied(error) from error
        return request

    def _denied(self, error: PermissionDeniedError) -> _AnswerError:
        if self._on_denied is not None:
            self._on_denied(error)
        return _AnswerError(403, error.message)

    async def _connected(self, request: ProxyRequest) -> tuple[StreamReader, StreamWriter]:
        if self._on_used is not None:
            self._on_used(request.target.right)
        try:
            return await self._dialer.connect(request.target)
        except PermissionDeniedError as error:
            raise self._denied(error) from error
        except CallError as error:
            raise _AnswerError(504 if isinstance(error.__cause__, TimeoutError) else 502, error.message) from error


async def _send_answer(reader: StreamReader, writer: StreamWriter, answer: _AnswerError) -> None:
    # In ASCII: names in a denial are, and what a client sent is shown escaped.
    body = f"{answer}\n".encode("ascii", "backslashreplace")
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *answer.headers]
    lines += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}", "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode("ascii") + body)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            # Closed with something unread, the kernel would throw away what the client has not read yet.
            while await reader.read(_READ_BYTES):
                pass


async def _flush(writer: StreamWriter) -> None:
    """Close when all is written, or when the client does not read it."""
    writer.close()
    async with asyncio.timeout(_FLUSH_S):
        await writer.wait_closed()
