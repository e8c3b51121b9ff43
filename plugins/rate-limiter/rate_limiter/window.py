"""A sliding window from two counters.

Pure. Time is cut into buckets as long as the window. The window that ends now covers the current bucket so far and the rest of the one
before, whose requests are taken as evenly spread: two numbers a key, whatever the traffic.

Requests, or their tokens, are counted before they are judged, so that two at the same moment cannot both take the last place; what was
refused is taken back.
"""

from __future__ import annotations

import math

__all__ = ["bucket_of", "retry_after_s"]


def bucket_of(now_s: float, window_s: int) -> tuple[int, float]:
    """Return the number of the bucket, and which part of it is over, 0 to 1."""
    bucket, elapsed_s = divmod(now_s, window_s)
    return int(bucket), elapsed_s / window_s


def retry_after_s(*, current: int, previous: int, elapsed: float, limit: int, window_s: int, cost: int = 1) -> int | None:
    """Say whether a request may pass.

    Args:
        current: What is counted in the current bucket, this request included.
        previous: What was counted in the bucket before.
        elapsed: Which part of the current bucket is over, 0 to 1.
        limit: How much one window holds.
        window_s: Length of a window, 1 or more.
        cost: What this request counts, 1 or more: 1 where requests are counted, its tokens where tokens are.

    Returns:
        None when it may; else in how many whole seconds, 1 or more, it could if nobody else came. What costs more than the limit never can.
    """
    if current + previous * (1 - elapsed) <= limit:
        return None
    if current <= limit:
        # Enough of the previous bucket must slide out.
        wait = 1 - (limit - current) / previous - elapsed
    elif cost <= limit:
        # This bucket alone is full: it has to become the previous one, and to slide out far enough for this request.
        wait = (1 - elapsed) + (1 - (limit - cost) / (current - cost))
    else:
        wait = 1.0
    return max(math.ceil(wait * window_s), 1)
