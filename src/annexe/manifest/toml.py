"""Bytes to a TOML document, for text that a stranger wrote.

Pure. ``tomllib`` is right about TOML and careless about cost: a key of thousands of dots takes it the square of their number (15 s for
64 KiB), deep nesting the whole stack. Both are refused here.
"""

from __future__ import annotations

import tomllib
from typing import final

from annexe.manifest.lines import MAX_KEY_PARTS, line_of_long_key
from annexe.manifest.reader import Problems

__all__ = ["UnreadableTomlError", "parse_toml"]


@final
class UnreadableTomlError(Exception):
    """Text that is no TOML document that we read.

    Args:
        problem: What was expected and what was got, with the line where there is one.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def parse_toml(text: bytes, *, max_bytes: int) -> tuple[dict[str, object], Problems]:
    """Parse a document and return it with an empty list of problems that knows its lines.

    Raises:
        UnreadableTomlError: When it is too long, not UTF-8, not TOML, or made to be slow.
    """
    if len(text) > max_bytes:
        raise UnreadableTomlError(f"expected at most {max_bytes} bytes, got more")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise UnreadableTomlError(f"line {line}: expected UTF-8, got byte 0x{text[error.start]:02x}") from None
    long_key = line_of_long_key(decoded)
    if long_key is not None:
        raise UnreadableTomlError(f"line {long_key}: expected keys of at most {MAX_KEY_PARTS} parts, got a longer one")
    try:
        return tomllib.loads(decoded), Problems(decoded)
    except RecursionError:
        raise UnreadableTomlError("expected TOML, got arrays or tables nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number too long to convert
        raise UnreadableTomlError(f"expected TOML: {str(error)[:200]}") from None
