"""A plugin's end of the channel without any SDK, able to say what no SDK would.

Standard library only: it is copied beside each hostile plugin and run by a plain Python. JSON is what it speaks; MessagePack is sent as
ready bytes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

REQUEST, RESPONSE, NOTIFICATION, CANCEL, ITEM, END, CREDIT, RELEASE = range(8)


class Wire:
    """The connection to the host."""

    def __init__(self) -> None:
        self.sock = socket.socket(fileno=int(os.environ["ANNEXE_FD"]))
        self.last_id = 0

    # Out.

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def frame(self, body: bytes) -> None:
        self.raw(len(body).to_bytes(4, "big") + body)

    def send(self, *message: Any) -> None:
        self.frame(json.dumps(message).encode())

    def answer(self, call: list[Any], result: Any, meta: dict[str, Any] | None = None) -> None:
        self.send(RESPONSE, call[1], None, result, meta or {})

    def refuse(self, call: list[Any], code: str, message: str = "no", data: Any = None) -> None:
        self.send(RESPONSE, call[1], {"code": code, "message": message, "data": data}, None, {})

    def ask(self, method: str, params: Any, parent: int | None = None) -> int:
        self.last_id += 2
        self.send(REQUEST, self.last_id, method, params, {} if parent is None else {"parent": parent})
        return self.last_id

    def log(self, message: Any, **more: Any) -> None:
        self.send(NOTIFICATION, "log", {"level": "info", "message": message, "fields": {}, **more}, {})

    # In.

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise SystemExit(0)
            data += chunk
        return data

    def read(self) -> list[Any]:
        message: list[Any] = json.loads(self.exactly(int.from_bytes(self.exactly(4), "big")))
        return message

    def read_response(self, ident: int | None = None) -> list[Any]:
        """Return the next response, or the one to that request of ours, leaving out everything before it."""
        while True:
            message = self.read()
            if message[0] == RESPONSE and (ident is None or message[1] == ident):
                return message

    def greet(self, **provides: Any) -> None:
        """Do the handshake as it should be."""
        self.answer(self.read(), {"protocol": 1, "codec": "json", "sdk": {"name": "hostile", "language": "python", "version": "0"}})
        self.answer(self.read(), provides)

    def calls(self) -> Iterator[list[Any]]:
        """Give requests other than the host's own."""
        while True:
            message = self.read()
            if message[0] != REQUEST:
                continue
            if message[2].startswith("annexe."):
                self.answer(message, {})
                if message[2] == "annexe.shutdown":
                    raise SystemExit(0)
            else:
                yield message
