"""A plugin that is stuck: it has room for one kind of call no more, or reads nothing, though all that it has was given up long ago.

Source: docs/reference/protocol.md, "Cancellation".
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import final

from annexe.channel.calls import HostCall
from annexe.channel.slots import Slots

__all__ = ["StuckWatch"]


@final
class StuckWatch:
    """Looks whether one plugin is.

    Args:
        slots: Its slots.
        stuck_s: How long is long.
        on_stuck: Told once.
    """

    __slots__ = ("_full_since", "_is_told", "_on_stuck", "_slots", "_stuck_s")

    def __init__(self, slots: Slots, *, stuck_s: float, on_stuck: Callable[[], None]) -> None:
        self._slots = slots
        self._stuck_s = stuck_s
        self._on_stuck = on_stuck
        self._is_told = False
        self._full_since: float | None = None

    def look(self, calls: Collection[HostCall], now: float, *, is_full: bool) -> None:
        """Look at the open calls; ``is_full``: the plugin has not read what was written to it."""
        if self._is_stuck(calls, now, is_full=is_full) and not self._is_told:
            self._is_told = True
            self._on_stuck()

    def _is_stuck(self, calls: Collection[HostCall], now: float, *, is_full: bool) -> bool:
        limit = now - self._stuck_s
        if self._slots.is_stuck(calls, limit):
            return True
        if not is_full:
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
        alive = any(call.given_up_at is None for call in calls)
        return not alive and self._full_since <= limit
