"""A reader of new log records who must never hold up the log.

The writer's thread offers lines; a coroutine on the reader's loop takes them. What a slow reader has no room for is lost to it and
counted, and it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, final

import msgspec

__all__ = ["Follower"]


@final
class Follower:
    """A bounded queue of lines from one thread to one loop. Made on the loop that reads it.

    Args:
        capacity: How many lines may wait.
        lost_line: Makes the record that tells how many were lost.
    """

    def __init__(self, *, capacity: int, lost_line: Callable[[int], bytes]) -> None:
        self._capacity = capacity
        self._lost_line = lost_line
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._something = asyncio.Event()
        # One writer each: the thread counts losses and ends, the loop remembers what it has told.
        self._lost_count = 0
        self._told_count = 0
        self._is_woken = False
        self._is_ended = False

    def offer(self, line: bytes) -> None:
        """Give the reader a line if it has room. Writer's thread."""
        if len(self._waiting) >= self._capacity:
            self._lost_count += 1
        else:
            self._waiting.append(line)
        self._wake()

    def end(self) -> None:
        """Let the reader finish what waits, then stop. Writer's thread, or the reader's loop once that thread is gone."""
        self._is_ended = True
        self._wake()

    async def records(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield records until ``end``."""
        while True:
            await self._something.wait()
            self._something.clear()
            self._is_woken = False  # before looking, so that whatever is added while looking wakes again
            is_ended = self._is_ended
            while self._waiting:
                yield msgspec.json.decode(self._waiting.popleft(), type=dict[str, Any])
            lost_count = self._lost_count - self._told_count
            if lost_count:
                self._told_count += lost_count
                yield msgspec.json.decode(self._lost_line(lost_count), type=dict[str, Any])
            if is_ended:
                return

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the reader's loop is closed; it will be detached
                self._loop.call_soon_threadsafe(self._something.set)
