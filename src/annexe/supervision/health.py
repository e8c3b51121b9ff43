"""Whether a running plugin is well.

Pure rules over what the supervisor saw: answers to ``annexe.ping`` (sent to idle plugins only; a busy one shows itself by its calls) and
how long the calls that hold its slots have been cancelled.

Source: "Concurrency, slots, stuck" in docs/reference/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

__all__ = ["Health", "HealthPolicy", "HealthStatus"]

_WELL = 3


@final
class HealthStatus(StrEnum):
    """What follows from the last pings."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # still gets calls, and is shown as degraded
    UNHEALTHY = "unhealthy"  # gets no calls, and is restarted


@final
@dataclass(frozen=True, slots=True)
class Health:
    """What is known after a number of pings.

    Attributes:
        status: The verdict.
        missed: Pings in a row that were not answered in time.
    """

    status: HealthStatus = HealthStatus.HEALTHY
    missed: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """When a plugin counts as degraded, unhealthy or stuck.

    Attributes:
        ping_interval_s: How soon a plugin that is idle, or not well, is pinged again; one that answered well has three times as long.
        ping_timeout_s: How long an answer may take at most.
        slow_s: An answer that took longer degrades.
        max_missed: The missed ping in a row that makes it unhealthy; those before degrade.
        stuck_after_s: How long a cancelled call may still hold its slot.
    """

    ping_interval_s: float = 10.0
    ping_timeout_s: float = 5.0
    slow_s: float = 1.0
    max_missed: int = 3
    stuck_after_s: float = 5.0

    def pause_s(self, *, is_well: bool) -> float:
        """Return how many seconds there are between two pings: two hundred idle plugins shall cost next to nothing."""
        return self.ping_interval_s * (_WELL if is_well else 1)

    def after_ping(self, health: Health, *, latency_s: float | None) -> Health:
        """Return the health after one more ping.

        Args:
            health: What was known before.
            latency_s: How long the answer took; None when there was none within ``ping_timeout_s``.
        """
        if latency_s is None:
            missed = health.missed + 1
            return Health(HealthStatus.UNHEALTHY if missed >= self.max_missed else HealthStatus.DEGRADED, missed)
        return Health(HealthStatus.DEGRADED if latency_s > self.slow_s else HealthStatus.HEALTHY)
