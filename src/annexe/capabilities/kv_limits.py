"""Bounds on what plugins can make the key-value service do.

Pure. The unit of work is the *weight* of a request: 1, and 1 more for every 16 KiB it carries and every 50 keys it asks for, so that
one large value or long list takes the place of many small requests in every bound. To read or write a value costs its size in the rate
besides, even out of the cache, for it is decoded and encoded again; what comes from the plugin is paid for before it is decoded.

Source: ADR-0022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["FREE_BYTES", "KvLimits", "read_weight_of", "weight_of"]

_BYTES_OF_WEIGHT = 16 * 1024
_KEYS_OF_WEIGHT = 50
FREE_BYTES = 4 * 1024
"""What is as large as that at most costs nothing of the rate beside the request itself."""
_READ_BYTES_OF_WEIGHT = 1024


def weight_of(*, size_bytes: int = 0, keys: int = 0) -> int:
    """Return the weight of a request that carries so many bytes, or asks for so many keys."""
    return 1 + size_bytes // _BYTES_OF_WEIGHT + keys // _KEYS_OF_WEIGHT


def read_weight_of(size_bytes: int) -> int:
    """Return what it costs of the rate to turn so many bytes of a plugin's own choice into values: nothing up to 4 KiB, then 1 per KiB."""
    return 0 if size_bytes <= FREE_BYTES else size_bytes // _READ_BYTES_OF_WEIGHT


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KvLimits:
    """The bounds; the defaults are for a host on a small machine.

    Attributes:
        rate_per_s: Weight of requests one plugin may make each second, cached reads of up to 4 KiB apart.
        burst: Weight it may make at once after a pause.
        lane_weight: Weight that may wait for the thread, for each plugin.
        batch_weight: Weight of one transaction.
        share_weight: Weight one plugin may have of it.
        cache_bytes: Memory of all caches together; each plugin has an equal part.
        sweep_every_s: How often expired keys are deleted.
        close_timeout_s: How long closing waits for the transaction at hand.
    """

    rate_per_s: float = 5_000.0
    burst: float = 10_000.0
    lane_weight: int = 512
    batch_weight: int = 32
    share_weight: int = 4
    cache_bytes: int = 32 * 1024 * 1024
    sweep_every_s: float = 30.0
    close_timeout_s: float = 10.0
