"""The socket at which processes that were invited come in: bounded, and read no further than the line that shows a token.

* Who connects must be our own user or root, as the kernel tells it; has ``TOKEN_S`` to show the line; at most ``MAX_WAITING`` at once.
* No byte after that line is read: it is the channel's.

Source: features LC15 and WP8; docs/reference/protocol.md, "Attaching"; ADR-0095.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, final

from annexe.errors import AnnexeError, HostError, PluginBusyError
from annexe.host.control_socket import bind_control, peer_uid

__all__ = ["MAX_WAITING", "TOKEN_S", "Door", "told", "turn_away"]

TOKEN_S = 5.0
"""How long who connects may take to show a token."""

MAX_WAITING = 8
"""How many that have shown none yet are connected at once."""

_MAX_MESSAGE_CHARS = 500  # who asks reads a short line

_LOG = logging.getLogger("annexe.host")


@final
class Door:
    """Listens once it was opened.

    Args:
        path: Where.
        line_bytes: How long the line is that shows a token.
        enter: Given who connected, as a socket of its own to close, and that line; the door waits for nothing it does.
        refused: Told who was turned away, before the socket is closed, and why.
    """

    def __init__(
        self,
        path: Path,
        *,
        line_bytes: int,
        enter: Callable[[socket.socket, bytes], Awaitable[None]],
        refused: Callable[[socket.socket, HostError], None],
    ) -> None:
        self.path = path
        self._line_bytes = line_bytes
        self._enter = enter
        self._refused = refused
        self._waiting = 0
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen. Idempotent.

        Raises:
            HostError: Nothing can be bound there.
        """
        if self._listening is None:
            self._listening = bind_control(self.path)
            self.spawn(self._accept(self._listening))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that ends with the door."""
        task = asyncio.get_running_loop().create_task(work, name="annexe-attach")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let nobody in any more, and end what was begun."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._listening is not None:
            self._listening.close()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor is left, for a while
                _LOG.warning("a process that wants to attach cannot be taken up: %s", error)
                await asyncio.sleep(0.1)
                continue
            sock.setblocking(False)
            if self._waiting >= MAX_WAITING:
                turn_away(sock, PluginBusyError(f"{MAX_WAITING} processes that have shown no token are connected already"))
                sock.close()
                continue
            self._waiting += 1
            self.spawn(self._receive(sock))

    async def _receive(self, sock: socket.socket) -> None:
        try:
            try:
                async with asyncio.timeout(TOKEN_S):
                    line = await self._shown(sock)
            finally:
                self._waiting -= 1
        except (HostError, OSError, TimeoutError) as error:
            why = str(error) or "it was silent"
            refusal = error if isinstance(error, HostError) else HostError(f"it showed no token: {why}", reason="token")
            self._refused(sock, refusal)
            turn_away(sock, refusal)
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            await self._enter(sock, line)

    async def _shown(self, sock: socket.socket) -> bytes:
        uid = peer_uid(sock)
        if uid is None or uid not in (os.geteuid(), 0):
            raise HostError(f"only uid {os.geteuid()} and root may attach, got {uid}", reason="uid", uid=uid)
        line, loop = b"", asyncio.get_running_loop()
        while len(line) < self._line_bytes:
            chunk = await loop.sock_recv(sock, self._line_bytes - len(line))
            if not chunk:
                raise ConnectionError("it hung up")
            line += chunk
        return line


def turn_away(sock: socket.socket, error: AnnexeError) -> None:
    """Tell a process why it is not let in, if it still listens."""
    with contextlib.suppress(OSError):
        sock.send(told({"error": {"code": error.code, "message": error.message[:_MAX_MESSAGE_CHARS]}}))


def told(answer: dict[str, Any]) -> bytes:
    """Return the line that answers a token."""
    return json.dumps(answer, ensure_ascii=True).encode() + b"\n"
