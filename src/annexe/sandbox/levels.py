"""Sandbox levels, and what each right and limit is worth at them.

Pure table, and the only place that says so: receipt, CLI and docs show what stands here. A right or limit that nothing enforces is
shown as not enforced; it is never left out.

* ``enforced``: the plugin cannot do otherwise. ``soft``: mistakes are stopped, malice is not. ``not enforced``: written down only.
  ``not available``: nothing serves it yet, so asking for it gives nothing.
* "Enforced" of a right means: a plugin without it cannot do it.
* Levels above ``limits`` are named here and achieved by nothing yet; who requires one is refused, never given less.

Source: rule 4 of the architecture; docs/reference/permissions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from annexe.errors import SandboxError

__all__ = ["HIGHEST_ACHIEVABLE", "LIMITS", "Enforcement", "EnforcementState", "IsolationLevel", "enforcement", "require_level"]


@final
class IsolationLevel(StrEnum):
    """How strong the walls are, strongest first."""

    FULL = "full"
    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    LANDLOCK_PARTIAL = "landlock-partial"
    LIMITS = "limits"
    NONE = "none"

    def is_at_least(self, other: IsolationLevel) -> bool:
        """Say whether this level is as strong as another or stronger."""
        levels = list(IsolationLevel)
        return levels.index(self) <= levels.index(other)


HIGHEST_ACHIEVABLE = IsolationLevel.LIMITS

LIMITS = ("memory", "cpu", "processes", "open-files", "disk")
"""The limits that every plugin has, as its manifest calls them."""


@final
class EnforcementState(StrEnum):
    """What a right or limit is worth."""

    ENFORCED = "enforced"
    SOFT = "soft"
    NOT_ENFORCED = "not enforced"
    NOT_AVAILABLE = "not available"


@final
@dataclass(frozen=True, slots=True)
class Enforcement:
    """What one right or limit is worth, and why."""

    state: EnforcementState
    why: str


_ENFORCED, _SOFT = EnforcementState.ENFORCED, EnforcementState.SOFT
_NOT_ENFORCED, _NOT_AVAILABLE = EnforcementState.NOT_ENFORCED, EnforcementState.NOT_AVAILABLE

# The host decides these by itself, outside the plugin's process: the same at every level.
_BY_THE_HOST: Mapping[str, Enforcement] = {
    "kv": Enforcement(_ENFORCED, "the host checks every call, quota and rate"),
    "cap": Enforcement(_ENFORCED, "the host checks every call"),
    "provides": Enforcement(_ENFORCED, "what the manifest does not declare is refused at activation"),
    "concurrency": Enforcement(_ENFORCED, "the host sends no more"),
    "streams": Enforcement(_ENFORCED, "the host sends no more"),
    "start-timeout": Enforcement(_ENFORCED, "the host stops the start"),
    "call-timeout": Enforcement(_ENFORCED, "the host answers the caller"),
    "data": Enforcement(_NOT_AVAILABLE, "no private folder is made yet"),
    "secrets": Enforcement(_NOT_AVAILABLE, "no secret store yet"),
    "services": Enforcement(_NOT_AVAILABLE, "plugins cannot call each other yet"),
    "events.publish": Enforcement(_NOT_AVAILABLE, "no event bus yet"),
    "events.subscribe": Enforcement(_NOT_AVAILABLE, "no event bus yet"),
}

_NO_WALLS: Mapping[str, Enforcement] = {
    "network": Enforcement(_NOT_ENFORCED, "no network wall: it can reach what the host can reach"),
    "filesystem.read": Enforcement(_NOT_ENFORCED, "no file wall: it can read what its user can read"),
    "filesystem.write": Enforcement(_NOT_ENFORCED, "no file wall: it can write what its user can write"),
    "subprocess": Enforcement(_NOT_ENFORCED, "no syscall wall: it can start programs"),
    "devices": Enforcement(_NOT_ENFORCED, "no device wall: it can open what its user can open"),
    "cpu": Enforcement(_NOT_ENFORCED, "a share of the processor needs a control group"),
    "disk": Enforcement(_NOT_ENFORCED, "each file is capped where there are resource limits, their number nowhere"),
}

_NO_LIMITS: Mapping[str, Enforcement] = {
    "memory": Enforcement(_NOT_ENFORCED, "no resource limits on this platform"),
    "processes": Enforcement(_NOT_ENFORCED, "no resource limits on this platform"),
    "open-files": Enforcement(_NOT_ENFORCED, "no resource limits on this platform"),
}

_SHARED_USER_ENV = "built from the allow-list, but it can read the host's own as the same user"
_PROCESSES_OWN_UID = Enforcement(_ENFORCED, "RLIMIT_NPROC on a user of its own; threads count")
_PROCESSES_SHARED = Enforcement(_NOT_ENFORCED, "the kernel counts them per user, and the user is shared")
_ENV_OWN_UID = Enforcement(_ENFORCED, "built from the allow-list")


def enforcement(level: IsolationLevel, *, own_uid: bool, in_process: bool = False) -> Mapping[str, Enforcement]:
    """Return what every kind of right and every limit is worth.

    Args:
        level: What was achieved.
        own_uid: Whether the plugin runs as a user of its own.
        in_process: Whether the plugin runs inside the host's own process.

    Raises:
        SandboxError: For a level that nothing achieves yet.
    """
    if not HIGHEST_ACHIEVABLE.is_at_least(level):
        raise SandboxError(f"expected a level up to {HIGHEST_ACHIEVABLE}, got {level}, which nothing achieves yet.", level=str(level))
    if in_process:
        return _in_process()
    table = {**_BY_THE_HOST, **_NO_WALLS}
    table["env"] = _ENV_OWN_UID if own_uid else Enforcement(_SOFT, _SHARED_USER_ENV)
    if level is IsolationLevel.NONE:
        return {**table, **_NO_LIMITS}
    table["memory"] = Enforcement(_SOFT, "RLIMIT_DATA: for each process by itself, and not for shared memory")
    table["processes"] = _PROCESSES_OWN_UID if own_uid else _PROCESSES_SHARED
    table["open-files"] = Enforcement(_ENFORCED, "RLIMIT_NOFILE")
    return table


def require_level(plugin: str, *, achieved: IsolationLevel, required: IsolationLevel) -> None:
    """Refuse a level below what the author or the operator requires.

    Raises:
        SandboxError: When it is below; there is no silent downgrade.
    """
    if not achieved.is_at_least(required):
        raise SandboxError(
            f"plugin {plugin!r} cannot start: expected sandbox level {required} or stronger, got {achieved}; "
            "`annexe doctor` says what this machine lacks.",
            plugin=plugin,
            required=str(required),
            achieved=str(achieved),
        )


def _in_process() -> Mapping[str, Enforcement]:
    """Return the table of a plugin that shares the host's interpreter: it can reach around every check."""
    everything = {**_BY_THE_HOST, **_NO_WALLS, **_NO_LIMITS, "env": _ENV_OWN_UID}
    inside = Enforcement(_NOT_ENFORCED, "it runs inside the host's own process")
    return {name: found if found.state is _NOT_AVAILABLE else inside for name, found in everything.items()}
