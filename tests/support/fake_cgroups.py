"""A kernel's control groups in a folder: as much of their rules as the code under test relies on.

Files of groups are real files; who is in which group, and what happens on a write, is worked out here. Time is a number.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from annexe.sandbox.cgroup_machine import Machine, Trial

__all__ = ["HOST_PID", "FakeMachine"]

HOST_PID = 100
NAMESPACE = 4026531836

_V1_FILES: dict[str, dict[str, str]] = {
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.swappiness": "60",
        "memory.usage_in_bytes": "4096",
        "memory.max_usage_in_bytes": "8192",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    },
    "cpu": {
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
        "cpu.shares": "1024",
        "cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 500000000\n",
    },
    "cpuacct": {"cpuacct.usage": "2500000000"},
    "pids": {"pids.max": "max", "pids.current": "2", "pids.events": "max 7\n"},
}
_V2_FILES: dict[str, dict[str, str]] = {
    "memory": {
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.oom.group": "0",
        "memory.current": "4096",
        "memory.peak": "8192",
        "memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 3\noom_group_kill 1\n",
    },
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
    "pids": {"pids.max": "max", "pids.current": "2", "pids.events": "max 7\n"},
}
_V2_CPU_STAT = "usage_usec 2500000\nuser_usec 1\nsystem_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 500000\n"


class FakeMachine(Machine):
    """A machine with these hierarchies.

    Args:
        root: Where all of it goes.
        mounts: The host's own group by hierarchy, as ``/proc/self/cgroup`` calls them: ``{"memory": "/a", "cpu,cpuacct": "/"}``; ``""``
            is version 2.
        v2_controllers: What the root of version 2 has.
        granted: What the host's own group of version 2 was given.
        delegated: Lines of groups that systemd marked.
    """

    def __init__(
        self,
        root: Path,
        mounts: Mapping[str, str],
        *,
        v2_controllers: str = "cpu memory pids",
        granted: str | None = None,
        delegated: Sequence[str] = (),
        has_systemd: bool = False,
        uid: int = 0,
        programs: Sequence[str] = ("cat", "env", "systemd-run"),
    ) -> None:
        self.proc = root / "proc"
        self.has_systemd = has_systemd
        self.uid = uid
        self.programs = set(programs)
        self.points = {label: root / "fs" / (label or "unified") for label in mounts}
        self.members: dict[str, dict[int | str, str]] = {label: {HOST_PID: line} for label, line in mounts.items()}
        self.refused: dict[tuple[str, str], int] = {}  # what is done, end of the path: error number
        self.delegated = {self.points[""] / line.strip("/") for line in delegated}
        self.unkillable: set[int] = set()
        self.on_start: Callable[[int, Sequence[str]], None] = lambda pid, command: None
        self.commands: list[Sequence[str]] = []
        self.clock_s = 0.0
        self._next_pid = 1000
        self._lay_out(mounts, v2_controllers, granted)

    def _lay_out(self, mounts: Mapping[str, str], v2_controllers: str, granted: str | None) -> None:
        (self.proc / "self" / "ns").mkdir(parents=True)
        (self.proc / "self" / "ns" / "pid").symlink_to(f"pid:[{NAMESPACE}]")
        self.add_process(HOST_PID, start=777)
        (self.proc / "self" / "stat").write_text((self.proc / str(HOST_PID) / "stat").read_text())
        lines = ["24 1 0:1 / /proc rw - proc proc rw"]
        for label, line in mounts.items():
            kind = "cgroup" if label else "cgroup2"
            lines.append(f"30 24 0:2 / {str(self.points[label]).replace(' ', chr(92) + '040')} rw,relatime - {kind} {kind} rw,{label}")
            folder = self.points[label]
            self._populate(folder, v2_controllers)
            if not label:
                (folder / "cgroup.type").unlink()
            for part in line.strip("/").split("/") if line != "/" else ():
                # systemd gives on what it has, but not for whom it has given a group to: a part of that has nothing yet.
                given = "" if folder in self.delegated else v2_controllers
                if not label:
                    (folder / "cgroup.subtree_control").write_text(given)
                folder = folder / part
                self._populate(folder, given)
            if not label and granted is not None:
                (folder / "cgroup.controllers").write_text(granted)
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines) + "\n")

    def _populate(self, folder: Path, v2_controllers: str) -> None:
        folder.mkdir(parents=True)
        label = self._label(folder)
        files = {"cgroup.procs": ""}
        if label:
            files["tasks"] = ""
            for name in label.split(","):
                files |= _V1_FILES.get(name, {})
        else:
            files |= {"cgroup.type": "domain", "cgroup.kill": "", "cgroup.subtree_control": "", "cpu.stat": _V2_CPU_STAT}
            files["cgroup.controllers"] = v2_controllers
            for name in v2_controllers.split():
                files |= _V2_FILES.get(name, {})
        for name, text in files.items():
            (folder / name).write_text(text)

    # What tests arrange

    def add_process(self, pid: int, *, start: int = 1, state: str = "S", **lines: str) -> None:
        """Let there be a process; in the host's groups, or in those given by hierarchy."""
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "stat").write_text(f"{pid} (a) b) {state} 1 " + "0 " * 17 + f"{start} 0 0\n")
        for label, members in self.members.items():
            members[pid] = lines.get(label or "v2", members[HOST_PID])

    def lines_of_host(self) -> dict[str, str]:
        return {label: members[HOST_PID] for label, members in self.members.items()}

    def groups(self) -> set[str]:
        """Return the names of our groups that are there."""
        return {path.name for point in self.points.values() for path in point.rglob("annexe-*-*")}

    def text(self, label: str, name: str) -> str:
        """Return a file of the one group of ours."""
        (folder,) = [path for path in self.points[label].rglob("annexe-*-*") if path.is_dir()]
        return (folder / name).read_text()

    # Machine

    def own_pid(self) -> int:
        return HOST_PID

    def read(self, path: Path) -> str:
        self._check("read", path)
        if path.name == "cgroup" and path.is_relative_to(self.proc):
            return self._lines(path.parent.name)
        if path.name == "cgroup.procs" and path.exists():
            return "".join(f"{pid}\n" for pid in self._pids_in(path.parent))
        return path.read_text()

    def write(self, path: Path, text: str) -> None:
        self._check("write", path)
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        folder = path.parent
        if path.name == "cgroup.procs":
            self._move(int(text), folder)
        elif path.name == "tasks":
            self.members[self._label(folder)]["thread"] = self._line(folder)
        elif path.name == "cgroup.kill":
            for pid in self._pids_in(folder):
                self._end(pid)
        elif path.name == "cgroup.subtree_control":
            self._give_on(folder, text.removeprefix("+"))
        else:
            path.write_text(text)

    def make(self, folder: Path) -> None:
        self._check("make", folder)
        if folder.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(folder))
        parent = folder.parent / "cgroup.subtree_control"
        self._populate(folder, parent.read_text() if parent.exists() else "")

    def remove(self, folder: Path) -> None:
        self._check("remove", folder)
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))
        if self._pids_in(folder) or self.folders(folder):
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    def folders(self, folder: Path) -> list[Path]:
        return [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_delegated(self, folder: Path) -> bool:
        return folder in self.delegated

    def end(self, pid: int, is_member: Callable[[int], bool]) -> None:
        if is_member(pid) and pid not in self.unkillable:
            self._end(pid)

    def find_program(self, name: str) -> str | None:
        return f"/bin/{name}" if name in self.programs else None

    def start(self, command: Sequence[str]) -> Trial:
        pid, self._next_pid = self._next_pid, self._next_pid + 1
        self.commands.append(command)
        self.add_process(pid)
        for members in self.members.values():
            members[pid] = members.get("thread", members[HOST_PID])
        self.on_start(pid, command)
        return _FakeTrial(self, pid)

    def now(self) -> float:
        return self.clock_s

    def pause(self, seconds: float) -> None:
        self.clock_s += seconds

    # The kernel's side

    def _check(self, act: str, path: Path) -> None:
        for (refused, end), number in self.refused.items():
            if refused == act and str(path).endswith(end):
                raise OSError(number, os.strerror(number), str(path))

    def _label(self, folder: Path) -> str:
        return next(label for label, point in self.points.items() if folder.is_relative_to(point))

    def _line(self, folder: Path) -> str:
        below = folder.relative_to(self.points[self._label(folder)])
        return "/" + str(below) if below.parts else "/"

    def _lines(self, process: str) -> str:
        special: dict[str, int | str] = {"self": HOST_PID, "thread-self": "thread"}
        key = special[process] if process in special else int(process)
        found = []
        for number, (label, members) in enumerate(self.members.items()):
            line = members.get(key, members[HOST_PID] if key == "thread" else None)
            if line is not None:
                found.append(f"{number}:{label}:{line}\n")
        if not found:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", process)
        return "".join(found)

    def _pids_in(self, folder: Path) -> list[int]:
        line, members = self._line(folder), self.members[self._label(folder)]
        inside = {HOST_PID if pid == "thread" else int(pid) for pid, where in members.items() if where == line}
        return sorted(inside)

    def _move(self, pid: int, folder: Path) -> None:
        members = self.members[self._label(folder)]
        if pid not in members:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        control = folder / "cgroup.subtree_control"
        if control.exists() and control.read_text().strip() and (folder / "cgroup.type").exists():
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        members[pid] = self._line(folder)

    def _give_on(self, folder: Path, controller: str) -> None:
        if self._pids_in(folder) and (folder / "cgroup.type").exists():
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        control = folder / "cgroup.subtree_control"
        control.write_text(" ".join(sorted({*control.read_text().split(), controller})))

    def _end(self, pid: int) -> None:
        for members in self.members.values():
            members.pop(pid, None)


class _FakeTrial(Trial):
    def __init__(self, machine: FakeMachine, pid: int) -> None:
        self.pid = pid
        self._machine = machine

    def end(self) -> None:
        self._machine._end(self.pid)
