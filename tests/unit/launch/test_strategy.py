"""Values of the seam, and where it can be imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe.launch import ExitStatus, LaunchRequest
from annexe.launch.receipts import PutUp
from annexe.sandbox import Profile, Walls
from annexe.sandbox.receipt import Lack
from tests.unit.sandbox.walls import FULL, LANDLOCK, LIMITS, NONE, OWN_USER


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(code=0), "exited with status 0"),
        (ExitStatus(signal=9), "killed by SIGKILL"),
        (
            ExitStatus(signal=9, out_of_memory=True),
            "killed by SIGKILL; its control group had been at its memory limit",
        ),
        (ExitStatus(signal=40), "killed by signal 40"),
        (ExitStatus(), "ended in an unknown way"),
    ],
)
def test_exit_status_is_told_in_words(status: ExitStatus, text: str) -> None:
    assert status.text == text


def test_launch_can_be_imported_where_there_are_no_unix_modules() -> None:
    """As on Windows: fcntl, pwd and resource do not exist there."""
    missing = ", ".join(f"{name!r}: None" for name in ("fcntl", "pwd", "resource", "grp"))
    program = f"import os, subprocess, sys; sys.modules.update({{{missing}}}); import annexe.launch, annexe.sandbox, annexe.supervision"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def put_up(
    walls: Walls,
    *,
    is_linux: bool = True,
    can_tag: bool = True,
    limits: dict[str, int] | None = None,
    kind: str = "python",
    arena_bytes: int = 0,
    **rights: Any,
) -> PutUp:
    request = LaunchRequest(
        plugin="p", instance="p-1", kind=kind, entry="e", folder=Path("/x"), profile=Profile(**rights), arena_bytes=arena_bytes
    )
    return PutUp(
        request=request, walls=walls, python="/usr/bin/python3", uid=64100, limits=limits or {}, filters=5, tmp="in memory",
        is_linux=is_linux, can_tag=can_tag, notes=("a copy",), lacks=(Lack("cgroup", "none"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(
            put_up(FULL),
            {
                "own user": "on",
                "namespaces": "on",
                "landlock": "on",
                "system calls": "on",
                "memory": "on",
                "cpu": "on",
                "tasks": "on",
                "tree kill": "on",
            },
            id="everything",
        ),
        pytest.param(
            put_up(OWN_USER, limits={"RLIMIT_NPROC": 48}),
            {"own user": "on", "tasks": "on", "tree kill": "on", "memory": "soft", "cpu": "off", "namespaces": "off", "landlock": "off"},
            id="root on Linux, no walls",
        ),
        pytest.param(
            put_up(LIMITS), {"own user": "off", "tasks": "off", "tree kill": "soft", "end with the host": "on"}, id="other on Linux"
        ),
        pytest.param(put_up(LANDLOCK), {"tree kill": "on", "tasks": "off", "system calls": "on"}, id="no fork, no children"),
        pytest.param(put_up(LANDLOCK, subprocess=True), {"tree kill": "soft"}, id="it may fork"),
        pytest.param(put_up(LIMITS, can_tag=False), {"tree kill": "off"}, id="no tag to be had"),
        pytest.param(
            put_up(LIMITS, is_linux=False, can_tag=False),
            {"end with the host": "off", "no new privileges": "off", "memory": "off"},
            id="macOS",
        ),
        pytest.param(put_up(NONE), {"memory": "off", "open files": "off", "file size": "off"}, id="not even limits"),
    ],
)
def test_receipt_states_only_what_is_in_force(facts: PutUp, expected: dict[str, str]) -> None:
    receipt = facts.receipt()
    assert expected.items() <= {layer.name: layer.state for layer in receipt.layers}.items()
    assert receipt.notes[-1] == "a copy"
    assert [lack.wall for lack in receipt.lacks] == ["cgroup"]


def detail(facts: PutUp, name: str) -> str:
    return next(layer.detail for layer in facts.receipt().layers if layer.name == name)


def test_receipt_says_of_a_program_only_that_it_cannot_fork() -> None:
    assert detail(put_up(FULL), "system calls") == "5 filters; no fork, no program"
    assert detail(put_up(FULL, kind="binary"), "system calls") == "5 filters; no fork"
    assert detail(put_up(FULL, subprocess=True), "system calls") == "5 filters"


def test_receipt_says_who_ends_the_children_of_a_plugin_that_can_have_some() -> None:
    assert detail(put_up(FULL, subprocess=True), "end with the host") == "by the kernel"
    assert detail(put_up(LANDLOCK), "end with the host") == "by the kernel"
    assert "its children by a warden" in detail(put_up(LANDLOCK, subprocess=True), "end with the host")
    assert "its children by a warden" in detail(put_up(LIMITS), "end with the host")


def test_receipt_of_a_warm_plugin_says_that_it_was_forked_and_that_its_folder_is_emptied() -> None:
    facts = replace(put_up(FULL), is_warm=True)
    assert detail(facts, "tree kill") == "it can have no children"
    assert detail(facts, "python").endswith("forked from a fork server of its own")
    assert detail(facts, "temporary folder") == "in memory, emptied when none of it runs"


def test_receipt_rounds_no_limit_to_nothing() -> None:
    facts = put_up(FULL, file_bytes=512 * 1024, memory_bytes=128 * 1024 * 1024)
    assert detail(facts, "file size") == "0.5 MiB each"
    assert detail(facts, "memory") == "128 MiB for all its processes"


def test_receipt_names_the_memory_shared_with_the_host_where_there_is_some() -> None:
    assert "memory" in detail(put_up(FULL, arena_bytes=1), "descriptors")
    assert "memory" not in detail(put_up(FULL), "descriptors")


def test_receipt_says_of_nothing_that_it_was_read_back_until_it_was() -> None:
    assert not any(layer.confirmed for layer in put_up(FULL).receipt().layers)
    confirmed = {layer.name for layer in put_up(FULL, limits={"RLIMIT_DATA": 1}).receipt(confirmed=True).layers if layer.confirmed}
    assert {"own user", "no new privileges", "namespaces", "system calls", "memory", "cpu", "tasks", "open files"} <= confirmed
    assert not {"environment", "descriptors", "niceness", "python", "tree kill", "landlock"} & confirmed


def test_receipt_confirms_no_wall_that_does_not_stand() -> None:
    layers = put_up(NONE).receipt(confirmed=True).layers
    assert not any(layer.confirmed for layer in layers if layer.state == "off")
