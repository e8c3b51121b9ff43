"""Control groups of version 1: one hierarchy for each controller, for a root host.

Invariants:

* A controller that is missing on this machine, or closed to us, is missing in ``controllers``; the others still limit.
* No limit is wider than one set on the host from outside: groups are below the host's own, and where the kernel refuses a wider share of
  the processor than that, ours is the outer one.

When memory runs out, version 1 kills one process of the group, not all: whoever watches ``oom_kills`` decides about the rest.

Source: docs/adr/0072-control-groups.md; the kernel's documentation of memory, cpu, cpuacct and pids of version 1.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

from annexe.errors import SandboxError
from annexe.sandbox.cgroup import CONTROLLERS, GroupLimits, GroupUsage
from annexe.sandbox.cgroup_folders import FolderGroup, FolderGroups, reason, unique
from annexe.sandbox.cgroup_machine import Machine
from annexe.sandbox.cgroup_places import Place, lines_of

__all__ = ["V1Groups"]

_PERIOD_US = 100_000
_SHARES = 335  # of 1024: what the kernel gives a process of niceness 5, which counts only inside a group
_NO_LIMIT_BYTES = 1 << 62  # the kernel tells the largest number of pages there can be
_FIGURES = "cpuacct"


@final
class V1Groups(FolderGroups):
    """Groups in the hierarchies of version 1.

    Args:
        places: The host's own groups, by controller.
        machine: To act on.

    Raises:
        SandboxError: ``/proc`` does not tell who we are.
    """

    def __init__(self, places: Mapping[str, Place], machine: Machine) -> None:
        bases = {name: place for name, place in sorted(places.items()) if name in CONTROLLERS or name == _FIGURES}
        super().__init__(bases=bases, controllers=CONTROLLERS & bases.keys(), machine=machine)
        self.flavour = "v1"

    def take_wait(self) -> None:
        pass  # ``entered`` makes nobody wait

    def _group(self, name: str, places: Mapping[str, Place], controllers: frozenset[str], notes: tuple[str, ...]) -> FolderGroup:
        return _V1Group(name=name, places=places, controllers=controllers, notes=notes, machine=self._machine)

    def _write_limit(self, controller: str, folder: Path, limit: float) -> tuple[str, ...]:
        if controller == "memory":
            return self._limit_memory(folder, str(limit))
        if controller == "pids":
            self._machine.write(folder / "pids.max", str(limit))
        else:
            self._limit_cpu(folder, limit)
        return ()

    def _limit_memory(self, folder: Path, limit: str) -> tuple[str, ...]:
        self._machine.write(folder / "memory.limit_in_bytes", limit)
        try:
            self._machine.write(folder / "memory.memsw.limit_in_bytes", limit)  # memory and swap together
        except OSError:
            with contextlib.suppress(OSError):
                self._machine.write(folder / "memory.swappiness", "0")
            return ("Swap is not limited: this kernel was started without swapaccount=1.",)
        return ()

    def _limit_cpu(self, folder: Path, cpu: float) -> None:
        with contextlib.suppress(OSError):  # a share when there is a rush; the limit is below
            self._machine.write(folder / "cpu.shares", str(_SHARES))
        try:
            self._machine.write(folder / "cpu.cfs_quota_us", str(round(cpu * _PERIOD_US)))
        except OSError as error:
            outer = _quota(self._machine, folder.parent) if error.errno == errno.EINVAL else None
            if outer is None or outer > cpu:
                raise
            self._machine.write(folder / "cpu.cfs_quota_us", str(int(outer * _PERIOD_US)))


class _V1Group(FolderGroup):
    @property
    def doors(self) -> tuple[Path, ...]:
        return tuple(place.folder / "tasks" for place in unique(self._places))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        # Moving the calling thread is the one move for which the kernel waits for nobody.
        home = lines_of(self._machine, "thread-self")
        inside: list[Place] = []
        try:
            with contextlib.suppress(OSError):  # what is not entered now is joined by ``add``
                for place in unique(self._places):
                    self._machine.write(place.folder / "tasks", "0")
                    inside.append(place)
            yield
        finally:
            for place in inside:
                self._leave(place, home[place.hierarchy])

    def _leave(self, place: Place, home: str) -> None:
        above = place.parent()
        back = above if above is not None and above.line == home else place.at(home)
        try:
            self._machine.write(back.folder / "tasks", "0")
        except OSError as error:
            raise SandboxError(
                f"the host's thread that started {self.name!r} cannot leave {place.folder}: {reason(error)}; restart the host.",
                group=str(place.folder),
            ) from error

    def read_limits(self) -> GroupLimits:
        memory = self._number("memory", "memory.limit_in_bytes")
        cpu = self._places.get("cpu")
        return GroupLimits(
            memory_bytes=None if memory is None or memory >= _NO_LIMIT_BYTES else memory,
            cpu=None if cpu is None else _quota(self._machine, cpu.folder),
            tasks=self._number("pids", "pids.max"),
        )

    def usage(self) -> GroupUsage:
        used_ns = self._number(_FIGURES, "cpuacct.usage")
        throttled_ns = self._number("cpu", "cpu.stat", "throttled_time")
        return GroupUsage(
            memory_bytes=self._number("memory", "memory.usage_in_bytes"),
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes"),
            cpu_s=None if used_ns is None else used_ns / 1e9,
            throttled_s=None if throttled_ns is None else throttled_ns / 1e9,
            tasks=self._number("pids", "pids.current"),
            oom_kills=self._number("memory", "memory.oom_control", "oom_kill"),
            tasks_refused=self._number("pids", "pids.events", "max"),
        )


def _quota(machine: Machine, folder: Path) -> float | None:
    """Return a group's limit on processor time, in cores; None when it has none of its own, or cannot be read."""
    try:
        quota, period = (int(machine.read(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
