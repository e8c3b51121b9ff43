"""What waits in lanes: in order within each, one at a time from each, and no lane's flood pushes out what another one has.

Pure. When there is no room, the oldest of the fullest lane goes.

Source: ADR-0094.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, Protocol, TypeVar, final

__all__ = ["Laned", "Lanes"]


class Laned(Protocol):
    """Something with a place in a lane.

    Attributes:
        lane: Which one.
        size_bytes: How much memory it takes.
    """

    @property
    def lane(self) -> Hashable: ...

    @property
    def size_bytes(self) -> int: ...


L = TypeVar("L", bound=Laned)


@final
class _Lane(Generic[L]):
    __slots__ = ("is_taken", "items", "size_bytes")

    def __init__(self) -> None:
        self.items: deque[L] = deque()
        self.size_bytes = 0
        self.is_taken = False

    def pop(self) -> L:
        item = self.items.popleft()
        self.size_bytes -= item.size_bytes
        return item


@final
class Lanes(Generic[L]):
    """Things that wait; see ``side_queue.Waiting``.

    Args:
        most: Room for how many.
        most_bytes: And for how much; one thing alone always has room.
    """

    __slots__ = ("_count", "_lanes", "_most", "_most_bytes", "_size_bytes", "_turn")

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lanes: dict[Hashable, _Lane[L]] = {}
        self._turn: deque[Hashable] = deque()  # lanes that have something and nothing under way, the one to come first
        self._count = 0
        self._size_bytes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: L) -> Sequence[L]:
        """Take something in; return what had to go for it."""
        pushed_out: list[L] = []
        while self._count and (self._count >= self._most or self._size_bytes + item.size_bytes > self._most_bytes):
            pushed_out.append(self._push_out())
        lane = self._lanes.get(item.lane)
        if lane is None:
            lane = self._lanes[item.lane] = _Lane()
        if not lane.items and not lane.is_taken:
            self._turn.append(item.lane)
        lane.items.append(item)
        lane.size_bytes += item.size_bytes
        self._note(item, 1)
        return pushed_out

    def _push_out(self) -> L:
        by_count = self._count >= self._most
        name, lane = max(self._lanes.items(), key=lambda pair: len(pair[1].items) if by_count else pair[1].size_bytes)
        item = lane.pop()
        self._note(item, -1)
        if not lane.items and not lane.is_taken:
            self._turn.remove(name)
            del self._lanes[name]
        return item

    def take(self) -> L | None:
        """Return what comes next, each lane in turn; None while all that waits is behind something that was taken."""
        if not self._turn:
            return None
        lane = self._lanes[self._turn.popleft()]
        lane.is_taken = True
        item = lane.pop()
        self._note(item, -1)
        return item

    def put_back(self, item: L) -> None:
        """Have what was taken last come next again."""
        lane = self._lanes[item.lane]
        lane.is_taken = False
        lane.items.appendleft(item)
        lane.size_bytes += item.size_bytes
        self._turn.appendleft(item.lane)
        self._note(item, 1)

    def ended(self, item: L) -> None:
        """Something that was taken is over: the next of its lane may come."""
        lane = self._lanes[item.lane]
        lane.is_taken = False
        if lane.items:
            self._turn.append(item.lane)
        else:
            del self._lanes[item.lane]

    def clear(self) -> Sequence[L]:
        """Let go of all that waits, and return it."""
        items = [item for lane in self._lanes.values() for item in lane.items]
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.is_taken}
        for lane in self._lanes.values():
            lane.items.clear()
            lane.size_bytes = 0
        self._turn.clear()
        self._count = self._size_bytes = 0
        return items

    def _note(self, item: L, sign: int) -> None:
        self._count += sign
        self._size_bytes += sign * item.size_bytes
