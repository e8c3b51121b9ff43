"""Groups as folders in the kernel's own file system: what versions 1 and 2 have in common.

Invariants:

* Only folders that carry this strategy's name, or the name of a host that is gone, are ever removed or emptied.
* Before members are killed the group's number of tasks is set to 0, where it can be: nothing in it can fork any more, so that a fork
  bomb cannot outrun us.
* The host's own process is never killed, whatever group it is in.
* ``kill`` and ``remove`` tell the truth about what is left, after a deadline at the latest.

Source: docs/adr/0072-control-groups.md; cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from annexe.errors import SandboxError
from annexe.sandbox.cgroup import ControlGroups, Group, GroupLimits
from annexe.sandbox.cgroup_machine import Machine
from annexe.sandbox.cgroup_names import full_name, is_leftover, new_owner
from annexe.sandbox.cgroup_places import Place, lines_of

__all__ = ["FolderGroup", "FolderGroups", "reason", "unique"]

_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.01
_REMOVE_DEADLINE_S = 0.5  # the kernel lets go of a killed process's group a moment after the process has ended
_SWEEP_DEADLINE_S = 5.0


class FolderGroup(Group):
    """One group: a folder in each hierarchy that takes part.

    Args:
        name: Of the launch.
        places: The group in each hierarchy, by controller; in version 2 the same for all.
        controllers: What was limited.
        notes: What could not be done.
        machine: To act on.
    """

    def __init__(
        self, *, name: str, places: Mapping[str, Place], controllers: frozenset[str], notes: tuple[str, ...], machine: Machine
    ) -> None:
        self.name = name
        self.controllers = controllers
        self.notes = notes
        self._places = places
        self._machine = machine

    def add(self, pid: int) -> None:
        if self.holds(pid):
            return
        for place in unique(self._places):
            try:
                self._machine.write(place.folder / "cgroup.procs", str(pid))
            except OSError as error:
                cure = "" if error.errno == errno.ESRCH else "; `annexe doctor` says what control groups this machine gives"
                raise SandboxError(
                    f"process {pid} of {self.name!r} cannot be put into the control group {place.folder}: {reason(error)}{cure}.",
                    group=str(place.folder),
                ) from error

    def holds(self, pid: int) -> bool:
        lines = lines_of(self._machine, pid)
        return all(_is_within(lines.get(place.hierarchy), place.line) for place in unique(self._places))

    def kill(self, *, deadline_s: float = 5.0) -> bool:
        give_up_at = self._machine.now() + deadline_s
        self._forbid_forks()
        self._kill_at_once()
        pause_s = _PAUSE_S
        while members := self._members():
            for pid in members - {self._machine.own_pid()}:  # a thread of ours may be about to start something in it
                self._machine.end(pid, self._is_member)
            if self._machine.now() >= give_up_at:
                return False
            self._machine.pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def remove(self) -> bool:
        give_up_at = self._machine.now() + _REMOVE_DEADLINE_S
        for place in unique(self._places):
            while (error := self._remove_tree(place.folder)) is not None:
                if error.errno != errno.EBUSY or self._members() or self._machine.now() >= give_up_at:
                    return False
                self._machine.pause(_PAUSE_S)
        return True

    def _kill_at_once(self) -> None:
        """Kill all members in one step, if this version of control groups can."""

    def _forbid_forks(self) -> None:
        if (place := self._places.get("pids")) is not None:
            with contextlib.suppress(OSError):
                self._machine.write(place.folder / "pids.max", "0")

    def _remove_tree(self, folder: Path) -> OSError | None:
        try:
            self._machine.remove(folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            for inner in self._machine.folders(folder):  # groups made from inside
                self._remove_tree(inner)
            return error
        return None

    def _members(self) -> set[int]:
        folders = (folder for place in unique(self._places) for folder in self._with_inner(place.folder))
        return {pid for folder in folders for pid in self._members_of(folder)}

    def _with_inner(self, folder: Path) -> Iterator[Path]:
        yield folder
        for inner in self._machine.folders(folder):
            yield from self._with_inner(inner)

    def _members_of(self, folder: Path) -> set[int]:
        try:
            return {int(pid) for pid in self._machine.read(folder / "cgroup.procs").split()}
        except OSError as error:
            # Removed, before or while it was open; or closed to us: then somebody may be in it.
            return set() if error.errno in (errno.ENOENT, errno.ENODEV) else {0}

    def _is_member(self, pid: int) -> bool:
        lines = lines_of(self._machine, pid)
        return any(_is_within(lines.get(place.hierarchy), place.line) for place in unique(self._places))

    def _number(self, controller: str, name: str, key: str = "") -> int | None:
        """Return a figure from one of the group's files: the whole of it, or the one that follows a word."""
        place = self._places.get(controller)
        if place is None:
            return None
        try:
            text = self._machine.read(place.folder / name)
        except OSError:
            return None
        words = text.split()
        if key:
            words = words[words.index(key) + 1 :] if key in words else []
        return int(words[0]) if words and words[0].lstrip("-").isdecimal() else None


class FolderGroups(ControlGroups):
    """Makes folders in the groups that were found for it.

    Args:
        bases: Where to make them, by controller; further hierarchies may be among them, for figures only.
        controllers: What is to be limited.
        machine: To act on.

    Raises:
        SandboxError: ``/proc`` does not tell who we are.
    """

    def __init__(self, *, bases: Mapping[str, Place], controllers: frozenset[str], machine: Machine) -> None:
        self.controllers = controllers
        self._bases = bases
        self._machine = machine
        self._owner = new_owner(machine)

    def make(self, name: str, limits: GroupLimits) -> Group:
        full = full_name(self._owner, name)
        notes: list[str] = []
        there = self._make_folders(full, notes)
        made = {controller: base.child(full) for controller, base in self._bases.items() if base.folder in there}
        if not made:
            raise SandboxError(f"no control group {name!r} can be made: {' '.join(notes)}", group=full)
        limited = {
            controller
            for controller in sorted(self.controllers & made.keys())
            if (limit := limits.of(controller)) is not None and self._limit(controller, made[controller].folder, limit, notes)
        }
        return self._group(name, made, frozenset(limited), tuple(notes))

    def sweep(self) -> int:
        return self._clear(lambda name: is_leftover(name, self._machine))

    def close(self) -> None:
        self._clear(lambda name: name.startswith(f"{self._owner}."))

    @abstractmethod
    def _group(self, name: str, places: Mapping[str, Place], controllers: frozenset[str], notes: tuple[str, ...]) -> FolderGroup:
        """Return the group whose folders are there."""

    @abstractmethod
    def _write_limit(self, controller: str, folder: Path, limit: float) -> tuple[str, ...]:
        """Set one limit, in the unit of ``GroupLimits``, and return what is less than it should be. Raises ``OSError``."""

    def _make_folders(self, full: str, notes: list[str]) -> set[Path]:
        there: set[Path] = set()
        refused: dict[str, list[str]] = {}
        for base in unique(self._bases):
            try:
                self._machine.make(base.folder / full)
            except FileExistsError as error:
                raise SandboxError(
                    f"there is a control group {base.folder / full} already; end that launch first.", group=str(base.folder / full)
                ) from error
            except OSError as error:
                refused.setdefault(reason(error), []).append(str(base.folder))
            else:
                there.add(base.folder)
        notes += [f"No group can be made in {', '.join(folders)}: {why}." for why, folders in refused.items()]
        return there

    def _limit(self, controller: str, folder: Path, limit: float, notes: list[str]) -> bool:
        try:
            notes += self._write_limit(controller, folder, limit)
        except OSError as error:
            notes.append(f"Controller {controller} takes no limit of {limit} in {folder}: {reason(error)}.")
            return False
        return True

    def _clear(self, is_ours: Callable[[str], bool]) -> int:
        """Kill and remove all groups with such names, and return how many went."""
        names = {folder.name for base in unique(self._bases) for folder in self._machine.folders(base.folder) if is_ours(folder.name)}
        return sum(self._clear_one(name) for name in sorted(names))

    def _clear_one(self, full: str) -> bool:
        places = {controller: base.child(full) for controller, base in self._bases.items()}
        there = {controller: place for controller, place in places.items() if self._machine.exists(place.folder)}
        group = self._group(full, there, frozenset(), ())
        return group.kill(deadline_s=_SWEEP_DEADLINE_S) and group.remove()


def unique(places: Mapping[str, Place]) -> tuple[Place, ...]:
    """Return each folder once: controllers may share a hierarchy."""
    return tuple({place.folder: place for place in places.values()}.values())


def reason(error: OSError) -> str:
    """Return the words for an error of the kernel's."""
    return f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'error')})"


def _is_within(line: str | None, group: str) -> bool:
    return line is not None and (line == group or line.startswith(f"{group}/"))
