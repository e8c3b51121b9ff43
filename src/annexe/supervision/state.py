"""The life of a plugin as one state machine.

Pure: the supervisor decides, this says whether the step exists and keeps what happened.

    discovered → installed → blocked
                           → stopped ⇄ starting → ready ⇄ degraded → draining → stopped
                                         └──────────┴────────┴──► backing-off → starting
                                                                → quarantined

Invariants:

* Every change has a reason and a time; the last ``HISTORY`` changes are kept.
* From every state a person can get a plugin to stopped.

Source: feature LC4; "Life of a plugin" in docs/explanation/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import final

__all__ = ["HISTORY", "TRANSITIONS", "Change", "Lifecycle", "PluginState"]

HISTORY = 32


@final
class PluginState(StrEnum):
    """Where a plugin is in its life; the value is the word shown to people and kept in storage."""

    INSTALLED = "installed"  # known, not judged yet
    BLOCKED = "blocked"  # waits for a person: grant, trust, a requirement
    STOPPED = "stopped"  # may start
    STARTING = "starting"  # launched; handshake and activation under way
    READY = "ready"
    DEGRADED = "degraded"  # answers, but slowly or not always
    DRAINING = "draining"  # no new calls, open ones are finished
    BACKING_OFF = "backing-off"  # failed; waits to be started again
    QUARANTINED = "quarantined"  # failed too often in a row; waits for a person

    @property
    def takes_calls(self) -> bool:
        """Return whether new calls are sent to a plugin in this state."""
        return self in (PluginState.READY, PluginState.DEGRADED)

    @property
    def has_process(self) -> bool:
        """Return whether there is something to stop in this state."""
        return self in (PluginState.STARTING, PluginState.READY, PluginState.DEGRADED, PluginState.DRAINING)


_S = PluginState
_FAILED = frozenset({_S.BACKING_OFF, _S.QUARANTINED})

TRANSITIONS: Mapping[PluginState, frozenset[PluginState]] = {
    _S.INSTALLED: frozenset({_S.BLOCKED, _S.STOPPED}),
    _S.BLOCKED: frozenset({_S.INSTALLED, _S.STOPPED}),
    _S.STOPPED: frozenset({_S.STARTING, _S.BLOCKED, _S.INSTALLED}),
    # Straight to stopped: a start that is called off. A launch that needs a person (no Python fits, level too low) blocks.
    _S.STARTING: frozenset({_S.READY, _S.STOPPED, _S.BLOCKED}) | _FAILED,
    _S.READY: frozenset({_S.DEGRADED, _S.DRAINING}) | _FAILED,
    _S.DEGRADED: frozenset({_S.READY, _S.DRAINING}) | _FAILED,
    _S.DRAINING: frozenset({_S.STOPPED}),
    _S.BACKING_OFF: frozenset({_S.STARTING, _S.STOPPED, _S.BLOCKED}),
    _S.QUARANTINED: frozenset({_S.STARTING, _S.STOPPED, _S.BLOCKED}),
}


@final
@dataclass(frozen=True, slots=True)
class Change:
    """One step.

    Attributes:
        state: The state reached.
        reason: Why, in words for a person.
        at: When, Unix time in seconds.
    """

    state: PluginState
    reason: str
    at: float


@final
@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What a plugin went through, oldest change first; at least one, at most ``HISTORY``."""

    changes: tuple[Change, ...]

    @classmethod
    def begin(cls, *, reason: str, at: float, state: PluginState = PluginState.INSTALLED) -> Lifecycle:
        """Return a new life; in another state than installed when it is taken up again from storage."""
        return cls((Change(state, reason, at),))

    @property
    def state(self) -> PluginState:
        """Return where the plugin is."""
        return self.changes[-1].state

    @property
    def reason(self) -> str:
        """Return why it is there."""
        return self.changes[-1].reason

    @property
    def since(self) -> float:
        """Return when it came there, Unix time in seconds."""
        return self.changes[-1].at

    def allows(self, state: PluginState) -> bool:
        """Return whether that step exists from here."""
        return state in TRANSITIONS[self.state]

    def moved(self, state: PluginState, *, reason: str, at: float) -> Lifecycle:
        """Return the life after one more step.

        Raises:
            ValueError: There is no such step: a mistake of the caller's.
        """
        if not self.allows(state):
            reachable = ", ".join(sorted(TRANSITIONS[self.state]))
            raise ValueError(f"expected a step from {self.state} to one of {reachable}, got {state} ({reason})")
        return Lifecycle((*self.changes[-(HISTORY - 1) :], Change(state, reason, at)))
