"""Control groups: limits that hold for everything a plugin starts, together, and figures of what it uses.

What a group is, whoever makes it; the kinds are in ``cgroup_v1``, ``cgroup_v2`` and ``cgroup_scope``, and ``cgroup_probe`` finds out by
trying which of them this machine gives us. Blocking: all of it is called from worker threads.

Invariants:

* ``controllers`` names what is really limited, of a host's groups and of one group. What could not be limited is missing there, and said
  in ``notes``; nothing is claimed because it was asked for.
* A process is put into its group before it runs anything of the plugin, or not at all: ``add`` raises.
* Groups are made below the host's own, so that limits set on the host from outside hold for its plugins too; but for scopes of systemd's.

Source: features IS7, IS8, IS11; docs/adr/0072-control-groups.md.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

__all__ = ["CONTROLLERS", "ControlGroups", "Flavour", "Group", "GroupLimits", "GroupUsage", "NoControlGroups"]

CONTROLLERS = frozenset({"memory", "cpu", "pids"})
"""All that can be limited, as the kernel calls it."""

Flavour = Literal["v1", "v2", "v2-scope", "none"]

_LEAST_CPU = 0.01  # the kernel takes no quota below 1 ms in each 100 ms


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """Limits of one group; None: no limit.

    Attributes:
        memory_bytes: Memory of all its processes together: private, shared and anonymous, page cache, files on tmpfs. The kernel rounds
            down to whole pages. Without swap on top wherever the kernel can say so.
        cpu: Processor time per time, in cores: 0.5 is half of one. At least 0.01.
        tasks: Processes and threads together.
    """

    memory_bytes: int | None = None
    cpu: float | None = None
    tasks: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("memory_bytes", self.memory_bytes, 0), ("cpu", self.cpu, _LEAST_CPU), ("tasks", self.tasks, 0)):
            if value is not None and not (least <= value < math.inf):
                raise ValueError(f"expected {name} of at least {least}, got {value}")

    def of(self, controller: str) -> int | float | None:
        """Return the limit that this controller keeps."""
        return {"memory": self.memory_bytes, "cpu": self.cpu, "pids": self.tasks}[controller]

    def kept_by(self, actual: GroupLimits) -> frozenset[str]:
        """Return the controllers whose limit, as read back from the kernel, is what was asked for or tighter."""
        return frozenset(
            name
            for name in CONTROLLERS
            if (asked := self.of(name)) is not None and (found := actual.of(name)) is not None and found <= asked + 1e-6
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupUsage:
    """What one group uses, and what its limits did; None: this kernel does not tell.

    Attributes:
        memory_bytes: Now, page cache included: a group may sit at its limit for long and be well.
        memory_peak_bytes: The most there was at once.
        cpu_s: Processor time of all its processes, the ended ones included.
        throttled_s: Time that it wanted to run and was held back, added up over processors.
        tasks: Processes and threads now, ended ones that nobody has waited for included.
        oom_kills: Processes killed since they would have gone over the memory limit; some kernels count one of them twice.
        tasks_refused: Forks and new threads refused since the limit was reached.
    """

    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    cpu_s: float | None = None
    throttled_s: float | None = None
    tasks: int | None = None
    oom_kills: int | None = None
    tasks_refused: int | None = None


class Group(ABC):
    """The control group of one launch.

    Attributes:
        name: Of the launch.
        controllers: What is really limited here.
        notes: What could not be done, in sentences for people.
    """

    name: str
    controllers: frozenset[str]
    notes: tuple[str, ...]

    @property
    def prefix(self) -> tuple[str, ...]:
        """What goes before the command of the launch; empty where the group is there before the process."""
        return ()

    def entered(self) -> AbstractContextManager[None]:
        """Let what the calling thread starts meanwhile be born in the group, where that can be; ``add`` then finds it there.

        Called by the launcher on the thread that starts the process, around nothing else: the thread itself is in the group as well, and
        counts as one of its tasks.

        Raises:
            SandboxError: On leaving: the thread cannot get out again, so that the host is in the plugin's group.
        """
        return contextlib.nullcontext()

    @property
    def doors(self) -> tuple[Path, ...]:
        """Files by which a process joins the group by itself, and without waiting: it writes ``0`` to each. Empty where it cannot.

        They have to be opened by the host: what counts is who opened them.
        """
        return ()

    @abstractmethod
    def add(self, pid: int) -> None:
        """Put a process into the group unless it is in it. Called by the launcher, before the process runs a plugin's code.

        Raises:
            SandboxError: It is not in the group now, or not wholly; the caller must kill it.
        """

    @abstractmethod
    def usage(self) -> GroupUsage:
        """Return what it uses. Called by the monitor every second or so: reads some small files."""

    @abstractmethod
    def holds(self, pid: int) -> bool:
        """Return whether the kernel says that a process is in the group, or in one inside it; for the receipt."""

    @abstractmethod
    def read_limits(self) -> GroupLimits:
        """Return the limits as the kernel tells them; for the receipt."""

    @abstractmethod
    def kill(self, *, deadline_s: float = 5.0) -> bool:
        """End everything in it for certain, never the host, and return whether nothing is left. The group is of no use afterwards."""

    @abstractmethod
    def remove(self) -> bool:
        """Remove the group; False while something is in it. Removing it again does nothing."""


class ControlGroups(ABC):
    """The groups of one host.

    Attributes:
        controllers: What can really be limited.
        flavour: How.
    """

    controllers: frozenset[str]
    flavour: Flavour

    @abstractmethod
    def make(self, name: str, limits: GroupLimits) -> Group:
        """Make the group of a launch.

        Args:
            name: Tells launches of one host apart: small letters, digits, ``-``, ``_`` and ``.``, at most 100, a letter or digit first.
            limits: Those of controllers that we do not have are left out, as ``Group.controllers`` tells.

        Raises:
            SandboxError: There can be no group at all.
            ValueError: The name is not one.
        """

    @abstractmethod
    def take_wait(self) -> None:
        """Take upon this thread the wait that the next ``add`` would have, if that comes within 10 ms or so.

        Called by the launcher on a thread of its own beside the start of a process, where ``flavour`` is ``v2``. The kernel makes a process
        that joins a group wait for every processor, 5 to 12 ms, unless somebody has just done so.
        """

    @abstractmethod
    def sweep(self) -> int:
        """Kill and remove groups that dead hosts left, and return how many.

        Called at start, before anything is launched, and by the warden of a dead host.
        """

    @abstractmethod
    def close(self) -> None:
        """Kill and remove the groups that are left of this host."""


@final
class NoControlGroups(ControlGroups):
    """Where there are none: groups that limit nothing and say so."""

    def __init__(self) -> None:
        self.controllers = frozenset()
        self.flavour = "none"

    def make(self, name: str, limits: GroupLimits) -> Group:  # noqa: ARG002 - there is nothing to limit
        return _NoGroup(name)

    def take_wait(self) -> None:
        pass

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        pass


class _NoGroup(Group):
    def __init__(self, name: str) -> None:
        self.name = name
        self.controllers = frozenset()
        self.notes = ()

    def add(self, pid: int) -> None:
        pass

    def usage(self) -> GroupUsage:
        return GroupUsage()

    def holds(self, pid: int) -> bool:  # noqa: ARG002
        return False

    def read_limits(self) -> GroupLimits:
        return GroupLimits()

    def kill(self, *, deadline_s: float = 5.0) -> bool:  # noqa: ARG002
        return True  # nothing is in it

    def remove(self) -> bool:
        return True
