"""Users of plugins, handed out machine-wide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch import UidAllocator
from annexe.launch.processes import identity_of
from tests.process.conftest import needs_root

RANGE = range(61300, 61304)
pytestmark = needs_root


@pytest.fixture
def uids(tmp_path: Path) -> UidAllocator:
    return UidAllocator(uids=RANGE, folder=tmp_path / "uids")


@pytest.fixture
def squatter() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["/bin/sleep", "1000"], user=RANGE[0], group=RANGE[0], extra_groups=[])
    yield child
    child.kill()
    child.wait()


def test_uids_are_different_until_the_range_is_used_up(uids: UidAllocator) -> None:
    assert [uids.acquire() for _ in RANGE] == list(RANGE)
    with pytest.raises(LaunchError, match="widen the range") as caught:
        uids.acquire()
    assert caught.value.data == {"first": 61300, "last": 61303}


def test_released_uid_rests_until_all_others_have_had_their_turn(uids: UidAllocator, tmp_path: Path) -> None:
    taken = []
    for _ in range(6):
        taken.append(uids.acquire())
        uids.release(taken[-1])
    assert taken == [*RANGE, RANGE[0], RANGE[1]]
    assert UidAllocator(uids=RANGE, folder=tmp_path / "uids").acquire() == RANGE[2]  # the next host goes on where this one was


def test_released_uid_is_used_again_when_it_is_the_last(uids: UidAllocator) -> None:
    taken = [uids.acquire() for _ in RANGE]
    uids.release(taken[1])
    assert uids.acquire() == taken[1]


@pytest.mark.parametrize("text", ["", "x", "1", "99999999"])
def test_damaged_turn_begins_anew(uids: UidAllocator, tmp_path: Path, text: str) -> None:
    uids.release(uids.acquire())
    (tmp_path / "uids" / "uids.next").write_text(text)
    assert uids.acquire() == RANGE[0]


def test_large_range_is_looked_through_once_for_several_launches(tmp_path: Path) -> None:
    wide = UidAllocator(uids=range(61300, 61300 + 64 * 4), folder=tmp_path / "uids")
    taken = [wide.acquire(), wide.acquire()]
    assert list(table(tmp_path)) == ["61300", "61301", "61302", "61303"]
    wide.close()
    assert list(table(tmp_path)) == [str(uid) for uid in taken]
    wide.release(taken[0])
    assert wide.acquire() == 61304


def test_a_thousand_uids_are_handed_out_and_again_but_for_one_that_something_runs_as(tmp_path: Path) -> None:
    many = UidAllocator(uids=range(62000, 63000), folder=tmp_path / "uids")
    first = [many.acquire() for _ in many.uids]
    assert sorted(first) == list(many.uids)
    with pytest.raises(LaunchError, match="all 1000 plugin users"):
        many.acquire()
    given_back = first[700:750]
    for uid in given_back:
        many.release(uid)
    child = subprocess.Popen(["/bin/sleep", "1000"], user=given_back[7], group=given_back[7], extra_groups=[])
    try:
        assert {many.acquire() for _ in given_back[1:]} == {*given_back} - {given_back[7]}
        with pytest.raises(LaunchError):
            many.acquire()
    finally:
        child.kill()
        child.wait()


def test_uid_that_something_runs_as_is_not_handed_out(uids: UidAllocator, squatter: subprocess.Popen[bytes]) -> None:
    assert uids.acquire() == RANGE[1]
    assert squatter.poll() is None  # nobody's leftover: it is left alone


def test_uid_of_a_dead_host_is_handed_out_after_its_leftovers_were_killed(
    uids: UidAllocator, squatter: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    plant(tmp_path, start_ticks=1)
    assert uids.acquire() == RANGE[0]
    assert squatter.wait(5) == -9


def test_uid_of_a_living_host_is_never_touched(uids: UidAllocator, squatter: subprocess.Popen[bytes], tmp_path: Path) -> None:
    plant(tmp_path)
    assert uids.acquire() == RANGE[1]
    assert uids.sweep() == 0
    assert squatter.poll() is None


def test_sweep_frees_the_uids_of_dead_hosts(uids: UidAllocator, squatter: subprocess.Popen[bytes], tmp_path: Path) -> None:
    plant(tmp_path, start_ticks=1)
    assert uids.sweep() == 1
    assert squatter.wait(5) == -9
    assert table(tmp_path) == {}


def plant(tmp_path: Path, **changes: int) -> None:
    """Write a table in which the first uid is held by this process, or by one that has gone."""
    owner = identity_of(os.getpid())
    assert owner is not None
    (tmp_path / "uids").mkdir(mode=0o755, exist_ok=True)
    (tmp_path / "uids" / "uids.json").write_text(json.dumps({str(RANGE[0]): asdict(owner) | changes}))


def table(tmp_path: Path) -> dict[str, object]:
    held: dict[str, object] = json.loads((tmp_path / "uids" / "uids.json").read_text())
    return held


def test_hosts_at_the_same_time_never_share_a_uid(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom annexe.launch import UidAllocator\n"
        "uids = UidAllocator(uids=range(61310, 61350), folder=pathlib.Path(sys.argv[1]))\n"
        "print(*[uids.acquire() for _ in range(10)], flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "uids")]
    environ = {"PYTHONPATH": ":".join(sys.path)}
    hosts = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) for _ in range(4)]
    taken = []
    for host in hosts:
        assert host.stdout is not None
        taken += host.stdout.readline().split()
    for host in hosts:
        host.communicate()
    assert len(taken) == len(set(taken)) == 40


@pytest.mark.parametrize("text", ["", "[]", '{"61300": {}}', '{"x": 1}'])
def test_damaged_table_hands_out_nothing(uids: UidAllocator, tmp_path: Path, text: str) -> None:
    plant(tmp_path)
    (tmp_path / "uids" / "uids.json").write_text(text)
    with pytest.raises(LaunchError, match="damaged") as caught:
        uids.acquire()
    assert caught.value.data == {"path": str(tmp_path / "uids" / "uids.json")}


def test_table_in_a_folder_of_somebody_else_is_not_trusted(uids: UidAllocator, tmp_path: Path) -> None:
    (tmp_path / "uids").mkdir()
    os.chown(tmp_path / "uids", 64999, 64999)
    with pytest.raises(LaunchError) as caught:
        uids.acquire()
    assert caught.value.data["owner"] == 64999


def test_uid_with_a_name_is_never_handed_out(tmp_path: Path) -> None:
    with pytest.raises(LaunchError):
        UidAllocator(uids=range(1, 3), folder=tmp_path / "uids").acquire()  # daemon and bin


def test_root_is_never_a_plugins_user(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without uid 0"):
        UidAllocator(uids=range(3), folder=tmp_path)
