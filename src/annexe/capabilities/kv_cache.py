"""What one plugin's hot keys hold, so that reading them needs no thread and no database.

Pure. Least recently used goes first. Also remembers that a key is *not* there. Holds bytes: each reader gets a value of its own.

* True at any moment only if every change of the store is put here in the order in which it was committed.
* A key past its time reads as not there, however long the entry stays.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import final

__all__ = ["KvCache"]

# A dictionary slot, a tuple, a string and a bytes object cost this beside what they hold.
_ENTRY_OVERHEAD_BYTES = 256
# One entry may have this part of the cache at most, so that one large value does not push out all the small ones.
_LARGEST_PART = 8
# What is read from here is decoded on the event loop; a larger value is read by the thread.
_LARGEST_VALUE_BYTES = 16 * 1024

_MISS = (False, None)
_ABSENT = (True, None)


@final
class KvCache:
    """A bounded cache.

    Args:
        limit_bytes: Most memory it may use, keys and overhead included.
    """

    __slots__ = ("_entries", "_limit_bytes", "_used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._entries: OrderedDict[str, tuple[bytes | None, float | None, int]] = OrderedDict()
        self._limit_bytes = limit_bytes
        self._used_bytes = 0

    def find(self, key: str, *, now_s: float) -> tuple[bool, bytes | None]:
        """Return (True, the value as it was put) if it is known, where ``None`` is for "not there"; (False, None) if it is not known."""
        entry = self._entries.get(key)
        if entry is None:
            return _MISS
        self._entries.move_to_end(key)
        value, expires_at, _ = entry
        if value is None or (expires_at is not None and expires_at <= now_s):
            return _ABSENT
        return True, value

    def put(self, key: str, value: bytes | None, expires_at: float | None) -> None:
        """Remember what is committed under a key; ``None``: that nothing is."""
        self.drop(key)
        if value is not None and len(value) > _LARGEST_VALUE_BYTES:
            return
        cost = len(key) * 4 + (0 if value is None else len(value)) + _ENTRY_OVERHEAD_BYTES
        if cost * _LARGEST_PART <= self._limit_bytes:
            self._entries[key] = (value, expires_at, cost)
            self._used_bytes += cost
            self._shrink()

    def drop(self, key: str) -> None:
        """Forget a key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used_bytes -= entry[2]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._used_bytes = 0

    def resize(self, limit_bytes: int) -> None:
        """Change how much memory it may use."""
        self._limit_bytes = limit_bytes
        self._shrink()

    def _shrink(self) -> None:
        while self._used_bytes > self._limit_bytes:
            self._used_bytes -= self._entries.popitem(last=False)[1][2]
