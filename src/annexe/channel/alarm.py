"""One timer for all deadlines of a connection.

It is set to the nearest and never to a later one: a call that ends in time leaves no timer to be cancelled, and the alarm that then comes
too early finds nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Calls a function at a time, at the latest.

    Attributes:
        at: When it will, by the monotonic clock; infinity when it will not.
    """

    __slots__ = ("_function", "_loop", "_timer", "at")

    def __init__(self, function: Callable[[], None], *, loop: asyncio.AbstractEventLoop) -> None:
        self._function = function
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.at = float("inf")

    def wake_at(self, at: float) -> None:
        """Have it go off at this time or before."""
        if at < self.at:
            self.cancel()
            self.at = at
            self._timer = self._loop.call_at(at, self._ring)

    def cancel(self) -> None:
        """Have it not go off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.at = float("inf")

    def _ring(self) -> None:
        self._timer = None
        self.at = float("inf")
        self._function()
