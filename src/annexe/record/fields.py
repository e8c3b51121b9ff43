"""Structured values that a stranger wrote, cut to a size and made safe to show.

Pure. Depth, number of parts, length of each text and the whole are bounded, and so is the work: what lies beyond a bound is
counted, never visited. The result holds only what JSON has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, final

from annexe.record.safetext import clipped, escaped

__all__ = ["MAX_DEPTH", "MAX_PARTS", "MAX_TEXT_BYTES", "bounded"]

MAX_DEPTH = 6
MAX_PARTS = 256
MAX_TEXT_BYTES = 4096
_MAX_KEY_BYTES = 128
_MAX_INT = 2**63


def bounded(value: object, max_bytes: int) -> tuple[Any, int]:
    """Return a JSON-able likeness of a value that takes about ``max_bytes`` at most.

    Args:
        value: Anything; what JSON does not know is replaced by the name of its type in angle brackets.
        max_bytes: Bound on the encoded result.

    Returns:
        The likeness (never longer than ``max_bytes`` once encoded, if that is 64 or more), and how many parts of containers were
        left out or cut short.
    """
    walk = _Walk(max_bytes - 32)  # one scalar may overdraw
    return walk.value(value, MAX_DEPTH), walk.cut_count


@final
class _Walk:
    """What is left to spend while one value is copied."""

    __slots__ = ("cut_count", "left_bytes", "left_parts")

    def __init__(self, max_bytes: int) -> None:
        self.left_bytes = max_bytes
        self.left_parts = MAX_PARTS
        self.cut_count = 0

    def value(self, value: object, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(str(value), MAX_TEXT_BYTES)
        if isinstance(value, (Mapping, list, tuple)):
            if depth == 0:
                self.cut_count += len(value)
                return self._text("<nested too deeply>", MAX_TEXT_BYTES)
            return self._mapping(value, depth) if isinstance(value, Mapping) else self._sequence(value, depth)
        self.left_bytes -= 32
        return _scalar(value)

    def _text(self, text: str, max_bytes: int) -> str:
        # Cut roughly first, so that escaping costs what is shown and not what was sent.
        allowed = max(0, min(max_bytes, self.left_bytes - 2))
        rough = text[:allowed]
        kept, cut_bytes = clipped(escaped(rough), allowed)
        self.left_bytes -= len(kept.encode()) + kept.count("\\") + kept.count('"') + kept.count("\t") + 2
        if cut_bytes or len(rough) < len(text):
            self.cut_count += 1
        return kept

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key in self._affordable(mapping, len(mapping)):
            name = self._text(key if isinstance(key, str) else str(_scalar(key)), _MAX_KEY_BYTES)  # paid for before its value
            result[name] = self.value(mapping[key], depth - 1)
        return result

    def _sequence(self, items: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        return [self.value(item, depth - 1) for item in self._affordable(items, len(items))]

    def _affordable(self, parts: Iterable[Any], count: int) -> Iterable[Any]:
        """Yield parts while there is room for one more of the smallest kind; count the others."""
        self.left_bytes -= 2
        for position, part in enumerate(parts):
            if self.left_bytes < 48 or self.left_parts == 0:
                self.cut_count += count - position
                return
            self.left_bytes -= 2  # comma, colon
            self.left_parts -= 1
            yield part


def _scalar(value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # An int of a million digits is turned into text in quadratic time.
        return int(value) if -_MAX_INT <= value < _MAX_INT else f"<int of {value.bit_length()} bits>"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return f"<{escaped(type(value).__name__)[:24]}>"
