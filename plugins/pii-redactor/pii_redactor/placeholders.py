"""Placeholders: what stands in a text instead of personal data.

Pure. ``[EMAIL_1]`` stands for the first e-mail address of a request; the same value gets the same placeholder everywhere in it.

* A placeholder that the user's own text holds already is never given out: restoring would change what the user wrote.
* What does not fit into the state any more is hidden all the same, only not restorable.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .detect import find

__all__ = ["MAX_STATE_BYTES", "Hider", "Restorer", "restore"]

MAX_STATE_BYTES = 48 * 1024  # the host keeps 64 KiB of state for one request; the rest is for its encoding
_ENTRY_OVERHEAD_BYTES = 8

_PLACEHOLDER = re.compile(r"\[(?:EMAIL|IBAN|CARD|PHONE)_[0-9]{1,9}\]")


class Hider:
    """Hides the personal data of one request.

    Args:
        kinds: What to hide, of ``detect.KINDS``.
        taken: Every text of the request, for the placeholders that it holds by itself.

    Attributes:
        values: Value by placeholder, as far as it is restorable.
        count: How many values were hidden.
        forgotten: How many of them are not restorable.
    """

    def __init__(self, kinds: Collection[str], taken: Collection[str]) -> None:
        self.values: dict[str, str] = {}
        self.count = 0
        self.forgotten = 0
        self._kinds = kinds
        self._taken = {placeholder for text in taken if "[" in text for placeholder in _PLACEHOLDER.findall(text)}
        self._placeholders: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}
        self._state_bytes = 0

    def hide(self, text: str) -> str:
        """Return the text with placeholders in it; the same object when there was nothing to hide."""
        found = find(text, self._kinds)
        if not found:
            return text
        parts = []
        position = 0
        for start, end, kind in found:
            parts += [text[position:start], self._placeholder(kind, text[start:end])]
            position = end
        parts.append(text[position:])
        return "".join(parts)

    def _placeholder(self, kind: str, value: str) -> str:
        known = self._placeholders.get((kind, value))
        if known is not None:
            return known
        number = self._numbers.get(kind, 0) + 1
        while (placeholder := f"[{kind.upper()}_{number}]") in self._taken:
            number += 1
        self._numbers[kind] = number
        self._placeholders[kind, value] = placeholder
        self._keep(placeholder, value)
        return placeholder

    def _keep(self, placeholder: str, value: str) -> None:
        self.count += 1
        size_bytes = len(placeholder) + len(value.encode(errors="replace")) + _ENTRY_OVERHEAD_BYTES
        if self._state_bytes + size_bytes > MAX_STATE_BYTES:
            self.forgotten += 1
            return
        self._state_bytes += size_bytes
        self.values[placeholder] = value


class Restorer:
    """Restores one text that comes in pieces.

    Holds back only what may still become one of the known placeholders: at most one placeholder's length, from a ``[`` on.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._prefixes = {placeholder[:length] for placeholder in values for length in range(1, len(placeholder))}
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown after this piece."""
        text = restore(self._held + piece, self._values)
        # A placeholder has no second "[", so only what follows the last one can still grow into one.
        cut = text.rfind("[")
        if cut < 0 or text[cut:] not in self._prefixes:
            cut = len(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return what was held back; nothing comes after it."""
        held, self._held = self._held, ""
        return held


def restore(text: str, values: Mapping[str, str]) -> str:
    """Return the text with the values in place of their placeholders; unknown placeholders stay."""
    if "[" not in text:
        return text
    return _PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), text)
