"""Which control groups are chosen on which machine, and what the doctor is told."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from annexe.sandbox.cgroup import CONTROLLERS, ControlGroups
from annexe.sandbox.cgroup_probe import find_control_groups
from tests.support.fake_cgroups import HOST_PID, FakeMachine
from tests.unit.sandbox.test_cgroup_scope import Desktop

V1 = {"memory": "/own", "cpu": "/", "cpuacct": "/", "pids": "/"}


def find(machine: FakeMachine, *, may_move_host: bool = True) -> tuple[ControlGroups, str]:
    found = find_control_groups(machine=machine, may_move_host=may_move_host)
    assert all(set(members) - {"thread"} == {HOST_PID} for members in machine.members.values())  # what was started to try is gone
    return found


def test_a_mixed_machine_uses_version_1_where_the_controllers_are(tmp_path: Path) -> None:
    groups, why = find(FakeMachine(tmp_path, {**V1, "": "/"}, v2_controllers="hugetlb"))
    assert (groups.flavour, groups.controllers, why) == ("v1", CONTROLLERS, "")


def test_a_machine_of_version_2_is_used_without_moving_anybody_from_its_root(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": "/"})
    groups, why = find(machine)
    assert (groups.flavour, groups.controllers, why) == ("v2", CONTROLLERS, "")
    assert machine.groups() == set()


@pytest.mark.parametrize("may_move", [True, False])
def test_a_part_of_a_delegated_service_is_enough_though_it_has_no_controllers_yet(tmp_path: Path, may_move: bool) -> None:
    """As with ``DelegateSubgroup=``: systemd enables nothing in what it gave away, so that the part has nothing to begin with."""
    service = "/system.slice/app.service"
    machine = FakeMachine(tmp_path, {"": f"{service}/host"}, delegated=[service], has_systemd=True)
    groups, why = find(machine, may_move_host=may_move)
    assert (groups.flavour, groups.controllers, why) == ("v2", CONTROLLERS, "")
    assert machine.lines_of_host() == {"": f"{service}/host"}


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, V1)
    find(machine)
    assert machine.groups() == set()
    assert machine.commands == [["/bin/cat"]]


def test_a_desktop_asks_systemd(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    groups, why = find(machine)
    assert (groups.flavour, groups.controllers, why) == ("v2-scope", CONTROLLERS, "")


def test_a_desktop_without_the_processor_controller_says_how_to_get_it(tmp_path: Path) -> None:
    groups, why = find(Desktop(tmp_path, controllers="memory pids"))
    assert (groups.flavour, groups.controllers) == ("v2-scope", frozenset({"memory", "pids"}))
    assert "not limited by groups of flavour v2-scope: cpu" in why
    assert "Delegate=yes in user@.service" in why
    assert "not delegated" in why  # what would be better still


def test_a_desktop_whose_systemd_does_nothing_has_none(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    machine.on_start = lambda pid, command: None
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "systemd-run --user --scope true" in why


@pytest.mark.parametrize("missing", ["systemd-run", "env"])
def test_a_desktop_without_the_program_has_none(tmp_path: Path, missing: str) -> None:
    machine = Desktop(tmp_path)
    machine.programs.remove(missing)
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "there is no systemd-run" in why


def test_controllers_that_are_not_mounted_are_told(tmp_path: Path) -> None:
    groups, why = find(FakeMachine(tmp_path, {"memory": "/"}))
    assert groups.controllers == {"memory"}
    assert "not limited by groups of flavour v1: cpu, pids" in why
    assert "mount memory, cpu and pids" in why


@pytest.mark.parametrize(
    ("uid", "number", "cure"),
    [
        pytest.param(1000, errno.EACCES, "run the host as root", id="not-root"),
        pytest.param(0, errno.EROFS, "mount memory, cpu and pids writable", id="read-only"),
    ],
)
def test_version_1_that_cannot_be_written_to_is_none_and_says_the_cure(tmp_path: Path, uid: int, number: int, cure: str) -> None:
    machine = FakeMachine(tmp_path, V1, uid=uid)
    machine.refused["make", ".trial"] = number
    groups, why = find(machine)
    assert (groups.flavour, groups.controllers) == ("none", frozenset())
    assert errno.errorcode[number] in why
    assert cure in why


def test_a_read_only_container_of_version_2_is_none_and_says_the_cure(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": "/"})
    machine.refused |= {("write", "cgroup.subtree_control"): errno.EROFS, ("make", ".trial"): errno.EROFS}
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "EROFS" in why
    assert "writable-cgroups=true" in why


def test_a_group_of_version_2_without_controllers_is_none_and_says_the_cure(tmp_path: Path) -> None:
    groups, why = find(FakeMachine(tmp_path, {"": "/x"}, v2_controllers="io"))
    assert groups.flavour == "none"
    assert "was given none of memory, cpu and pids" in why


def test_version_1_is_the_second_choice_where_both_have_controllers(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {**V1, "": "/system.slice/x"}, v2_controllers="memory pids cpu", has_systemd=True)
    groups, _ = find(machine)
    assert groups.flavour == "v1"


def test_a_host_that_may_not_be_moved_is_left_where_it_is(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": "/container"})
    groups, why = find(machine, may_move_host=False)
    assert groups.flavour == "none"
    assert "may not be moved" in why
    assert machine.lines_of_host() == {"": "/container"}


def test_a_limit_that_the_kernel_does_not_keep_is_not_claimed(tmp_path: Path) -> None:
    class Forgetful(FakeMachine):
        def write(self, path: Path, text: str) -> None:
            if path.name != "memory.limit_in_bytes":
                super().write(path, text)

    groups, why = find(Forgetful(tmp_path, V1))
    assert groups.controllers == {"cpu", "pids"}
    assert "not limited by groups of flavour v1: memory" in why


def test_groups_that_processes_cannot_join_are_not_claimed(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"": "/"})
    machine.refused["write", "cgroup.procs"] = errno.EACCES
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "cannot be put into the control group" in why
    assert machine.groups() == set()


def test_groups_that_do_not_hold_what_joined_are_not_claimed(tmp_path: Path) -> None:
    class Deaf(FakeMachine):
        def _move(self, pid: int, folder: Path) -> None:
            pass

    groups, why = find(Deaf(tmp_path, {"": "/"}))
    assert groups.flavour == "none"
    assert "does not say that the process is in its group" in why


def test_groups_that_cannot_be_killed_are_not_claimed(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, V1)
    machine.on_start = lambda pid, command: machine.unkillable.add(pid)
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "could not be killed" in why


def test_without_a_program_to_try_them_with_none_are_claimed(tmp_path: Path) -> None:
    groups, why = find(FakeMachine(tmp_path, V1, programs=()))
    assert groups.flavour == "none"
    assert "install coreutils" in why


def test_a_machine_that_starts_no_process_has_none(tmp_path: Path) -> None:
    def refuse(pid: int, command: Sequence[str]) -> None:
        machine._end(pid)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    machine = FakeMachine(tmp_path, V1)
    machine.on_start = refuse
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "Resource temporarily unavailable" in why


@pytest.mark.parametrize("mounts", [V1, {"": "/"}, {"": "/desktop"}])
def test_a_host_that_cannot_tell_who_it_is_has_none(tmp_path: Path, mounts: dict[str, str]) -> None:
    machine = FakeMachine(tmp_path, mounts, has_systemd="/desktop" in mounts.values())
    machine.refused["read", "self/stat"] = errno.EACCES
    groups, why = find(machine)
    assert groups.flavour == "none"
    assert "mount /proc" in why


def test_another_system_has_none(tmp_path: Path) -> None:
    groups, why = find(FakeMachine(tmp_path, {}))
    assert groups.flavour == "none"
    assert "must be mounted at /sys/fs/cgroup" in why
