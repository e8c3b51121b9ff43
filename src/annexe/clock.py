"""What time it is, as something that can be replaced.

Rules never read a clock; whoever applies them passes the time in. The fake is ``annexe.testing.FakeClock``.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import final

__all__ = ["Clock", "SystemClock"]


class Clock(ABC):
    """Source of time, in seconds."""

    @abstractmethod
    def monotonic(self) -> float:
        """Return seconds since some fixed point; never goes back. For deadlines and durations."""

    @abstractmethod
    def now(self) -> float:
        """Return Unix time in seconds. For records that people read and for what must outlive the process."""


@final
class SystemClock(Clock):
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        return time.time()
