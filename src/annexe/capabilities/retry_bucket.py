"""How often one plugin may ask for something, and when it may ask again.

Pure: time is passed in. A bucket holds ``burst`` tokens at most and gains ``rate_per_s`` of them each second.
"""

from __future__ import annotations

from typing import final

__all__ = ["RetryBucket"]


@final
class RetryBucket:
    """Tokens of one plugin: given when there are enough, else it is told when there will be.

    Args:
        rate_per_s: Tokens gained each second; above 0.
        burst: Tokens it can hold, and holds at first; at least the dearest single request.
        now_s: Monotonic seconds.
    """

    __slots__ = ("_burst", "_filled_at_s", "_rate_per_s", "_tokens")

    def __init__(self, *, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._filled_at_s = now_s

    def take(self, tokens: float, *, now_s: float) -> float:
        """Take tokens, if there are enough.

        Returns:
            0.0 when they were taken; else how many seconds until there will be enough, and nothing was taken.
        """
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_at_s) * self._rate_per_s)
        self._filled_at_s = now_s
        if self._tokens >= tokens:
            self._tokens -= tokens
            return 0.0
        return (tokens - self._tokens) / self._rate_per_s

    def charge(self, tokens: float) -> None:
        """Take tokens, whether they are there or not: for a cost that is known only once the thing is done."""
        self._tokens -= tokens
