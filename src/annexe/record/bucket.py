"""How often a plugin may do something: a token bucket.

Pure logic: the time is passed in.
"""

from __future__ import annotations

from typing import final

__all__ = ["TokenBucket"]


@final
class TokenBucket:
    """Allows a burst, then a steady rate.

    Taking is allowed while at least one token is there, whatever the cost; a dear thing leaves the bucket in debt. So nothing is
    too dear ever to pass, and over time the rate holds all the same.

    Args:
        rate_per_s: Tokens that come back each second.
        burst: Most tokens there can be; the bucket starts full.
    """

    __slots__ = ("_burst", "_filled_at_s", "_rate_per_s", "_tokens")

    def __init__(self, *, rate_per_s: float, burst: float) -> None:
        if rate_per_s < 0 or burst < 1:
            raise ValueError(f"expected rate_per_s >= 0 and burst >= 1, got {rate_per_s} and {burst}")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._filled_at_s: float | None = None

    def is_open(self, now_s: float) -> bool:
        """Say whether ``take`` would succeed now."""
        last_s = self._filled_at_s
        if last_s is None:
            self._filled_at_s = now_s
        elif now_s > last_s:
            self._tokens = min(self._burst, self._tokens + (now_s - last_s) * self._rate_per_s)
            self._filled_at_s = now_s
        return self._tokens >= 1

    def charge(self, cost: float) -> None:
        """Take ``cost`` tokens, whether they are there or not. For a cost that is known only once the thing is done."""
        self._tokens -= cost

    def take(self, cost: float, now_s: float) -> bool:
        """Take ``cost`` tokens if the bucket is open; say whether it was."""
        if not self.is_open(now_s):
            return False
        self._tokens -= cost
        return True
