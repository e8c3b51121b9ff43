"""A plugin's end of the channel without any SDK, able to say what no SDK would.

Standard library only: it is copied beside each hostile plugin and run by a plain Python. JSON is what it speaks; MessagePack is sent as
ready bytes, and read as far as the host writes it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

REQUEST, RESPONSE, NOTIFICATION, CANCEL, ITEM, END, CREDIT, RELEASE = range(8)


def unpack(data: bytes, at: int) -> tuple[Any, int]:
    """Return the MessagePack value that begins there, and where the next one does."""
    head = data[at]
    at += 1
    if head < 0x80 or head >= 0xE0:
        return (head if head < 0x80 else head - 0x100), at
    if head in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[head], at
    if head in _NUMBERS:
        form = _NUMBERS[head]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if head < 0xC0:
        count = head & (0x1F if head >= 0xA0 else 0x0F)
        kind = "text" if head >= 0xA0 else "array" if head >= 0x90 else "map"
    else:
        kind, width = _LENGTHS[head]
        count, at = int.from_bytes(data[at : at + width], "big"), at + width
    if kind in ("text", "bytes"):
        raw = data[at : at + count]
        return (raw.decode() if kind == "text" else raw), at + count
    items = []
    for _ in range(count * 2 if kind == "map" else count):
        item, at = unpack(data, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == "map" else items), at


_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_LENGTHS = {0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4)}
_LENGTHS |= {0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}


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
        frame = self.exactly(int.from_bytes(self.exactly(4), "big"))
        message: list[Any] = json.loads(frame) if frame[:1] == b"[" else unpack(frame, 0)[0]
        return message

    def read_response(self, ident: int | None = None) -> list[Any]:
        """Return the next response, or the one to that request of ours, leaving out everything before it."""
        while True:
            message = self.read()
            if message[0] == RESPONSE and (ident is None or message[1] == ident):
                return message

    def greet(self, codec: str = "json", **provides: Any) -> None:
        """Do the handshake as it should be."""
        self.answer(self.read(), {"protocol": 1, "codec": codec, "sdk": {"name": "hostile", "language": "python", "version": "0"}})
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
