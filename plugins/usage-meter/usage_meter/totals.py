"""Where the totals are in the key-value store.

Pure. One number each under ``total/<key>/<counter>/<model>``, so that adding is one step that cannot lose another's. The request's key is
escaped; the model comes last and may hold anything.
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
_MAX_PART_CHARS = 100  # of UTF-8 at most 4 bytes each, so that the whole stays below the store's 512
_PAGE = 500


def entry_name(key: str, counter: str, model: str) -> str:
    """Return the name of one counter."""
    return f"{_ROOT}{_escaped(key)}/{counter}/{model[:_MAX_PART_CHARS]}"


def prefix_of(key: str) -> str:
    """Return what the names of all counters of a key begin with; of all keys when it is empty."""
    return f"{_ROOT}{_escaped(key)}/" if key else _ROOT


def keys_under(prefix: str, page: Callable[[str, int, str | None], tuple[list[str], str | None]]) -> Iterator[str]:
    """Yield all names, asking for one page after the other: ``page(prefix, limit, after)``."""
    after = None
    while True:
        names, after = page(prefix, _PAGE, after)
        yield from names
        if after is None:
            return


def totals_of(entries: dict[str, int]) -> list[dict[str, Any]]:
    """Return one row for each key and model, in order, from the counters by name."""
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for name, value in entries.items():
        key, counter, model = name.removeprefix(_ROOT).split("/", 2)
        rows.setdefault((_unescaped(key), model), dict.fromkeys(COUNTERS, 0))[counter] = value
    return [_row(key, model, counters) for (key, model), counters in sorted(rows.items())]


def _row(key: str, model: str, counters: dict[str, int]) -> dict[str, Any]:
    cost = counters.pop("cost_nanos") / NANOS
    return {"key": key, "model": model, **counters, "cost": cost}


def _escaped(key: str) -> str:
    # An empty key would read as "all keys".
    return key[:_MAX_PART_CHARS].replace("%", "%25").replace("/", "%2F") or "%"


def _unescaped(text: str) -> str:
    return "" if text == "%" else text.replace("%2F", "/").replace("%25", "%")
