"""Sending a response piece by piece, and noticing when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
from starlette.types import Receive, Send

from examples.gateway.failures import Failure

__all__ = ["Responder", "until_disconnect"]

_SSE_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class Responder:
    """One response: a body of JSON, or events (SSE) that begin with the first one.

    Args:
        send: ASGI's send.
        headers: Go with the response, whichever it becomes.
    """

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = dict(headers)
        self._started = False

    async def json(self, body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response."""
        encoded = msgspec.json.encode(body)
        await self._start(status, {"content-type": "application/json", "content-length": str(len(encoded)), **(headers or {})})
        await self._send({"type": "http.response.body", "body": encoded})

    async def event(self, body: Any) -> None:
        """Send one event; the first one begins the response."""
        if not self._started:
            await self._start(200, _SSE_HEADERS)
        await self._send({"type": "http.response.body", "body": b"data: " + msgspec.json.encode(body) + b"\n\n", "more_body": True})

    async def end_events(self) -> None:
        """End a stream that is complete."""
        if not self._started:
            await self._start(200, _SSE_HEADERS)
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def fail(self, failure: Failure) -> None:
        """Send an error: with its status, or as the last event of a stream that has begun and is not complete."""
        if not self._started:
            await self.json(failure.body(), status=failure.status, headers=failure.headers)
            return
        await self.event(failure.body())
        await self._send({"type": "http.response.body", "body": b""})

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Add headers, before anything is sent."""
        self._headers.update(headers)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self._started = True
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in {**self._headers, **headers}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but no longer than the client is there."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = [one for one in (task, watcher) if not one.done()]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if not task.cancelled():
        task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
