"""Groups that systemd makes: what it is asked for, and what is believed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from annexe.errors import SandboxError
from annexe.sandbox.cgroup import GroupLimits, GroupUsage
from annexe.sandbox.cgroup_places import places
from annexe.sandbox.cgroup_scope import ScopeGroups
from tests.support.fake_cgroups import NAMESPACE, FakeMachine

SLICE = "/user.slice/user-1000.slice/user@1000.service/app.slice"
LIMITS = GroupLimits(memory_bytes=1 << 20, cpu=0.5, tasks=8)


class Desktop(FakeMachine):
    """A machine whose systemd makes scopes, with the controllers it has."""

    def __init__(self, root: Path, *, controllers: str = "cpu memory pids", uid: int = 1000) -> None:
        super().__init__(root, {"": f"{SLICE}/terminal.scope"}, v2_controllers=controllers, has_systemd=True, uid=uid)
        self.on_start = self.scope

    def scope(self, pid: int, command: Sequence[str]) -> None:
        (unit,) = [word.removeprefix("--unit=") for word in command if word.startswith("--unit=")]
        folder = self.points[""] / SLICE.strip("/") / unit
        self.make(folder)
        asked = dict(word.split("=", 1) for word in command if "=" in word and not word.startswith("-"))
        files = {"memory.max": asked.get("MemoryMax"), "pids.max": asked.get("TasksMax")}
        if "CPUQuota" in asked:
            files["cpu.max"] = f"{int(asked['CPUQuota'].rstrip('%')) * 1000} 100000"
        for name, text in files.items():
            if text is not None and (folder / name).exists():
                (folder / name).write_text(text)
        self.members[""][pid] = f"{SLICE}/{unit}"


def groups_on(machine: FakeMachine) -> ScopeGroups:
    own = places(machine).v2
    assert own is not None
    return ScopeGroups(own, systemd_run="/bin/systemd-run", env="/bin/env", machine=machine)


def test_systemd_is_asked_for_every_limit(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    groups = groups_on(machine)
    unit = f"{groups._owner}.sample-1.scope"
    assert groups.make("sample-1", LIMITS).prefix == (
        "/bin/env", "XDG_RUNTIME_DIR=/run/user/1000", "/bin/systemd-run", "--user", "--scope", "--quiet", "--collect", f"--unit={unit}",
        "-p", "Delegate=yes", "-p", "MemoryMax=1048576", "-p", "MemorySwapMax=0", "-p", "CPUQuota=50%", "-p", "CPUWeight=33",
        "-p", "TasksMax=8", "--", "/bin/env", "-u", "XDG_RUNTIME_DIR", "-u", "INVOCATION_ID",
    )  # fmt: skip


def test_a_root_host_asks_the_machines_systemd(tmp_path: Path) -> None:
    prefix = groups_on(Desktop(tmp_path, uid=0)).make("sample-1", GroupLimits(cpu=0.019)).prefix
    assert prefix[:4] == ("/bin/systemd-run", "--scope", "--quiet", "--collect")
    assert prefix[5:] == ("-p", "Delegate=yes", "-p", "CPUQuota=1%", "-p", "CPUWeight=33", "--", "/bin/env", "-u", "INVOCATION_ID")


def test_what_is_not_wanted_or_not_to_be_had_is_not_asked_for(tmp_path: Path) -> None:
    groups = groups_on(Desktop(tmp_path))
    groups.controllers = frozenset({"cpu"})
    assert not [word for word in groups.make("sample-1", LIMITS).prefix if word.startswith(("Memory", "Tasks"))]
    assert "Delegate=yes" in groups.make("sample-2", GroupLimits()).prefix


def test_nothing_is_claimed_before_the_process_was_found_in_its_scope(tmp_path: Path) -> None:
    group = groups_on(Desktop(tmp_path)).make("sample-1", LIMITS)
    assert (group.controllers, group.read_limits(), group.usage()) == (frozenset(), GroupLimits(), GroupUsage())
    assert not group.holds(100)
    assert group.kill()  # nothing was ever seen in it
    assert group.remove()


def test_limits_are_read_back_once_the_process_is_there(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    group = groups_on(machine).make("sample-1", LIMITS)
    with group.entered():
        child = machine.start([*group.prefix, "x"])
    group.add(child.pid)
    assert group.controllers == {"memory", "cpu", "pids"}
    assert group.read_limits() == LIMITS
    assert group.holds(child.pid)
    assert group.usage().memory_bytes == 4096
    assert machine.text("", "memory.oom.group") == "1"


def test_controllers_that_the_users_systemd_was_not_given_are_not_claimed(tmp_path: Path) -> None:
    machine = Desktop(tmp_path, controllers="memory pids")
    group = groups_on(machine).make("sample-1", LIMITS)
    group.add(machine.start([*group.prefix, "x"]).pid)
    assert group.controllers == {"memory", "pids"}


def test_a_process_that_systemd_does_not_move_is_an_error(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    group = groups_on(machine).make("sample-1", LIMITS)
    machine.add_process(500)
    with pytest.raises(SandboxError, match=r"got .*/terminal\.scope"):
        group.add(500)
    assert 5.0 <= machine.clock_s < 5.1


def test_a_process_that_ends_before_it_is_in_its_scope_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="got its end") as caught:
        groups_on(Desktop(tmp_path)).make("sample-1", LIMITS).add(499)
    assert caught.value.data["group"].endswith(".sample-1.scope")


@pytest.mark.parametrize("forgets", [False, True])
def test_a_systemd_run_that_found_no_systemd_of_the_user_is_not_waited_for(tmp_path: Path, forgets: bool) -> None:
    """It ends at once; nobody has waited for it yet, so that the kernel still tells its group, which is the host's."""
    machine = Desktop(tmp_path)
    machine.add_process(500, state="Z")
    if forgets:
        (machine.proc / "500" / "stat").unlink()
    with pytest.raises(SandboxError, match="got its end"):
        groups_on(machine).make("sample-1", LIMITS).add(500)
    assert machine.clock_s == 0


def test_a_scope_is_killed_by_us_and_removed_by_systemd(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    group = groups_on(machine).make("sample-1", LIMITS)
    child = machine.start([*group.prefix, "x"])
    group.add(child.pid)
    assert group.kill()
    assert child.pid not in machine.members[""]
    assert not group.remove()  # systemd has not been here
    (name,) = machine.groups()
    machine.remove(machine.points[""] / SLICE.strip("/") / name)
    assert group.remove()


def test_scopes_of_dead_hosts_are_killed_where_ours_are(tmp_path: Path) -> None:
    machine = Desktop(tmp_path)
    groups = groups_on(machine)
    dead = f"annexe-200-5-{NAMESPACE}-00000000.a.scope"
    machine.make(machine.points[""] / SLICE.strip("/") / dead)
    machine.add_process(500, v2=f"{SLICE}/{dead}")
    assert groups.sweep() == 0  # not known yet where systemd puts them
    group = groups.make("sample-1", LIMITS)
    child = machine.start([*group.prefix, "x"])
    group.add(child.pid)
    assert groups.sweep() == 1
    assert 500 not in machine.members[""]
    groups.take_wait()
    groups.close()
    assert child.pid not in machine.members[""]
