"""What the doctor makes of a receipt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from annexe.cli.doctor_checks import Check
from annexe.cli.doctor_plugin import checks_of
from annexe.sandbox import Walls
from annexe.sandbox.receipt import Lack
from tests.unit.launch.test_strategy import put_up
from tests.unit.sandbox.walls import FULL, NAMESPACES

TOLD = {"uid": 64100, "python": "/usr/bin/python3", "open_files": 37, "memory": 1, "no_new_privileges": "1", "msgspec": True}


def checks(walls: Walls, *, lacks: tuple[Lack, ...] = (), notes: tuple[str, ...] = (), **told: Any) -> dict[str, Check]:
    receipt = replace(put_up(walls, limits={"RLIMIT_NPROC": 48}), lacks=lacks, notes=notes).receipt(confirmed=True)
    return {check.name: check for check in checks_of(receipt, TOLD | told)}


def test_python_of_the_system_in_place_of_the_hosts_is_nothing_to_mend() -> None:
    note = "/usr/bin/python3.11 is used, since: /root/bin/python3: a plugin's user cannot reach it"
    found = checks(FULL, notes=(note,))["plugin python"]
    assert (found.state, found.found, found.mend) == ("ok", note, "")


@pytest.mark.parametrize("wall", ["namespaces", "landlock", "seccomp"])
def test_wall_has_one_name_whether_it_stands_or_is_lacking(wall: str) -> None:
    assert checks(FULL)[f"wall: {wall}"].state == "ok"
    bare = Walls(own_uid=True, rlimits=True)
    assert checks(bare, lacks=(Lack(wall, "not here", "get it"),))[f"wall: {wall}"] == Check(
        f"wall: {wall}", "warning", "not here", "get it"
    )


def test_lack_of_control_groups_comes_with_what_mends_it() -> None:
    found = checks(NAMESPACES, lacks=(Lack("cgroup", "the group may not be divided"),))
    assert "Delegate=yes" in found["wall: cgroup"].mend
    assert "wall: memory" not in found
