"""What each right and limit is worth behind which walls.

Pure table, and the only place that says so: receipt, CLI and docs show what stands here. A right or limit that nothing enforces is
shown as not enforced; it is never left out.

* ``enforced``: the plugin cannot do otherwise. ``soft``: mistakes are stopped, malice is not. ``not enforced``: written down only.
  ``not available``: nothing serves it yet, so asking for it gives nothing.
* "Enforced" of a right means: a plugin without it cannot do it.
* A reason is true of every plugin behind these walls, whatever it was granted and in whatever language it is written.

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


_THREADS_COUNT = "threads count, and those that the SDK may start are allowed on top"
_NOT_AVAILABLE = EnforcementState.NOT_AVAILABLE
_KNOWS_TRUNCATING, _KNOWS_PORTS = 3, 4  # versions of Landlock


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
    "services": _enforced("the host sends every call on its way"),
    "provide": _enforced("the host sends calls of a service to nobody else"),
    "define": _enforced("the host takes calls of a hook from nobody else"),
    "events.publish": _enforced("the host takes every event"),
    "events.subscribe": _enforced("the host sends every event, to nobody else"),
}


# Of these, what does not hold for a process that a person started: it may be in a debugger.
_NO_CLOCK = _loose("no time-out ends what a process does that was started by hand")
_BY_HAND = {**_BY_THE_HOST, "start-timeout": _NO_CLOCK, "call-timeout": _NO_CLOCK}


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
        "open-files": _enforced("RLIMIT_NOFILE, for each process by itself") if walls.rlimits else _no_limits(),
        "disk": _disk(walls),
    }
    if walls.by_hand:
        outside = _loose("it was started by hand, and runs as whoever started it, outside every wall")
        return {name: _BY_HAND.get(name, outside) for name in table}
    if walls.own_process:
        return table
    # It shares the host's interpreter, and can reach around every check.
    inside = _loose("it runs inside the host's own process")
    return {name: found if found.state is _NOT_AVAILABLE else inside for name, found in table.items()}


def _network(walls: Walls) -> Enforcement:
    if walls.seccomp and not walls.namespaces:
        # Landlock lets out by the number of a port, whatever the address.
        reach = "reach the port of its proxy at other addresses, too" if walls.landlock_abi >= _KNOWS_PORTS else "connect anywhere"
        return _soft(f"without the right it can connect nowhere; with it, it can {reach}")
    if walls.namespaces:
        return _enforced("its network has no way out; the host connects for it, to what was granted")
    if walls.landlock_abi >= _KNOWS_PORTS:
        return _loose("Landlock refuses TCP alone: by other ways it can reach what the host can reach")
    return _loose("no network wall: it can reach what the host can reach")


def _files(walls: Walls, verb: str) -> Enforcement:
    if walls.namespaces:
        rest = "nothing else is there" if verb == "read" else "all else is read-only, or not there"
        return _enforced(f"it can {verb} what every plugin can and what was granted; {rest}")
    if not walls.landlock_abi:
        return _loose(f"no file wall: it can {verb} what its user can {verb}")
    if not walls.seccomp:
        return _soft("Landlock refuses what was not granted, but by sockets it can ask others to do it")
    if verb == "write" and walls.landlock_abi < _KNOWS_TRUNCATING:
        return _soft("Landlock refuses what was not granted, but this kernel's lets it empty the files of its user")
    return _enforced(f"it can {verb} what every plugin can and what was granted; Landlock refuses the rest")


def _data(walls: Walls) -> Enforcement:
    if walls.keep_files:
        return _soft("no other plugin can reach the folder; on a disk its size is looked at from time to time")
    return _loose("no file wall: a plugin without the right can write what its user can write")


def _devices(walls: Walls) -> Enforcement:
    if _keep_from_asking(walls):
        return _enforced("it can open null, zero, full, random, urandom and what was granted")
    if walls.keep_files:
        return _soft("Landlock refuses what was not granted, but by sockets it can ask others for it")
    return _loose("no device wall: it can open what its user can open")


def _environment(walls: Walls) -> Enforcement:
    if walls.own_uid or _keep_from_asking(walls):
        return _enforced("built from the allow-list and what was granted")
    return _soft("built from the allow-list and what was granted, but it can get at the host's own as the same user")


def _keep_from_asking(walls: Walls) -> bool:
    """Say whether it sees no file but those it was given, and can ask nobody else for others."""
    return walls.namespaces or (walls.landlock_abi > 0 and walls.seccomp)


def _subprocess(walls: Walls) -> Enforcement:
    # A program, unlike a plugin in Python, can always execute itself or its interpreter anew: that makes no process.
    if walls.seccomp:
        return _enforced("without the right it can start no process; with it, those it starts are behind the same walls")
    if walls.landlock_abi:
        return _soft("without the right Landlock refuses it other programs than its own, but it can fork")
    return _loose("no syscall wall: it can start programs")


def _memory(walls: Walls) -> Enforcement:
    if "memory" in walls.cgroup:
        return _enforced("a control group, for all its processes together")
    return _soft("on Linux RLIMIT_DATA: for each process by itself, and not for shared memory") if walls.rlimits else _no_limits()


def _cpu(walls: Walls) -> Enforcement:
    return _enforced("a control group") if "cpu" in walls.cgroup else _loose("a share of the processor needs a control group")


def _processes(walls: Walls) -> Enforcement:
    if "pids" in walls.cgroup:
        return _enforced(f"a control group; {_THREADS_COUNT}")
    if not walls.rlimits:
        return _no_limits()
    if walls.own_uid:
        return _enforced(f"RLIMIT_NPROC on a user of its own; {_THREADS_COUNT}")
    if walls.namespaces:
        return _enforced(f"RLIMIT_NPROC, counted in a user namespace of its own from Linux 5.14 on; {_THREADS_COUNT}")
    return _loose("the kernel counts them per user, and the user is shared")


def _disk(walls: Walls) -> Enforcement:
    if not walls.rlimits:
        return _no_limits()
    if walls.caps_tmp:
        return _enforced("no file can be larger, nor its temporary folder, which is in memory; how many it writes elsewhere is not limited")
    return _loose("each file is capped, their number nowhere")


def _no_limits() -> Enforcement:
    return _loose("no resource limits on this platform")
