"""The control socket: how the ``annexe`` command, and whoever else the operator trusts, reaches a running host.

Who connects must be our own user or root, as the kernel tells it, and must show the token first. After that one request is answered at a
time, in order.

Nothing that a client does harms the host:

* at most ``MAX_CONNECTIONS`` at once, the rest told so and hung up on;
* at most ``MAX_REQUEST_BYTES`` of a request are held, ``MAX_HELLO_BYTES`` before the token was shown;
* a client that is silent, sends half a request or does not read is hung up on after a time;
* a request has a deadline; what changes something is carried through all the same, whether or not its client is still there.

What a plugin at level ``limits`` that shares the host's user can do is in its receipt: it can read the token.

Source: docs/reference/control.md; ADR-0050, ADR-0051.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, final

import msgspec

from annexe import __version__
from annexe.errors import AnnexeError, CallTimeoutError, HostError, InvalidParamsError, MethodNotFoundError, PluginBusyError, ProtocolError
from annexe.host.control_socket import bind_control, peer_uid, remove_control, write_token
from annexe.host.control_wire import MAX_HELLO_BYTES, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, PROTOCOL
from annexe.host.state_dir import StateDir

__all__ = ["MAX_CONNECTIONS", "Answer", "ControlLimits", "ControlServer", "ControlTable", "Stream"]

T = TypeVar("T")

MAX_CONNECTIONS = 32
_HIGH_WATER_BYTES = 64 * 1024
_CLOSE_TIMEOUT_S = 5.0

_LOG = logging.getLogger("annexe.host")


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    id: int | str
    method: str
    params: dict[str, Any] = {}


class _Hello(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    protocol: int


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A method with one result.

    Attributes:
        params: Struct that the parameters are checked against.
        run: Given one, returns the result.
        deadline_s: The most it may take.
        changes: It is carried through even when the client goes or the deadline passes.
    """

    params: type[Any]
    run: Callable[[Any], Awaitable[Any]]
    deadline_s: float = 30.0
    changes: bool = False


@final
@dataclass(frozen=True, slots=True)
class Stream:
    """A method that gives items for as long as the client wants them."""

    params: type[Any]
    run: Callable[[Any], AsyncGenerator[Any, None]]


class ControlTable(Protocol):
    """What can be asked; ``ControlMethods`` is the real one."""

    @property
    def table(self) -> Mapping[str, Answer | Stream]:
        """The methods by name."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLimits:
    """Patience with clients, in seconds."""

    hello_s: float = 5.0
    idle_s: float = 60.0
    write_s: float = 10.0


@final
class ControlServer:
    """Listens on the control socket of a state directory.

    Args:
        state_dir: Which.
        methods: What can be asked.
        limits: Patience.
    """

    def __init__(self, state_dir: StateDir, methods: ControlTable, limits: ControlLimits | None = None) -> None:
        self._state_dir = state_dir
        self.methods = methods
        self.limits = limits or ControlLimits()
        self.token = ""
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._changes: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen; where there are no Unix sockets only say so.

        Raises:
            HostError: Nothing can be bound there.
        """
        if not hasattr(socket, "AF_UNIX"):
            _LOG.warning("this platform has no Unix sockets: the `annexe` command cannot reach this host")
            return
        loop = asyncio.get_running_loop()
        listening = bind_control(self._state_dir.control_socket)
        try:
            self.token = write_token(self._state_dir.control_token)
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listening)
        except OSError as error:
            listening.close()
            raise HostError(f"the control token cannot be written: {error}", path=str(self._state_dir.control_token)) from error

    async def close(self) -> None:
        """Hang up on everybody and let changes that are under way come to their end."""
        if self._server is None:
            return
        self._server.close()
        remove_control(self._state_dir.control_socket, self._state_dir.control_token)
        tasks = [task for connection in tuple(self._connections) for task in connection.hang_up()]
        if tasks:
            await asyncio.wait(tasks)
        if self._changes:
            _, late = await asyncio.wait(self._changes, timeout=_CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def admit(self, connection: _Connection, uid: int | None) -> AnnexeError | None:
        """Take a connection up, or return why not."""
        if uid is None or uid not in (os.geteuid(), 0):
            return HostError(f"the control socket is for uid {os.geteuid()} and root, got {uid}", reason="uid", uid=uid)
        if len(self._connections) >= MAX_CONNECTIONS:
            return PluginBusyError(f"the control socket has {MAX_CONNECTIONS} connections already; try again", limit=MAX_CONNECTIONS)
        self._connections.add(connection)
        return None

    def forget(self, connection: _Connection) -> None:
        """Let go of a connection."""
        self._connections.discard(connection)

    async def carry_through(self, work: Awaitable[T]) -> T:
        """Wait for work that goes on when the one who waits does not."""
        task = asyncio.ensure_future(work)
        self._changes.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked for it may be gone; then nobody else looks


@final
class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._searched = 0  # how much of the buffer is known to hold no line feed
        self._limit_bytes = MAX_HELLO_BYTES
        self._received = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    # From the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        refusal = self._server.admit(self, peer_uid(transport.get_extra_info("socket")))
        if refusal is not None:
            self._transport.write(_encoded({"id": None, "error": refusal.as_dict()}))
            self._transport.close()
            return
        self._task = self._loop.create_task(self._serve(), name="annexe-control")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > self._limit_bytes:
            self._transport.pause_reading()
        self._received.set()

    def eof_received(self) -> None:
        return None  # closes the transport: a client that hangs up wants nothing more

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.forget(self)
        self._received.set()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def hang_up(self) -> list[asyncio.Task[None]]:
        """End it now; return what is still to be waited for."""
        self._transport.abort()
        if self._task is None:
            return []
        self._task.cancel()
        return [self._task]

    # The conversation.

    async def _serve(self) -> None:
        limits = self._server.limits
        try:
            async with asyncio.timeout(limits.hello_s):
                is_welcome = await self._hello(_decoded(await self._line()))
            self._limit_bytes = MAX_REQUEST_BYTES
            while is_welcome:
                async with asyncio.timeout(limits.idle_s):
                    line = await self._line()
                await self._answer(_decoded(line))
        except ProtocolError as error:
            with contextlib.suppress(TimeoutError):
                await self._send({"id": None, "error": error.as_dict()})
        except TimeoutError:
            self._transport.abort()  # silent, or does not read: nothing that is written now would arrive
        except Exception:  # noqa: BLE001 - one client's trouble is not the host's
            _LOG.exception("a connection to the control socket failed")
        finally:
            self._transport.close()

    async def _line(self) -> bytes:
        """Return the next line."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                break
            self._searched = len(self._buffer)
            if self._searched > self._limit_bytes:
                raise _broken(f"a request has more than {self._limit_bytes} bytes", "request-size")
            self._received.clear()
            self._transport.resume_reading()
            await self._received.wait()
        if end > self._limit_bytes:
            raise _broken(f"a request has more than {self._limit_bytes} bytes", "request-size")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    async def _hello(self, request: _Request) -> bool:
        """Check the token and the protocol."""
        if request.method != "hello":
            raise _broken(f"expected hello, got {request.method[:64]!r}", "hello-first")
        try:
            hello = _params(_Hello, request)
            if not hmac.compare_digest(hello.token.encode(), self._server.token.encode()):
                raise HostError("the token of the control socket is wrong; it is new at each start of the host", reason="token")
            if hello.protocol != PROTOCOL:
                text = f"the host speaks control protocol {PROTOCOL}, expected {hello.protocol}; use the `annexe` command of its version"
                raise HostError(text, reason="protocol", expected=hello.protocol, actual=PROTOCOL)
        except AnnexeError as error:
            await self._send({"id": request.id, "error": error.as_dict()})
            return False
        await self._send({"id": request.id, "result": {"protocol": PROTOCOL, "version": __version__, "pid": os.getpid()}})
        return True

    async def _answer(self, request: _Request) -> None:
        try:
            method = self._method(request.method)
            params = _params(method.params, request)
            if isinstance(method, Stream):
                async with aclosing(method.run(params)) as items:
                    async for item in items:
                        await self._send({"id": request.id, "item": item})
                result = None
            else:
                result = await self._result(method, params, request.method)
            await self._send({"id": request.id, "result": result})
        except _SlowClientError:
            raise
        except AnnexeError as error:
            await self._send({"id": request.id, "error": error.as_dict()})
        except Exception as error:  # noqa: BLE001 - whatever it was, the client is told and the host goes on
            _LOG.exception("the control method %s failed", request.method[:64])
            told = HostError(f"{request.method} failed inside the host: {type(error).__name__}; its log says more", reason="internal")
            await self._send({"id": request.id, "error": told.as_dict()})

    def _method(self, name: str) -> Answer | Stream:
        table = self._server.methods.table
        if name not in table:
            raise MethodNotFoundError(f"the host has no control method {name[:64]!r}; it has {', '.join(table)}", method=name[:64])
        return table[name]

    async def _result(self, method: Answer, params: Any, name: str) -> Any:
        work = method.run(params)
        try:
            async with asyncio.timeout(method.deadline_s) as deadline:
                return await (self._server.carry_through(work) if method.changes else work)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            goes_on = "; it goes on" if method.changes else ""
            raise CallTimeoutError(f"{name} took longer than {method.deadline_s:g} s{goes_on}", method=name) from error

    async def _send(self, answer: dict[str, Any]) -> None:
        """Write an answer; wait while the client is behind with reading."""
        frame = _encoded(answer)
        if len(frame) > MAX_RESPONSE_BYTES:
            error = HostError(f"the answer has {len(frame)} bytes, expected at most {MAX_RESPONSE_BYTES}", reason="response-size")
            frame = _encoded({"id": answer["id"], "error": error.as_dict()})
        self._transport.write(frame)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(self._server.limits.write_s):
                    await self._writable.wait()
            except TimeoutError:
                raise _SlowClientError from None


class _SlowClientError(TimeoutError):
    """The client does not read."""


def _encoded(answer: dict[str, Any]) -> bytes:
    # Whatever a plugin put into an error's facts must not keep the error from being told.
    return msgspec.json.encode(answer, enc_hook=repr) + b"\n"


def _decoded(line: bytes) -> _Request:
    try:
        return msgspec.json.decode(line, type=_Request)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _broken(f"a line is no request: {str(error)[:200]}", "request") from error


def _params(wanted: type[T], request: _Request) -> T:
    try:
        return msgspec.convert(request.params, wanted)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidParamsError(f"{request.method}: {str(error)[:500]}", method=request.method) from error


def _broken(text: str, rule: str) -> ProtocolError:
    return ProtocolError(f"control socket: {text}", rule=rule)
