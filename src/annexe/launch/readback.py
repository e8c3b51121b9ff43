"""What the kernel says of a plugin's process: read back for the receipt, before any code of the plugin is loaded.

Linux only; elsewhere nothing is read, and nothing is claimed to have been.

* A wall that was put up and that the kernel does not show is a ``SandboxError``: the plugin never runs behind less than its receipt says.
* A process that has ended meanwhile shows nothing; its end is told by others.

Source: feature IS9; proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from annexe.launch.processes import read_proc
from annexe.sandbox import Walls

__all__ = ["NAMESPACES", "Readings", "child_of", "differences", "read_back"]

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_LIMIT_LINES = {
    "RLIMIT_DATA": "Max data size",
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_FSIZE": "Max file size",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_AS": "Max address space",
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_RTTIME": "Max realtime timeout",
    "RLIMIT_SIGPENDING": "Max pending signals",
    "RLIMIT_MEMLOCK": "Max locked memory",
}
_FILTERING = "2"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was read of one process.

    Attributes:
        status: The lines of ``/proc/PID/status``, by name.
        limits: Soft and hard limit as text, by their name in the ``resource`` module.
        own_namespaces: Kinds of namespace that are not the host's; None where that may not be read.
    """

    status: Mapping[str, str]
    limits: Mapping[str, tuple[str, str]]
    own_namespaces: frozenset[str] | None


def read_back(pid: int) -> Readings | None:
    """Read what the kernel says of a process; None once it is gone, or where there is no ``/proc``."""
    status = dict(_pairs(read_proc(pid, "status").decode("utf-8", "replace")))
    if not status or status.get("State", "Z")[0] in "ZX":
        return None
    lines = read_proc(pid, "limits").decode("ascii", "replace").splitlines()
    limits = {}
    for name, title in _LIMIT_LINES.items():
        fields = next((line[len(title) :].split() for line in lines if line.startswith(title)), [])
        if len(fields) >= 2:
            limits[name] = (fields[0], fields[1])
    return Readings(status=status, limits=limits, own_namespaces=_own_namespaces(pid))


def child_of(pid: int) -> int | None:
    """Return the only child of a process; None when it has none, or not exactly one."""
    children = read_proc(pid, f"task/{pid}/children").split()
    return int(children[0]) if len(children) == 1 else None


def differences(found: Readings, *, walls: Walls, uid: int, limits: Mapping[str, int], filters: int) -> list[str]:
    """Return what is not as it was put up, one text each; nothing when all is.

    Args:
        found: What was read.
        walls: Which walls were put up.
        uid: User it must run as.
        limits: By their name in the ``resource`` module.
        filters: How many filters of system calls it must have.
    """
    return list(_differences(found, walls, uid, limits, filters))


def _differences(found: Readings, walls: Walls, uid: int, limits: Mapping[str, int], filters: int) -> Iterator[str]:
    status = found.status
    if any(one != str(uid) for one in status.get("Uid", "").split()):
        yield f"its users are {status.get('Uid')}, expected {uid}"
    if status.get("NoNewPrivs", "1") != "1":
        yield "it can gain privileges"
    if uid != 0 and any(int(status.get(name, "0"), 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")):
        yield f"it has capabilities: {status.get('CapEff')}"
    if walls.seccomp and status.get("Seccomp") != _FILTERING:
        yield f"its system calls are not filtered (Seccomp: {status.get('Seccomp')})"
    if walls.seccomp and int(status.get("Seccomp_filters", filters)) < filters:
        yield f"it has {status.get('Seccomp_filters')} filters of system calls, expected {filters}"
    if walls.namespaces and found.own_namespaces is None:
        yield "its namespaces cannot be read"
    elif walls.namespaces and (shared := sorted(set(NAMESPACES) - (found.own_namespaces or frozenset()))):
        yield f"it shares with the host the namespaces {', '.join(shared)}"
    for name, value in limits.items():
        soft, hard = found.limits.get(name, ("unlimited", "unlimited"))
        if hard == "unlimited" or int(hard) > value or soft == "unlimited":
            yield f"{name} is {hard}, expected {value}"


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _own_namespaces(pid: int) -> frozenset[str] | None:
    try:
        return frozenset(name for name in NAMESPACES if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"))  # noqa: PTH115 - no path
    except PermissionError:
        return None
    except OSError:
        return frozenset()
