"""Who is served next, when many plugins wait for one worker.

Pure. Each plugin waits in a lane of its own; batches are made by taking one item from each lane in turn.

* A lane is bounded by the weight of what waits in it. One item is always let in: an item heavier than the bound cannot be stuck.
* A lane gives at most its share of a batch, and one that has given its share stands behind the others in the next.

Source: ADR-0022.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar, final

from annexe.errors import PluginBusyError

__all__ = ["FairQueue"]

T = TypeVar("T")


class _Lane(Generic[T]):
    __slots__ = ("items", "name", "taken", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: deque[tuple[T, int]] = deque()
        self.weight = 0
        self.taken = 0


@final
class FairQueue(Generic[T]):
    """Items waiting in lanes.

    Args:
        lane_weight: Most that may wait in one lane.
        batch_weight: Weight at which a batch is full.
        share_weight: Weight at which a lane has had its share of a batch.
    """

    def __init__(self, *, lane_weight: int, batch_weight: int, share_weight: int) -> None:
        self._lane_weight = lane_weight
        self._batch_weight = batch_weight
        self._share_weight = share_weight
        # Only lanes in which something waits, in the order of their turns.
        self._turns: deque[_Lane[T]] = deque()
        self._lanes: dict[str, _Lane[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, lane: str, item: T, *, weight: int) -> None:
        """Let an item wait.

        Raises:
            PluginBusyError: Too much waits in that lane already; ``waiting``, ``limit``.
        """
        waiting = self._lanes.get(lane)
        if waiting is None:
            waiting = self._lanes[lane] = _Lane(lane)
            self._turns.append(waiting)
        elif waiting.weight + weight > self._lane_weight:
            raise PluginBusyError(
                f"plugin {lane!r} has too many requests waiting: {waiting.weight} of {self._lane_weight}. Wait for some answers first.",
                plugin=lane,
                waiting=waiting.weight,
                limit=self._lane_weight,
            )
        waiting.items.append((item, weight))
        waiting.weight += weight

    def take(self) -> list[T]:
        """Take the next batch: at least one item, if any waits."""
        batch: list[T] = []
        batch_weight = 0
        served: deque[_Lane[T]] = deque()
        while self._turns and batch_weight < self._batch_weight:
            lane = self._turns.popleft()
            item, weight = lane.items.popleft()
            lane.weight -= weight
            lane.taken += weight
            batch_weight += weight
            batch.append(item)
            if not lane.items:
                del self._lanes[lane.name]
            elif lane.taken < self._share_weight:
                self._turns.append(lane)
            else:
                served.append(lane)
        self._turns.extend(served)
        for lane in self._turns:
            lane.taken = 0
        return batch

    def clear(self) -> list[T]:
        """Take everything out."""
        items = [item for lane in self._turns for item, _ in lane.items]
        self._turns.clear()
        self._lanes.clear()
        return items
