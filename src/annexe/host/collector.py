"""Python's garbage collector, while a host takes up many plugins.

What is made then stays, and each full look of the collector goes through all that was made before it, the application's own included: with
a thousand plugins that was a quarter of the start. So it looks seldom meanwhile. It is not stopped, as taking up may have to wait.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collected_seldom"]

_SELDOM = 100_000  # objects made, less those that went, before the collector looks at them
_lock = threading.Lock()  # hosts may be on several threads
_own: list[int] = []  # one for each host that is at it; the first is what the application had


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Have the collector look seldom; afterwards as often as before.

    Nothing changes where the application has it look yet more seldom, and what the application says meanwhile stays.
    """
    with _lock:
        first, *others = gc.get_threshold()
        _own.append(first)
        if 0 < first < _SELDOM:
            gc.set_threshold(_SELDOM, *others)
    try:
        yield
    finally:
        with _lock:
            own = _own[0]
            _own.pop()
            first, *others = gc.get_threshold()
            if not _own and first == _SELDOM:
                gc.set_threshold(own, *others)
