"""Find out which control groups this machine gives us, by trying.

Each way is tried on a process of our own that does nothing: a group is made, the process put into it, the limits read back from the
kernel, the process killed through the group. Only what passed is claimed.

Order: version 2 in a part that was given to us, version 1, scopes by systemd, none. Version 1 comes first where it has more of the
controllers: on mixed machines version 2 is there without any of them.

Source: feature IS11; docs/adr/0072-control-groups.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from annexe.errors import SandboxError
from annexe.sandbox.cgroup import CONTROLLERS, ControlGroups, Group, GroupLimits, NoControlGroups
from annexe.sandbox.cgroup_machine import LinuxMachine, Machine
from annexe.sandbox.cgroup_places import Place, Places, places
from annexe.sandbox.cgroup_scope import ScopeGroups
from annexe.sandbox.cgroup_v1 import V1Groups
from annexe.sandbox.cgroup_v2 import V2Groups, cure, find_base, listed, offered

__all__ = ["find_control_groups"]

_TRIAL = GroupLimits(memory_bytes=64 * 1024 * 1024, cpu=0.5, tasks=16)
_KILL_DEADLINE_S = 2.0
_NONE_SEEN = (
    "no control group of the host's own can be seen: they are Linux's, and must be mounted at /sys/fs/cgroup (in a container, its own)"
)


@final
@dataclass(frozen=True, slots=True)
class _Found:
    """One way: its groups, or None; and what is wrong with it."""

    groups: ControlGroups | None
    why: str = ""


def find_control_groups(*, machine: Machine | None = None, may_move_host: bool = True) -> tuple[ControlGroups, str]:
    """Return the best groups there are, and why they are not better, with what mends it; the latter is empty when all can be limited.

    Called once when the host opens, and by the doctor, on a worker thread; before the host starts processes of its own: a host that has
    any in its own group may not be alone there, and is then given no part of it.

    Args:
        machine: What to try on; None: this one.
        may_move_host: Whether the host itself may be moved into a leaf of its own group, if that was delegated and it is alone in it.
    """
    machine = machine or LinuxMachine()
    whys: list[str] = []
    for found in _ways(places(machine), machine, may_move_host=may_move_host):
        groups, why = found.groups, found.why
        if groups is not None:
            groups.controllers, why = _tried(groups, machine)
            if groups.controllers == CONTROLLERS:
                return groups, ""
        whys.append(why)
        if groups is not None and groups.controllers:
            return groups, _text(whys)
    return NoControlGroups(), _text(whys or [_NONE_SEEN])


def _ways(here: Places, machine: Machine, *, may_move_host: bool) -> Iterator[_Found]:
    """Yield every way, best first; each is looked at only when those before it gave nothing."""
    v1_count = len(CONTROLLERS & here.v1.keys())
    v2_count = 0 if here.v2 is None else len(offered(here.v2, machine))
    if v1_count > v2_count:
        yield _v1(here, machine)
    if here.v2 is not None and v2_count:
        base, why = find_base(here.v2, machine, may_move_host=may_move_host)
        yield _Found(None, why) if base is None else _v2(base, machine)
    elif here.v2 is not None and not v1_count:
        yield _Found(None, f"the group {here.v2.line} was given none of memory, cpu and pids: {cure(machine)}")
    if 0 < v1_count <= v2_count:
        yield _v1(here, machine)
    if here.v2 is not None and machine.has_systemd:
        yield _scopes(here.v2, machine)


def _v1(here: Places, machine: Machine) -> _Found:
    try:
        return _Found(V1Groups(here.v1, machine))
    except SandboxError as error:
        return _Found(None, str(error))


def _v2(base: Place, machine: Machine) -> _Found:
    try:
        return _Found(V2Groups(base, listed(base, machine, name="cgroup.subtree_control"), machine))
    except SandboxError as error:
        return _Found(None, str(error))


def _scopes(own: Place, machine: Machine) -> _Found:
    systemd_run, env = machine.find_program("systemd-run"), machine.find_program("env")
    if systemd_run is None or env is None:
        return _Found(None, "there is no systemd-run to ask systemd for groups: install systemd's own tools")
    try:
        return _Found(ScopeGroups(own, systemd_run=systemd_run, env=env, machine=machine))
    except SandboxError as error:
        return _Found(None, str(error))


def _tried(groups: ControlGroups, machine: Machine) -> tuple[frozenset[str], str]:
    """Return what groups really limit, and what is missing."""
    try:
        group = groups.make("trial", _TRIAL)
    except SandboxError as error:
        return frozenset(), f"{error} {_rights(groups, machine)}".strip()
    try:
        limited = _limited(group, machine)
    except (SandboxError, OSError) as error:
        return frozenset(), f"groups of flavour {groups.flavour} were tried in vain: {error} {_rights(groups, machine)}".strip()
    finally:
        group.remove()
    missing = ", ".join(sorted(CONTROLLERS - limited))
    told = " ".join(group.notes) or "this machine does not give them to the host"
    return limited, f"not limited by groups of flavour {groups.flavour}: {missing}; {told} {_rights(groups, machine)}".strip()


def _limited(group: Group, machine: Machine) -> frozenset[str]:
    """Put a process into the group and kill it there.

    Raises:
        SandboxError: That did not work.
        OSError: No process can be started.
    """
    program = machine.find_program("cat")
    if program is None:
        raise SandboxError("there is no program 'cat' to try them with; install coreutils.")
    with group.entered():
        trial = machine.start([*group.prefix, program])
    try:
        group.add(trial.pid)
        if not group.holds(trial.pid):
            raise SandboxError("the kernel does not say that the process is in its group.")
        limited = group.controllers & _TRIAL.kept_by(group.read_limits())
        if not group.kill(deadline_s=_KILL_DEADLINE_S):
            raise SandboxError("a process could not be killed through its group.")
        return limited
    finally:
        trial.end()


def _rights(groups: ControlGroups, machine: Machine) -> str:
    """Return what mends it when the rights are missing."""
    if groups.flavour == "v1":
        first = "run the host as root" if machine.uid != 0 else "mount memory, cpu and pids writable below /sys/fs/cgroup"
        return f"To mend it: {first}, or start the machine with systemd.unified_cgroup_hierarchy=1."
    if groups.flavour == "v2-scope":
        return "Look at `systemd-run --user --scope true`; controllers that are missing need Delegate=yes in user@.service."
    return f"To mend it: {cure(machine)}."


def _text(whys: list[str]) -> str:
    return "; ".join(why.rstrip(".") for why in whys) + "."
