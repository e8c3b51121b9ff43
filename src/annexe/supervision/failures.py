"""How often a plugin has failed in a row, and what follows: a wait, or quarantine.

Source: features LC5 and LC6.
"""

from __future__ import annotations

import random
from typing import final

from annexe.errors import QuarantinedError
from annexe.supervision.memory import FailureMemory
from annexe.supervision.restart import RestartPolicy

__all__ = ["Failures"]


@final
class Failures:
    """The failures of one plugin.

    Args:
        plugin: Its id.
        count: In a row, from an earlier life of the host.
        policy: What follows.
        memory: Where they are remembered.

    Attributes:
        count: In a row.
    """

    def __init__(self, plugin: str, count: int, *, policy: RestartPolicy, memory: FailureMemory) -> None:
        self.count = count
        self._plugin = plugin
        self._policy = policy
        self._memory = memory

    def add(self, reason: str, *, ready_s: float, for_good: bool) -> float:
        """Count a failure; return how long to wait before the plugin is started again, in seconds.

        Args:
            reason: Why.
            ready_s: How long it had been ready; 0 when it never was.
            for_good: It is not to be started again before a person wants it.

        Raises:
            QuarantinedError: It is not started again.
        """
        self.count = self._policy.count(failures_before=self.count, ready_s=ready_s)
        self._memory.failed(self._plugin, reason=reason, count=self.count)
        try:
            return self._delay_s(reason, for_good=for_good)
        except QuarantinedError:
            self._memory.quarantined(self._plugin, reason=reason)
            raise

    def _delay_s(self, reason: str, *, for_good: bool) -> float:
        if for_good:
            raise QuarantinedError(reason, plugin=self._plugin, failures=self.count)
        return self._policy.delay_s(self.count, plugin=self._plugin, jitter=random.uniform(-1.0, 1.0))  # noqa: S311 - no secret

    def note_ready(self, ready_s: float) -> None:
        """Forget the failures before once it has been ready for long enough."""
        if self.count and ready_s >= self._policy.healthy_after_s:
            self.count = 0
            self._memory.recovered(self._plugin)

    def forgive(self) -> None:
        """Let the failures before not count any more."""
        self.count = 0
        self._memory.released(self._plugin)
