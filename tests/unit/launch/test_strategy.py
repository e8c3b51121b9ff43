"""Values of the seam, and where it can be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from annexe.launch import ExitStatus, LaunchRequest
from annexe.launch.receipts import receipt_of_limits


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(code=0), "exited with status 0"),
        (ExitStatus(signal=9), "killed by SIGKILL"),
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


@pytest.mark.parametrize(
    ("own_uid", "is_linux", "can_tag", "expected"),
    [
        pytest.param(True, True, True, {"own user": "on", "tasks": "on", "tree kill": "on", "memory": "soft"}, id="root on Linux"),
        pytest.param(
            False, True, True, {"own user": "off", "tasks": "off", "tree kill": "soft", "end with the host": "on"}, id="other on Linux"
        ),
        pytest.param(False, True, False, {"tree kill": "off"}, id="no tag to be had"),
        pytest.param(False, False, False, {"end with the host": "off", "no new privileges": "off", "memory": "off"}, id="macOS"),
    ],
)
def test_receipt_states_only_what_is_in_force(own_uid: bool, is_linux: bool, can_tag: bool, expected: dict[str, str]) -> None:
    request = LaunchRequest(plugin="p", instance="p-1", kind="python", entry="e", folder=__import__("pathlib").Path("/x"))
    receipt = receipt_of_limits(
        request, python="/usr/bin/python3", uid=64100, own_uid=own_uid, is_linux=is_linux, can_tag=can_tag, notes=("a copy",)
    )
    states = {layer.name: layer.state for layer in receipt.layers}
    assert expected.items() <= states.items()
    assert receipt.notes[-1] == "a copy"
