"""Python's garbage collector, while a host takes up many plugins.

What is made then stays, and each full look of the collector goes through all that was made before it, the application's own included: with
a thousand plugins that was a quarter of the start. So it looks seldom meanwhile. It is not stopped, as taking up may have to wait.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collected_seldom"]

_SELDOM = 100_000  # objects made, less those that went, before the collector looks at them
_saved: list[tuple[int, int, int]] = []  # one for each host of this process that is at it; the first is the application's own


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Have the collector look seldom; afterwards as often as before. Nothing changes where the application has it look yet more seldom."""
    before = gc.get_threshold()
    _saved.append(before)
    if 0 < before[0] < _SELDOM:
        gc.set_threshold(_SELDOM, *before[1:])
    try:
        yield
    finally:
        first = _saved[0]
        _saved.pop()
        if not _saved:
            gc.set_threshold(*first)
