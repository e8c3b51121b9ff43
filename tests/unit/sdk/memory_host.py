"""The host's end with shared memory, by hand."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from annexe.channel.memory_files import MemoryFiles
from annexe_sdk import Plugin
from annexe_sdk.runner import Runner
from annexe_sdk.wire import BLOB_FROM_BYTES, NOTIFICATION, RELEASE, RESPONSE
from tests.unit.sdk.host_end import LIMITS, HostEnd

__all__ = ["LONG", "MIB", "SIZE", "MemoryHost", "blob", "with_memory"]

MIB = 1024 * 1024
SIZE = 4 * MIB
LONG = bytes(range(256)) * (BLOB_FROM_BYTES // 256)


def blob(index: int = 0) -> Ext:
    """Stand for a blob in a payload."""
    return Ext(1, bytes((index,)))


class MemoryHost(HostEnd):
    """Writes what it likes into the plugin's file, and reads the plugin's."""

    def __init__(self, sock: socket.socket, files: MemoryFiles) -> None:
        super().__init__(sock)
        self.files = files
        self.releases: list[list[int]] = []

    def read(self) -> list[Any]:
        """Return the next message that is neither a log line nor a release; those are put aside."""
        while True:
            frame = self.read_frame()
            message: list[Any] = json.loads(frame) if frame[:1] == b"[" else msgspec.msgpack.decode(frame)
            if message[0] == RELEASE:
                self.releases += message[1]
            elif message[0] != NOTIFICATION:
                return message

    def put(self, value: bytes, offset: int = 0) -> tuple[int, int]:
        """Write a blob."""
        self.files.to_plugin[offset : offset + len(value)] = value
        return offset, len(value)

    def give(self, method: str, value: bytes = LONG, offset: int = 0) -> int:
        """Call the plugin with a blob."""
        return self.call(method, [blob()], blobs=[self.put(value, offset)])

    def taken(self, message: list[Any], *, release: bool = True) -> Any:
        """Return the payload of a message with its blobs, and release them."""
        regions = message[-1].get("blobs", [])
        body = msgspec.msgpack.encode(message[-2])

        def resolve(_: int, index: memoryview) -> bytes:
            offset, length = regions[index[0]]
            return self.files.from_plugin[offset : offset + length]

        value = msgspec.msgpack.decode(body, ext_hook=resolve)
        if release and regions:
            self.release(*regions)
        return value

    def release(self, *regions: Any) -> None:
        """Release regions of the plugin's file."""
        self.send(RELEASE, regions)

    def result_of(self, method: str, value: bytes = LONG) -> Any:
        """Call with a blob, and return what is answered."""
        message = self.answered(self.give(method, value))
        assert message[2] is None, message
        return self.taken(message)

    def respond(self, request: list[Any], *regions: tuple[int, int]) -> None:
        """Answer a request of the plugin's with a blob."""
        self.send(RESPONSE, request[1], None, blob(), {"blobs": regions})

    def greet(self, *, concurrency: int = 1, codecs: tuple[str, ...] = ("msgpack", "json")) -> dict[str, Any]:
        """Shake hands, offering shared memory in descriptors that the plugin may close."""
        assert self.files.descriptors is not None
        fds = [os.dup(descriptor) for descriptor in self.files.descriptors]
        params = {
            "protocols": [1],
            "codecs": list(codecs),
            "limits": {**LIMITS, "max_frame_bytes": 256 * 1024, "concurrency": concurrency},
            "arenas": {"in": [fds[0], SIZE], "out": [fds[1], SIZE]},
        }
        answer: dict[str, Any] = self.result("annexe.hello", params)
        return answer


@contextmanager
def with_memory(plugin: Plugin, *, concurrency: int = 1) -> Iterator[MemoryHost]:
    """Run a plugin on a thread, after the handshake; at the end it must stop by itself when its host goes."""
    ours, theirs = socket.socketpair()
    files = MemoryFiles.make(SIZE)
    assert files is not None
    thread = threading.Thread(target=Runner(theirs, lambda: plugin, use_msgpack=True).serve)
    thread.start()
    host = MemoryHost(ours, files)
    try:
        assert host.greet(concurrency=concurrency)["arenas"] is True
        host.activate()
        host.is_msgpack = True
        yield host
    finally:
        ours.close()
        thread.join(5)
        theirs.close()
        files.close()
        assert not thread.is_alive()
