"""The key-value store of a plugin under test: a dictionary that answers the ``kv.*`` methods as the host does.

Source: docs/reference/kv.md.
"""

from __future__ import annotations

from typing import Any, final

from annexe.clock import Clock

__all__ = ["FakeKv"]


@final
class FakeKv:
    """Values with their times, by key.

    Args:
        clock: Decides what is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[Any, float | None]] = {}

    def answer(self, method: str, params: dict[str, Any]) -> Any:
        """Answer one wire method: ``kv.get`` and so on."""
        given = dict(params)
        return getattr(self, method.removeprefix("kv."))(**given)

    def values(self) -> dict[str, Any]:
        """Return what is stored and not over, by key in order."""
        now = self._clock.now()
        return {key: value for key, (value, end) in sorted(self._entries.items()) if end is None or end > now}

    def get(self, key: str) -> Any:
        """Answer ``kv.get``."""
        return self.values().get(key)

    def set(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Answer ``kv.set``; null removes."""
        if value is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = (value, None if ttl_s is None else self._clock.now() + ttl_s)

    def delete(self, key: str) -> bool:
        """Answer ``kv.delete``."""
        there = key in self.values()
        self._entries.pop(key, None)
        return there

    def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """Answer ``kv.increment``; a time to live counts from the first one.

        Raises:
            TypeError: The key holds something else than a whole number.
        """
        before = self.values().get(key)
        if before is None:
            self.set(key, by, ttl_s)
            return by
        if type(before) is not int:
            raise TypeError(f"{key!r} holds {before!r}; expected a whole number")
        self._entries[key] = (before + by, self._entries[key][1])
        return before + by

    def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> dict[str, Any]:
        """Answer ``kv.list``."""
        keys = [key for key in self.values() if key.startswith(prefix) and (after is None or key > after)]
        page = keys[:limit]
        return {"keys": page, "next": page[-1] if len(keys) > limit else None}

    def compare_and_set(self, key: str, expected: Any, value: Any, ttl_s: float | None = None) -> bool:
        """Answer ``kv.compare_and_set``."""
        if self.values().get(key) != expected:
            return False
        self.set(key, value, ttl_s)
        return True
