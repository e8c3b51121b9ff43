"""What the dear keywords of a JSON Schema cost, in parts: one part is about 20 ns for each byte of a value.

* A pattern takes linear time, but with each byte it may follow every place that it can be at: its repetitions are counted written out, and
  whatever may be read in two ways as the dearer one.
* ``unevaluatedProperties`` and ``unevaluatedItems`` look again at all that stands beside them, which may do so itself: each level of that
  takes about three times as long as the one inside it.
* ``multipleOf`` of the library's takes up to 0.3 ms for one number; ours, up to 0.08 ms.

Source: feature HS4; ADR-0023.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, final

__all__ = ["PARTS_OF_KEYWORDS", "MultipleOf", "has_free_spacing", "parts_of_pattern", "times_looked_at"]

PARTS_OF_KEYWORDS: Mapping[str, int] = {"uniqueItems": 50, "multipleOf": 200}  # the first compares each item with others
_PARTS_OF_A_PATTERN = 50  # a program of its own to build and keep: 100 of them at most
_PARTS_OF_A_PLACE = 2
_TIMES_LOOKED_AT = 4

_REPETITION = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"[0-9]+")
_MAX_DIGITS = 9
_FREE_SPACING = re.compile(r"\(\?[A-Za-z-]*x")


def parts_of_pattern(pattern: str) -> int:
    """Return what a pattern costs; there is no ``has_free_spacing``."""
    places, done = 0, 0
    for found in _REPETITION.finditer(pattern):
        places += found.start() - done
        done = found.end()
        times = max((int(number[:_MAX_DIGITS]) for number in _NUMBER.findall(found[1])), default=1)
        # What ends a group, or repeats already, may have anything of what is before it inside.
        places = places * max(1, times) if pattern[found.start() - 1 : found.start()] in {*")}*+?"} else places + times
    return _PARTS_OF_A_PATTERN + _PARTS_OF_A_PLACE * (places + len(pattern) - done)


def has_free_spacing(pattern: str) -> bool:
    """Say whether a pattern may switch to a syntax with comments, in which its repetitions cannot be counted."""
    return _FREE_SPACING.search(pattern) is not None


def times_looked_at(node: Mapping[str, Any]) -> int:
    """Return by how much a part of a schema is dearer than all that stands in it."""
    return _TIMES_LOOKED_AT if "unevaluatedProperties" in node or "unevaluatedItems" in node else 1


@final
class MultipleOf:
    """The keyword ``multipleOf``, exact in decimal digits as the library's is; made by the library, which gives it a number."""

    def __init__(self, _parent: Any, divisor: Any, _path: Any) -> None:
        self._text = repr(divisor)
        self._divisor = Fraction(self._text)

    def validate(self, value: Any) -> None:
        """Refuse a number that is none.

        Raises:
            ValueError: It is not; the library makes its own error of it.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        number, divisor = Fraction(repr(value)) if isinstance(value, float) else Fraction(value), self._divisor
        if number.numerator * divisor.denominator % (number.denominator * divisor.numerator):
            raise ValueError(f"{value!r} is not a multiple of {self._text}")
