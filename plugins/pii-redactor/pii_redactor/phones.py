"""Phone numbers.

Pure. What is glued to letters or further digits by ``-``, ``.``, ``/`` or ``_`` is some other identifier and never a phone number:
versions, dates, UUIDs, order numbers. Bare digits count only after a word like "phone".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .digits import BLANKS, MAX_WINDOW_DIGITS, Span, is_word, runs

__all__ = ["find_phones"]

_PHONE_WORD = re.compile(r"\b(?:tele?|telephone|telefon|phone|mobile|mobil|cell|handy|fax|whatsapp)\b[^0-9]{0,12}$", re.IGNORECASE)
_PHONE_WORD_REACH_CHARS = 24


def find_phones(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, True) for each phone number."""
    for groups in runs(text):
        first = 0
        while first < len(groups):
            last = _phone_window(text, groups, first)
            if last is not None:
                end = groups[last][1]
                yield _opening(text, groups[first][0], end), end, True
                first = last
            first += 1


def _phone_window(text: str, groups: list[Span], first: int) -> int | None:
    """Return the last group of the longest phone number that starts with group ``first``."""
    start, end = groups[first]
    international = text[start - 1 : start] == "+"
    # Nearly all groups end here, and with them the work on long lists of numbers.
    if not _is_phone_start(text, groups, first) or (end - start == 1 and not international and text[start] != "1"):
        return None
    best = None
    digits = ""
    sizes: list[int] = []
    for last in range(first, len(groups)):
        start, end = groups[last]
        sizes.append(end - start)
        if sum(sizes) > MAX_WINDOW_DIGITS:
            break
        digits += text[start:end]
        if not _is_phone_end(text, groups, last):
            continue
        if (
            _is_international(digits, international)
            or _is_national(digits, sizes)
            or _is_north_american(digits, sizes)
            or (len(sizes) == 1 and 9 <= len(digits) <= 15 and _is_announced(text, start))
        ):
            best = last
    return best


def _is_phone_start(text: str, groups: list[Span], first: int) -> bool:
    start = groups[first][0]
    if first:
        return any(character in BLANKS for character in text[groups[first - 1][1] : start])
    while text[start - 1 : start] in ("+", "("):
        start -= 1
    before = text[max(start - 2, 0) : start]
    return not is_word(before[-1:]) and before[-1:] not in tuple("$€£") and not (before[1:] in tuple("-./_,#") and is_word(before[0]))


def _is_phone_end(text: str, groups: list[Span], last: int) -> bool:
    end = groups[last][1]
    if last + 1 < len(groups):
        return any(character in BLANKS for character in text[end : groups[last + 1][0]])
    after = text[end : end + 2]
    return not is_word(after[:1]) and not (len(after) == 2 and after[0] in "-./_,:" and is_word(after[1]))


def _opening(text: str, start: int, end: int) -> int:
    """Return where the number starts when ``+`` and an opening parenthesis that it also closes are counted in."""
    if text[start - 1 : start] == "+":
        start -= 1
    if text[start - 1 : start] == "(" and ")" in text[start:end]:
        start -= 1
    return start


def _is_international(digits: str, plus: bool) -> bool:
    if plus:
        return 8 <= len(digits) <= 15 and digits[0] != "0"
    return 12 <= len(digits) <= 17 and digits.startswith("00") and digits[2] != "0"


def _is_national(digits: str, sizes: list[int]) -> bool:
    """Say whether this is a number with a trunk 0: at least two groups, none of a single digit, and no date in it."""
    return (
        9 <= len(digits) <= 12
        and digits[0] == "0"
        and digits[1] != "0"
        and len(sizes) >= 2
        and min(sizes) >= 2
        and not _holds_date(digits, sizes)
    )


def _is_north_american(digits: str, sizes: list[int]) -> bool:
    if sizes == [1, 3, 3, 4] and digits[0] == "1":
        digits, sizes = digits[1:], sizes[1:]
    return sizes == [3, 3, 4] and digits[0] in "23456789" and digits[3] in "23456789"


def _holds_date(digits: str, sizes: list[int]) -> bool:
    """Say whether three neighbouring groups are day, month and year, in either direction."""
    position = 0
    for index, size in enumerate(sizes):
        if size == 4 and digits[position : position + 2] in ("19", "20"):
            before, after = sizes[max(index - 2, 0) : index], sizes[index + 1 : index + 3]
            if (len(before) == 2 and max(before) <= 2) or (len(after) == 2 and max(after) <= 2):
                return True
        position += size
    return False


def _is_announced(text: str, start: int) -> bool:
    """Say whether a word like "phone" stands right before; only then are bare digits a phone number."""
    return _PHONE_WORD.search(text[max(start - _PHONE_WORD_REACH_CHARS, 0) : start]) is not None
