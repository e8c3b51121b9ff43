"""When to restart a failed plugin.

Pure logic: no process, no clock, no chance. The supervisor notes each failure, asks here for count and delay, waits, and launches again.
Counts are plain numbers, so that they can be stored and survive the host.

Source: features LC5 and LC6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from annexe.errors import QuarantinedError

__all__ = ["RestartPolicy"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Limits on restarting one plugin; times in seconds.

    Attributes:
        max_failures: The failure in a row that quarantines.
        first_delay_s: Wait after the first failure; doubles with each.
        max_delay_s: Longest wait, before jitter.
        healthy_after_s: A plugin that was ready this long starts again from no failures.
        jitter_ratio: How far jitter moves a wait, up or down: plugins that failed together shall not come back together.
    """

    max_failures: int = 10
    first_delay_s: float = 1.0
    max_delay_s: float = 16.0
    healthy_after_s: float = 300.0
    jitter_ratio: float = 0.2

    def count(self, *, failures_before: int, ready_s: float) -> int:
        """Return the failures in a row, a new one included.

        Args:
            failures_before: The count so far, as stored.
            ready_s: How long the plugin had been ready when it failed; 0 when it never was.
        """
        return 1 if ready_s >= self.healthy_after_s else failures_before + 1

    def delay_s(self, failures: int, *, plugin: str, jitter: float = 0.0) -> float:
        """Return how long to wait before the next launch.

        Args:
            failures: Failures in a row, the one at hand included, 1 or more.
            plugin: Id, for the error.
            jitter: From chance, -1 to 1.

        Returns:
            Seconds. Doubles from ``first_delay_s`` up to ``max_delay_s``, then moved by jitter.

        Raises:
            QuarantinedError: At ``max_failures`` or more.
        """
        # Before any arithmetic: a limit of 0 must never launch.
        if failures >= self.max_failures:
            raise QuarantinedError(
                f"plugin {plugin!r} failed {failures} times in a row, the limit is {self.max_failures}",
                plugin=plugin,
                failures=failures,
                max_failures=self.max_failures,
            )
        doublings = min(failures - 1, 64)  # 2.0**1024 would overflow
        return min(self.first_delay_s * 2.0**doublings, self.max_delay_s) * (1.0 + self.jitter_ratio * jitter)
