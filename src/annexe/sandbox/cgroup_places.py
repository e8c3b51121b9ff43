"""Where control groups are mounted, and which of them are the host's own.

Reads ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` and nothing else.

Invariants:

* A group that lies outside what is mounted (a container that sees only part of a hierarchy), or outside our namespace, is not found: we
  never guess a folder.

Source: cgroups(7); proc(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.sandbox.cgroup_machine import Machine

__all__ = ["UNIFIED", "Place", "Places", "lines_of", "places"]

UNIFIED = ""
"""How ``/proc/PID/cgroup`` calls the hierarchy of version 2."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """One group in one hierarchy.

    Attributes:
        folder: Where its files are.
        line: Its path as ``/proc/PID/cgroup`` tells it, ``/a/b``; ``/`` for the root.
        hierarchy: What that line is called there: a controller, or ``UNIFIED``.
    """

    folder: Path
    line: str
    hierarchy: str

    def child(self, name: str) -> Place:
        """Return a group inside this one."""
        return Place(self.folder / name, f"{self.line.rstrip('/')}/{name}", self.hierarchy)

    def parent(self) -> Place | None:
        """Return the group that this one is in, unless it is the topmost that we can see."""
        above = self.line.rpartition("/")[0] or "/"
        return None if self.line == "/" else Place(self.folder.parent, above, self.hierarchy)

    def at(self, line: str) -> Place:
        """Return another group of this hierarchy, provided that all of it is mounted."""
        depth = len([part for part in self.line.split("/") if part])
        top = self.folder.parents[depth - 1] if depth else self.folder
        return Place(top / line.strip("/"), line, self.hierarchy)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The host's own groups.

    Attributes:
        v1: By controller.
        v2: In the hierarchy of version 2.
    """

    v1: Mapping[str, Place]
    v2: Place | None


@final
@dataclass(frozen=True, slots=True)
class _Mount:
    point: Path
    root: str
    kind: str
    options: tuple[str, ...]


def places(machine: Machine) -> Places:
    """Return the host's own groups, as far as they can be seen."""
    lines = lines_of(machine, "self")
    v1: dict[str, Place] = {}
    v2: Place | None = None
    for mount in _mounts(machine):
        names = (UNIFIED,) if mount.kind == "cgroup2" else mount.options
        for name in names:
            place = _place(machine, mount, name, lines.get(name))
            if place is None:
                continue
            if name == UNIFIED:
                v2 = v2 or place
            else:
                v1.setdefault(name, place)
    return Places(v1=v1, v2=v2)


def lines_of(machine: Machine, process: int | str) -> dict[str, str]:
    """Return the groups of a process, path by hierarchy; none once it is gone."""
    try:
        text = machine.read(machine.proc / str(process) / "cgroup")
    except OSError:
        return {}
    found = (line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2)
    return {name: path for _, names, path in found for name in names.split(",")}


def _mounts(machine: Machine) -> Iterator[_Mount]:
    try:
        text = machine.read(machine.proc / "self" / "mountinfo")
    except OSError:
        return
    for line in text.splitlines():
        before, found, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if found and len(left) >= 5 and len(right) >= 3 and right[0] in ("cgroup", "cgroup2"):
            yield _Mount(Path(_unescaped(left[4])), _unescaped(left[3]), right[0], tuple(right[2].split(",")))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _place(machine: Machine, mount: _Mount, name: str, line: str | None) -> Place | None:
    if line is None or ".." in line.split("/") or ".." in mount.root.split("/"):
        return None
    root = mount.root.rstrip("/")
    if line != root and not line.startswith(f"{root}/"):
        return None
    below = line[len(root) :].strip("/")
    folder = mount.point / below if below else mount.point
    return Place(folder, line, name) if machine.exists(folder / "cgroup.procs") else None
