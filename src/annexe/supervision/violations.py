"""What a plugin may use, what it used, and what follows from that.

Pure rules: the monitor measures, asks here, and passes on what comes of it.

* A violation is told when it begins and when it ends, each with figures; in between it is silent.
* It begins after so many measurements over the limit in a row, and ends only clearly below it: a plugin at its limit is not told of at
  each poll.
* An action that ends the instance is decided again if the same instance is still over so many measurements later.
* What was not measured changes nothing.

Source: feature IS8; docs/adr/0075-one-task-monitors-all.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, final

__all__ = ["DEFAULT_RULES", "Action", "Judged", "Limits", "MonitorPolicy", "Phase", "Resource", "Rule", "Standing", "Usage", "Violation"]


@final
class Resource(StrEnum):
    """What is bounded."""

    MEMORY = "memory"
    CPU = "cpu"
    PROCESSES = "processes"
    THREADS = "threads"
    OPEN_FILES = "open-files"
    DISK = "disk"
    DISK_ENTRIES = "disk-entries"
    CONNECTIONS = "connections"


@final
class Action(StrEnum):
    """What is done about a violation, mildest first."""

    WARN = "warn"
    THROTTLE = "throttle"  # it gets the processor last, until the violation has ended
    RESTART = "restart"
    STOP = "stop"
    QUARANTINE = "quarantine"

    @property
    def ends_instance(self) -> bool:
        """Return whether the instance is gone afterwards."""
        return self in (Action.RESTART, Action.STOP, Action.QUARANTINE)


@final
class Phase(StrEnum):
    """Where a violation stands."""

    BEGAN = "began"
    LASTS = "lasts"  # the action was to end the instance, and it is still there
    ENDED = "ended"
    GONE = "gone"  # its instance ended while it was over
    PREVENTED = "prevented"  # the kernel killed instead


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one instance of a plugin uses, all its processes together; None where it was not measured.

    Attributes:
        memory_bytes: Memory that only swapping could free, and what is swapped.
        cpu_s: Time on processors since it was started, in seconds.
        processes: Processes.
        threads: Threads of all processes, the first of each counted.
        open_files: Descriptors of the process that has most: they are bounded for each process.
        disk_bytes: What its data folder takes on the disk.
        disk_entries: Files and folders there.
        connections: Internet sockets.
        oom_kills: Processes of this instance that the kernel killed for its group's memory limit.
    """

    memory_bytes: int | None = None
    cpu_s: float | None = None
    processes: int | None = None
    threads: int | None = None
    open_files: int | None = None
    disk_bytes: int | None = None
    disk_entries: int | None = None
    connections: int | None = None
    oom_kills: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one plugin may use, counted as in ``Usage``; None: not bounded.

    Attributes:
        cpu_cores: Processors, on average from one measurement to the next.
    """

    memory_bytes: int | None = None
    cpu_cores: float | None = None
    processes: int | None = None
    threads: int | None = None
    open_files: int | None = None
    disk_bytes: int | None = None
    disk_entries: int | None = None
    connections: int | None = None


_FIELDS: Mapping[Resource, str] = {
    Resource.MEMORY: "memory_bytes",
    Resource.CPU: "cpu_cores",
    Resource.PROCESSES: "processes",
    Resource.THREADS: "threads",
    Resource.OPEN_FILES: "open_files",
    Resource.DISK: "disk_bytes",
    Resource.DISK_ENTRIES: "disk_entries",
    Resource.CONNECTIONS: "connections",
}

_NOUNS: Mapping[Resource, str] = {
    Resource.MEMORY: "of memory",
    Resource.CPU: "processors",
    Resource.PROCESSES: "processes",
    Resource.THREADS: "threads",
    Resource.OPEN_FILES: "open files in one process",
    Resource.DISK: "of disk in its private folder (`data`)",
    Resource.DISK_ENTRIES: "files and folders in its private folder (`data`)",
    Resource.CONNECTIONS: "connections",
}

# Where a plugin's own limit stands; the others are the same for all.
_KEYS: Mapping[Resource, str] = {
    Resource.MEMORY: "`memory` under [resources]",
    Resource.CPU: "`cpu` under [resources]",
    Resource.PROCESSES: "`processes` under [resources]",
    Resource.THREADS: "`processes` under [resources]",
    Resource.OPEN_FILES: "`open-files` under [resources]",
    Resource.DISK: "the quota of `data` under [permissions]",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When one resource counts as violated, and what is done then.

    Attributes:
        action: What is done when the violation begins.
        polls: Measurements over the limit in a row that make a violation, 1 or more.
        share: It counts as over above this share of the limit. Below 1 where the kernel lets nobody get over it.
        clear_share: The violation ends at this share of the limit or below.
        limit: A limit of the operator's, in place of the plugin's own; as in ``Limits``.
    """

    action: Action = Action.WARN
    polls: int = 1
    share: float = 1.0
    clear_share: float = 0.9
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.polls < 1 or not 0 <= self.clear_share <= self.share:
            raise ValueError(f"expected polls of 1 or more and 0 <= clear_share <= share, got {self}")


# Memory and disk at once: both run out for others as well. Without a control group the rule for memory is what bounds it.
DEFAULT_RULES: Mapping[Resource, Rule] = {
    Resource.MEMORY: Rule(action=Action.RESTART),
    Resource.CPU: Rule(polls=5, share=1.1),
    Resource.PROCESSES: Rule(polls=2),
    Resource.THREADS: Rule(polls=2),
    Resource.OPEN_FILES: Rule(polls=2, share=0.95),
    Resource.DISK: Rule(action=Action.STOP),
    Resource.DISK_ENTRIES: Rule(action=Action.STOP),
    Resource.CONNECTIONS: Rule(),
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing to tell about one resource.

    Attributes:
        action: What the policy says is done: at ``BEGAN`` and ``LASTS`` it is to be done now.
        amount: What is used now; bytes, processors or a count.
        limit: What may be used, in the same unit.
        peak: The most that was used while it lasted.
        lasted_s: How long ago it began, in seconds.
        kills: Processes that the kernel killed, with ``PREVENTED``.
        is_operators: The limit is the operator's, not the plugin's own.
    """

    resource: Resource
    phase: Phase
    action: Action
    amount: float
    limit: float
    peak: float
    lasted_s: float = 0.0
    kills: int = 0
    is_operators: bool = False

    @property
    def is_to_be_acted_on(self) -> bool:
        """Return whether the action is to be taken now."""
        return self.phase in (Phase.BEGAN, Phase.LASTS)

    @property
    def reason(self) -> str:
        """Return it in words, with figures."""
        noun, limit = _NOUNS[self.resource], _shown(self.resource, self.limit)
        if self.phase is Phase.PREVENTED:
            killed = f"{self.kills} process{'es' if self.kills != 1 else ''}"
            return f"the kernel killed {killed} for want of memory; limit {limit}"
        if self.phase is Phase.ENDED:
            peak = _shown(self.resource, self.peak)
            return f"no longer over its limit after {self.lasted_s:.0f} s; used at most {peak} {noun}, limit {limit}"
        if self.phase is Phase.GONE:
            peak = _shown(self.resource, self.peak)
            return f"its instance ended while it was over its limit; used at most {peak} {noun}, limit {limit}"
        still = f", still after {self.lasted_s:.0f} s" if self.phase is Phase.LASTS else ""
        return f"uses {_shown(self.resource, self.amount)} {noun}, limit {limit}{still}"

    def cure(self, *, folder: str) -> str:
        """Return what a person can do so that it does not begin again, as a part of a sentence; empty where nothing is known.

        Args:
            folder: The plugin's private folder.
        """
        cures = [f"clear out {folder}"] if self.resource in (Resource.DISK, Resource.DISK_ENTRIES) else []
        if self.is_operators:
            cures.append("raise this host's limit (`Policies(monitor=…)`)")
        elif self.resource in _KEYS:
            cures.append(f"raise {_KEYS[self.resource]} in its plugin.toml")
        return " or ".join(cures)

    def facts(self) -> dict[str, Any]:
        """Return the figures for an event."""
        facts = {"resource": self.resource.value, "phase": self.phase.value, "action": self.action.value}
        return {**facts, "amount": self.amount, "limit": self.limit, "peak": self.peak, "lasted_s": self.lasted_s, "kills": self.kills}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one resource of one instance stands.

    Attributes:
        over: Measurements over the limit in a row.
        since_s: When the violation under way began, monotonic; None: there is none.
        peak: The most since it was last in order.
        told: The violation as it began; None: there is none.
    """

    over: int = 0
    since_s: float | None = None
    peak: float = 0.0
    told: Violation | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is remembered of one instance from one measurement to the next.

    Attributes:
        at_s: When it was measured, monotonic.
        usage: What was measured then.
        cpu_cores: Processors used on average since the measurement before; None with the first.
        standings: One for each resource that is, or was lately, over.
    """

    at_s: float
    usage: Usage
    cpu_cores: float | None = None
    standings: Mapping[Resource, Standing] = field(default_factory=dict)

    @property
    def violated(self) -> tuple[Resource, ...]:
        """Return what is violated now."""
        return tuple(resource for resource, standing in self.standings.items() if standing.told is not None)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorPolicy:
    """The rules for one plugin; a resource without a rule is measured and never judged."""

    rules: Mapping[Resource, Rule] = field(default_factory=lambda: DEFAULT_RULES)

    def judge(self, before: Judged | None, *, usage: Usage, limits: Limits, now_s: float) -> tuple[Judged, tuple[Violation, ...]]:
        """Judge one more measurement of an instance.

        Args:
            before: What was remembered; None with the first measurement of each instance.
            usage: What it uses.
            limits: What it may use.
            now_s: When it was measured, monotonic.

        Returns:
            What to remember, and what to tell and to do.
        """
        cores = _cores(before, usage, now_s)
        known = before.standings if before is not None else {}
        standings: dict[Resource, Standing] = {}
        violations = list(_prevented(before, usage, limits))
        for resource, rule in self.rules.items():
            standing = known.get(resource)
            name = _FIELDS[resource]
            amount: float | None = cores if resource is Resource.CPU else getattr(usage, name)
            limit: float | None = rule.limit if rule.limit is not None else getattr(limits, name)
            if amount is not None and limit is not None:
                if standing is None and amount <= limit * rule.share:  # nearly always
                    continue
                standing, violation = _step(standing or Standing(), rule, resource=resource, amount=amount, limit=limit, now_s=now_s)
                if violation is not None:
                    violations.append(violation)
            if standing is not None:
                standings[resource] = standing
        return Judged(at_s=now_s, usage=usage, cpu_cores=cores, standings=standings), tuple(violations)

    def close(self, before: Judged, *, now_s: float) -> tuple[Violation, ...]:
        """Return the ends of what was violated by an instance that is gone."""
        ended = (_ended(standing.told, standing, amount=0, now_s=now_s) for standing in before.standings.values() if standing.told)
        return tuple(replace(violation, phase=Phase.GONE) for violation in ended)


def _cores(before: Judged | None, usage: Usage, now_s: float) -> float | None:
    if before is None or before.usage.cpu_s is None or usage.cpu_s is None or now_s <= before.at_s:
        return None
    # A process that ends takes its time along, unless its parent waits for it.
    return max(usage.cpu_s - before.usage.cpu_s, 0.0) / (now_s - before.at_s)


def _prevented(before: Judged | None, usage: Usage, limits: Limits) -> tuple[Violation, ...]:
    kills = usage.oom_kills - (before.usage.oom_kills if before is not None else 0)
    if kills <= 0:
        return ()
    amount, limit = float(usage.memory_bytes or 0), float(limits.memory_bytes or 0)
    return (
        Violation(resource=Resource.MEMORY, phase=Phase.PREVENTED, action=Action.WARN, amount=amount, limit=limit, peak=limit, kills=kills),
    )


def _step(
    standing: Standing, rule: Rule, *, resource: Resource, amount: float, limit: float, now_s: float
) -> tuple[Standing | None, Violation | None]:
    """Return where a resource stands after one more measurement, None when it is in order; and what to tell."""
    told = standing.told
    if amount > limit * rule.share:
        standing = replace(standing, over=standing.over + 1, peak=max(standing.peak, amount))
        if standing.over < rule.polls or (told is not None and not rule.action.ends_instance):
            return standing, None
        since_s = now_s if standing.since_s is None else standing.since_s
        phase = Phase.BEGAN if told is None else Phase.LASTS
        violation = Violation(
            resource=resource,
            phase=phase,
            action=rule.action,
            amount=amount,
            limit=limit,
            peak=standing.peak,
            lasted_s=now_s - since_s,
            is_operators=rule.limit is not None,
        )
        return replace(standing, over=0, since_s=since_s, told=violation), violation
    if told is None:
        return None, None
    if amount > limit * rule.clear_share:
        return replace(standing, over=0), None
    return None, _ended(told, standing, amount=amount, now_s=now_s)


def _ended(told: Violation, standing: Standing, *, amount: float, now_s: float) -> Violation:
    since_s = now_s if standing.since_s is None else standing.since_s
    return replace(told, phase=Phase.ENDED, amount=amount, peak=standing.peak, lasted_s=now_s - since_s)


def _shown(resource: Resource, amount: float) -> str:
    if resource in (Resource.MEMORY, Resource.DISK):
        return f"{amount / 1024**2:.1f} MiB"
    return f"{amount:.2f}" if resource is Resource.CPU else f"{amount:.0f}"
