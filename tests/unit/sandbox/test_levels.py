"""Which level walls make, and who is refused below it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annexe.errors import SandboxError
from annexe.manifest.model import SANDBOX_LEVELS
from annexe.sandbox import IsolationLevel, Walls, require_level
from tests.unit.sandbox.walls import BY_LEVEL, FULL, INSIDE, LANDLOCK, LIMITS, NAMESPACES, OWN_USER, PARTIAL


def test_levels_are_those_of_the_manifest() -> None:
    assert tuple(reversed([str(level) for level in IsolationLevel])) == SANDBOX_LEVELS


def test_level_compares_by_strength() -> None:
    assert IsolationLevel.FULL.is_at_least(IsolationLevel.NONE)
    assert IsolationLevel.LIMITS.is_at_least(IsolationLevel.LIMITS)
    assert not IsolationLevel.LIMITS.is_at_least(IsolationLevel.LANDLOCK_PARTIAL)


@pytest.mark.parametrize(("level", "walls"), BY_LEVEL.items(), ids=BY_LEVEL)
def test_level_follows_from_the_walls(level: str, walls: Walls) -> None:
    assert walls.level == level


@pytest.mark.parametrize(
    ("walls", "level"),
    [
        pytest.param(replace(FULL, seccomp=False), "landlock-partial", id="without a filter everything else is half a wall"),
        pytest.param(replace(NAMESPACES, seccomp=False), "limits", id="namespaces alone"),
        pytest.param(replace(FULL, rlimits=False), "none", id="nothing without limits"),
        pytest.param(replace(FULL, own_process=False), "none", id="nothing inside the host"),
        pytest.param(replace(FULL, by_hand=True), "none", id="nothing was put around it"),
        pytest.param(replace(LANDLOCK, landlock_abi=0), "limits", id="a filter alone"),
        pytest.param(replace(FULL, cgroup=frozenset()), "full", id="a control group is told apart from the level"),
    ],
)
def test_level_with_a_wall_missing_is_lower(walls: Walls, level: str) -> None:
    assert walls.level == level


def test_walls_keep_processes_apart_by_user_namespace_or_a_newer_landlock() -> None:
    assert [walls.keep_processes for walls in (OWN_USER, NAMESPACES, LANDLOCK, PARTIAL, LIMITS)] == [True, True, True, False, False]
    assert not INSIDE.keep_files


def test_require_level_that_is_achieved_passes() -> None:
    require_level("demo", achieved=IsolationLevel.LIMITS, required=IsolationLevel.LIMITS)


def test_require_level_above_the_achieved_is_refused() -> None:
    with pytest.raises(SandboxError, match="expected sandbox level landlock or stronger, got limits; `annexe doctor`") as caught:
        require_level("demo", achieved=IsolationLevel.LIMITS, required=IsolationLevel.LANDLOCK)
    assert caught.value.plugin == "demo"
    assert caught.value.data == {"required": "landlock", "achieved": "limits"}


def test_require_level_names_what_is_lacking_when_that_is_known() -> None:
    with pytest.raises(SandboxError, match=r"got landlock; namespaces: bwrap is not installed \(apt install bubblewrap\)\.$"):
        require_level(
            "demo",
            achieved=IsolationLevel.LANDLOCK,
            required=IsolationLevel.FULL,
            lacking="namespaces: bwrap is not installed (apt install bubblewrap)",
        )
