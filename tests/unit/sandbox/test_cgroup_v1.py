"""Groups of version 1, on a machine that is a folder; tests/process has the real one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from annexe.errors import SandboxError
from annexe.sandbox.cgroup import GroupLimits, GroupUsage
from annexe.sandbox.cgroup_places import places
from annexe.sandbox.cgroup_v1 import V1Groups
from tests.support.fake_cgroups import HOST_PID, NAMESPACE, FakeMachine

MOUNTS = {"memory": "/own", "cpu,cpuacct": "/own", "pids": "/"}
LIMITS = GroupLimits(memory_bytes=1 << 20, cpu=0.5, tasks=8)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path, MOUNTS)


def groups_on(machine: FakeMachine) -> V1Groups:
    return V1Groups(places(machine).v1, machine)


def test_limits_are_set_in_every_hierarchy_below_the_hosts_own(machine: FakeMachine) -> None:
    groups = groups_on(machine)
    group = groups.make("sample-1", LIMITS)
    assert group.controllers == groups.controllers == {"memory", "cpu", "pids"}
    assert group.notes == ()
    assert group.read_limits() == LIMITS
    assert machine.text("memory", "memory.memsw.limit_in_bytes") == str(1 << 20)
    assert machine.text("cpu,cpuacct", "cpu.cfs_quota_us") == "50000"
    assert machine.text("cpu,cpuacct", "cpu.shares") == "335"
    assert [path.parent.name for path in (machine.points["memory"]).rglob("annexe-*-*")] == ["own"]


def test_limits_that_are_not_wanted_are_not_set_and_not_claimed(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", GroupLimits(tasks=8))
    assert group.controllers == {"pids"}
    assert group.read_limits() == GroupLimits(tasks=8)


def test_controllers_that_are_missing_are_not_claimed(tmp_path: Path) -> None:
    groups = groups_on(FakeMachine(tmp_path, {"memory": "/", "freezer": "/"}))
    group = groups.make("sample-1", LIMITS)
    assert groups.controllers == group.controllers == {"memory"}
    assert group.read_limits() == GroupLimits(memory_bytes=1 << 20)
    assert group.usage() == GroupUsage(memory_bytes=4096, memory_peak_bytes=8192, oom_kills=3)


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        pytest.param("memory.limit_in_bytes", "memory", id="memory"),
        pytest.param("cpu.cfs_quota_us", "cpu", id="cpu"),
        pytest.param("pids.max", "pids", id="pids"),
    ],
)
def test_a_limit_that_cannot_be_set_is_not_claimed_and_the_others_hold(machine: FakeMachine, file: str, lost: str) -> None:
    machine.refused["write", file] = errno.EACCES
    group = groups_on(machine).make("sample-1", LIMITS)
    assert group.controllers == {"memory", "cpu", "pids"} - {lost}
    assert len(group.notes) == 1
    assert f"Controller {lost} takes no limit" in group.notes[0]
    assert "EACCES" in group.notes[0]


def test_a_hierarchy_that_is_read_only_is_not_claimed(machine: FakeMachine) -> None:
    groups = groups_on(machine)
    machine.refused["make", "/fs/pids/" + groups._owner + ".sample-1"] = errno.EROFS
    group = groups.make("sample-1", LIMITS)
    assert group.controllers == {"memory", "cpu"}
    assert "EROFS" in group.notes[0]


def test_no_group_at_all_is_an_error_that_says_why(machine: FakeMachine) -> None:
    machine.refused["make", ".sample-1"] = errno.EACCES
    with pytest.raises(SandboxError, match="EACCES") as caught:
        groups_on(machine).make("sample-1", LIMITS)
    assert caught.value.data["group"].endswith(".sample-1")


def test_a_second_group_of_one_launch_is_refused(machine: FakeMachine) -> None:
    groups = groups_on(machine)
    groups.make("sample-1", LIMITS)
    with pytest.raises(SandboxError, match="already"):
        groups.make("sample-1", LIMITS)


def test_swap_that_cannot_be_limited_is_said(machine: FakeMachine) -> None:
    machine.refused["write", "memory.memsw.limit_in_bytes"] = errno.ENOENT
    group = groups_on(machine).make("sample-1", LIMITS)
    assert group.controllers == {"memory", "cpu", "pids"}
    assert group.notes == ("Swap is not limited: this kernel was started without swapaccount=1.",)
    assert machine.text("memory", "memory.swappiness") == "0"


class NarrowMachine(FakeMachine):
    """Refuses more processor time than its host has, as the kernel does."""

    outer = 0.25

    def write(self, path: Path, text: str) -> None:
        if path.name == "cpu.cfs_quota_us" and int(text) > self.outer * 100_000:
            raise OSError(errno.EINVAL, "Invalid argument")
        super().write(path, text)


def test_a_host_with_less_processor_time_than_asked_for_passes_on_what_it_has(tmp_path: Path) -> None:
    machine = NarrowMachine(tmp_path, MOUNTS)
    (machine.points["cpu,cpuacct"] / "own" / "cpu.cfs_quota_us").write_text("25000")
    group = groups_on(machine).make("sample-1", LIMITS)
    assert "cpu" in group.controllers
    assert group.read_limits().cpu == 0.25


def test_a_limit_on_processor_time_that_is_refused_for_no_known_reason_is_not_claimed(tmp_path: Path) -> None:
    group = groups_on(NarrowMachine(tmp_path, MOUNTS)).make("sample-1", LIMITS)
    assert group.controllers == {"memory", "pids"}


def test_usage_is_told_in_bytes_seconds_and_counts(machine: FakeMachine) -> None:
    assert groups_on(machine).make("sample-1", LIMITS).usage() == GroupUsage(
        memory_bytes=4096, memory_peak_bytes=8192, cpu_s=2.5, throttled_s=0.5, tasks=2, oom_kills=3, tasks_refused=7
    )


def test_what_the_thread_starts_inside_is_born_there_and_the_thread_gets_out(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    with group.entered():
        child = machine.start(["x"])
    machine.refused["write", "cgroup.procs"] = errno.EPERM
    group.add(child.pid)
    assert group.holds(child.pid)
    assert {label: members["thread"] for label, members in machine.members.items()} == machine.lines_of_host()


def test_a_thread_that_cannot_enter_leaves_it_to_add(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.refused["write", "tasks"] = errno.EPERM
    with group.entered():
        child = machine.start(["x"])
    assert not group.holds(child.pid)
    group.add(child.pid)
    assert group.holds(child.pid)


def test_a_thread_that_cannot_get_out_is_an_error(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    with pytest.raises(SandboxError, match="cannot leave"), group.entered():
        machine.refused["write", "tasks"] = errno.EPERM
    assert not group.kill(deadline_s=0.1)  # and the host is not killed for it
    assert HOST_PID in machine.members["memory"]


def test_a_thread_of_a_host_that_was_moved_goes_to_where_the_host_is(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine._populate(machine.points["memory"] / "other", "")
    machine.members["memory"][HOST_PID] = "/other"
    with group.entered():
        pass
    assert machine.members["memory"]["thread"] == "/other"


@pytest.mark.parametrize(
    ("number", "words"), [pytest.param(errno.EACCES, "doctor", id="no-rights"), pytest.param(errno.ENOSPC, "ENOSPC", id="full")]
)
def test_a_process_that_cannot_be_put_in_is_an_error(machine: FakeMachine, number: int, words: str) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.add_process(500)
    machine.refused["write", "cgroup.procs"] = number
    with pytest.raises(SandboxError, match=words) as caught:
        group.add(500)
    assert "group" in caught.value.data


def test_a_process_that_has_ended_cannot_be_put_in(machine: FakeMachine) -> None:
    with pytest.raises(SandboxError, match="ESRCH"):
        groups_on(machine).make("sample-1", LIMITS).add(499)


def test_a_process_is_held_only_when_it_is_in_every_hierarchy(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.add_process(500)
    group.add(500)
    assert group.holds(500)
    machine.members["pids"][500] = "/"
    assert not group.holds(500)
    assert not group.holds(499)


def test_kill_ends_all_members_and_forbids_new_ones_first(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    for pid in (500, 501):
        machine.add_process(pid)
        group.add(pid)
    assert not group.remove()
    assert group.kill()
    assert machine.text("pids", "pids.max") == "0"
    assert 500 not in machine.members["memory"]
    assert HOST_PID in machine.members["memory"]
    assert group.remove()
    assert group.remove()
    assert machine.groups() == set()


def test_kill_reaches_groups_that_were_made_inside(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.add_process(500)
    group.add(500)
    (outer,) = machine.points["pids"].rglob("annexe-*-*")
    machine.make(outer / "inner")
    machine._move(500, outer / "inner")
    assert group.holds(500)
    assert not group.remove()
    assert group.kill()
    assert group.remove()


def test_kill_says_when_something_is_left(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.add_process(500)
    group.add(500)
    machine.unkillable.add(500)
    assert not group.kill(deadline_s=3.0)
    assert 3.0 <= machine.clock_s < 3.1


def test_a_group_whose_members_cannot_be_read_is_not_said_to_be_empty(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.refused["read", "cgroup.procs"] = errno.EACCES
    assert not group.kill(deadline_s=0.1)


class LingeringMachine(FakeMachine):
    """Lets go of a group a while after the last process has left it."""

    free_at_s = 0.0

    def remove(self, folder: Path) -> None:
        if self.clock_s < self.free_at_s:
            raise OSError(errno.EBUSY, "Device or resource busy")
        super().remove(folder)


@pytest.mark.parametrize(("free_at_s", "removed"), [pytest.param(0.1, True, id="soon"), pytest.param(9.0, False, id="too-late")])
def test_removing_waits_a_moment_for_the_kernel_to_let_go(tmp_path: Path, free_at_s: float, removed: bool) -> None:
    machine = LingeringMachine(tmp_path, MOUNTS)
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.free_at_s = free_at_s
    assert group.remove() is removed
    assert machine.clock_s < 1.0


def test_a_group_that_may_not_be_removed_is_there_still(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.refused["remove", ".sample-1"] = errno.EPERM
    assert not group.remove()


def test_sweep_kills_and_removes_what_dead_hosts_left_and_nothing_else(machine: FakeMachine) -> None:
    groups = groups_on(machine)
    groups.make("sample-1", LIMITS)
    machine.add_process(300, start=5)
    dead, living = f"annexe-200-5-{NAMESPACE}-00000000.a", f"annexe-300-5-{NAMESPACE}-00000000.b"
    for name in (dead, living):
        machine.make(machine.points["pids"] / name)
    machine.make(machine.points["memory"] / "own" / dead)
    machine.add_process(500, pids=f"/{dead}", memory=f"/own/{dead}")
    assert groups.sweep() == 1
    assert 500 not in machine.members["pids"]
    assert {name.rpartition(".")[2] for name in machine.groups()} == {"b", "sample-1"}
    assert groups.sweep() == 0


def test_sweep_does_not_count_what_it_could_not_clear(machine: FakeMachine) -> None:
    dead = f"annexe-200-5-{NAMESPACE}-00000000.a"
    machine.make(machine.points["pids"] / dead)
    machine.add_process(500, pids=f"/{dead}")
    machine.unkillable.add(500)
    assert groups_on(machine).sweep() == 0
    assert machine.groups() == {dead}


def test_close_clears_the_groups_of_this_strategy_alone(machine: FakeMachine) -> None:
    groups, others = groups_on(machine), groups_on(machine)
    group = groups.make("sample-1", LIMITS)
    others.make("sample-2", LIMITS)
    machine.add_process(500)
    group.add(500)
    groups.take_wait()
    groups.close()
    assert 500 not in machine.members["pids"]
    assert [name.rpartition(".")[2] for name in machine.groups()] == ["sample-2"]


def test_a_limit_that_cannot_be_read_back_is_not_told(machine: FakeMachine) -> None:
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.refused["read", "cpu.cfs_quota_us"] = errno.EACCES
    assert group.read_limits() == GroupLimits(memory_bytes=1 << 20, tasks=8)
