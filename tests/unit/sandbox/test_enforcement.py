"""What rights and limits are worth behind which walls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annexe.manifest.rights import RIGHT_KINDS
from annexe.sandbox import Walls
from annexe.sandbox.enforcement import EnforcementState, enforcement
from tests.unit.sandbox.walls import BY_HAND, BY_LEVEL, FULL, INSIDE, LANDLOCK, LIMITS, NAMESPACES, NONE, OWN_USER, PARTIAL

LIMIT_NAMES = {"memory", "cpu", "processes", "open-files", "disk", "start-timeout", "call-timeout", "concurrency", "streams"}
ON, SOFT, OFF, NOT_THERE = (
    EnforcementState.ENFORCED,
    EnforcementState.SOFT,
    EnforcementState.NOT_ENFORCED,
    EnforcementState.NOT_AVAILABLE,
)
ROWS = {
    "full": FULL,
    "namespaces": NAMESPACES,
    "landlock": LANDLOCK,
    "partial, no filter": replace(PARTIAL, seccomp=False),
    "namespaces, no filter": replace(NAMESPACES, seccomp=False),
    "own user": OWN_USER,
    "limits": LIMITS,
    "none": NONE,
}


@pytest.mark.parametrize("walls", [*BY_LEVEL.values(), OWN_USER, INSIDE, BY_HAND])
def test_enforcement_speaks_of_every_right_and_limit(walls: Walls) -> None:
    table = enforcement(walls)
    assert set(RIGHT_KINDS) | LIMIT_NAMES | {"provides"} == set(table)
    assert all(found.why for found in table.values())


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("kv", [ON, ON, ON, ON, ON, ON, ON, ON]),
        ("cap", [ON, ON, ON, ON, ON, ON, ON, ON]),
        ("network", [ON, ON, SOFT, OFF, ON, OFF, OFF, OFF]),
        ("filesystem.read", [ON, ON, ON, SOFT, ON, OFF, OFF, OFF]),
        ("filesystem.write", [ON, ON, ON, SOFT, ON, OFF, OFF, OFF]),
        ("data", [SOFT, SOFT, SOFT, SOFT, SOFT, OFF, OFF, OFF]),
        ("devices", [ON, ON, ON, SOFT, ON, OFF, OFF, OFF]),
        ("env", [ON, ON, ON, SOFT, ON, ON, SOFT, SOFT]),
        ("subprocess", [ON, ON, ON, SOFT, OFF, OFF, OFF, OFF]),
        ("memory", [ON, SOFT, SOFT, SOFT, SOFT, SOFT, SOFT, OFF]),
        ("cpu", [ON, OFF, OFF, OFF, OFF, OFF, OFF, OFF]),
        ("processes", [ON, ON, OFF, OFF, ON, ON, OFF, OFF]),
        ("open-files", [ON, ON, ON, ON, ON, ON, ON, OFF]),
        ("disk", [ON, ON, OFF, OFF, ON, OFF, OFF, OFF]),
        ("secrets", [NOT_THERE] * 8),
        ("services", [ON] * 8),
        ("provide", [ON] * 8),
        ("events.publish", [ON] * 8),
        ("events.subscribe", [ON] * 8),
    ],
)
def test_enforcement_says_what_stands(name: str, states: list[EnforcementState]) -> None:
    assert dict(zip(ROWS, states, strict=True)) == {row: enforcement(walls)[name].state for row, walls in ROWS.items()}


def test_network_behind_filters_alone_is_open_once_it_is_granted() -> None:
    assert "connect anywhere" in enforcement(replace(LIMITS, seccomp=True))["network"].why
    assert "port of its proxy" in enforcement(LANDLOCK)["network"].why


def test_tcp_alone_is_refused_by_landlock_without_filters() -> None:
    assert "TCP alone" in enforcement(replace(LANDLOCK, seccomp=False))["network"].why
    assert "no network wall" in enforcement(replace(LANDLOCK, seccomp=False, landlock_abi=3))["network"].why


def test_files_can_be_emptied_behind_a_landlock_that_does_not_know_of_it() -> None:
    assert [enforcement(replace(PARTIAL, landlock_abi=abi))["filesystem.write"].state for abi in (2, 3)] == [SOFT, ON]
    assert enforcement(replace(PARTIAL, landlock_abi=2))["filesystem.read"].state is ON


def test_disk_is_enforced_only_where_the_temporary_folder_has_a_size() -> None:
    assert enforcement(replace(FULL, caps_tmp=False))["disk"].state is OFF


def test_a_user_of_its_own_is_spoken_of_only_where_there_is_one() -> None:
    for walls in (*BY_LEVEL.values(), OWN_USER):
        told = " ".join(found.why for found in enforcement(replace(walls, cgroup=frozenset())).values())
        assert ("on a user of its own" in told) is walls.own_uid
    assert "user namespace" in enforcement(NAMESPACES)["processes"].why


@pytest.mark.parametrize("walls", [*BY_LEVEL.values(), OWN_USER])
def test_reasons_of_rights_are_true_with_the_right_too(walls: Walls) -> None:
    """What a plugin cannot do is said of one without the right: the same table is shown to one that has it."""
    for kind in RIGHT_KINDS:
        why = enforcement(walls)[kind].why
        for denied in ("it can neither", "it can make no", "nothing but", "it can start no"):
            assert denied not in why.replace(f"without the right {denied}", ""), (kind, why)


def test_enforcement_in_process_enforces_nothing() -> None:
    assert {found.state for found in enforcement(INSIDE).values()} == {OFF, NOT_THERE}


def test_enforcement_of_a_process_started_by_hand_is_what_the_host_checks_itself_but_for_time() -> None:
    table = enforcement(BY_HAND)
    by_the_host = {name for name, found in table.items() if found.state is ON}
    assert by_the_host >= {"kv", "cap", "provides", "services", "provide", "define", "concurrency", "events.publish", "events.subscribe"}
    assert by_the_host.isdisjoint({"network", "filesystem.read", "data", "env", "subprocess", "memory", "cpu", "processes", "disk"})
    assert {"time-out" in table[name].why for name in ("start-timeout", "call-timeout")} == {True}
    assert not any("the host's own process" in found.why for found in table.values())
