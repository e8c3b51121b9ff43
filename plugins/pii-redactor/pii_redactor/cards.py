"""Payment cards.

Pure. Issuer, length and check digit together say enough, so that "Visa-4111…" is found although it is glued to a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from .digits import BLANKS, GROUP, MAX_WINDOW_DIGITS, Span, is_word, runs

__all__ = ["find_cards", "is_card"]

# Groups that people write cards in; a single group is tried apart.
_SHAPES = ((4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 4, 4, 4), (8, 8), (4, 6, 5), (4, 6, 4))
_SEPARATORS = frozenset({"-", *BLANKS})
# Issuers by first digits and lengths (ISO/IEC 7812 and what the networks publish).
_ISSUERS = (
    (re.compile("4"), (16, 19)),
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("3(?:0[0-5]|[689])"), (14, 16, 17, 18, 19)),
    (re.compile("35(?:2[89]|[3-8])"), (16, 17, 18, 19)),
    (re.compile("5[0678]|6"), (16, 17, 18, 19)),
)
_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def find_cards(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, valid) for each number of a card's shape; ``valid`` says whether issuer, length and check digit fit."""
    for groups in runs(text):
        first = 0
        while first < len(groups):
            window = _window(text, groups, first)
            first += max(len(window), 1)
            if window:
                start, end = window[0][0], window[-1][1]
                yield start, end, is_card(text[start:end])


def is_card(text: str) -> bool:
    """Say whether issuer, length and check digit (Luhn) are those of a payment card; whatever is no digit is passed over."""
    digits = "".join(GROUP.findall(text))
    if not any(len(digits) in lengths and prefix.match(digits) for prefix, lengths in _ISSUERS):
        return False
    total = sum(int(digit) for digit in digits[-1::-2]) + sum(_LUHN_DOUBLED[int(digit)] for digit in digits[-2::-2])
    return total % 10 == 0


def _window(text: str, groups: list[Span], first: int) -> list[Span]:
    """Return the groups of the card that starts here; else of the widest that only looks like one; else nothing."""
    # A single group counts only when it is a card; 16 digits are the shape of many things.
    start, end = groups[first]
    if end - start <= MAX_WINDOW_DIGITS and _is_free(text, start, end) and is_card(text[start:end]):
        return groups[first : first + 1]
    alike = [window for shape in _SHAPES if (window := groups[first : first + len(shape)]) and _has_shape(text, window, shape)]
    return next((window for window in alike if is_card(text[start : window[-1][1]])), alike[0] if alike else [])


def _has_shape(text: str, window: list[Span], shape: tuple[int, ...]) -> bool:
    return (
        tuple(end - start for start, end in window) == shape
        and text[window[0][0]] != "0"  # no card starts so, but phone numbers do
        and all(text[a[1] : b[0]] in _SEPARATORS for a, b in pairwise(window))
        and _is_free(text, window[0][0], window[-1][1])
    )


def _is_free(text: str, start: int, end: int) -> bool:
    """Say whether no letter or digit touches the span, also not across a decimal point."""
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    decimal = (len(before) == 2 and before[1] in ".," and before[0].isdigit()) or (
        len(after) == 2 and after[0] in ".," and after[1].isdigit()
    )
    return not decimal and not is_word(after[:1]) and before[-1:] != "+"
