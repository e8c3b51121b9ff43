"""Whose a group is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from annexe.errors import SandboxError
from annexe.sandbox.cgroup_names import full_name, is_leftover, new_owner
from tests.support.fake_cgroups import HOST_PID, NAMESPACE, FakeMachine


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path, {"pids": "/"})


def test_a_name_tells_host_namespace_and_launch_and_two_owners_differ(machine: FakeMachine) -> None:
    owner = new_owner(machine)
    assert full_name(owner, "sample-1").startswith(f"annexe-{HOST_PID}-777-{NAMESPACE}-")
    assert full_name(owner, "sample-1").endswith(".sample-1")
    assert new_owner(machine) != owner


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "A", "-a", "a\n", "a b", "ä", "a" * 101, "a\0"],
)
def test_a_name_that_could_be_a_path_or_an_option_is_refused(machine: FakeMachine, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        full_name("annexe", name)


def test_a_host_that_cannot_tell_who_it_is_makes_no_groups(machine: FakeMachine) -> None:
    machine.refused["read", "self/stat"] = errno.EACCES
    with pytest.raises(SandboxError, match="mount /proc"):
        new_owner(machine)


def test_groups_of_hosts_that_are_gone_are_leftovers(machine: FakeMachine) -> None:
    machine.add_process(300, start=5)
    machine.add_process(301, start=6, state="Z")
    for name in (
        f"annexe-200-5-{NAMESPACE}-00000000.x",
        f"annexe-300-4-{NAMESPACE}-0a0b0c0d.x",
        f"annexe-301-6-{NAMESPACE}-00000000.x.scope",
    ):
        assert is_leftover(name, machine)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"annexe-300-5-{NAMESPACE}-00000000.x", id="alive"),
        pytest.param(f"annexe-200-5-{NAMESPACE + 1}-00000000.x", id="of-another-container"),
        pytest.param("annexe-200-5-0-00000000.x", id="of-an-unknown-namespace"),
        pytest.param("annexe-host", id="our-leaf"),
        pytest.param("system.slice", id="somebody-elses"),
        pytest.param(f"annexe-200-5-{NAMESPACE}-00000000", id="no-launch"),
    ],
)
def test_nothing_else_is_a_leftover(machine: FakeMachine, name: str) -> None:
    machine.add_process(300, start=5)
    assert not is_leftover(name, machine)


def test_a_host_that_cannot_be_looked_at_counts_as_alive(machine: FakeMachine) -> None:
    name = f"annexe-300-4-{NAMESPACE}-00000000.x"
    machine.add_process(300, start=5)
    machine.refused["read", "300/stat"] = errno.EACCES
    assert not is_leftover(name, machine)
    machine.refused.clear()
    (machine.proc / "300" / "stat").write_text("300 (x) S")
    assert not is_leftover(name, machine)


def test_without_a_namespace_to_compare_nothing_is_a_leftover(machine: FakeMachine) -> None:
    name = f"annexe-200-5-{NAMESPACE}-00000000.x"
    (machine.proc / "self" / "ns" / "pid").unlink()
    assert not is_leftover(name, machine)
    assert "-777-0-" in new_owner(machine)
