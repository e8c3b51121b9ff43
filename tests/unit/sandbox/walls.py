"""Sets of walls that tests speak of, by the level they make."""

from __future__ import annotations

from annexe.sandbox import Walls

__all__ = ["BY_HAND", "BY_LEVEL", "FULL", "INSIDE", "LANDLOCK", "LIMITS", "NAMESPACES", "NONE", "OWN_USER", "PARTIAL"]

FULL = Walls(
    own_uid=True, rlimits=True, namespaces=True, caps_tmp=True, seccomp=True, landlock_abi=7, cgroup=frozenset({"memory", "cpu", "pids"})
)
NAMESPACES = Walls(rlimits=True, namespaces=True, caps_tmp=True, seccomp=True)
LANDLOCK = Walls(rlimits=True, seccomp=True, landlock_abi=6)
PARTIAL = Walls(rlimits=True, seccomp=True, landlock_abi=5)
LIMITS = Walls(rlimits=True)
OWN_USER = Walls(rlimits=True, own_uid=True)
NONE = Walls()
INSIDE = Walls(own_process=False)
BY_HAND = Walls(by_hand=True)
BY_LEVEL = {"full": FULL, "namespaces": NAMESPACES, "landlock": LANDLOCK, "landlock-partial": PARTIAL, "limits": LIMITS, "none": NONE}
