"""How many plugins of a host start at the same time.

A start is some tenths of a second of a processor. Two hundred at once would share the processors so thinly that all of them are late, and
the last would be taken for plugins that hang.

* A start that waits for something else than a processor keeps its place for ``HOLD_S`` only: whoever is slow keeps nobody waiting.
* Whoever was slow the last time takes a place of a few that are theirs: however many hang, the others wait for none of them again.
* Nobody's time to start runs before it has a place.

Source: feature LC6; ADR-0098.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar, final
from weakref import WeakSet

__all__ = ["HOLD_S", "StartGate"]

V = TypeVar("V")

HOLD_S = 2.0
_LEAST, _FOR_EACH = 8, 4  # places, and places for each processor


@final
class StartGate:
    """Lets so many starts go on at once.

    Args:
        places: How many; None: as this machine's processors allow.
        hold_s: For how long one keeps its place at most.
    """

    def __init__(self, places: int | None = None, *, hold_s: float = HOLD_S) -> None:
        places = places or max(_LEAST, _FOR_EACH * _processors())
        self._places = asyncio.Semaphore(places)
        self._places_of_slow = asyncio.Semaphore(-(-places // 2))
        self._slow: WeakSet[object] = WeakSet()
        self._hold_s = hold_s

    async def through(self, start: Coroutine[Any, Any, V], *, of: object) -> V:
        """Begin a start once there is a place, and return what comes of it; raises what it raises.

        ``of`` stands for the plugin, by which it is known again.

        Cancelled, it cancels the start; one that was done just then is returned all the same, for somebody has to clear it away.
        """
        places = self._places_of_slow if of in self._slow else self._places
        try:
            await places.acquire()
        except BaseException:
            start.close()
            raise
        task = asyncio.get_running_loop().create_task(start)
        try:
            done, _ = await asyncio.wait([task], timeout=self._hold_s)
            (self._slow.discard if done else self._slow.add)(of)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled() or task.exception() is not None:
                raise
        finally:
            places.release()
        return await task


def _processors() -> int:
    """Return how many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
