"""What rights and limits are worth at each level."""

from __future__ import annotations

import pytest

from annexe.errors import SandboxError
from annexe.manifest.model import SANDBOX_LEVELS
from annexe.manifest.rights import RIGHT_KINDS
from annexe.sandbox.levels import EnforcementState, IsolationLevel, enforcement, require_level

UNBUILT = [IsolationLevel.FULL, IsolationLevel.NAMESPACES, IsolationLevel.LANDLOCK, IsolationLevel.LANDLOCK_PARTIAL]
LIMIT_NAMES = {"memory", "cpu", "processes", "open-files", "disk", "start-timeout", "call-timeout", "concurrency", "streams"}


def test_levels_are_those_of_the_manifest() -> None:
    assert tuple(reversed([str(level) for level in IsolationLevel])) == SANDBOX_LEVELS


def test_level_compares_by_strength() -> None:
    assert IsolationLevel.FULL.is_at_least(IsolationLevel.NONE)
    assert IsolationLevel.LIMITS.is_at_least(IsolationLevel.LIMITS)
    assert not IsolationLevel.LIMITS.is_at_least(IsolationLevel.LANDLOCK_PARTIAL)


@pytest.mark.parametrize("level", [IsolationLevel.LIMITS, IsolationLevel.NONE])
@pytest.mark.parametrize("own_uid", [True, False])
@pytest.mark.parametrize("in_process", [True, False])
def test_enforcement_speaks_of_every_right_and_limit(level: IsolationLevel, own_uid: bool, in_process: bool) -> None:
    table = enforcement(level, own_uid=own_uid, in_process=in_process)
    assert set(RIGHT_KINDS) | LIMIT_NAMES | {"provides"} == set(table)
    assert all(found.why for found in table.values())


@pytest.mark.parametrize("level", UNBUILT)
def test_enforcement_at_a_level_that_nothing_achieves_is_refused(level: IsolationLevel) -> None:
    with pytest.raises(SandboxError) as caught:
        enforcement(level, own_uid=True)
    assert caught.value.data == {"level": str(level)}


@pytest.mark.parametrize(
    ("name", "own", "shared"),
    [
        ("kv", EnforcementState.ENFORCED, EnforcementState.ENFORCED),
        ("cap", EnforcementState.ENFORCED, EnforcementState.ENFORCED),
        ("env", EnforcementState.ENFORCED, EnforcementState.SOFT),
        ("network", EnforcementState.NOT_ENFORCED, EnforcementState.NOT_ENFORCED),
        ("filesystem.read", EnforcementState.NOT_ENFORCED, EnforcementState.NOT_ENFORCED),
        ("subprocess", EnforcementState.NOT_ENFORCED, EnforcementState.NOT_ENFORCED),
        ("data", EnforcementState.NOT_AVAILABLE, EnforcementState.NOT_AVAILABLE),
        ("secrets", EnforcementState.NOT_AVAILABLE, EnforcementState.NOT_AVAILABLE),
        ("services", EnforcementState.NOT_AVAILABLE, EnforcementState.NOT_AVAILABLE),
        ("memory", EnforcementState.SOFT, EnforcementState.SOFT),
        ("processes", EnforcementState.ENFORCED, EnforcementState.NOT_ENFORCED),
        ("open-files", EnforcementState.ENFORCED, EnforcementState.ENFORCED),
        ("cpu", EnforcementState.NOT_ENFORCED, EnforcementState.NOT_ENFORCED),
    ],
)
def test_enforcement_at_limits_is_honest(name: str, own: EnforcementState, shared: EnforcementState) -> None:
    assert enforcement(IsolationLevel.LIMITS, own_uid=True)[name].state is own
    assert enforcement(IsolationLevel.LIMITS, own_uid=False)[name].state is shared


def test_enforcement_at_none_limits_nothing() -> None:
    table = enforcement(IsolationLevel.NONE, own_uid=False)
    assert {table[name].state for name in ("memory", "processes", "open-files")} == {EnforcementState.NOT_ENFORCED}
    assert table["kv"].state is EnforcementState.ENFORCED


def test_enforcement_in_process_enforces_nothing() -> None:
    states = {found.state for found in enforcement(IsolationLevel.NONE, own_uid=False, in_process=True).values()}
    assert states == {EnforcementState.NOT_ENFORCED, EnforcementState.NOT_AVAILABLE}


def test_require_level_that_is_achieved_passes() -> None:
    require_level("demo", achieved=IsolationLevel.LIMITS, required=IsolationLevel.LIMITS)


def test_require_level_above_the_achieved_is_refused() -> None:
    with pytest.raises(SandboxError, match="expected sandbox level landlock or stronger, got limits") as caught:
        require_level("demo", achieved=IsolationLevel.LIMITS, required=IsolationLevel.LANDLOCK)
    assert caught.value.plugin == "demo"
    assert caught.value.data == {"required": "landlock", "achieved": "limits"}
