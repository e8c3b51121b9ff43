"""The instances of one plugin that take calls.

A call goes to the one with the fewest in flight, a healthy one before others. When even that one has its hands full, the supervisor is told
once, and may start more. What one was not sent yet it may give to another that has a slot free.

Source: feature LC12; ADR-0093.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import final

from annexe.channel import Connection
from annexe.supervision.health import Health, HealthPolicy, HealthStatus
from annexe.supervision.instance import Instance
from annexe.supervision.scaling import Scaling

__all__ = ["Member", "Pool"]

_UNWELL = 1_000_000  # calls in flight that a degraded instance counts as having besides


@final
class Member:
    """One instance that takes calls.

    Attributes:
        used_at: Monotonic time when it was last chosen.
        ready_at: Monotonic time when it began.
        fault: Why it is to end; None: it is not.
        is_by_limit: It is to end because it used more than it may.
        is_final: Nothing of the plugin is to be started again then.
    """

    __slots__ = ("fault", "health", "instance", "is_by_limit", "is_final", "ready_at", "used_at")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.ready_at = self.used_at = monotonic()
        self.health = Health()
        self.fault: str | None = None
        self.is_by_limit = self.is_final = False

    @property
    def is_well(self) -> bool:
        """Whether it answers as it should."""
        return self.health.status is HealthStatus.HEALTHY

    @property
    def end(self) -> str | None:
        """Why it has ended, or is to end as a failure; None: it goes on."""
        return self.fault or (self.instance.ended.result() if self.instance.ended.done() else None)

    async def ping(self, policy: HealthPolicy) -> None:
        """See whether it answers; a busy one shows itself by its calls."""
        if not self.instance.connection.is_busy:
            self.health = policy.after_ping(self.health, latency_s=await self.instance.ping(policy.ping_timeout_s))
            if self.health.status is HealthStatus.UNHEALTHY:
                self.fault = f"did not answer {self.health.missed} pings"


@final
class Pool:
    """The members of one plugin's pool.

    Args:
        instances: At least one.
        on_pressure: Told that all have their hands full, and not again before ``relieved``.
    """

    def __init__(self, instances: Iterable[Instance], *, on_pressure: Callable[[], None]) -> None:
        self.members = [Member(instance) for instance in instances]
        self.scaling: Scaling = self.members[0].instance.plan.scaling
        for member in self.members:
            self._join(member)
        self._on_pressure = on_pressure
        self._is_told = False

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet."""
        return sum(member.instance.connection.in_flight for member in self.members)

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return any(member.instance.connection.is_busy for member in self.members)

    def choose(self) -> Connection:
        """Return whom to send the next call."""
        best, least = self.members[0], _load(self.members[0])
        for member in self.members[1:]:
            load = _load(member)
            if load < least:
                best, least = member, load
        if least >= self.scaling.full and not self._is_told and len(self.members) < self.scaling.most:
            self._is_told = True
            self._on_pressure()
        best.used_at = monotonic()
        return best.instance.connection

    def add(self, instance: Instance) -> Member:
        """Let an instance take calls, and at once of what waits for the others."""
        member = Member(instance)
        self.members.append(member)
        self._join(member)
        self.feed(instance.connection)
        return member

    def remove(self, member: Member) -> None:
        """Send an instance no more calls; what it was not sent yet goes to the others."""
        self.members.remove(member)
        member.instance.connection.siblings = None
        self.rescue(member.instance.connection)

    def _join(self, member: Member) -> None:
        if self.scaling.most > 1:
            member.instance.connection.siblings = self

    def feed(self, connection: Connection) -> None:
        """Give an instance with a slot free what waits longest at the one with the most waiting."""
        while connection.has_room:
            donor = max((member.instance.connection for member in self.members), key=lambda one: one.queued)
            if donor is connection or not donor.queued:
                return
            connection.take_in(donor.hand_out(most=1))

    def rescue(self, connection: Connection) -> None:
        """Spread what waits at an instance that goes over those that stay."""
        while connection.queued:
            others = [member.instance.connection for member in self.members if member.instance.connection is not connection]
            best = min((one for one in others if not one.closed), key=lambda one: one.in_flight, default=None)
            if best is None:
                return
            best.take_in(connection.hand_out(most=1))

    def relieved(self) -> None:
        """Tell of the next pressure, too."""
        self._is_told = False

    def missing(self) -> int:
        """Return how many more should run."""
        return self.scaling.wanted(self.in_flight) - len(self.members)

    def spare(self) -> Member | None:
        """Return one that was not called for so long that it is not needed; None when all are."""
        members, scaling = self.members, self.scaling
        if len(members) <= max(scaling.least, scaling.wanted(self.in_flight)):
            return None
        idle = min(
            (member for member in members if not member.instance.connection.is_busy), key=lambda member: member.used_at, default=None
        )
        return idle if idle is not None and monotonic() - idle.used_at >= scaling.shrink_after_s else None


def _load(member: Member) -> int:
    connection = member.instance.connection
    if connection.closed:
        return 2 * _UNWELL
    return connection.in_flight if member.is_well else connection.in_flight + _UNWELL
