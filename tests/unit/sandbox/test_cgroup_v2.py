"""Groups of version 2, and where a host may make them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from annexe.sandbox.cgroup import GroupLimits, GroupUsage
from annexe.sandbox.cgroup_places import Place, places
from annexe.sandbox.cgroup_v2 import HOST_LEAF, V2Groups, find_base, listed
from tests.support.fake_cgroups import HOST_PID, NAMESPACE, FakeMachine

LIMITS = GroupLimits(memory_bytes=1 << 20, cpu=0.5, tasks=8)
SERVICE = "/system.slice/app.service"
USER_MANAGER = "/user.slice/user-1000.slice/user@1000.service"  # given by the machine's systemd, to the user's


def base_on(machine: FakeMachine, *, may_move_host: bool = True) -> tuple[Place | None, str]:
    own = places(machine).v2
    assert own is not None
    return find_base(own, machine, may_move_host=may_move_host)


def groups_on(machine: FakeMachine) -> V2Groups:
    base, why = base_on(machine)
    assert base is not None, why
    return V2Groups(base, listed(base, machine, name="cgroup.subtree_control"), machine)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """A machine without systemd, whose root is ours."""
    return FakeMachine(tmp_path, {"": "/"})


def test_all_limits_are_set_in_one_folder(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    assert group.controllers == {"memory", "cpu", "pids"}
    assert group.notes == ()
    assert group.read_limits() == LIMITS
    assert machine.text("", "cpu.max") == "50000 100000"
    assert machine.text("", "cpu.weight") == "33"
    assert machine.text("", "memory.swap.max") == "0"
    assert machine.text("", "memory.oom.group") == "1"


def test_a_group_without_limits_tells_none(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", GroupLimits())
    assert group.controllers == frozenset()
    assert group.read_limits() == GroupLimits()


def test_controllers_that_were_not_given_are_not_claimed(tmp_path: Path) -> None:
    groups = groups_on(FakeMachine(tmp_path, {"": "/"}, v2_controllers="memory io"))
    group = groups.make("sample-1", LIMITS)
    assert groups.controllers == group.controllers == {"memory"}
    assert group.read_limits() == GroupLimits(memory_bytes=1 << 20)
    # Processor time is told by every group.
    assert group.usage() == GroupUsage(memory_bytes=4096, memory_peak_bytes=8192, cpu_s=2.5, throttled_s=0.5, oom_kills=3)


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        pytest.param("memory.max", "memory", id="memory"),
        pytest.param("cpu.max", "cpu", id="cpu-without-bandwidth"),
        pytest.param("pids.max", "pids", id="pids"),
    ],
)
def test_a_limit_that_cannot_be_set_is_not_claimed_and_the_others_hold(machine: FakeMachine, file: str, lost: str) -> None:
    machine.refused["write", file] = errno.ENOENT
    group = groups_on(machine).make("sample-1", LIMITS)
    assert group.controllers == {"memory", "cpu", "pids"} - {lost}
    assert f"Controller {lost} takes no limit" in group.notes[0]


def test_what_an_old_kernel_lacks_is_said(machine: FakeMachine) -> None:
    machine.refused |= {("write", "memory.swap.max"): errno.ENOENT, ("write", "memory.oom.group"): errno.ENOENT}
    group = groups_on(machine).make("sample-1", LIMITS)
    assert "memory" in group.controllers
    assert ["memory.swap.max" in group.notes[0], "memory.oom.group" in group.notes[1]] == [True, True]


def test_usage_is_told_in_bytes_seconds_and_counts(machine: FakeMachine) -> None:
    assert groups_on(machine).make("sample-1", LIMITS).usage() == GroupUsage(
        memory_bytes=4096, memory_peak_bytes=8192, cpu_s=2.5, throttled_s=0.5, tasks=2, oom_kills=3, tasks_refused=7
    )


def test_figures_that_an_old_kernel_lacks_are_none(machine: FakeMachine) -> None:
    machine.refused |= {("read", "memory.peak"): errno.ENOENT, ("read", "cpu.stat"): errno.ENOENT}
    usage = groups_on(machine).make("sample-1", LIMITS).usage()
    assert (usage.memory_peak_bytes, usage.cpu_s, usage.throttled_s, usage.tasks) == (None, None, None, 2)


def test_no_limit_on_processor_time_is_told_when_there_is_no_such_file(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.refused["read", "cpu.max"] = errno.ENOENT
    assert group.read_limits().cpu is None


@pytest.mark.parametrize("has_kill", [pytest.param(True, id="at-once"), pytest.param(False, id="one-by-one-before-5.14")])
def test_kill_ends_all_members(machine: FakeMachine, has_kill: bool) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    for pid in (500, 501):
        machine.add_process(pid)
        group.add(pid)
    if has_kill:
        machine.unkillable |= {500, 501}  # by a signal
    else:
        machine.refused["write", "cgroup.kill"] = errno.ENOENT
    assert group.holds(500)
    assert group.kill()
    assert set(machine.members[""]) == {HOST_PID}
    assert group.remove()


def test_leftovers_are_swept_and_ours_closed(machine: FakeMachine) -> None:
    groups = groups_on(machine)
    groups.make("sample-1", LIMITS)
    dead = f"annexe-200-5-{NAMESPACE}-00000000.a"
    machine.make(machine.points[""] / dead)
    machine.add_process(500, v2=f"/{dead}")
    assert groups.sweep() == 1
    assert set(machine.members[""]) == {HOST_PID}
    groups.close()
    assert machine.groups() == set()


@pytest.mark.parametrize("line", ["/", f"{SERVICE}"])
def test_taking_the_wait_moves_nobody(tmp_path: Path, line: str) -> None:
    machine = FakeMachine(tmp_path, {"": line}, delegated=[line], has_systemd=line != "/")
    groups = groups_on(machine)
    before = machine.lines_of_host()
    groups.take_wait()
    machine.refused["write", "cgroup.procs"] = errno.EACCES
    groups.take_wait()
    assert machine.lines_of_host() == before


def test_taking_the_wait_of_a_host_that_cannot_be_found_does_nothing(machine: FakeMachine) -> None:
    groups = groups_on(machine)
    machine.refused["read", "self/cgroup"] = errno.EACCES
    groups.take_wait()


# Where groups may be made


def test_at_the_true_root_nobody_is_moved(machine: FakeMachine) -> None:
    machine.add_process(500)
    base, why = base_on(machine)
    assert (base, why) == (Place(machine.points[""], "/", ""), "")
    assert machine.lines_of_host() == {"": "/"}


def test_a_host_alone_in_a_delegated_service_moves_into_a_leaf(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": SERVICE}, delegated=[SERVICE], has_systemd=True, uid=1000)
    base, _ = base_on(machine)
    assert base is not None
    assert base.line == SERVICE
    assert machine.lines_of_host() == {"": f"{SERVICE}/{HOST_LEAF}"}
    assert listed(base, machine, name="cgroup.subtree_control") == {"memory", "cpu", "pids"}


def test_a_host_in_its_leaf_already_makes_groups_beside_it(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": SERVICE}, delegated=[SERVICE], has_systemd=True)
    first, second = base_on(machine)[0], base_on(machine)[0]
    assert first == second
    assert machine.lines_of_host() == {"": f"{SERVICE}/{HOST_LEAF}"}


def test_hosts_that_systemd_put_into_a_part_of_a_delegated_service_share_it(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": f"{SERVICE}/workers"}, delegated=[SERVICE], has_systemd=True)
    machine.add_process(500)  # a second worker of the application
    base, _ = base_on(machine)
    assert base is not None
    assert base.line == SERVICE
    assert machine.lines_of_host() == {"": f"{SERVICE}/workers"}


def test_a_leaf_that_an_earlier_host_left_is_used_again(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": SERVICE}, delegated=[SERVICE], has_systemd=True)
    machine.make(machine.points[""] / SERVICE.strip("/") / HOST_LEAF)
    assert base_on(machine)[0] is not None


def test_a_container_without_systemd_divides_its_group_for_its_only_process(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": "/container"})
    base, _ = base_on(machine)
    assert base is not None
    assert base.line == "/container"
    assert machine.lines_of_host() == {"": f"/container/{HOST_LEAF}"}
    assert base_on(machine)[0] == base


Refusal = tuple[str, dict[str, Any], Sequence[int], bool, str]
REFUSALS: dict[str, Refusal] = {
    "not-delegated-even-for-root": (SERVICE, {"has_systemd": True}, (), True, "not delegated"),
    "unit-of-a-users-systemd": (
        f"{USER_MANAGER}/host.service",
        {"has_systemd": True, "delegated": [USER_MANAGER]},
        (),
        True,
        "not delegated",
    ),
    "root-of-systemd": ("/", {"has_systemd": True}, (), True, "systemd owns the root"),
    "with-other-processes": (SERVICE, {"has_systemd": True, "delegated": [SERVICE]}, (500, 501), True, "with 2 other processes"),
    "not-to-be-moved": (SERVICE, {"has_systemd": True, "delegated": [SERVICE]}, (), False, "may not be moved"),
    "nothing-given": (
        SERVICE,
        {"has_systemd": True, "delegated": [SERVICE], "granted": "io"},
        (),
        True,
        "no controller of cpu, memory, pids",
    ),
    "container-with-others": ("/container", {}, (500,), True, "writable-cgroups=true"),
}


@pytest.mark.parametrize(("line", "fields", "others", "may_move", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_group_that_is_not_ours_to_divide_is_left_as_it_is(
    tmp_path: Path, line: str, fields: dict[str, Any], others: Sequence[int], may_move: bool, why: str
) -> None:
    machine = FakeMachine(tmp_path, {"": line}, **fields)
    for pid in others:
        machine.add_process(pid)
    base, said = base_on(machine, may_move_host=may_move)
    assert base is None
    assert why in said
    assert set(machine.members[""].values()) == {line}
    assert not list(machine.points[""].rglob(HOST_LEAF))


@pytest.mark.parametrize("denied", [("make", HOST_LEAF), ("write", "cgroup.procs")])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_host_that_may_not_write_is_told_why_not(tmp_path: Path, denied: tuple[str, str], number: int) -> None:
    machine = FakeMachine(tmp_path, {"": "/container"})
    machine.refused[denied] = number
    base, why = base_on(machine)
    assert base is None
    assert errno.errorcode[number] in why
    assert machine.lines_of_host() == {"": "/container"}


def test_a_move_that_brings_no_controllers_is_undone(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": SERVICE}, delegated=[SERVICE], has_systemd=True)
    machine.refused["write", "cgroup.subtree_control"] = errno.EBUSY
    base, why = base_on(machine)
    assert base is None
    assert "EBUSY" in why
    assert machine.lines_of_host() == {"": SERVICE}
    assert not list(machine.points[""].rglob(HOST_LEAF))


def test_members_that_cannot_be_read_count_as_somebody(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": SERVICE}, delegated=[SERVICE], has_systemd=True)
    machine.refused["read", "cgroup.procs"] = errno.EOPNOTSUPP
    assert base_on(machine)[0] is None
    assert machine.lines_of_host() == {"": SERVICE}


def test_a_container_that_sees_its_own_part_alone_looks_no_higher(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": "/x"})
    own = Place(machine.points[""], "/docker/x", "")  # mounted from there on
    base, why = find_base(own, machine, may_move_host=True)
    assert (base, why) == (own, "")


def test_controllers_that_cannot_be_read_are_none(machine: FakeMachine) -> None:
    machine.refused["read", "cgroup.controllers"] = errno.EACCES
    base, why = base_on(machine)
    assert base is None
    assert "no controller of cpu, memory, pids" in why
