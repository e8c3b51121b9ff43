"""What the processes of a plugin use, as the kernel tells in ``/proc``.

Linux only; elsewhere there is never anything to be seen. Blocking: call it from a worker thread. Bare system calls, since this is done for
every plugin every two seconds: an idle process costs one small file.

Invariants:

* A process that vanishes meanwhile is left out; nothing is raised for it.
* A number that was given to another process meanwhile is not taken for the process before: its start time differs.
* What may not be looked at is told as not measured, never as nothing.

Source: docs/adr/0075-one-task-monitors-all.md; ``man 5 proc``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

__all__ = ["ProcessMeter", "ProcessUsage", "SocketTables", "family_of"]

_MAX_FILE_BYTES = 8192  # the kernel gives these files whole in one read
_REUSES = 3  # looks at an idle process that go by what was seen before
_TABLES = ("tcp", "tcp6", "udp", "udp6")
_MAX_FAMILY = 4096


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUsage:
    """What a number of processes use.

    Attributes:
        memory_bytes: Private and shared memory that is not of files, and what is swapped; what processes share is counted for each.
        cpu_s: Time on processors, in seconds; that of children that ended and were waited for included.
        processes: How many live.
        threads: Threads of all.
        open_files: Descriptors of the process that has most; None if none may be looked at.
    """

    memory_bytes: int = 0
    cpu_s: float = 0.0
    processes: int = 0
    threads: int = 0
    open_files: int | None = None


@final
@dataclass(slots=True)
class _Process:
    """What was seen of one process: cheap things at each look, the others when those have changed."""

    start: int
    ticks: int
    threads: int
    pages: int
    memory_bytes: int = 0
    open_files: int | None = None
    reused: int = field(default=0, compare=False)

    def is_as(self, before: _Process) -> bool:
        """Return whether it has done nothing since, as far as the cheap things tell."""
        return (self.start, self.ticks, self.threads, self.pages) == (before.start, before.ticks, before.threads, before.pages)


@final
class ProcessMeter:
    """Measures the processes of one plugin. Not for two threads at once.

    Attributes:
        is_same: The last look found what the one before did.
        is_still: It went by the cheap things alone to tell so.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Process] = {}
        self.is_same = self.is_still = False
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01

    def measure(self, pids: Iterable[int]) -> ProcessUsage:
        """Return what these processes use; those that are gone are left out, and so are zombies."""
        before, self._known = self._known, {}
        for pid in pids:
            found = _look(pid, before.get(pid))
            if found is not None:
                self._known[pid] = found
        seen = self._known.values()
        self.is_same = self._known == before
        self.is_still = self.is_same and all(process.reused for process in seen)
        return ProcessUsage(
            memory_bytes=sum(process.memory_bytes for process in seen),
            cpu_s=sum(process.ticks for process in seen) * self._tick_s,
            processes=len(seen),
            threads=sum(process.threads for process in seen),
            open_files=max((process.open_files for process in seen if process.open_files is not None), default=None),
        )


@final
class SocketTables:
    """The internet sockets of this machine, read once for all plugins that share a network; make a new one for each round."""

    def __init__(self) -> None:
        self._own = _network_of("self") if Path("/proc/self/ns").exists() else ""
        self._inodes: frozenset[bytes] | None = None  # of the sockets in our own network

    def count(self, pids: Iterable[int]) -> int | None:
        """Return how many internet sockets these processes have, one that several share once; None if none may be looked at.

        In a network of the plugin's own all sockets are the plugin's, and the kernel counts them: its tables, which list those of all
        networks of the machine, take some milliseconds to read.
        """
        found: set[bytes] = set()
        in_own: dict[str, int] = {}
        is_seen = False
        for pid in pids:
            try:
                network = _network_of(pid)
                if network != self._own:
                    in_own[network] = _in_use(pid)
                    is_seen = True
                    continue
                sockets = _sockets_of(pid)
            except OSError:  # gone, or not ours to look at
                continue
            is_seen = True
            if sockets:
                found |= sockets & self._own_inodes()
        return len(found) + sum(in_own.values()) if is_seen else None

    def _own_inodes(self) -> frozenset[bytes]:
        if self._inodes is None:
            rows = [row.split() for name in _TABLES for row in _whole(f"/proc/self/net/{name}").splitlines()[1:]]
            self._inodes = frozenset(row[9] for row in rows if len(row) > 9)
        return self._inodes


def family_of(pid: int) -> list[int]:
    """Return a process and what descends from it.

    A child whose parent has ended is found only below a process that takes such children in, as the first of a PID namespace does.
    Meant for plugins that may start programs and have no control group; one look takes some 15 µs for each thread.
    """
    family = [pid]
    for each in family:  # grows while it is gone through
        with contextlib.suppress(OSError):  # gone
            for thread in Path(f"/proc/{each}/task").iterdir():
                family += [int(child) for child in _read(f"{thread}/children").split()]
        if len(family) > _MAX_FAMILY:
            break
    return family


def _look(pid: int, before: _Process | None) -> _Process | None:
    """Return what one process uses; None when it is gone."""
    # The name in parentheses may hold anything, spaces and parentheses included: everything is counted from its end.
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if len(fields) < 22 or fields[0] in b"ZX":
        return None
    found = _Process(start=int(fields[19]), ticks=sum(map(int, fields[11:15])), threads=int(fields[17]), pages=int(fields[21]))
    if before is not None and found.is_as(before) and before.reused < _REUSES:
        found.memory_bytes, found.open_files, found.reused = before.memory_bytes, before.open_files, before.reused + 1
        return found
    found.memory_bytes = _memory_bytes(_read(f"/proc/{pid}/status"))
    found.open_files = _open_files(f"/proc/{pid}/fd")
    return found


def _memory_bytes(status: bytes) -> int:
    """Add up what is not of files, which the kernel can drop: anonymous, shared and swapped."""
    start = status.find(b"\nRssAnon:")
    if start < 0:  # a process of the kernel's, or gone
        return 0
    kib = 0
    for line in status[start + 1 :].splitlines():
        name, _, rest = line.partition(b":")
        if name in (b"RssAnon", b"RssShmem", b"VmSwap"):
            kib += int(rest.split()[0])
        if name == b"VmSwap":
            break
    return kib * 1024


def _open_files(folder: str) -> int | None:
    try:
        # Since Linux 6.2 this is how many there are, told also of a process that may not be looked into.
        return os.stat(folder).st_size or sum(1 for _ in os.scandir(folder))  # noqa: PTH116 - a path object costs as much again
    except OSError:
        return None


def _network_of(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _in_use(pid: int) -> int:
    """Return how many internet sockets there are in the network of a process."""
    lines = (_read(f"/proc/{pid}/net/sockstat") + _read(f"/proc/{pid}/net/sockstat6")).splitlines()
    words = [line.split() for line in lines if line.startswith((b"TCP", b"UDP:", b"UDP6:"))]
    return sum(int(told[2]) for told in words if len(told) > 2 and told[1] == b"inuse")


def _sockets_of(pid: int) -> set[bytes]:
    """Return the inodes of a process's sockets, of whatever family."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(path.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1].encode())
    return found


def _read(path: str) -> bytes:
    """Return a small file of a process's; empty once the process is gone, or if it may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _MAX_FILE_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _whole(path: str) -> bytes:
    """Return a file of any length; empty where there is none."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
