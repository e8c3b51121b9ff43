"""Which groups are the host's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from annexe.sandbox.cgroup_places import Place, places
from tests.support.fake_cgroups import FakeMachine


def rewrite(machine: FakeMachine, old: str, new: str) -> None:
    path = machine.proc / "self" / "mountinfo"
    path.write_text(path.read_text().replace(old, new))


def test_own_groups_of_both_versions_are_found(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"memory": "/a/b", "cpu,cpuacct": "/", "": "/c"})
    found = places(machine)
    shared = tmp_path / "fs" / "cpu,cpuacct"
    assert found.v1 == {
        "memory": Place(tmp_path / "fs/memory/a/b", "/a/b", "memory"),
        "cpu": Place(shared, "/", "cpu"),
        "cpuacct": Place(shared, "/", "cpuacct"),
    }
    assert found.v2 == Place(tmp_path / "fs/unified/c", "/c", "")


def test_names_with_spaces_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    assert places(FakeMachine(tmp_path / "a b", {"pids": "/"})).v1["pids"].folder == tmp_path / "a b/fs/pids"


def test_a_container_that_sees_its_own_part_alone_finds_itself_at_the_top(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"pids": "/"})
    machine.members["pids"][100] = "/docker/x/inner"
    (tmp_path / "fs/pids/inner").mkdir()
    (tmp_path / "fs/pids/inner/cgroup.procs").touch()
    rewrite(machine, " 0:2 / ", " 0:2 /docker/x ")
    assert places(machine).v1["pids"] == Place(tmp_path / "fs/pids/inner", "/docker/x/inner", "pids")


@pytest.mark.parametrize(
    ("line", "root"),
    [
        pytest.param("/docker/y", "/docker/x", id="not-in-what-is-mounted"),
        pytest.param("/docker/xy", "/docker/x", id="name-that-begins-alike"),
        pytest.param("/../y", "/", id="outside-our-namespace"),
        pytest.param("/x", "/../..", id="mounted-from-outside-our-namespace"),
        pytest.param("/gone", "/", id="no-such-folder"),
    ],
)
def test_a_group_that_cannot_be_seen_is_not_guessed(tmp_path: Path, line: str, root: str) -> None:
    machine = FakeMachine(tmp_path, {"pids": "/"})
    machine.members["pids"][100] = line
    rewrite(machine, " 0:2 / ", f" 0:2 {root} ")
    assert not places(machine).v1


def test_without_proc_there_are_none(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {"pids": "/", "": "/"})
    (machine.proc / "self" / "mountinfo").unlink()
    assert (places(machine).v1, places(machine).v2) == ({}, None)


def test_places_know_what_is_above_and_inside() -> None:
    place = Place(Path("/fs/a/b"), "/a/b", "")
    assert place.child("c") == Place(Path("/fs/a/b/c"), "/a/b/c", "")
    assert place.parent() == Place(Path("/fs/a"), "/a", "")
    assert place.at("/x/y") == Place(Path("/fs/x/y"), "/x/y", "")
    top = Place(Path("/fs"), "/", "")
    assert top.parent() is None
    assert top.at("/x") == Place(Path("/fs/x"), "/x", "")
    assert top.child("c").line == "/c"
