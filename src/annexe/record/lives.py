"""How often a plugin started and ended, used a right it has not, went over a limit, and was not told of an event.

Pure. Told of every event of the plugin, those included that are left out of the list for being too many.

* Starts less exits are the instances that are there: each start ends once, whatever became of it.
* Every label is of a closed set of the host's words; nothing here is a plugin's text.

Source: feature OB3; docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, final

from annexe.record.events import EventKind

__all__ = ["LifeFigures"]

_Key = TypeVar("_Key")

_COUNTED = frozenset(
    {EventKind.STATE_CHANGED, EventKind.PLUGIN_EXITED, EventKind.PERMISSION_DENIED, EventKind.VIOLATION, EventKind.EVENT_DROPPED}
)


@final
class LifeFigures:
    """Counts of one plugin.

    Attributes:
        starts: Instances that were started, or tried to be.
        exits: How those ended, by reason: ``stopped``, ``start-failed``, or what the supervisor gives as the cause of a failure.
        denials: Uses of rights it has not, by kind of right.
        violations: Limits it went over, by resource and what was done; ``kill`` where the kernel killed for want of memory.
        events_dropped: Events that it subscribed to and was not told of.
    """

    __slots__ = ("denials", "events_dropped", "exits", "starts", "violations")

    def __init__(self) -> None:
        self.starts = 0
        self.exits: dict[str, int] = {}
        self.denials: dict[str, int] = {}
        self.violations: dict[tuple[str, str], int] = {}
        self.events_dropped = 0

    @staticmethod
    def counts(kind: EventKind) -> bool:
        """Return whether events of a kind are counted at all."""
        return kind in _COUNTED

    def add(self, kind: EventKind, facts: Mapping[str, object]) -> None:
        """Count an event.

        Args:
            kind: One that ``counts``.
            facts: The host's, as the event has them.
        """
        if kind is EventKind.STATE_CHANGED:
            self._add_step(facts.get("before"), facts.get("after"))
        elif kind is EventKind.PLUGIN_EXITED:
            _count(self.exits, str(facts.get("cause", "exited")))
        elif kind is EventKind.PERMISSION_DENIED:
            _count(self.denials, str(facts.get("permission", "other")).partition(":")[0])
        elif kind is EventKind.EVENT_DROPPED:
            dropped = facts.get("dropped")
            self.events_dropped += dropped if isinstance(dropped, int) else 0  # none: its own was not published
        else:
            self._add_violation(facts)

    def snapshot(self) -> dict[str, Any]:
        """Return the figures: numbers, ``exits`` and ``denials`` by label, ``violations`` by resource and then by action."""
        violations: dict[str, dict[str, int]] = {}
        for (resource, action), count in self.violations.items():
            violations.setdefault(resource, {})[action] = count
        return {
            "starts": self.starts,
            "exits": dict(self.exits),
            "denials": dict(self.denials),
            "violations": violations,
            "events_dropped": self.events_dropped,
        }

    def _add_step(self, before: object, after: object) -> None:
        if after == "starting":
            self.starts += 1
        elif after == "stopped" and before in ("starting", "draining"):
            _count(self.exits, "stopped")
        elif before == "starting" and after != "ready":
            _count(self.exits, "start-failed")

    def _add_violation(self, facts: Mapping[str, object]) -> None:
        phase = facts.get("phase")
        if phase in ("began", "prevented"):  # the others tell how one goes on
            action = "kill" if phase == "prevented" else str(facts.get("action"))
            _count(self.violations, (str(facts.get("resource")), action))


def _count(counts: dict[_Key, int], key: _Key) -> None:
    counts[key] = counts.get(key, 0) + 1
