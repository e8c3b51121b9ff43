"""Where each key of a TOML document is.

Pure. ``tomllib`` says what a document holds but not where, and an error without a line sends its reader searching.

* ``key_lines`` is only for text that ``tomllib`` has accepted: nothing is checked here again.
* Works without recursion, so nesting costs no stack.
* One pass, one entry per key, table and array element, down to ``MAX_KEY_PARTS``: without it, one key of thousands of dots would
  cost the square of its length.
"""

from __future__ import annotations

import re
import tomllib
from typing import final

__all__ = ["MAX_KEY_PARTS", "KeyPath", "key_lines", "line_of", "line_of_long_key"]

KeyPath = tuple[str | int, ...]

MAX_KEY_PARTS = 16  # the formats read here are half as deep

_TOKEN = re.compile(
    r'''(?P<string>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|'[^']*')'''
    r"""|(?P<comment>\#[^\n]*)|(?P<mark>[\[\]{}=,.\n])|(?P<bare>[^\s\[\]{}=,."'\#]+)|(?P<broken>["'])""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map every key path of a valid TOML document to the line, from 1, on which it first appears."""
    scanner = _Scanner()
    for token in _TOKEN.finditer(text):
        scanner.take(token[0], token.lastgroup)
    return scanner.lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int:
    """Return the line of a key, or of its nearest parent that the document has (line 1 when there is none)."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def line_of_long_key(text: str) -> int | None:
    """Return the line of the first key of more than ``MAX_KEY_PARTS`` parts, None when there is none.

    Args:
        text: Any text. What stands behind its first error in TOML may be missed, for ``tomllib`` stops there as well.
    """
    if all(line.count(".") < MAX_KEY_PARTS for line in text.split("\n")):
        return None  # as with most: a key is on one line
    dots = 0
    after_dot = False
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "broken":
            return None
        is_dot = token[0] == "."
        # A run goes on with every dot, and with a part behind a dot. No value outside of quotes has more than one dot.
        dots = dots + is_dot if is_dot or (after_dot and token.lastgroup in ("string", "bare")) else 0
        after_dot = is_dot
        if dots >= MAX_KEY_PARTS:
            return text.count("\n", 0, token.start()) + 1
    return None


@final
class _Scanner:
    """Follows keys and containers through the tokens of one document."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._line = 1
        self._table: KeyPath = ()  # of the last [header]
        self._key: list[str] = []  # parts of the key or header being read
        self._value: KeyPath | None = None  # key whose value is being read; None while a key is expected
        self._in_header = False
        # Open containers of the value being read, outermost first: path, and the next element's index (None: inline table).
        self._open: list[tuple[KeyPath, int | None]] = []

    def take(self, token: str, kind: str | None) -> None:
        if kind == "mark":
            self._mark(token)
        elif kind != "comment":
            if self._value is None:
                self._key.append(_key_part(token))
            else:
                self._note_element()
        self._line += token.count("\n")

    def _mark(self, mark: str) -> None:
        if self._in_header:
            self._mark_in_header(mark)
        elif self._value is None:
            self._mark_in_key(mark)
        else:
            self._mark_in_value(mark)

    def _mark_in_header(self, mark: str) -> None:
        if mark == "\n":
            self._in_header = False
        elif mark == "]" and self._key:
            self._table = self._end_key(())

    def _mark_in_key(self, mark: str) -> None:
        if mark == "[":
            self._in_header = True
        elif mark == "=":
            self._value = self._end_key(self._open[-1][0] if self._open else self._table)
        elif mark == "}":
            self._close()

    def _mark_in_value(self, mark: str) -> None:
        if mark in "[{":
            path = self._note_element()
            self._open.append((path, 0 if mark == "[" else None))
            self._value = path if mark == "[" else None
        elif mark in "]}":
            self._close()
        elif mark == "," and self._open:
            path, index = self._open[-1]
            if index is None:
                self._value = None
            else:
                self._open[-1] = (path, index + 1)
        elif mark == "\n" and not self._open:
            self._value = None

    def _close(self) -> None:
        """End the innermost container; what holds it goes on with its own value."""
        self._value = self._open.pop()[0]

    def _note_element(self) -> KeyPath:
        """Return the path of the value that begins or goes on here, noting its line when it is an array's element."""
        path, index = self._open[-1] if self._open else ((), None)
        if index is None:
            return self._value or ()
        element = (*path, index)[:MAX_KEY_PARTS]
        self.lines.setdefault(element, self._line)
        return element

    def _end_key(self, parent: KeyPath) -> KeyPath:
        path = (*parent, *self._key[:MAX_KEY_PARTS])[:MAX_KEY_PARTS]
        for end in range(len(parent) + 1, len(path) + 1):
            self.lines.setdefault(path[:end], self._line)
        self._key.clear()
        return path


def _key_part(token: str) -> str:
    if token[0] == "'":
        return token[1:-1]
    if token[0] == '"':
        return str(tomllib.loads(f"key={token}")["key"])  # escapes are the parser's business
    return token
