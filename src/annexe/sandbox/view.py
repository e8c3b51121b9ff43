"""What of the machine's files a plugin sees: one list, from which bubblewrap's mounts and Landlock's rules are both made.

Pure: paths are text, nothing is looked up; a place that is not there is left out by whoever applies the list.

* A place has the path that it has on the host, so that the plugin, its tracebacks and its operator speak of the same file.
* What is not in the list is not there (namespaces) or refused (Landlock).
* Nothing but what was granted lies on a disk and can be written to.

Source: features IS3; docs/explanation/sandbox.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from annexe.sandbox.profile import Profile

__all__ = ["CERTIFICATES", "DEVICES", "PROC_FILES", "Access", "Place", "SYSTEM", "places_for"]

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""The devices that every plugin has."""

PROC_FILES = (
    *(f"/proc/self/{name}" for name in ("cmdline", "comm", "fd", "limits", "maps", "oom_score", "stat", "statm", "status", "task")),
    *(f"/proc/{name}" for name in ("cpuinfo", "loadavg", "meminfo", "stat", "uptime", "version")),
    *(f"/proc/sys/{name}" for name in ("kernel/pid_max", "kernel/random/uuid", "net/core/somaxconn", "vm/overcommit_memory")),
)
"""What of ``/proc`` a plugin can read behind Landlock: of itself and of the machine's load, nothing with the host's files or mounts."""

SYSTEM = (
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/share/zoneinfo",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
"""What of the system every plugin can read."""

CERTIFICATES = (
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/usr/share/ca-certificates",
)
"""What a plugin that may use the network can read besides."""

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_LOADERS = (
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
)
_NODE = ("/usr/share/nodejs", "/usr/share/node_modules")


@final
class Access(StrEnum):
    """What may be done with the files of a place."""

    READ = "read"
    RUN = "run"  # and read
    WRITE = "write"  # and read
    USE = "use"  # a device: all that its driver offers


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A file, or a folder with all that is in it."""

    path: str
    access: Access


def places_for(
    profile: Profile,
    *,
    folder: str,
    runtime: str,
    python: str,
    prefix: str,
    packages: Iterable[str] = (),
    executables: tuple[str, ...] = (),
) -> tuple[Place, ...]:
    """Return the places of one launch, each path once, folders before what is in them.

    Args:
        profile: What the plugin was granted.
        folder: Where its code is run from.
        runtime: The runtime folder.
        python: Real path of the interpreter that runs the stub.
        prefix: Where that interpreter's library is below, as ``sys.base_prefix``.
        packages: Folders of installed packages.
        executables: What a plugin that is not Python must be able to execute, besides the loader.
    """
    wanted = [Place(path, Access.READ) for path in (*SYSTEM, python, f"{prefix}/lib", runtime, folder, *packages)]
    if profile.network:
        wanted += [Place(path, Access.READ) for path in CERTIFICATES]
    if executables:
        wanted += [Place(path, Access.RUN) for path in (*_LOADERS, *executables)]
        wanted += [Place(path, Access.READ) for path in _NODE]
    if profile.subprocess:
        wanted += [Place(path, Access.RUN) for path in (*_PROGRAMS, python, folder, *packages)]
    wanted += [Place(path, Access.READ) for path in profile.read]
    data = profile.data if profile.data_in_memory_bytes is None else None  # in memory it is no place of the machine
    wanted += [Place(path, Access.WRITE) for path in (*profile.write, *filter(None, (data,)))]
    wanted += [Place(path, Access.USE) for path in profile.devices]
    return _merged(wanted)


def _merged(wanted: Iterable[Place]) -> tuple[Place, ...]:
    """Give each path its widest access, in the order in which mounts must be made."""
    strength = list(Access)
    by_path: dict[str, Access] = {}
    for place in wanted:
        known = by_path.get(place.path, Access.READ)
        by_path[place.path] = max(known, place.access, key=strength.index)
    return tuple(Place(path, by_path[path]) for path in sorted(by_path, key=lambda path: path.split("/")))
