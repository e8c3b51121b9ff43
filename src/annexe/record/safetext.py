r"""Text that a stranger wrote, made safe to show in a terminal.

Pure. What is escaped: control characters (C0 but for the tab, DEL, C1), line and paragraph separators, everything that turns the
direction of text round, invisible marks, tags and lone surrogates. An escape looks as in Python source: ``\x1b``, ``\n``,
``\u202e``. It is for reading, not for getting the original back: a backslash that was there already is left alone.

Attacks this closes: a terminal escape that rewrites what is on the screen or sets the clipboard; a line break that forges another
record; a bidirectional override that shows text in another order than it has.
"""

from __future__ import annotations

import re

import msgspec

__all__ = ["clipped", "escaped"]

_UNSAFE = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff]+"
)
# Alternating good and bad characters cost half a microsecond each; past this many runs the rest is escaped in one go, accents too.
_MAX_RUNS = 1000


def escaped(text: str) -> str:
    """Return the text with every unsafe character escaped."""
    if text.isprintable():  # nothing of category Other or Separator, so nothing unsafe; the common case, in C
        return text
    last_end = 0
    runs = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal last_end, runs
        last_end = match.end()
        runs += 1
        return _python_escape(match[0])

    safe = _UNSAFE.sub(replacement, text, count=_MAX_RUNS)
    if runs < _MAX_RUNS:
        return safe
    rest = text[last_end:]
    return safe[: len(safe) - len(rest)] + _python_escape(rest)


def clipped(text: str, max_json_bytes: int) -> tuple[str, int]:
    """Cut escaped text so that it takes at most so many bytes within a JSON string.

    Args:
        text: As ``escaped`` returns it.
        max_json_bytes: The most bytes between the quotes, 0 or more.

    Returns:
        The text that is kept, and how many UTF-8 bytes of it were cut.
    """
    if len(text) * 6 <= max_json_bytes:  # four bytes is the longest character, two the longest escape: no need to look
        return text, 0
    encoded = msgspec.json.encode(text)
    if len(encoded) - 2 <= max_json_bytes:
        return text, 0
    head = encoded[1 : max_json_bytes + 1]
    # Of JSON's escapes only \\ \" and \t can be left in escaped text, so an odd number of backslashes is a cut escape.
    if (len(head) - len(head.rstrip(b"\\"))) % 2:
        head = head[:-1]
    whole_characters = head.decode("utf-8", "ignore").encode()
    kept: str = msgspec.json.decode(b'"' + whole_characters + b'"', type=str)
    return kept, len(text.encode()) - len(kept.encode())


def _python_escape(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")
