"""What the application subscribes to: its own functions, called with events beside everything else.

* In order, one event at a time for each function; a slow one loses the oldest, which is counted.
* A function that raises is passed over; its error goes to the application's logging.
* What a function publishes counts as following from the event that it was called with.

Source: docs/reference/host.md, "Events".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, final

__all__ = ["DEPTH", "Callback", "Listener", "TopicEvent"]

DEPTH: ContextVar[int] = ContextVar("annexe_event_depth", default=0)
"""How many events led to the one that the running function of the application's was called with, itself included."""

_LOG = logging.getLogger("annexe.dispatch")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TopicEvent:
    """Something that a plugin or the application published.

    Attributes:
        topic: Its name.
        value: Plain values, the receiver's own.
        publisher: Id of the plugin that published it; None: the application did.
        time: When, in Unix seconds.
    """

    topic: str
    value: Any
    publisher: str | None
    time: float


Callback = Callable[[TopicEvent], Awaitable[None] | None]


@final
class Listener:
    """One function of the application's.

    Args:
        callback: A ``def``, which must not block, or an ``async def``.
        most: How many events may wait for it.
        loop: The host's.

    Attributes:
        dropped_count: Events that were thrown away because it was too slow.
    """

    __slots__ = ("_callback", "_loop", "_task", "_waiting", "dropped_count")

    def __init__(self, callback: Callback, *, most: int, loop: asyncio.AbstractEventLoop) -> None:
        self.dropped_count = 0
        self._callback = callback
        self._waiting: deque[tuple[Callable[[], TopicEvent | None], int]] = deque(maxlen=most)
        self._loop = loop
        self._task: asyncio.Task[None] | None = None

    def add(self, read: Callable[[], TopicEvent | None], depth: int) -> bool:
        """Have it called with an event; say whether there was room, or the oldest went for it.

        Args:
            read: Makes the event; None: it cannot be read, and nobody is called.
            depth: See ``DEPTH``.
        """
        is_full = len(self._waiting) == self._waiting.maxlen
        self.dropped_count += is_full
        self._waiting.append((read, depth))
        if self._task is None:
            self._task = self._loop.create_task(self._work(), context=Context())
        return not is_full

    async def _work(self) -> None:
        try:
            while self._waiting:
                read, depth = self._waiting.popleft()
                DEPTH.set(depth)
                await self._call(read)
                await asyncio.sleep(0)  # other things have their turn, however many wait
        finally:
            self._task = None

    async def _call(self, read: Callable[[], TopicEvent | None]) -> None:
        event = read()
        if event is None:
            return
        try:
            answer = self._callback(event)
            if answer is not None:
                await answer
        except Exception:  # noqa: BLE001 - the application's own, and nobody is there to be told
            _LOG.exception("a subscriber to events of plugins failed")

    async def close(self) -> None:
        """Call it no more; what it is doing is cancelled."""
        self._waiting.clear()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])
