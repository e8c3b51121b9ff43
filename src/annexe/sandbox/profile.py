"""Sandbox profile: limits and rights of one plugin, as data.

Pure: it computes what a backend applies and applies nothing itself.

Invariants:

* A limit that a backend cannot enforce is still in the profile; the receipt says that it is not enforced.
* ``limits_for`` never returns a limit looser than the profile's own figure, except for address space, which bounds only what
  ``RLIMIT_DATA`` does not see (shared anonymous memory).

Source: docs/adr/0031-soft-memory-limits.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Profile"]

_MIB = 1024 * 1024
_PENDING_SIGNALS = 1024  # of all processes of its user together: the host's own limit is some 30 times that
_LOCKED_BYTES = 8 * _MIB  # the kernel's own default; a session of systemd's passes on an eighth of the machine's memory


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Limits of one launch.

    Attributes:
        memory_bytes: Memory. Held by a control group; without one soft, since what is shared is bounded by address space only.
        tasks: Processes and threads together, the way the kernel counts them. Held by a control group; without one only under a
            uid of its own, because the kernel counts per user.
        open_files: Descriptors at once, channel and standard streams included.
        file_bytes: Size of any one file. How many there are is not bounded by it.
        nice: Added to the host's niceness.
        thread_stack_bytes: Stack of each Python thread. The C library's 8 MiB would be charged in full against ``memory_bytes``.
        cpu: Share of the processors, in cores; needs a control group.
        subprocess: It may fork and run programs.
        network: It may connect to the host's proxy.
        read: Files and folders of the machine that it may read, canonical.
        write: Those it may also write.
        data: Its private folder; None when it has none.
        data_quota_bytes: What that folder may hold where it is on disk; None when nobody says.
        data_in_memory_bytes: Size of that folder where it is in memory; None when it is on disk.
        devices: Device nodes that it may use, besides those that every plugin has.
    """

    memory_bytes: int = 128 * _MIB
    tasks: int = 48
    open_files: int = 64
    file_bytes: int = 50 * _MIB
    nice: int = 5
    thread_stack_bytes: int = 2 * _MIB
    cpu: float = 1.0
    subprocess: bool = False
    network: bool = False
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    data: str | None = None
    data_quota_bytes: int | None = None
    data_in_memory_bytes: int | None = None
    devices: tuple[str, ...] = ()

    @property
    def tmp_bytes(self) -> int:
        """Size of its temporary folder, which is in memory: no larger than one file may be, nor than half of its memory."""
        return min(self.file_bytes, self.memory_bytes // 2)

    def limits_for(self, *, python: bool, own_uid: bool) -> dict[str, int]:
        """Return kernel limits by their name in the ``resource`` module.

        Args:
            python: The program is a Python interpreter. Other runtimes reserve address space that they never touch (Go refuses to
                start below 256 MiB), so they get no address space limit.
            own_uid: The plugin runs under a uid that nobody else has.
        """
        limits = {
            "RLIMIT_DATA": self.memory_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_SIGPENDING": _PENDING_SIGNALS,
            "RLIMIT_MEMLOCK": _LOCKED_BYTES,
        }
        if python:
            limits["RLIMIT_AS"] = 2 * self.memory_bytes + 512 * _MIB
        if own_uid:
            limits["RLIMIT_NPROC"] = self.tasks
        return limits
