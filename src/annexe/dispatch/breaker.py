"""When to stop calling a plugin that keeps failing at one hook, and when to try again.

Pure: no clock; times are monotonic seconds, passed in. One breaker for each plugin and hook, used from one thread.

* **Closed**: every call passes. ``max_failures`` failures or time-outs in a row open it; a success starts the count again.
* **Open**: no call passes for ``open_s``.
* **Half-open**: one call passes as a trial. If it succeeds the breaker closes, if it fails it opens again. A trial that is never answered
  (its caller went away) counts as nothing: after ``open_s`` there is another one.

A rejection is an answer, so it counts as a success. What never reached the plugin (busy, unavailable, cancelled) is not reported at all.

Source: docs/reference/hooks.md, "Time and failure"; ADR-0014.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

__all__ = ["Breaker", "BreakerPolicy", "BreakerState"]


class BreakerState(StrEnum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Limits of one breaker; times in seconds.

    Raises:
        ValueError: A limit that would never open, or never close.
    """

    max_failures: int = 5
    open_s: float = 10.0

    def __post_init__(self) -> None:
        if self.max_failures < 1 or not self.open_s > 0:
            raise ValueError(f"expected max_failures >= 1 and open_s > 0, got {self.max_failures} and {self.open_s}")


@final
class Breaker:
    """State of one plugin at one hook.

    Attributes:
        failures: Failures in a row.
    """

    __slots__ = ("_policy", "_retry_at_s", "_trying", "failures")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._retry_at_s: float | None = None  # None: closed
        self._trying = False
        self.failures = 0

    def admit(self, now_s: float) -> bool:
        """Say whether a call may pass now. When half-open, passing makes this call the trial: make it, then report how it went."""
        if self._retry_at_s is None:
            return True
        if now_s < self._retry_at_s:
            return False
        self._trying = True
        self._retry_at_s = now_s + self._policy.open_s
        return True

    def succeeded(self) -> None:
        """Note an answer. While open without a trial it is late news of a call from before, and changes nothing."""
        if self._retry_at_s is None or self._trying:
            self.close()

    def failed(self, now_s: float) -> None:
        """Note a failure or time-out. While open without a trial it is late news, too: it must not keep the breaker open for longer."""
        if self._retry_at_s is not None and not self._trying:
            return
        self.failures += 1
        if self._trying or self.failures >= self._policy.max_failures:
            self._trying = False
            self._retry_at_s = now_s + self._policy.open_s

    def close(self) -> None:
        """Let every call pass again."""
        self.failures = 0
        self._retry_at_s = None
        self._trying = False

    def state(self, now_s: float) -> BreakerState:
        """Return the state, for explain; changes nothing."""
        if self._retry_at_s is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._trying or now_s >= self._retry_at_s else BreakerState.OPEN

    def retry_in_s(self, now_s: float) -> float:
        """Return how long no call will pass; 0.0: the next one passes."""
        return 0.0 if self._retry_at_s is None else max(0.0, self._retry_at_s - now_s)
