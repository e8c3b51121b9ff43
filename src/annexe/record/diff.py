"""What changed between two JSON values, as a patch.

Pure. The result follows RFC 6902 (``add``, ``remove``, ``replace`` with JSON Pointer paths) and, applied in order to the first value,
gives the second, unless it was cut short. ``remove`` and ``replace`` also hold what was there, as ``before``.

* Values of different types differ, though Python calls some equal: ``1``, ``1.0`` and ``True`` are three values here.
* The work is bounded, for plugins choose the values: past so many comparisons, or so deep, nothing is entered any more, and what differs
  counts as replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, final

__all__ = ["MAX_COMPARISONS", "MAX_DEPTH", "diff"]

MAX_DEPTH = 64  # as deep as the protocol lets a value be
MAX_COMPARISONS = 50_000  # a value of 64 KiB has at most half as many parts


def diff(before: Any, after: Any, *, max_changes: int = 100) -> tuple[list[dict[str, Any]], bool]:
    """Return the changes that turn one value into the other.

    Args:
        before: Made of dict, list, str, int, float, bool, None (other values are compared by ``==``).
        after: The same.
        max_changes: The most changes that are listed.

    Returns:
        The changes, and whether there are more than are listed.
    """
    changes = list(islice(_Comparison().changes(before, after, "", MAX_DEPTH), max_changes + 1))
    return changes[:max_changes], len(changes) > max_changes


@final
class _Comparison:
    """One diff, with what it may still cost."""

    __slots__ = ("_left_count",)

    def __init__(self) -> None:
        self._left_count = MAX_COMPARISONS

    def changes(self, before: Any, after: Any, path: str, depth: int) -> Iterator[dict[str, Any]]:
        if self._is_same(before, after, depth):
            return
        may_descend = depth > 0 and self._left_count > 0
        if may_descend and isinstance(before, dict) and isinstance(after, dict):
            yield from self._mapping_changes(before, after, path, depth - 1)
        elif may_descend and isinstance(before, list) and isinstance(after, list):
            yield from self._list_changes(before, after, path, depth - 1)
        else:
            yield {"op": "replace", "path": path, "value": after, "before": before}

    def _mapping_changes(self, before: dict[Any, Any], after: dict[Any, Any], path: str, depth: int) -> Iterator[dict[str, Any]]:
        for key, value in before.items():
            if key not in after:
                yield {"op": "remove", "path": f"{path}/{_token(key)}", "before": value}
        for key, value in after.items():
            if key in before:
                yield from self.changes(before[key], value, f"{path}/{_token(key)}", depth)
            else:
                yield {"op": "add", "path": f"{path}/{_token(key)}", "value": value}

    def _list_changes(self, before: list[Any], after: list[Any], path: str, depth: int) -> Iterator[dict[str, Any]]:
        """Compare what is left between a common beginning and a common end, item by item."""
        shorter = min(len(before), len(after))
        start = 0
        while start < shorter and self._is_same(before[start], after[start], depth):
            start += 1
        same_end = 0
        while same_end < shorter - start and self._is_same(before[-1 - same_end], after[-1 - same_end], depth):
            same_end += 1
        shared = shorter - same_end
        for position in range(start, shared):
            yield from self.changes(before[position], after[position], f"{path}/{position}", depth)
        for position in range(shared, len(after) - same_end):
            yield {"op": "add", "path": f"{path}/{position}", "value": after[position]}
        for position in reversed(range(shared, len(before) - same_end)):  # from the end, so that the paths hold while applying
            yield {"op": "remove", "path": f"{path}/{position}", "before": before[position]}

    def _is_same(self, before: Any, after: Any, depth: int) -> bool:
        self._left_count -= 1
        if before is after:
            return True
        if before.__class__ is not after.__class__ or depth == 0:
            return False
        if isinstance(before, dict):
            return len(before) == len(after) and all(
                key in after and self._is_same(value, after[key], depth - 1) for key, value in before.items()
            )
        if isinstance(before, list):
            return len(before) == len(after) and all(self._is_same(one, other, depth - 1) for one, other in zip(before, after, strict=True))
        return bool(before == after)


def _token(key: Any) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")
