"""International bank account numbers.

Pure. The country's letters say how long the number is, so its end is known without guessing: "DE89 3704 … 00 is mine" ends before "is".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_ibans", "is_iban"]

_HEAD = re.compile(r"(?<!\w)[A-Za-z]{2}[0-9]{2}")
_SEPARATORS = " -\u00a0\u202f"

# How many letters and digits an IBAN has, and the countries where it has so many (ISO 13616).
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_LENGTHS = {country: length for length, countries in _COUNTRIES.items() for country in countries.split()}


def find_ibans(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, valid) for each number of an IBAN's shape; ``valid`` says whether its check digits fit."""
    position = 0
    while head := _HEAD.search(text, position):
        position = head.end()
        length = _LENGTHS.get(head[0][:2].upper())
        end = None if length is None else _end(text, head.start(), length)
        if end is not None:
            yield head.start(), end, is_iban(text[head.start() : end])
            position = end


def is_iban(text: str) -> bool:
    """Say whether the check digits fit (ISO 7064, modulo 97); separators are passed over."""
    compact = "".join(character for character in text.upper() if character not in _SEPARATORS)
    digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(digits) % 97 == 1


def _end(text: str, start: int, length: int) -> int | None:
    """Return where a number of ``length`` letters and digits ends that starts here, or None when it does not go on for so long."""
    position = start
    left = length
    while left and position < len(text):
        character = text[position]
        if character.isascii() and character.isalnum():
            left -= 1
        # One separator at a time, and only between characters.
        elif character not in _SEPARATORS or text[position - 1] in _SEPARATORS:
            return None
        position += 1
    if left or (position < len(text) and (text[position].isalnum() or text[position] == "_")):
        return None
    return position
