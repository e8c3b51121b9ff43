"""Have a plugin do things beside the calls that somebody waits for: bounded, never in their way.

* What waits is bounded; what is pushed out, or cannot be done at all, is dropped and counted.
* At most ``concurrency`` of these calls are under way in a plugin at a time, and none begins while a call that somebody waits for has no
  slot. No task per call: the answer of one begins the next.
* A plugin that is not there is waited for while it may come, and started if it is lazy.

What happens here belongs to no request: it runs in an empty context, which the answers, timers and tasks that follow inherit. Otherwise
they would work on behalf of whatever call the first work came from, and end with its deadline.

Source: docs/reference/hooks.md, "Observer"; docs/reference/protocol.md, "Concurrency, slots, stuck"; ADR-0094.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar, final

from annexe.channel import Connection, HostCall
from annexe.dispatch.members import Provider
from annexe.errors import PluginBusyError, PluginUnavailableError

__all__ = ["TOO_SLOW", "Fifo", "SideQueue", "SideWork", "Waiting"]

TOO_SLOW = "too slow"
_LOOK_AGAIN_S = 0.05
_BACK_OFF_LOOK_S = 0.25
_COMES_BACK = ("backing-off", "ready", "degraded")  # the last two: it has just ended
_START_S = 30.0


class SideWork(Protocol):
    """One call that nobody waits for."""

    def begin(self, connection: Connection) -> HostCall | None:
        """Begin it; None when it was dealt with without a call.

        Raises:
            PluginBusyError: Not now: it is tried again.
        """
        ...

    def ended(self, call: HostCall) -> None:
        """Take the answer; see ``HostCall.future``."""
        ...


W = TypeVar("W", bound=SideWork)
T = TypeVar("T")


class Waiting(Protocol[T]):
    """What waits, and in which order it comes."""

    def __len__(self) -> int: ...

    def add(self, item: T) -> Sequence[T]:
        """Take something in; return what had to go for it."""
        ...

    def take(self) -> T | None:
        """Return what comes next; None while nothing of what waits may."""
        ...

    def put_back(self, item: T) -> None:
        """Have what was taken last come next again."""
        ...

    def ended(self, item: T) -> None:
        """Something that was taken is over."""
        ...

    def clear(self) -> Sequence[T]:
        """Let go of all that waits, and return it."""
        ...


@final
class Fifo(Generic[T]):
    """First in, first out; the oldest goes when there is no room.

    Args:
        most: Room for how many.
    """

    __slots__ = ("_items", "_most")

    def __init__(self, most: int) -> None:
        self._items: deque[T] = deque()
        self._most = most

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> Sequence[T]:
        """Take something in; return what had to go for it."""
        pushed_out = [self._items.popleft()] if len(self._items) >= self._most else []
        self._items.append(item)
        return pushed_out

    def take(self) -> T | None:
        """Return the oldest."""
        return self._items.popleft() if self._items else None

    def put_back(self, item: T) -> None:
        """Have it come next again."""
        self._items.appendleft(item)

    def ended(self, item: T) -> None:
        """Nothing hangs on it."""

    def clear(self) -> Sequence[T]:
        """Let go of all that waits, and return it."""
        items, self._items = self._items, deque()
        return list(items)


@final
class SideQueue(Generic[W]):
    """What one plugin has yet to do beside its calls.

    Args:
        provider: The plugin.
        waiting: Keeps what waits.
        what: For messages, such as ``observer``.
        on_dropped: Told what was dropped and why, after it was counted; ``TOO_SLOW`` when there was no room.
        loop: The host's.

    Attributes:
        dropped_count: All that was dropped.
    """

    __slots__ = ("_is_due", "_loop", "_on_dropped", "_provider", "_retry", "_starting", "_under_way", "_waiting", "_what", "dropped_count")

    def __init__(
        self,
        provider: Provider,
        *,
        waiting: Waiting[W],
        what: str,
        on_dropped: Callable[[Sequence[W], str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.dropped_count = 0
        self._provider = provider
        self._waiting = waiting
        self._what = what
        self._on_dropped = on_dropped
        self._loop = loop
        self._under_way = 0
        self._is_due = False
        self._retry: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None

    def add(self, work: W) -> None:
        """Have the plugin do something when it has time; at once, if it has."""
        self._take_in(work)
        Context().run(self._send)

    def add_soon(self, work: W) -> None:
        """The same, but not before the running code is done."""
        self._take_in(work)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._send_due, context=Context())

    def drop_all(self, why: str) -> None:
        """Drop what waits."""
        dropped = self._waiting.clear()
        if dropped:
            self._drop(dropped, why)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._retry is not None:
            self._retry.cancel()
        if self._starting is not None:
            self._starting.cancel()

    def _take_in(self, work: W) -> None:
        pushed_out = self._waiting.add(work)
        if pushed_out:
            self._drop(pushed_out, TOO_SLOW)

    def _drop(self, works: Sequence[W], why: str) -> None:
        self.dropped_count += len(works)
        self._on_dropped(works, why)

    def _send_due(self) -> None:
        self._is_due = False
        self._send()

    def _send(self) -> None:
        while self._waiting:
            connection = self._provider.connection
            if connection is None:
                self._start()
                return
            if self._under_way >= connection.limits.concurrency:
                return
            if connection.closed or connection.waiting:  # it ended just now, and whether it comes back shows in a moment; or it is busy
                self._look_again()
                return
            work = self._waiting.take()
            if work is None or not self._begin(work, connection):
                return

    def _begin(self, work: W, connection: Connection) -> bool:
        try:
            call = work.begin(connection)
        except PluginBusyError:
            self._waiting.put_back(work)
            self._look_again()
            return False
        if call is None:
            self._waiting.ended(work)
            return True
        self._provider.last_used = monotonic()
        self._under_way += 1
        call.future.add_done_callback(partial(self._ended, work, call))
        return True

    def _ended(self, work: W, call: HostCall, _future: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        self._waiting.ended(work)
        work.ended(call)
        self._send()

    def _look_again(self, after_s: float = _LOOK_AGAIN_S) -> None:
        if not self._is_to_look_again():
            self._retry = self._loop.call_later(after_s, self._send)

    def _is_to_look_again(self) -> bool:
        return self._retry is not None and self._retry.when() > monotonic()

    def _start(self) -> None:
        """Wait for the plugin, once for all that waits."""
        if (self._starting is None or self._starting.done()) and not self._is_to_look_again():
            self._starting = self._loop.create_task(self._wait_ready())

    async def _wait_ready(self) -> None:
        try:
            await self._provider.wait_ready(monotonic() + _START_S, method=self._what)
        except PluginUnavailableError as error:
            if error.data.get("state") in _COMES_BACK:
                self._look_again(_BACK_OFF_LOOK_S)
            else:
                self.drop_all(error.message)
            return
        self._loop.call_soon(self._send)
