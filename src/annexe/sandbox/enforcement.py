"""What each right and limit is worth behind which walls.

Pure table, and the only place that says so: receipt, CLI and docs show what stands here. A right or limit that nothing enforces is
shown as not enforced; it is never left out.

* ``enforced``: the plugin cannot do otherwise. ``soft``: mistakes are stopped, malice is not. ``not enforced``: written down only.
  ``not available``: nothing serves it yet, so asking for it gives nothing.
* "Enforced" of a right means: a plugin without it cannot do it.

Source: rule 4 of the architecture; docs/reference/permissions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from annexe.sandbox.levels import Walls

__all__ = ["LIMITS", "Enforcement", "EnforcementState", "enforcement"]

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


_NOT_AVAILABLE = EnforcementState.NOT_AVAILABLE
_KNOWS_PORTS = 4  # version of Landlock


def _enforced(why: str) -> Enforcement:
    return Enforcement(EnforcementState.ENFORCED, why)


def _soft(why: str) -> Enforcement:
    return Enforcement(EnforcementState.SOFT, why)


def _loose(why: str) -> Enforcement:
    return Enforcement(EnforcementState.NOT_ENFORCED, why)


# The host decides these by itself, outside the plugin's process: the same at every level.
_BY_THE_HOST: Mapping[str, Enforcement] = {
    "kv": _enforced("the host checks every call, quota and rate"),
    "cap": _enforced("the host checks every call"),
    "provides": _enforced("what the manifest does not declare is refused at activation"),
    "concurrency": _enforced("the host sends no more"),
    "streams": _enforced("the host sends no more"),
    "start-timeout": _enforced("the host stops the start"),
    "call-timeout": _enforced("the host answers the caller"),
    "secrets": Enforcement(_NOT_AVAILABLE, "no secret store yet"),
    "services": Enforcement(_NOT_AVAILABLE, "plugins cannot call each other yet"),
    "events.publish": Enforcement(_NOT_AVAILABLE, "no event bus yet"),
    "events.subscribe": Enforcement(_NOT_AVAILABLE, "no event bus yet"),
}


def enforcement(walls: Walls) -> Mapping[str, Enforcement]:
    """Return what every kind of right and every limit is worth behind these walls."""
    table = {
        **_BY_THE_HOST,
        "network": _network(walls),
        "filesystem.read": _files(walls, "read"),
        "filesystem.write": _files(walls, "write"),
        "data": _data(walls),
        "devices": _devices(walls),
        "env": _environment(walls),
        "subprocess": _subprocess(walls),
        "memory": _memory(walls),
        "cpu": _cpu(walls),
        "processes": _processes(walls),
        "open-files": _enforced("RLIMIT_NOFILE") if walls.rlimits else _no_limits(),
        "disk": _disk(walls),
    }
    if walls.own_process:
        return table
    # It shares the host's interpreter, and can reach around every check.
    inside = _loose("it runs inside the host's own process")
    return {name: found if found.state is _NOT_AVAILABLE else inside for name, found in table.items()}


def _network(walls: Walls) -> Enforcement:
    if walls.seccomp and not walls.namespaces:
        # Landlock lets out by the number of a port, whatever the address.
        reach = "reach the port of its proxy at other addresses, too" if walls.landlock_abi >= _KNOWS_PORTS else "connect anywhere"
        return _soft(f"without the right it can make no socket; with it, it can {reach}")
    if walls.namespaces:
        return _enforced("its network has no way out; the host connects for it, to what was granted")
    return _loose("no network wall: it can reach what the host can reach")


def _files(walls: Walls, verb: str) -> Enforcement:
    if walls.namespaces:
        return _enforced("what was not granted is not there")
    if walls.landlock_abi:
        return _enforced("Landlock refuses what was not granted")
    return _loose(f"no file wall: it can {verb} what its user can {verb}")


def _data(walls: Walls) -> Enforcement:
    if walls.keep_files:
        return _soft("nobody else can reach the folder; its size is looked at from time to time")
    return _loose("no file wall: a plugin without the right can write what its user can write")


def _devices(walls: Walls) -> Enforcement:
    return (
        _enforced("no device is there but null, zero, full and random")
        if walls.keep_files
        else _loose("no device wall: it can open what its user can open")
    )


def _environment(walls: Walls) -> Enforcement:
    if walls.own_uid or walls.keep_files:
        return _enforced("built from the allow-list")
    return _soft("built from the allow-list, but it can read the host's own as the same user")


def _subprocess(walls: Walls) -> Enforcement:
    if walls.seccomp:
        return _enforced("it can neither fork nor run a program")
    if walls.landlock_abi:
        return _soft("Landlock refuses to run a program, but it can fork")
    return _loose("no syscall wall: it can start programs")


def _memory(walls: Walls) -> Enforcement:
    if "memory" in walls.cgroup:
        return _enforced("a control group, for all its processes together")
    return _soft("RLIMIT_DATA: for each process by itself, and not for shared memory") if walls.rlimits else _no_limits()


def _cpu(walls: Walls) -> Enforcement:
    return _enforced("a control group") if "cpu" in walls.cgroup else _loose("a share of the processor needs a control group")


def _processes(walls: Walls) -> Enforcement:
    if "pids" in walls.cgroup:
        return _enforced("a control group; threads count")
    if not walls.rlimits:
        return _no_limits()
    if walls.own_uid or walls.namespaces:
        return _enforced("RLIMIT_NPROC on a user of its own; threads count")
    return _loose("the kernel counts them per user, and the user is shared")


def _disk(walls: Walls) -> Enforcement:
    if walls.namespaces:
        return _enforced(
            "it can write nothing but a temporary folder in memory of that size; a granted folder is looked at from time to time"
        )
    return _loose("each file is capped where there are resource limits, their number nowhere")


def _no_limits() -> Enforcement:
    return _loose("no resource limits on this platform")
