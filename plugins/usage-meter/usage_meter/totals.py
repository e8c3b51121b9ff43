"""Where the totals are in the key-value store.

Pure. One number each under ``total/<key>/<counter>/<model>``, so that adding is one step that cannot lose another's. Key and model are
escaped, and cut where they are long: the store takes names of at most 512 bytes without control characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .usage import NANOS

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["COUNTERS", "entry_name", "keys_under", "prefix_of", "totals_of"]

COUNTERS = ("requests", "cached", "prompt_tokens", "completion_tokens", "cost_nanos")

_ROOT = "total/"
# Escaped and in UTF-8. Twice that, the root, the longest counter and two slashes are 505 of the store's 512 bytes.
_MAX_PART_BYTES = 240
_DIGEST_CHARS = 32  # of SHA-256 in hexadecimal: 128 bits
_CUT = "%~"  # what no escape begins with, so that a part that was cut equals none that was not
_ESCAPES = {code: f"%{code:02X}" for code in (*range(0x20), *range(0x7F, 0xA0), ord("%"), ord("/"))}
_PAGE = 500


def entry_name(key: str, counter: str, model: str) -> str:
    """Return the name of one counter."""
    return f"{_ROOT}{_key_part(key)}/{counter}/{_part(model)}"


def prefix_of(key: str) -> str:
    """Return what the names of all counters of a key begin with; of all keys when it is empty."""
    return f"{_ROOT}{_key_part(key)}/" if key else _ROOT


def keys_under(prefix: str, page: Callable[[str, int, str | None], tuple[list[str], str | None]]) -> Iterator[str]:
    """Yield all names, asking for one page after the other: ``page(prefix, limit, after)``."""
    after = None
    while True:
        names, after = page(prefix, _PAGE, after)
        yield from names
        if after is None:
            return


def totals_of(entries: dict[str, int]) -> list[dict[str, Any]]:
    """Return one row for each key and model, in order, from the counters by name; what was cut is shown with its digest."""
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for name, value in entries.items():
        key, counter, model = name.removeprefix(_ROOT).split("/", 2)
        rows.setdefault((key, model), dict.fromkeys(COUNTERS, 0))[counter] = value
    shown = [(_shown_key(key), _shown(model), counters) for (key, model), counters in rows.items()]
    return [_row(*row) for row in sorted(shown, key=lambda row: row[:2])]


def _row(key: str, model: str, counters: dict[str, int]) -> dict[str, Any]:
    cost = counters.pop("cost_nanos") / NANOS
    return {"key": key, "model": model, **counters, "cost": cost}


def _key_part(key: str) -> str:
    # An empty key would read as "all keys".
    return _part(key) or "%"


def _shown_key(part: str) -> str:
    return "" if part == "%" else _shown(part)


def _part(text: str) -> str:
    """Return a text escaped and, if it is long, cut: its beginning and a digest of the whole, so that texts that begin alike stay apart."""
    escaped = text.translate(_ESCAPES)
    encoded = escaped.encode()
    if len(encoded) <= _MAX_PART_BYTES:
        return escaped
    import hashlib  # rarely needed, and slow to import

    kept = encoded[: _MAX_PART_BYTES - len(_CUT) - _DIGEST_CHARS].decode(errors="ignore")  # no part of a character
    before, escape, after = kept.rpartition("%")
    if escape and len(after) < 2:  # nor of an escape
        kept = before
    return kept + _CUT + hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def _shown(part: str) -> str:
    first, *escapes = part.split("%")
    return first + "".join("…" + rest[1:] if rest.startswith("~") else chr(int(rest[:2], 16)) + rest[2:] for rest in escapes)
