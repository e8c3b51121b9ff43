"""Where personal data is in a text.

Pure. Every detector is deterministic and looks at each character a bounded number of times, so that the time taken grows linearly
with the text, whatever it holds.

* Detectors run in the order of ``KINDS``; what one has claimed the later ones do not see.
* What only looks like a card or an IBAN (wrong check digit) is claimed too, as nothing: no part of it becomes a phone number.
* All detectors always run; ``kinds`` only chooses which findings are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from .cards import find_cards
from .email import find_emails
from .iban import find_ibans
from .phones import find_phones

__all__ = ["KINDS", "find"]

_Finder = Callable[[str], Iterator[tuple[int, int, bool]]]

_FINDERS: dict[str, _Finder] = {"email": find_emails, "iban": find_ibans, "card": find_cards, "phone": find_phones}

KINDS = tuple(_FINDERS)


def find(text: str, kinds: Collection[str] = KINDS) -> list[tuple[int, int, str]]:
    """Return what was found as (start, end, kind), in the order of the text, never overlapping."""
    found: list[tuple[int, int, str]] = []
    for kind, finder in _FINDERS.items():
        claimed = list(finder(text))
        if claimed:
            found += [(start, end, kind) for start, end, valid in claimed if valid and kind in kinds]
            text = _masked(text, claimed)
    found.sort()
    return found


def _masked(text: str, claimed: list[tuple[int, int, bool]]) -> str:
    """Return the text with the claimed spans overwritten by a character that no detector knows; offsets stay."""
    parts = []
    position = 0
    for start, end, _ in claimed:
        parts += [text[position:start], "\0" * (end - start)]
        position = end
    parts.append(text[position:])
    return "".join(parts)
