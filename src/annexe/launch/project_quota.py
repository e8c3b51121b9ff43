"""Have the kernel bound what a plugin's data folder holds, where it can: project quotas of ext4 and XFS.

Most machines cannot: the file system must be mounted with project quotas (``prjquota``), the kernel built with them, and the host root.
Then the quota is polled by the monitor, and said to be soft. Blocking.

Invariants:

* A quota is told to be enforced only after the kernel said that it enforces project quotas there, took this one, and gave it back.
* A folder that holds something already, or belongs to somebody else's project, is left as it is.
* It binds a plugin only inside a user namespace of its own: elsewhere the owner of a file may move it to another project.

Source: feature HS5; docs/adr/0074-data-folders.md; ``man 2 quotactl``, ``linux/fs.h``, ``linux/dqblk_xfs.h``.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

__all__ = ["KernelQuotas", "ProjectQuota", "QuotaCalls", "try_project_quota"]

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_ATTRIBUTES = struct.Struct("=IIIII8s")  # struct fsxattr: flags, extent size, extents, project, copy extent size, padding
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_SYS_QUOTACTL_FD = 443
_PROJECT_QUOTA = 2
_GET_STATE, _GET_QUOTA, _SET_QUOTA = 0x5808, 0x800007, 0x800008  # Q_XGETQSTATV, Q_GETQUOTA, Q_SETQUOTA
_LIMITS_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_QUOTA = struct.Struct("=8QI4x")  # struct if_dqblk
_VALID_LIMITS = 1 | 4  # QIF_BLIMITS, QIF_ILIMITS
_BLOCK_BYTES = 1024  # of limits, whatever the file system's own are
_FIRST_PROJECT = 0x4000_0000  # above those that people give


@final
@dataclass(frozen=True, slots=True)
class ProjectQuota:
    """What became of the attempt.

    Attributes:
        is_enforced: The kernel refuses what goes beyond.
        reason: For a person: by what it is enforced, or why not.
    """

    is_enforced: bool
    reason: str


class QuotaCalls(Protocol):
    """What is asked of the kernel."""

    def attributes(self, fd: int, request: int, buffer: bytearray) -> None:
        """Read or write a file's extended attributes (``ioctl``); raises ``OSError``."""

    def quota(self, fd: int, command: int, project: int, buffer: bytearray) -> None:
        """Ask about, or change, project quotas of the file system that ``fd`` lies on (``quotactl_fd``); raises ``OSError``."""


@final
class KernelQuotas:
    """The kernel of this machine."""

    def attributes(self, fd: int, request: int, buffer: bytearray) -> None:
        import fcntl  # not on Windows, where this module must still be importable

        fcntl.ioctl(fd, request, buffer)

    def quota(self, fd: int, command: int, project: int, buffer: bytearray) -> None:
        held = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        which = ctypes.c_uint(command << 8 | _PROJECT_QUOTA)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(ctypes.c_long(_SYS_QUOTACTL_FD), ctypes.c_uint(fd), which, ctypes.c_uint(project), ctypes.byref(held)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def try_project_quota(folder: Path, *, max_bytes: int, max_entries: int, calls: QuotaCalls | None = None) -> ProjectQuota:
    """Bound a data folder that was just made.

    Args:
        folder: The folder; the project's number is made from its inode's.
        max_bytes: What all in it may take on the disk; rounded up to KiB.
        max_entries: How many files and folders there may be.
        calls: The kernel; this machine's when left out.

    Returns:
        Whether it is enforced, and why or why not. Nothing is raised: there is always the polled quota.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return ProjectQuota(False, "only root can set project quotas")
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return ProjectQuota(False, f"the folder cannot be opened: {error.strerror}")
    try:
        return _set(fd, max_bytes=max_bytes, max_entries=max_entries, calls=calls or KernelQuotas())
    finally:
        os.close(fd)


def _set(fd: int, *, max_bytes: int, max_entries: int, calls: QuotaCalls) -> ProjectQuota:
    state = bytearray(256)
    state[0] = 1  # version of the structure
    attributes = bytearray(_ATTRIBUTES.size)
    try:
        calls.quota(fd, _GET_STATE, 0, state)
        calls.attributes(fd, _GET_ATTRIBUTES, attributes)
    except OSError as error:
        return ProjectQuota(False, f"the file system has no project quotas here ({error.strerror}); mount it with prjquota")
    if not struct.unpack_from("=H", state, 2)[0] & _LIMITS_ENFORCED:
        return ProjectQuota(False, "the file system counts project quotas at most; mount it with prjquota")
    flags, extent, extents, before, copy_extent, padding = _ATTRIBUTES.unpack(attributes)
    project = _FIRST_PROJECT | os.fstat(fd).st_ino & (_FIRST_PROJECT - 1)
    if before not in (0, project):
        return ProjectQuota(False, f"the folder belongs to project {before}, which is not ours")
    if before == 0 and os.listdir(fd):
        return ProjectQuota(False, "the folder held something before it had a quota; what is in it would not be counted")
    try:
        limits = (-(-max_bytes // _BLOCK_BYTES), max_entries)
        calls.quota(fd, _SET_QUOTA, project, bytearray(_QUOTA.pack(limits[0], 0, 0, limits[1], 0, 0, 0, 0, _VALID_LIMITS)))
        calls.attributes(fd, _SET_ATTRIBUTES, bytearray(_ATTRIBUTES.pack(flags | _INHERIT, extent, extents, project, copy_extent, padding)))
        kept = bytearray(_QUOTA.size)
        calls.quota(fd, _GET_QUOTA, project, kept)
    except OSError as error:
        return ProjectQuota(False, f"the kernel did not take the quota: {error.strerror}")
    found = _QUOTA.unpack(kept)
    if (found[0], found[3]) != limits:
        return ProjectQuota(False, f"the kernel kept other limits than it was given: {found[0]} KiB and {found[3]} entries")
    return ProjectQuota(True, f"project quota {project}: {limits[0]} KiB, {limits[1]} entries")
