"""Runs of digits in groups.

Pure. A *run* is groups of digits with short separators between: "+49 (0)30 / 1234567", "4111 1111 1111 1111". Cards and phone numbers are
windows of whole groups of one run, never a part of a group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["BLANKS", "GROUP", "MAX_WINDOW_DIGITS", "Span", "is_word", "runs"]

Span = tuple[int, int]

BLANKS = " \u00a0\u202f"
GROUP = re.compile(r"[0-9]++")
MAX_WINDOW_DIGITS = 19  # so that each group is part of a bounded number of windows

_RUN = re.compile(r"(?<!\w)[+(]{0,2}[0-9][0-9 ().\-/\u00a0\u202f]*+")
_WIDEST_SEPARATOR_CHARS = 3


def runs(text: str) -> Iterator[list[Span]]:
    """Yield each run as the spans of its groups."""
    for match in _RUN.finditer(text):
        run: list[Span] = []
        for group in GROUP.finditer(text, match.start(), match.end()):
            if run and _is_gap(text[run[-1][1] : group.start()]):
                yield run
                run = []
            run.append(group.span())
        yield run


def is_word(character: str) -> bool:
    """Say whether a number that touches this character is part of a word; false for no character."""
    return character.isalnum() or character == "_"


def _is_gap(separator: str) -> bool:
    """Say whether this is too much between two groups for them to belong together."""
    return len(separator) > _WIDEST_SEPARATOR_CHARS or (len(separator) > 1 and not separator.strip(BLANKS))
