"""Set-up on a bare machine: a clean checkout, an empty HOME, a Python without ensurepip, two makes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.build_wheels import copy_checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # installs everything the demo needs


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    copy_checkout(tmp_path / "annexe")
    return tmp_path / "annexe"


def test_two_makes_at_once_set_up_once_without_ensurepip(checkout: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "ensurepip.py").write_text("raise ImportError('left out by the distribution')\n")
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "PATH"))}
    environment = {**kept, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(lacking), "ANNEXE_SETUP_SYSTEM": "no"}
    # Not through make, which keeps PYTHONPATH, and with it this trick, away.
    command = [str(Path(sys.executable).resolve()), "scripts/setup.py", "demo"]

    started = [subprocess.Popen(command, cwd=checkout, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in started]

    assert [process.returncode for process in started] == [0, 0], said
    assert sum("has no ensurepip; fetching" in text for text in said) == 1, said
    assert sum("ready after" in text for text in said) == 1, said
    for name in ("annexe", "annexe_sdk"):
        assert subprocess.run([".venv/bin/python", "-c", f"import {name}"], cwd=checkout, check=False).returncode == 0
    assert any((checkout / "src" / "annexe").rglob("*.pyc"))
    silent = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    assert silent.stderr == "", "a second run had something to do"
