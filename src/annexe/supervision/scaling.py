"""How many instances of a plugin should run.

Pure logic: no process, no clock, no I/O.

Source: feature LC12; docs/how-to/run-several-instances.md; ADR-0093.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Scaling"]

_ROUNDS = 2  # calls for each slot, the one that runs included, before another instance is worth its start


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Bounds on the instances of one plugin.

    Attributes:
        least: Run always, 1 or more.
        most: Run at most.
        concurrency: Calls that one of them runs at once.
        shrink_after_s: One beyond the least that was not called for this long is stopped.
    """

    least: int = 1
    most: int = 1
    concurrency: int = 1
    shrink_after_s: float = 30.0

    @property
    def full(self) -> int:
        """Calls in flight at one instance from which on a further one is worth its start."""
        return _ROUNDS * self.concurrency

    def wanted(self, in_flight: int) -> int:
        """Return how many should run.

        Args:
            in_flight: Calls that are not answered yet, waiting ones included, at all of them together.
        """
        return min(max(self.least, -(-in_flight // self.full)), self.most)
