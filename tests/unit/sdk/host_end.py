"""The host's end of a socket pair, by hand: sends what a host sends and reads what the SDK answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from annexe_sdk import Plugin
from annexe_sdk.codec import msgpack_codec
from annexe_sdk.frames import FrameBuffer, pack_frame
from annexe_sdk.runner import Runner
from annexe_sdk.wire import CANCEL, CREDIT, END, ITEM, NOTIFICATION, REQUEST, RESPONSE

LIMITS = {"max_frame_bytes": 1024 * 1024, "concurrency": 1, "streams": 8}


class HostEnd:
    """Reads and writes messages; every wait ends in an error after some seconds."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(5)
        self.sock = sock
        self.is_msgpack = False
        self.logs: list[dict[str, Any]] = []
        self._msgpack = msgpack_codec()
        self._buffer = FrameBuffer()
        self._frames: list[bytes] = []
        self._last_id = -1

    def send(self, *message: Any) -> None:
        body = self._msgpack.encode(list(message)) if self.is_msgpack else json.dumps(message).encode()
        self.sock.sendall(pack_frame(body))

    def call(self, method: str, params: Any, **meta: Any) -> int:
        self._last_id += 2
        self.send(REQUEST, self._last_id, method, params, meta)
        return self._last_id

    def cancel(self, ident: int) -> None:
        self.send(CANCEL, ident)

    def item(self, ident: int, value: Any) -> None:
        self.send(ITEM, ident, value, {})

    def end(self, ident: int) -> None:
        self.send(END, ident)

    def credit(self, ident: int, granted_bytes: int) -> None:
        self.send(CREDIT, ident, granted_bytes)

    def read_frame(self) -> bytes:
        while not self._frames:
            chunk = self.sock.recv(65536)
            if not chunk:
                raise EOFError("the plugin closed its end")
            self._frames += self._buffer.feed(chunk)
        return self._frames.pop(0)

    def read(self) -> list[Any]:
        """Return the next message that is no log line; those are put aside."""
        while True:
            frame = self.read_frame()
            message: list[Any] = json.loads(frame) if frame[:1] == b"[" else self._msgpack.decode(frame)
            if message[0] == NOTIFICATION and message[1] == "log":
                self.logs.append({**message[2], "parent": message[3].get("parent")})
            else:
                return message

    def answered(self, ident: int) -> list[Any]:
        """Return the response to a call, which must be the next message."""
        message = self.read()
        assert message[:2] == [RESPONSE, ident], message
        return message

    def result(self, method: str, params: Any, **meta: Any) -> Any:
        message = self.answered(self.call(method, params, **meta))
        assert message[2] is None, message
        return message[3]

    def error(self, method: str, params: Any, **meta: Any) -> dict[str, Any]:
        message = self.answered(self.call(method, params, **meta))
        assert message[3] is None, message
        error: dict[str, Any] = message[2]
        return error

    def asked(self, method: str) -> list[Any]:
        """Return the plugin's request, which must be the next message."""
        message = self.read()
        assert message[0] == REQUEST, message
        assert message[2] == method
        return message

    def answer(self, request: list[Any], result: Any) -> None:
        self.send(RESPONSE, request[1], None, result, {})

    def hello(self, *, concurrency: int = 1, codecs: tuple[str, ...] = ("json",)) -> dict[str, Any]:
        params = {"protocols": [1], "codecs": list(codecs), "limits": {**LIMITS, "concurrency": concurrency}}
        result: dict[str, Any] = self.result("annexe.hello", params)
        return result

    def activate(self, config: dict[str, Any] | None = None) -> dict[str, Any]:
        params = {"config": config or {}, "grants": ["kv"], "data_dir": None, "log_level": "debug"}
        result: dict[str, Any] = self.result("annexe.activate", params)
        return result


@contextmanager
def served(plugin: Plugin, *, concurrency: int = 1, codecs: tuple[str, ...] = ("json",), activated: bool = True) -> Iterator[HostEnd]:
    """Run a plugin on a thread, after the handshake; at the end it must stop by itself when its host goes."""
    ours, theirs = socket.socketpair()
    use_msgpack = "msgpack" in codecs
    runner = Runner(theirs, lambda: plugin, use_msgpack=use_msgpack)
    thread = threading.Thread(target=runner.serve)
    thread.start()
    host = HostEnd(ours)
    try:
        if activated:
            host.hello(concurrency=concurrency, codecs=codecs)
            host.activate()
            host.is_msgpack = use_msgpack
        yield host
    finally:
        ours.close()
        thread.join(5)
        theirs.close()
        assert not thread.is_alive()
