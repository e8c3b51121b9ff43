"""What happened to plugins that somebody may have to act on or answer for: state changes, refusals, faults, decisions.

A bounded ring in memory, and subscribers who keep or show them (the host has one that writes to its store).

* An event's facts are bounded and safe to show: parts of them come from plugins.
* One plugin repeating one kind is limited, counted, and the count told with the next that passes: a plugin that asks a thousand
  times a second for what it may not have fills no store and pushes no other plugin's events out for long.
* A subscriber that raises hurts neither the caller nor the other subscribers.

Called on the host's loop thread.

Source: features OB2; docs/reference/events.md.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, final

from annexe.clock import Clock
from annexe.record.bucket import TokenBucket
from annexe.record.entry import rfc3339
from annexe.record.fields import bounded
from annexe.record.safetext import clipped, escaped

__all__ = ["Event", "EventKind", "Events"]

_MAX_FACTS_BYTES = 4096
_MAX_REASON_BYTES = 1024
_BURST = 50
_RATE_PER_S = 1.0

_LOG = logging.getLogger("annexe.record")


@final
class EventKind(StrEnum):
    """What kind of thing happened; each with a ``meaning`` for people."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.__doc__ = meaning
        return member

    HOST_STARTED = "host-started", "The host opened its state directory and began."
    HOST_STOPPED = "host-stopped", "The host ended in order."
    PLUGIN_ADDED = "plugin-added", "A plugin was found and its manifest accepted."
    PLUGIN_REMOVED = "plugin-removed", "A plugin is no longer known to the host."
    MANIFEST_REFUSED = "manifest-refused", "A plugin's manifest was not accepted; the reason says what is wrong with it."
    STATE_CHANGED = "state-changed", "A plugin went from one state to another."
    LAUNCH_FAILED = "launch-failed", "A plugin could not be started, or failed before it was ready."
    PLUGIN_EXITED = "plugin-exited", "A plugin's instance ended without being asked to."
    REPLACED = "replaced", "An instance of a plugin took over from another one, without losing a call."
    RELOAD_FAILED = "reload-failed", "A plugin was not replaced by what is in its folder now; the reason says why."
    ATTACHED = "attached", "A process that somebody started by hand took the place of a plugin, without any sandbox."
    DETACHED = "detached", "A process that was attached went, or was let go; the installed plugin is started again."
    ATTACH_REFUSED = "attach-refused", "A process that wanted to attach was not let in, or did not become ready."
    QUARANTINED = "quarantined", "A plugin failed too often in a row and waits for a person."
    STUCK = "stuck", "A plugin did not end cancelled calls and is restarted."
    PROTOCOL_ERROR = "protocol-error", "A plugin broke the wire protocol and its connection was ended."
    CALL_FAILED = "call-failed", "A call to a plugin gave no result."
    INVALID_RESULT = "invalid-result", "A plugin's result did not fit the declared type."
    HOOK_SKIPPED = "hook-skipped", "A hook that fails open went on without a plugin."
    HOOK_FAILED = "hook-failed", "A hook that fails closed failed its request because of a plugin."
    BREAKER_OPENED = "breaker-opened", "A plugin failed so often in one hook that it is passed over for a while."
    BREAKER_CLOSED = "breaker-closed", "A plugin that was passed over in one hook is called again."
    OBSERVER_DROPPED = "observer-dropped", "Observations were thrown away because a plugin was too slow to take them."
    EVENT_DROPPED = "event-dropped", "What was published did not reach a subscriber."
    PERMISSION_DENIED = "permission-denied", "A plugin used a right it has not."
    RATE_LIMITED = "rate-limited", "A plugin used a host service more often than it may."
    QUOTA_EXCEEDED = "quota-exceeded", "A plugin's share of the store is full."
    GRANT_CHANGED = "grant-changed", "A person granted rights to a plugin or took them back."
    CONFIG_CHANGED = "config-changed", "A plugin's configuration was changed."
    CONFIG_REFUSED = "config-refused", "A change of configuration did not fit the plugin's schema."
    ENABLED_CHANGED = "enabled-changed", "A person switched a plugin on or off."
    LIMIT_NOT_ENFORCED = "limit-not-enforced", "A right or limit of a plugin cannot be enforced where it runs."
    VIOLATION = "violation", "A plugin used more of something than it may, or no longer does; the reason has the figures."
    TREE_KILL_SOFT = "tree-kill-soft", "A plugin left a child behind that its group's end did not reach, or may have."
    ORPHAN_SWEPT = "orphan-swept", "A plugin that outlived an earlier host was found and ended."
    LOG_DROPPED = "log-dropped", "Lines of a plugin's log were thrown away."
    METRIC_DROPPED = "metric-dropped", "Metrics of a plugin were thrown away: malformed, or too many names or label sets."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        sequence: 1, 2, … in the order they were added; without gaps.
        at: Unix time in seconds.
        plugin: Id of the plugin concerned; None for the host itself.
        reason: Why, as a code or a sentence.
        facts: JSON-able, at most 4 KiB.
        suppressed_count: Events of the same kind and plugin that were not added since the last one.
    """

    sequence: int
    at: float
    kind: EventKind
    plugin: str | None
    reason: str
    facts: Mapping[str, Any]
    suppressed_count: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for people and scripts, time as RFC 3339."""
        return {
            "sequence": self.sequence,
            "time": rfc3339(self.at),
            "kind": self.kind.value,
            "plugin": self.plugin,
            "reason": self.reason,
            "facts": dict(self.facts),
            "suppressed_count": self.suppressed_count,
        }


@final
class _Limit:
    """How often one plugin may add one kind."""

    __slots__ = ("bucket", "suppressed_count")

    def __init__(self) -> None:
        self.bucket = TokenBucket(rate_per_s=_RATE_PER_S, burst=_BURST)
        self.suppressed_count = 0


@final
class Events:
    """The last events, and who is told of new ones.

    Args:
        clock: For the events' time.
        capacity: How many are kept in memory.
        count: Told kind, plugin and facts of all that is added, also of what is then left out for being too many. It must not fail.
    """

    def __init__(
        self, clock: Clock, *, capacity: int = 2000, count: Callable[[EventKind, str, Mapping[str, object]], None] | None = None
    ) -> None:
        self._clock = clock
        self._count = count
        self._ring: deque[Event] = deque(maxlen=capacity)
        self._sequence = itertools.count(1)
        self._limits: dict[tuple[str | None, EventKind], _Limit] = {}
        self._subscribers: list[Callable[[Event], None]] = []

    def add(self, kind: EventKind, *, plugin: str | None = None, reason: str = "", **facts: object) -> Event | None:
        """Add an event and tell the subscribers.

        Args:
            kind: What happened.
            plugin: Id of the plugin concerned; only ids the host knows, for each takes memory until ``forget``.
            reason: Why.
            facts: More about it; made safe and cut to 4 KiB.

        Returns:
            The event; None if this plugin has had too many of this kind lately and it was only counted.
        """
        if self._count is not None and plugin is not None:
            self._count(kind, plugin, facts)
        limit = self._limits.get((plugin, kind))
        if limit is None:
            limit = self._limits[plugin, kind] = _Limit()
        if not limit.bucket.take(1, self._clock.monotonic()):
            limit.suppressed_count += 1
            return None
        event = Event(
            sequence=next(self._sequence),
            at=self._clock.now(),
            kind=kind,
            plugin=plugin,
            reason=clipped(escaped(reason[:_MAX_REASON_BYTES]), _MAX_REASON_BYTES)[0],
            facts=bounded(facts, _MAX_FACTS_BYTES)[0],
            suppressed_count=limit.suppressed_count,
        )
        limit.suppressed_count = 0
        self._ring.append(event)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:  # noqa: BLE001 - whoever adds an event is in the middle of something that must go on
                _LOG.exception("a subscriber to events failed")
        return event

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``subscriber`` with every new event, at once and on the loop, so it must be quick; return what ends that."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):  # twice is once
                self._subscribers.remove(subscriber)

        return unsubscribe

    def latest(self, count: int = 100, *, plugin: str | None = None, kind: EventKind | None = None) -> list[Event]:
        """Return the last events, oldest first, of one plugin or one kind if given."""
        matching = (
            event for event in reversed(self._ring) if (plugin is None or event.plugin == plugin) and (kind is None or event.kind is kind)
        )
        return list(itertools.islice(matching, max(count, 0)))[::-1]

    def forget(self, plugin: str) -> None:
        """Give back what is kept for a plugin's limits; its events stay."""
        for key in [key for key in self._limits if key[0] == plugin]:
            del self._limits[key]
