"""Control groups by systemd, one scope for each launch: for a host that was given no group to divide.

The user's own systemd makes the group, sets the limits and starts the command in it: a launch begins with ``Group.prefix``.

Invariants:

* The command runs once it is in its scope: systemd-run puts itself there, then executes it, with the same number.
* A group claims no controller before ``add`` has found the process in the scope and read its limits back from the kernel.
* What systemd-run needs of the environment, and what it adds there, does not reach the command.

Source: docs/adr/0072-control-groups.md; systemd-run(1), systemd.resource-control(5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import final

from annexe.errors import SandboxError
from annexe.sandbox.cgroup import CONTROLLERS, ControlGroups, Group, GroupLimits, GroupUsage
from annexe.sandbox.cgroup_machine import Machine
from annexe.sandbox.cgroup_names import full_name, is_leftover, new_owner
from annexe.sandbox.cgroup_places import UNIFIED, Place, lines_of
from annexe.sandbox.cgroup_v2 import WEIGHT, UnifiedGroup

__all__ = ["ScopeGroups"]

_WITHOUT = ("-u", "INVOCATION_ID")  # which systemd-run adds
_PAUSE_S = 0.002
_START_DEADLINE_S = 5.0
_REMOVE_DEADLINE_S = 1.0
_SWEEP_DEADLINE_S = 5.0


@final
class ScopeGroups(ControlGroups):
    """Groups that systemd makes.

    Args:
        own: The host's own group.
        systemd_run: The program.
        env: The program ``env``.
        machine: To act on.

    Raises:
        SandboxError: ``/proc`` does not tell who we are.
    """

    def __init__(self, own: Place, *, systemd_run: str, env: str, machine: Machine) -> None:
        self.controllers = CONTROLLERS
        self.flavour = "v2-scope"
        self._own = own
        self._systemd_run = systemd_run
        self._env = env
        self._machine = machine
        self._owner = new_owner(machine)
        self._slices: set[Place] = set()  # where systemd puts our scopes

    def make(self, name: str, limits: GroupLimits) -> Group:
        unit = full_name(self._owner, name) + ".scope"
        kept = GroupLimits(
            memory_bytes=limits.memory_bytes if "memory" in self.controllers else None,
            cpu=limits.cpu if "cpu" in self.controllers else None,
            tasks=limits.tasks if "pids" in self.controllers else None,
        )
        return _ScopeGroup(name=name, unit=unit, limits=kept, prefix=self._prefix(unit, kept), machine=self._machine, adopt=self._adopt)

    def take_wait(self) -> None:
        pass  # systemd moves the process

    def sweep(self) -> int:
        return self._clear(lambda name: is_leftover(name, self._machine))

    def close(self) -> None:
        self._clear(lambda name: name.startswith(f"{self._owner}."))

    def _adopt(self, name: str, line: str) -> tuple[UnifiedGroup, Path]:
        """Return the group of a scope that is there, and its folder."""
        place = self._own.at(line)
        self._slices.update(filter(None, (place.parent(),)))
        return self._group(name, place), place.folder

    def _group(self, name: str, place: Place) -> UnifiedGroup:
        places = dict.fromkeys(sorted(CONTROLLERS), place)
        return UnifiedGroup(name=name, places=places, controllers=frozenset(), notes=(), machine=self._machine)

    def _prefix(self, unit: str, limits: GroupLimits) -> tuple[str, ...]:
        settings = ["Delegate=yes"]
        if limits.memory_bytes is not None:
            settings += [f"MemoryMax={limits.memory_bytes}", "MemorySwapMax=0"]
        if limits.cpu is not None:
            settings += [f"CPUQuota={max(1, int(limits.cpu * 100))}%", f"CPUWeight={WEIGHT}"]
        if limits.tasks is not None:
            settings.append(f"TasksMax={limits.tasks}")
        properties = [word for setting in settings for word in ("-p", setting)]
        run = (self._systemd_run, "--scope", "--quiet", "--collect", f"--unit={unit}", *properties)
        if self._machine.uid == 0:
            return (*run, "--", self._env, *_WITHOUT)
        # Whoever launches gives the command an environment made for the plugin, in which systemd-run would not find the user's systemd.
        runtime = "XDG_RUNTIME_DIR"
        found = f"{runtime}=/run/user/{self._machine.uid}"
        return (self._env, found, run[0], "--user", *run[1:], "--", self._env, "-u", runtime, *_WITHOUT)

    def _clear(self, is_ours: Callable[[str], bool]) -> int:
        """Kill what is left in scopes with such names, and return how many went; systemd removes them."""
        found = [
            place.child(folder.name) for place in self._slices for folder in self._machine.folders(place.folder) if is_ours(folder.name)
        ]
        return sum(self._group(place.folder.name, place).kill(deadline_s=_SWEEP_DEADLINE_S) for place in found)


class _ScopeGroup(Group):
    """One launch's scope: not there until its command is."""

    def __init__(
        self,
        *,
        name: str,
        unit: str,
        limits: GroupLimits,
        prefix: tuple[str, ...],
        machine: Machine,
        adopt: Callable[[str, str], tuple[UnifiedGroup, Path]],
    ) -> None:
        self.name = name
        self.controllers = frozenset()
        self.notes = ()
        self._unit = unit
        self._limits = limits
        self._prefix = prefix
        self._machine = machine
        self._adopt = adopt
        self._group: UnifiedGroup | None = None
        self._folder: Path | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        return self._prefix

    def add(self, pid: int) -> None:
        line = self._wait_for_scope(pid)
        self._group, self._folder = self._adopt(self.name, line)
        with contextlib.suppress(OSError):
            self._machine.write(self._folder / "memory.oom.group", "1")
        self.controllers = self._limits.kept_by(self._group.read_limits())

    def usage(self) -> GroupUsage:
        return GroupUsage() if self._group is None else self._group.usage()

    def holds(self, pid: int) -> bool:
        return self._group is not None and self._group.holds(pid)

    def read_limits(self) -> GroupLimits:
        return GroupLimits() if self._group is None else self._group.read_limits()

    def kill(self, *, deadline_s: float = 5.0) -> bool:
        return self._group is None or self._group.kill(deadline_s=deadline_s)

    def remove(self) -> bool:
        """Wait for systemd to remove it: the scope is systemd's own."""
        give_up_at = self._machine.now() + _REMOVE_DEADLINE_S
        while self._folder is not None and self._machine.exists(self._folder):
            if self._machine.now() >= give_up_at:
                return False
            self._machine.pause(_PAUSE_S)
        return True

    def _wait_for_scope(self, pid: int) -> str:
        give_up_at = self._machine.now() + _START_DEADLINE_S
        while (line := lines_of(self._machine, pid).get(UNIFIED)) is not None:
            if line.endswith(f"/{self._unit}"):
                return line
            if self._has_ended(pid):
                line = None
                break
            if self._machine.now() >= give_up_at:
                break
            self._machine.pause(_PAUSE_S)
        raise SandboxError(
            f"process {pid} of {self.name!r} did not get into {self._unit}: expected systemd-run to put it there, got "
            f"{line or 'its end'}; try `systemd-run --user --scope true`.",
            group=self._unit,
        )

    def _has_ended(self, pid: int) -> bool:
        """Return whether a process has ended; until somebody has waited for it, it is still there and in its group."""
        try:
            stat = self._machine.read(self._machine.proc / str(pid) / "stat")
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[:1] in (["Z"], ["X"])
