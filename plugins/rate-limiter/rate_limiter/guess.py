"""How many tokens messages have when nobody counts them.

Pure. Four characters a token, rounded up: rough, but a limit that is kept roughly is kept.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["guessed_tokens"]

_CHARS_PER_TOKEN = 4


def guessed_tokens(messages: list[Any]) -> int:
    """Return a guess by the length of the texts that a model reads; images count nothing."""
    return -(-_chars(messages) // _CHARS_PER_TOKEN)


def _chars(value: Any, name: str = "content") -> int:
    if isinstance(value, str):
        return len(value) if name in ("content", "text", "name", "arguments") else 0
    if isinstance(value, list):
        return sum(_chars(item, name) for item in value)
    return sum(_chars(item, key) for key, item in value.items()) if isinstance(value, dict) else 0
