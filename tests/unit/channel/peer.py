"""A connection, and the plugin's end of its socket pair by hand."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec

from annexe.channel import ChannelLimits, Connection, HostCall, PluginCall, RequestMeta, Response, Stream
from annexe.channel.memory_files import MemoryFiles
from annexe.errors import AnnexeError, RemoteProtocolError
from annexe_sdk.frames import FrameBuffer, pack_frame
from annexe_sdk.wire import REQUEST, RESPONSE


class Peer:
    """Speaks JSON and reads both codecs, every wait bounded."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = FrameBuffer()
        self._frames: list[bytes] = []

    async def raw(self, data: bytes) -> None:
        async with asyncio.timeout(5):
            await self._loop.sock_sendall(self.sock, data)

    async def send(self, *message: Any) -> None:
        await self.raw(pack_frame(json.dumps(message).encode()))

    async def read(self) -> list[Any]:
        async with asyncio.timeout(5):
            while not self._frames:
                chunk = await self._loop.sock_recv(self.sock, 65536)
                if not chunk:
                    raise EOFError("the host closed its end")
                self._frames += self._buffer.feed(chunk)
        frame = self._frames.pop(0)
        message: list[Any] = json.loads(frame) if frame[:1] == b"[" else msgspec.msgpack.decode(frame)
        return message

    async def reads_nothing(self, seconds: float = 0.03) -> None:
        try:
            async with asyncio.timeout(seconds):
                message = await self.read()
        except TimeoutError:
            return
        raise AssertionError(f"expected nothing, got {message}")

    async def called(self, method: str = "hook.a.b") -> list[Any]:
        message = await self.read()
        assert (message[0], message[2]) == (REQUEST, method), message
        return message

    async def answer(self, ident: int, result: Any = None, **meta: Any) -> None:
        await self.send(RESPONSE, ident, None, result, meta)

    async def ask(self, ident: int, method: str, params: Any = None, **meta: Any) -> None:
        await self.send(REQUEST, ident, method, params, meta)


class Ends:
    """Both ends, and what the connection told its owner."""

    def __init__(self, limits: ChannelLimits, files: MemoryFiles | None = None, *, is_patient: bool = False) -> None:
        ours, theirs = socket.socketpair()
        self.peer = Peer(theirs)
        self.refused: list[tuple[str, AnnexeError]] = []
        self.notified: list[tuple[str, Any, str | None]] = []
        self.closed: asyncio.Future[AnnexeError | None] = asyncio.get_running_loop().create_future()
        self.stuck = asyncio.Event()
        self.served: list[PluginCall] = []
        self.serve: Any = lambda call: None
        self.connection = Connection(
            ours,
            plugin="sample",
            limits=limits,
            serve=self._serve,
            on_refused=lambda call, error: self.refused.append((call.method, error)),
            on_notification=self._note,
            on_closed=self.closed.set_result,
            on_stuck=self.stuck.set,
            files=files,
            is_patient=is_patient,
        )

    def _note(self, method: str, params: msgspec.Raw, codec: str, request: str | None) -> None:
        try:
            value = (msgspec.json if codec == "json" else msgspec.msgpack).decode(params)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            value = None
        self.notified.append((method, value, request))

    def _serve(self, call: PluginCall) -> Any:
        self.served.append(call)
        return self.serve(call)

    def begin(self, params: Any = (), *, deadline_s: float = 5.0, run_s: float | None = None, **meta: Any) -> HostCall:
        return self.connection.begin("hook.a.b", params, RequestMeta(**meta), deadline=monotonic() + deadline_s, run_s=run_s)

    async def call(self, params: Any = (), *, deadline_s: float = 5.0, run_s: float | None = None, **meta: Any) -> Any:
        response = await self.connection.call("hook.a.b", params, RequestMeta(**meta), deadline=monotonic() + deadline_s, run_s=run_s)
        return msgspec.json.decode(response.result)

    def stream(self, mode: str = "both", *, deadline_s: float = 5.0, item_s: float | None = None) -> Stream:
        return self.connection.open_stream(
            "hook.a.b",
            [],
            RequestMeta(stream=mode),
            deadline=monotonic() + deadline_s,
            decode=lambda codec, raw: msgspec.json.decode(raw),
            item_s=item_s,
        )

    async def broken_rule(self) -> str:
        """Return the rule that the peer broke."""
        async with asyncio.timeout(5):
            error = await self.closed
        assert isinstance(error, RemoteProtocolError)
        return error.rule

    async def works(self) -> None:
        """A call still goes through."""
        task = asyncio.create_task(self.call(["?"]))
        message = await self.peer.called()
        await self.peer.answer(message[1], "!")
        assert await task == "!"


async def outcome(call: HostCall) -> Response:
    async with asyncio.timeout(5):
        response: Response = await call.future
        return response


@asynccontextmanager
async def ends(*, greeted: bool = True, is_patient: bool = False, **limits: Any) -> AsyncIterator[Ends]:
    """Give both ends; at its end nothing may have reached the loop's exception handler."""
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    both = Ends(ChannelLimits(**limits), is_patient=is_patient)
    if greeted:
        both.connection.greeted("msgpack")
    try:
        yield both
    finally:
        both.connection.close()
        both.peer.sock.close()
    await asyncio.sleep(0)
    assert errors == []
