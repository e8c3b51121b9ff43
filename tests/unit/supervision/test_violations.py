"""What counts as a violation, when it is told, and what is done about it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from annexe.supervision.violations import (
    DEFAULT_RULES,
    Action,
    Judged,
    Limits,
    MonitorPolicy,
    Phase,
    Resource,
    Rule,
    Usage,
    Violation,
)

MIB = 1024**2


class Course:
    """One instance that is measured every two seconds."""

    def __init__(self, *, limits: Limits, **rules: Rule) -> None:
        chosen = {Resource(name.replace("_", "-")): rule for name, rule in rules.items()}
        self.policy = MonitorPolicy(rules=chosen) if rules else MonitorPolicy()
        self.limits = limits
        self.judged: Judged | None = None
        self.now_s = 0.0

    def measured(self, **usage: Any) -> list[tuple[Phase, Action]]:
        return [(violation.phase, violation.action) for violation in self.violations(**usage)]

    def violations(self, **usage: Any) -> tuple[Violation, ...]:
        self.now_s += 2.0
        self.judged, violations = self.policy.judge(self.judged, usage=Usage(**usage), limits=self.limits, now_s=self.now_s)
        return violations


BEGAN, LASTS, ENDED = Phase.BEGAN, Phase.LASTS, Phase.ENDED


def test_every_resource_has_a_limit_a_usage_and_a_rule() -> None:
    assert set(DEFAULT_RULES) == set(Resource)
    amounts = {field.name for field in fields(Usage)} - {"oom_kills", "cpu_s"}
    assert amounts == {field.name for field in fields(Limits)} - {"cpu_cores"}
    assert len(amounts) + 1 == len(Resource)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        pytest.param("memory", Action.RESTART, id="memory"),
        pytest.param("cpu", Action.WARN, id="cpu"),
        pytest.param("disk", Action.STOP, id="disk"),
        pytest.param("disk-entries", Action.STOP, id="entries"),
        pytest.param("connections", Action.WARN, id="connections"),
        pytest.param("threads", Action.WARN, id="threads"),
    ],
)
def test_default_action(resource: str, expected: Action) -> None:
    assert DEFAULT_RULES[Resource(resource)].action is expected


@pytest.mark.parametrize(
    ("action", "ends"), [("warn", False), ("throttle", False), ("restart", True), ("stop", True), ("quarantine", True)]
)
def test_action_knows_whether_it_ends_the_instance(action: str, ends: bool) -> None:
    assert Action(action).ends_instance is ends


@pytest.mark.parametrize("changes", [{"polls": 0}, {"clear_share": 1.1}, {"clear_share": -0.1}, {"share": 0.5}])
def test_rule_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected polls"):
        Rule(**changes)


def test_what_is_within_its_limits_is_not_told_of() -> None:
    course = Course(limits=Limits(memory_bytes=100, processes=3, threads=3, open_files=100, disk_bytes=5, disk_entries=5, connections=2))
    usage = {"memory_bytes": 100, "processes": 3, "threads": 3, "open_files": 95, "disk_bytes": 5, "disk_entries": 5, "connections": 2}
    for _ in range(10):
        assert course.measured(**usage) == []
    assert course.judged is not None
    assert course.judged.standings == {}
    assert course.judged.violated == ()


def test_violation_begins_with_figures() -> None:
    course = Course(limits=Limits(memory_bytes=256 * MIB))
    (violation,) = course.violations(memory_bytes=300 * MIB)
    assert violation.reason == "uses 300.0 MiB of memory, limit 256.0 MiB"
    assert violation.is_to_be_acted_on
    assert course.judged is not None
    assert course.judged.violated == (Resource.MEMORY,)
    assert json.loads(json.dumps(violation.facts())) == {
        "resource": "memory",
        "phase": "began",
        "action": "restart",
        "amount": 300 * MIB,
        "limit": 256 * MIB,
        "peak": 300 * MIB,
        "lasted_s": 0.0,
        "kills": 0,
    }


def test_violation_takes_so_many_measurements_in_a_row() -> None:
    course = Course(limits=Limits(threads=10), threads=Rule(polls=3))
    assert [course.measured(threads=count) for count in (11, 11, 10, 11, 11, 11)] == [[], [], [], [], [], [(BEGAN, Action.WARN)]]


def test_lasting_violation_is_told_once_and_when_it_ends() -> None:
    course = Course(limits=Limits(threads=10), threads=Rule(polls=2))
    told = [course.measured(threads=count) for count in (11, 11, 15, 12, 11, 9, 9)]
    assert told == [[], [(BEGAN, Action.WARN)], [], [], [], [(ENDED, Action.WARN)], []]


def test_end_is_told_with_peak_and_time() -> None:
    course = Course(limits=Limits(threads=10), threads=Rule())
    for count in (11, 15, 12):
        course.measured(threads=count)
    (violation,) = course.violations(threads=3)
    assert violation.reason == "no longer over its limit after 6 s; used at most 15 threads, limit 10"
    assert (violation.amount, violation.peak, violation.lasted_s) == (3, 15, 6.0)
    assert not violation.is_to_be_acted_on


def test_plugin_that_hovers_at_its_limit_is_not_told_of_again_and_again() -> None:
    course = Course(limits=Limits(threads=100), threads=Rule(polls=2))
    told = [course.measured(threads=count) for count in (101, 101, 99, 101, 95, 101, 101, 91, 90)]
    assert told == [[], [(BEGAN, Action.WARN)], [], [], [], [], [], [], [(ENDED, Action.WARN)]]


def test_violation_that_ended_can_begin_again() -> None:
    course = Course(limits=Limits(threads=10), threads=Rule())
    assert [bool(course.measured(threads=count)) for count in (11, 1, 11)] == [True, True, True]


@pytest.mark.parametrize("action", [Action.RESTART, Action.STOP, Action.QUARANTINE])
def test_action_that_should_have_ended_the_instance_is_decided_again(action: Action) -> None:
    course = Course(limits=Limits(threads=10), threads=Rule(action=action, polls=2))
    told = [course.measured(threads=11) for _ in range(6)]
    assert told == [[], [(BEGAN, action)], [], [(LASTS, action)], [], [(LASTS, action)]]
    course.measured(threads=11)
    (violation,) = course.violations(threads=12)
    assert violation.reason == "uses 12 threads, limit 10, still after 12 s"
    assert violation.is_to_be_acted_on


def test_throttle_is_decided_once_and_its_end_is_told() -> None:
    course = Course(limits=Limits(threads=10), threads=Rule(action=Action.THROTTLE))
    assert [course.measured(threads=count) for count in (11, 11, 5)] == [[(BEGAN, Action.THROTTLE)], [], [(ENDED, Action.THROTTLE)]]


def test_what_was_not_measured_changes_nothing() -> None:
    course = Course(limits=Limits(disk_bytes=10), disk=Rule(polls=2))
    usages: list[dict[str, int]] = [{"disk_bytes": 11}, {}, {}, {"disk_bytes": 11}, {}, {"disk_bytes": 1}]
    told = [course.measured(**usage) for usage in usages]
    assert told == [[], [], [], [(BEGAN, Action.WARN)], [], [(ENDED, Action.WARN)]]


def test_what_has_no_limit_is_not_judged_unless_the_operator_gives_one() -> None:
    assert Course(limits=Limits()).measured(memory_bytes=10**12) == []
    assert Course(limits=Limits(), memory=Rule(limit=10)).measured(memory_bytes=11) == [(BEGAN, Action.WARN)]
    assert Course(limits=Limits(memory_bytes=10**12), memory=Rule(limit=10)).measured(memory_bytes=11) == [(BEGAN, Action.WARN)]


def test_what_has_no_rule_is_not_judged() -> None:
    assert Course(limits=Limits(memory_bytes=1), threads=Rule()).measured(memory_bytes=10) == []


def test_limit_of_nothing_is_a_limit() -> None:
    course = Course(limits=Limits(connections=0))
    assert [course.measured(connections=count) for count in (0, 1, 0)] == [[], [(BEGAN, Action.WARN)], [(ENDED, Action.WARN)]]


def test_open_files_count_when_the_kernels_limit_is_nearly_reached() -> None:
    course = Course(limits=Limits(open_files=64))
    assert [course.measured(open_files=count) for count in (60, 64, 64)] == [[], [], [(BEGAN, Action.WARN)]]


def test_cpu_is_the_average_between_two_measurements() -> None:
    course = Course(limits=Limits(cpu_cores=0.5), cpu=Rule())
    assert course.measured(cpu_s=100.0) == []  # the first: nothing to compare it to
    assert course.measured(cpu_s=101.0) == []  # 0.5 of a processor
    (violation,) = course.violations(cpu_s=103.5)
    assert violation.reason == "uses 1.25 processors, limit 0.50"
    assert course.judged is not None
    assert course.judged.cpu_cores == 1.25


def test_cpu_time_that_processes_took_along_when_they_ended_is_not_negative() -> None:
    course = Course(limits=Limits(cpu_cores=0.5), cpu=Rule())
    course.measured(cpu_s=100.0)
    course.measured(cpu_s=3.0)
    assert course.judged is not None
    assert course.judged.cpu_cores == 0.0


@pytest.mark.parametrize(
    ("before", "after", "passed_s"),
    [
        pytest.param(None, 5.0, 2.0, id="not measured before"),
        pytest.param(1.0, None, 2.0, id="not measured now"),
        pytest.param(1.0, 5.0, 0.0, id="no time between"),
    ],
)
def test_cpu_is_not_known_without_two_times(before: float | None, after: float | None, passed_s: float) -> None:
    course = Course(limits=Limits(cpu_cores=0.5), cpu=Rule())
    course.measured(cpu_s=before)
    course.now_s += passed_s - 2.0
    assert course.measured(cpu_s=after) == []
    assert course.judged is not None
    assert course.judged.cpu_cores is None


def test_default_policy_bears_with_a_burst_of_cpu() -> None:
    course = Course(limits=Limits(cpu_cores=0.5))
    told = [course.measured(cpu_s=2.0 * number) for number in range(6)]
    assert told == [[], [], [], [], [], [(BEGAN, Action.WARN)]]


def test_kills_of_the_kernels_are_told_each_time_and_not_acted_on() -> None:
    course = Course(limits=Limits(memory_bytes=256 * MIB))
    assert course.violations(memory_bytes=10 * MIB) == ()
    (violation,) = course.violations(memory_bytes=20 * MIB, oom_kills=1)
    assert violation.reason == "the kernel killed 1 process for want of memory; limit 256.0 MiB"
    assert (violation.phase, violation.action, violation.kills) == (Phase.PREVENTED, Action.WARN, 1)
    assert not violation.is_to_be_acted_on
    assert course.violations(memory_bytes=20 * MIB, oom_kills=1) == ()
    assert course.violations(oom_kills=3)[0].reason.startswith("the kernel killed 2 processes")


def test_kill_before_the_first_measurement_is_told() -> None:
    assert Course(limits=Limits()).measured(oom_kills=1) == [(Phase.PREVENTED, Action.WARN)]


def test_instance_that_is_gone_ends_its_violations() -> None:
    course = Course(limits=Limits(threads=10, memory_bytes=10), threads=Rule(), memory=Rule(polls=2))
    course.measured(threads=15, memory_bytes=11)
    assert course.judged is not None
    (violation,) = course.policy.close(course.judged, now_s=10.0)
    assert (violation.resource, violation.phase, violation.amount, violation.peak) == (Resource.THREADS, Phase.GONE, 0, 15)
    assert violation.lasted_s == 8.0
    assert violation.reason == "its instance ended while it was over its limit; used at most 15 threads, limit 10"
    assert not violation.is_to_be_acted_on


def test_several_violations_at_once_are_all_told() -> None:
    course = Course(limits=Limits(memory_bytes=1, disk_bytes=1, disk_entries=1))
    violations = course.violations(memory_bytes=2 * MIB, disk_bytes=3 * MIB, disk_entries=4)
    assert [violation.reason for violation in violations] == [
        "uses 2.0 MiB of memory, limit 0.0 MiB",
        "uses 3.0 MiB of disk in its private folder (`data`), limit 0.0 MiB",
        "uses 4 files and folders in its private folder (`data`), limit 1",
    ]


@pytest.mark.parametrize(
    ("resource", "rule", "cure"),
    [
        pytest.param("memory", Rule(), "raise `memory` under [resources] in its plugin.toml", id="own"),
        pytest.param("threads", Rule(limit=1), "raise this host's limit (`Policies(monitor=…)`)", id="operator's"),
        pytest.param("disk", Rule(), "clear out /data/p or raise the quota of `data` under [permissions] in its plugin.toml", id="disk"),
        pytest.param("disk-entries", Rule(), "clear out /data/p", id="entries-cannot-be-raised-by-the-plugin"),
        pytest.param("connections", Rule(), "", id="same-for-all"),
    ],
)
def test_violation_says_what_mends_it(resource: str, rule: Rule, cure: str) -> None:
    course = Course(limits=Limits(memory_bytes=1, threads=1, disk_bytes=1, disk_entries=1, connections=1), **{resource: rule})
    (violation,) = course.violations(memory_bytes=2, threads=2, disk_bytes=2, disk_entries=2, connections=2)
    assert violation.cure(folder="/data/p") == cure


def test_state_that_was_kept_is_not_changed() -> None:
    course = Course(limits=Limits(threads=10), threads=Rule(polls=2))
    course.measured(threads=11)
    kept = course.judged
    assert kept is not None
    same = replace(kept)
    course.measured(threads=11)
    assert kept == same
