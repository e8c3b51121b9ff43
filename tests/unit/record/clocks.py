"""A clock that stands still until a test moves it."""

from __future__ import annotations

from annexe.clock import Clock

START_AT = 1_700_000_000.0  # 2023-11-14T22:13:20Z


class StillClock(Clock):
    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.passed_s

    def now(self) -> float:
        return START_AT + self.passed_s
