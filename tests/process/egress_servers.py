"""Servers on loopback that say exactly what a test wants, and rules that let a plugin reach them."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from annexe.capabilities.egress import EgressRules
from annexe.capabilities.egress_dial import Resolve
from annexe.manifest import parse_manifest

__all__ = ["Server", "rules_for", "serving", "talking", "to_names"]

Talk = Callable[[StreamReader, StreamWriter], Awaitable[None]]

_MANIFEST = b"""
manifest-version = 1
[plugin]
id = "sample"
version = "1.0.0"
[runtime]
kind = "python"
entry = "sample"
"""


def rules_for(*targets: str) -> EgressRules:
    granted = frozenset(f"network:{target}" for target in targets)
    return EgressRules(parse_manifest(_MANIFEST, source="test"), granted, command="annexe grant sample")


def to_names(**addresses: Sequence[str]) -> Resolve:
    """Return a resolver that knows these names, with ``_`` for the dot."""

    async def resolve(name: str, port: int) -> Sequence[str]:
        found = addresses.get(name.replace(".", "_"))
        if found is None:
            raise OSError("no such name")
        return found

    return resolve


@dataclass
class Server:
    """A server, and what it was sent."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.target}"


@asynccontextmanager
async def talking(talk: Talk, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve each connection by ``talk``, and hang up after it."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def on_connection(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await talk(reader, writer)
                await writer.drain()
        finally:
            tasks.discard(task)
            writer.close()

    listening = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        # Also those that were accepted just now and have not begun.
        for _ in range(20):
            for task in list(tasks):
                task.cancel()
            await asyncio.sleep(0)
        await listening.wait_closed()


@asynccontextmanager
async def serving(*answers: bytes, hold: bool = False) -> AsyncIterator[Server]:
    """Serve the answers in turn, the last of them for good; read each request first, body and all.

    Args:
        hold: Do not hang up after an answer.
    """
    left = list(answers)
    server: Server

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        if hold:
            await reader.read()

    async with talking(talk) as server:
        yield server


async def read_request(reader: StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
        if line.startswith(b"transfer-encoding:"):
            return head + await reader.readuntil(b"\r\n0\r\n\r\n")
    return head
