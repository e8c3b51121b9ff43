"""Sandbox levels, and the walls that make them.

Pure. A launcher says which walls it put up (``Walls``); the level follows from them, so that nobody can claim more than there is.

Source: rule 4 of the architecture; docs/explanation/sandbox.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

from annexe.errors import SandboxError

__all__ = ["FULL_LANDLOCK_ABI", "IsolationLevel", "Walls", "require_level"]

FULL_LANDLOCK_ABI = 6
"""From this version on Landlock keeps signals and abstract sockets in, not only files (Linux 6.12)."""


@final
class IsolationLevel(StrEnum):
    """How strong the walls are, strongest first."""

    FULL = "full"
    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    LANDLOCK_PARTIAL = "landlock-partial"
    LIMITS = "limits"
    NONE = "none"

    def strength(self) -> int:
        """Return a number that is larger for a stronger level."""
        return -list(IsolationLevel).index(self)

    def is_at_least(self, other: IsolationLevel) -> bool:
        """Say whether this level is as strong as another or stronger."""
        return self.strength() >= other.strength()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """Which walls stand around one launch; what is not named here does not stand.

    Attributes:
        own_process: It does not share the host's process.
        by_hand: A person started it, and nothing was put around it: but for the host's own checks it can do all that its user can.
        own_uid: It runs as a user that nobody else is.
        rlimits: Limits of the kernel on each of its processes.
        namespaces: A file system, processes and a network of its own, by bubblewrap.
        caps_tmp: Its temporary folder is in memory, and of a limited size.
        seccomp: A list of the system calls it may make.
        landlock_abi: Version of Landlock that keeps its files in; 0: none does.
        cgroup: What a control group limits: of ``memory``, ``cpu``, ``pids``.
    """

    own_process: bool = True
    by_hand: bool = False
    own_uid: bool = False
    rlimits: bool = False
    namespaces: bool = False
    caps_tmp: bool = False
    seccomp: bool = False
    landlock_abi: int = 0
    cgroup: frozenset[str] = frozenset()

    @property
    def level(self) -> IsolationLevel:
        """Return the level that these walls are worth: nothing counts as a wall for hostile code without a filter of system calls."""
        if not self.own_process or self.by_hand or not self.rlimits:
            return IsolationLevel.NONE
        if self.seccomp and self.namespaces:
            return IsolationLevel.FULL if self.landlock_abi else IsolationLevel.NAMESPACES
        if self.seccomp and self.landlock_abi >= FULL_LANDLOCK_ABI:
            return IsolationLevel.LANDLOCK
        return IsolationLevel.LANDLOCK_PARTIAL if self.landlock_abi else IsolationLevel.LIMITS

    @property
    def keep_files(self) -> bool:
        """Whether it sees no file but those it was given."""
        return self.namespaces or self.landlock_abi > 0

    @property
    def keep_processes(self) -> bool:
        """Whether it can neither signal nor look into processes of others."""
        return self.own_uid or self.namespaces or self.landlock_abi >= FULL_LANDLOCK_ABI


def require_level(plugin: str, *, achieved: IsolationLevel, required: IsolationLevel, lacking: str = "") -> None:
    """Refuse a level below what the author or the operator requires.

    Args:
        plugin: Id.
        achieved: What can be had here.
        required: The higher of what author and operator require.
        lacking: What this machine lacks and what would mend it, if that is known already.

    Raises:
        SandboxError: When it is below; there is no silent downgrade.
    """
    if not achieved.is_at_least(required):
        cure = lacking or "`annexe doctor` says what this machine lacks"
        raise SandboxError(
            f"plugin {plugin!r} cannot start: expected sandbox level {required} or stronger, got {achieved}; {cure}.",
            plugin=plugin,
            required=str(required),
            achieved=str(achieved),
        )
