"""How many tokens a text has, about.

Pure. No vocabulary: text is cut as tokenizers of language models cut most of it, in pieces of

* up to six letters of Latin script, whose words are often in a vocabulary as a whole;
* up to three digits;
* up to two letters of other alphabets;
* one character of Chinese, Japanese or Korean;
* up to four of one and the same sign: dashes, dots, brackets, emoji;
* white space other than the blank before a word, which belongs to it.

The time it takes grows as the text does, whatever is in it.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["count_messages", "count_text"]

_LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_ONE_EACH = "\u1100-\u11ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
# No part can take back what it took: each piece is found in one go.
_PIECE = re.compile(rf"[{_LATIN}]{{1,6}}|\d{{1,3}}|[{_ONE_EACH}]|[^\W\d_]{{1,2}}|([^\w\s]|_)\1{{0,3}}|\s{{2,16}}|[^\S ]")
_READ = frozenset({"content", "text", "name", "arguments"})


def count_text(text: str) -> int:
    """Return about how many tokens a text has; 0 for none."""
    return _PIECE.subn("", text)[1]  # counts without keeping the pieces


def count_messages(messages: list[Any], *, per_message: int) -> int:
    """Return about how many tokens messages of OpenAI's form have: texts, names and arguments of tools; images count nothing.

    Args:
        messages: As in a request; what is not of that form counts nothing.
        per_message: What the format adds to each.
    """
    return sum(count_text(text) for text in _texts(messages)) + per_message * len(messages)


def _texts(value: Any, name: str = "content") -> Iterator[str]:
    """Yield the texts that a model reads."""
    if isinstance(value, str):
        if name in _READ:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, key)
