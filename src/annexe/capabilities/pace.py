"""How often a plugin may be called.

Source: feature LC12; docs/reference/manifest.md, ``runtime.calls-per-s``.
"""

from __future__ import annotations

from time import monotonic
from typing import final

from annexe.capabilities.retry_bucket import RetryBucket

__all__ = ["Pace"]


@final
class Pace:
    """The calls of one plugin, whichever of its instances answers: a second's worth at once, then as many a second.

    Args:
        calls_per_s: Above 0.
    """

    __slots__ = ("_bucket", "calls_per_s")

    def __init__(self, calls_per_s: float) -> None:
        self.calls_per_s = calls_per_s
        self._bucket = RetryBucket(rate_per_s=calls_per_s, burst=max(1.0, calls_per_s), now_s=monotonic())

    def __call__(self) -> float:
        """Return 0 to let a call through, else how many seconds to wait for the next."""
        return self._bucket.take(1.0, now_s=monotonic())
