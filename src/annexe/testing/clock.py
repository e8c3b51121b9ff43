"""A clock that stands still until it is told to go on."""

from __future__ import annotations

from typing import final

from annexe.clock import Clock

__all__ = ["FakeClock"]


@final
class FakeClock(Clock):
    """Both of its times go on by ``advance`` alone.

    Args:
        monotonic_s: Where ``monotonic`` begins.
        now_s: Where ``now`` begins, as Unix time.
    """

    def __init__(self, *, monotonic_s: float = 1000.0, now_s: float = 1_700_000_000.0) -> None:
        self._monotonic_s = monotonic_s
        self._now_s = now_s

    def monotonic(self) -> float:
        return self._monotonic_s

    def now(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: It would go back.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back; expected 0 or more seconds, got {seconds}")
        self._monotonic_s += seconds
        self._now_s += seconds
