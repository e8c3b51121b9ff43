"""Limits as values, and groups where there are none."""

from __future__ import annotations

import math

import pytest

from annexe.sandbox.cgroup import GroupLimits, GroupUsage, NoControlGroups


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"memory_bytes": -1}, id="memory"),
        pytest.param({"cpu": 0.009}, id="less-than-the-kernel-takes"),
        pytest.param({"cpu": math.inf}, id="infinite"),
        pytest.param({"cpu": math.nan}, id="no-number"),
        pytest.param({"tasks": -1}, id="tasks"),
    ],
)
def test_limits_that_no_kernel_takes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))} of at least"):
        GroupLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("actual", "kept"),
    [
        pytest.param(GroupLimits(memory_bytes=4096, cpu=0.5, tasks=9), {"memory", "cpu", "pids"}, id="as-asked"),
        pytest.param(GroupLimits(memory_bytes=4000, cpu=0.4, tasks=8), {"memory", "cpu", "pids"}, id="tighter"),
        pytest.param(GroupLimits(memory_bytes=4097, cpu=0.6, tasks=10), set(), id="wider"),
        pytest.param(GroupLimits(), set(), id="none"),
    ],
)
def test_a_limit_is_kept_when_the_kernel_tells_it_or_a_tighter_one(actual: GroupLimits, kept: set[str]) -> None:
    assert GroupLimits(memory_bytes=4096, cpu=0.5, tasks=9).kept_by(actual) == kept


def test_what_was_not_asked_for_is_not_kept() -> None:
    assert GroupLimits(tasks=9).kept_by(GroupLimits(memory_bytes=4096, cpu=0.5, tasks=9)) == {"pids"}


def test_without_control_groups_nothing_is_claimed() -> None:
    groups = NoControlGroups()
    group = groups.make("sample-1", GroupLimits(memory_bytes=4096))
    with group.entered():
        group.add(1)
    assert (groups.flavour, groups.controllers, group.controllers, group.prefix) == ("none", frozenset(), frozenset(), ())
    assert (group.usage(), group.read_limits(), group.holds(1)) == (GroupUsage(), GroupLimits(), False)
    assert group.kill()  # of what is in it, nothing is left
    assert group.remove()
    groups.take_wait()
    assert groups.sweep() == 0
    groups.close()
