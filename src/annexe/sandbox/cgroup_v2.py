"""Control groups of version 2: one hierarchy for all controllers, in a part of it that was given to us.

Where groups are made, the first of:

1. The group above the host's, when the host is in a part of a delegated one (``DelegateSubgroup=``, or the leaf of step 3).
2. The host's own, when that is the true root: processes and groups may be side by side nowhere else.
3. The host's own, after the host has moved into a leaf of it: only if it is delegated and nobody but the host is in it.

Invariants:

* No process but the host's own is ever moved, and that only within its own group: it keeps all limits from outside, and its service.
* Where systemd runs the machine, only what it gave away is touched, even by root: all else is systemd's to change.
* A move that brings no controllers is undone.

Source: docs/adr/0072-control-groups.md; the kernel's cgroup-v2 documentation; systemd's "Control Group APIs and Delegation".
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import final

from annexe.sandbox.cgroup import CONTROLLERS, GroupLimits, GroupUsage
from annexe.sandbox.cgroup_folders import FolderGroup, FolderGroups, reason, unique
from annexe.sandbox.cgroup_machine import Machine
from annexe.sandbox.cgroup_places import UNIFIED, Place, lines_of

__all__ = ["HOST_LEAF", "WEIGHT", "UnifiedGroup", "V2Groups", "cure", "find_base", "listed", "offered"]

HOST_LEAF = "annexe-host"
WEIGHT = 33
"""Share of the processor when there is a rush, of 100: what the kernel gives niceness 5, which counts only inside a group."""

_UNITS = (".service", ".scope", ".slice")
_PERIOD_US = 100_000


@final
class V2Groups(FolderGroups):
    """Groups in a delegated part of the hierarchy.

    Args:
        base: Where to make them; its controllers are enabled.
        controllers: Which those are.
        machine: To act on.

    Raises:
        SandboxError: ``/proc`` does not tell who we are.
    """

    def __init__(self, base: Place, controllers: frozenset[str], machine: Machine) -> None:
        super().__init__(bases=dict.fromkeys(sorted(CONTROLLERS), base), controllers=controllers, machine=machine)
        self.flavour = "v2"
        self._base = base

    def take_wait(self) -> None:
        line = lines_of(self._machine, "self").get(UNIFIED)
        if line is None:
            return
        own = self._base if line == self._base.line else self._base.at(line)
        with contextlib.suppress(OSError):  # it is there already, so nothing moves; the wait is all that is wanted
            self._machine.write(own.folder / "cgroup.procs", str(self._machine.own_pid()))

    def _group(self, name: str, places: Mapping[str, Place], controllers: frozenset[str], notes: tuple[str, ...]) -> FolderGroup:
        return UnifiedGroup(name=name, places=places, controllers=controllers, notes=notes, machine=self._machine)

    def _write_limit(self, controller: str, folder: Path, limit: float) -> tuple[str, ...]:
        if controller == "memory":
            return self._limit_memory(folder, str(limit))
        if controller == "pids":
            self._machine.write(folder / "pids.max", str(limit))
        else:
            with contextlib.suppress(OSError):  # a share when there is a rush; the limit is below
                self._machine.write(folder / "cpu.weight", str(WEIGHT))
            self._machine.write(folder / "cpu.max", f"{round(limit * _PERIOD_US)} {_PERIOD_US}")
        return ()

    def _limit_memory(self, folder: Path, limit: str) -> tuple[str, ...]:
        self._machine.write(folder / "memory.max", limit)
        notes = []
        for name, text, meaning in (
            ("memory.swap.max", "0", "Swap is not limited: this kernel has no memory.swap.max."),
            (
                "memory.oom.group",
                "1",
                "When memory runs out one process is killed, not all of the group: this kernel has no memory.oom.group.",
            ),
        ):
            try:
                self._machine.write(folder / name, text)
            except OSError:
                notes.append(meaning)
        return tuple(notes)


@final
class UnifiedGroup(FolderGroup):
    """A group of version 2, whoever made it."""

    def read_limits(self) -> GroupLimits:
        return GroupLimits(
            memory_bytes=self._number("memory", "memory.max"),  # "max" is no number
            cpu=self._cpu(),
            tasks=self._number("pids", "pids.max"),
        )

    def usage(self) -> GroupUsage:
        used_us, throttled_us = self._number("cpu", "cpu.stat", "usage_usec"), self._number("cpu", "cpu.stat", "throttled_usec")
        return GroupUsage(
            memory_bytes=self._number("memory", "memory.current"),
            memory_peak_bytes=self._number("memory", "memory.peak"),
            cpu_s=None if used_us is None else used_us / 1e6,
            throttled_s=None if throttled_us is None else throttled_us / 1e6,
            tasks=self._number("pids", "pids.current"),
            oom_kills=self._number("memory", "memory.events", "oom_kill"),
            tasks_refused=self._number("pids", "pids.events", "max"),
        )

    def _kill_at_once(self) -> None:
        for place in unique(self._places):
            with contextlib.suppress(OSError):  # before Linux 5.14 one by one
                self._machine.write(place.folder / "cgroup.kill", "1")

    def _cpu(self) -> float | None:
        try:
            quota, period = self._machine.read(self._places["cpu"].folder / "cpu.max").split()
        except (OSError, KeyError, ValueError):
            return None
        return int(quota) / int(period) if quota.isdecimal() else None


def cure(machine: Machine) -> str:
    """Return what gives a host a group that it may divide."""
    if machine.has_systemd:
        return "run the host as a service with Delegate=yes (and, from systemd 254 on, DelegateSubgroup=host)"
    return (
        "run the host as the only process of a container whose control groups can be written to "
        "(docker run --security-opt writable-cgroups=true, podman run --security-opt unmask=/sys/fs/cgroup)"
    )


def listed(place: Place, machine: Machine, *, name: str = "cgroup.controllers") -> frozenset[str]:
    """Return which of our controllers a group's file names."""
    try:
        return CONTROLLERS.intersection(machine.read(place.folder / name).split())
    except OSError:
        return frozenset()


def offered(own: Place, machine: Machine) -> frozenset[str]:
    """Return which controllers the host may be able to give on; in a part of a group that was given away, those of that group.

    Such a part (``DelegateSubgroup=``) has none itself before they are enabled above it, which systemd leaves to us.
    """
    above = own.parent()
    return listed(above if above is not None and _is_ready_parent(own, above, machine) else own, machine)


def find_base(own: Place, machine: Machine, *, may_move_host: bool) -> tuple[Place | None, str]:
    """Return the group to make groups in, with as many controllers enabled as can be; or None, and why not.

    Args:
        own: The host's own group.
        machine: To act on.
        may_move_host: Whether the host may be moved into a leaf of its own group.
    """
    above = own.parent()
    if above is not None and _is_ready_parent(own, above, machine):  # 1.
        return _enabled(above, machine)
    if not machine.exists(own.folder / "cgroup.type"):  # 2. only the true root has no type
        return (None, f"systemd owns the root of control groups: {cure(machine)}") if machine.has_systemd else _enabled(own, machine)
    if machine.has_systemd and not machine.is_delegated(own.folder):  # 3.
        return None, f"{own.line} was not given to the host to divide (it is not delegated): {cure(machine)}"
    others = _members(own, machine) - {machine.own_pid()}
    if others:
        return None, f"the host shares its group {own.line} with {len(others)} other processes, which are not ours to move: {cure(machine)}"
    if not may_move_host:
        return None, f"the host may not be moved within its group {own.line}: allow it, or {cure(machine)}"
    return _enabled_after_move(own, machine)


def _is_ready_parent(own: Place, above: Place, machine: Machine) -> bool:
    if not machine.exists(above.folder / "cgroup.procs"):  # above what is mounted
        return False
    if machine.has_systemd and own.folder.suffix in _UNITS:  # what is above a unit is a systemd's, be it one of a user's own
        return False
    is_ours = machine.is_delegated(above.folder) if machine.has_systemd else own.folder.name == HOST_LEAF
    return is_ours and not _members(above, machine)


def _enabled(base: Place, machine: Machine) -> tuple[Place | None, str]:
    """Give controllers to the groups inside; each by itself, so that one that is refused costs no other."""
    refused: OSError | None = None
    for controller in sorted(listed(base, machine)):
        try:
            machine.write(base.folder / "cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            refused = error
    if listed(base, machine, name="cgroup.subtree_control"):
        return base, ""
    if refused is not None:
        return None, f"controllers cannot be given to groups inside {base.line}: {reason(refused)}; {cure(machine)}"
    return None, f"no controller of {', '.join(sorted(CONTROLLERS))} was given to {base.line}: {cure(machine)}"


def _enabled_after_move(own: Place, machine: Machine) -> tuple[Place | None, str]:
    leaf, pid = own.child(HOST_LEAF), machine.own_pid()
    try:
        with contextlib.suppress(FileExistsError):  # a host before us, in a service that was started again
            machine.make(leaf.folder)
        machine.write(leaf.folder / "cgroup.procs", str(pid))
    except OSError as error:
        return None, f"the host cannot be moved into a leaf of its group {own.line}: {reason(error)}; {cure(machine)}"
    base, why = _enabled(own, machine)
    if base is None:  # somebody was started in the group meanwhile, say
        with contextlib.suppress(OSError):
            machine.write(own.folder / "cgroup.procs", str(pid))
            machine.remove(leaf.folder)
    return base, why


def _members(place: Place, machine: Machine) -> set[int]:
    try:
        return {int(pid) for pid in machine.read(place.folder / "cgroup.procs").split()}
    except OSError:
        return {0}  # somebody may be in it
