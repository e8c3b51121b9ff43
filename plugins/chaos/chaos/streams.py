"""Faults in the middle of a streamed answer. Each takes the chunks and yields what comes of them; the docstring is for the user."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Chunks = Iterator[dict[str, Any]]

__all__ = ["STREAM_FAULTS"]

_WELL_BEHAVED_CHUNKS = 3  # let pass first, so that the fault comes when output has begun


def _beginning(chunks: Chunks) -> Chunks:
    for _, chunk in zip(range(_WELL_BEHAVED_CHUNKS), chunks, strict=False):
        yield chunk


def stream_crash(chunks: Chunks) -> Chunks:
    """Exit after three chunks."""
    yield from _beginning(chunks)
    os._exit(3)


def stream_raise(chunks: Chunks) -> Chunks:
    """Raise an exception after three chunks."""
    yield from _beginning(chunks)
    raise RuntimeError("chaos was asked to raise")


def stream_stall(chunks: Chunks) -> Chunks:
    """Fall silent after three chunks."""
    yield from _beginning(chunks)
    time.sleep(3600)


def stream_wrong_type(chunks: Chunks) -> Iterator[object]:
    """Yield a number after three chunks."""
    yield from _beginning(chunks)
    yield 42


def stream_endless(chunks: Chunks) -> Chunks:
    """Yield the last chunk again and again."""
    chunk: dict[str, Any] = {}
    for chunk in chunks:
        yield chunk
    while True:
        yield chunk


def stream_swallow(chunks: Chunks) -> Chunks:
    """Read everything, yield nothing."""
    for _ in chunks:
        pass
    yield from ()


_ALL = (stream_crash, stream_raise, stream_stall, stream_wrong_type, stream_endless, stream_swallow)

STREAM_FAULTS: dict[str, Callable[[Chunks], Iterator[Any]]] = {fault.__name__.replace("_", "-"): fault for fault in _ALL}
