"""A sliding window from two counters.

Pure. Time is cut into buckets as long as the window. The window that ends now covers the current bucket so far and the rest of the one
before, whose requests are taken as evenly spread: two numbers a key, whatever the traffic.

Requests are counted before they are judged, so that two at the same moment cannot both take the last place; a refused one is taken back.
"""

from __future__ import annotations

import math

__all__ = ["bucket_of", "retry_after_s"]


def bucket_of(now_s: float, window_s: int) -> tuple[int, float]:
    """Return the number of the bucket, and which part of it is over, 0 to 1."""
    bucket, elapsed_s = divmod(now_s, window_s)
    return int(bucket), elapsed_s / window_s


def retry_after_s(*, current: int, previous: int, elapsed: float, requests: int, window_s: int) -> int | None:
    """Say whether a request may pass.

    Args:
        current: Requests in the current bucket, this one included, 1 or more.
        previous: Requests in the bucket before.
        elapsed: Which part of the current bucket is over, 0 to 1.
        requests: How many one window holds.
        window_s: Length of a window, 1 or more.

    Returns:
        None when it may; else in how many whole seconds, 1 or more, it could if nobody else came.
    """
    if current + previous * (1 - elapsed) <= requests:
        return None
    if current <= requests:
        # Enough of the previous bucket must slide out.
        wait = 1 - (requests - current) / previous - elapsed
    elif requests:
        # This bucket alone is full: it has to become the previous one, and to slide out far enough for one more.
        wait = (1 - elapsed) + (1 - (requests - 1) / (current - 1))
    else:
        wait = 1.0
    return max(math.ceil(wait * window_s), 1)
