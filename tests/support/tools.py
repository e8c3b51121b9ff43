"""Programs that a test needs and a machine may lack; set-up installs them where it can."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["need_tool"]


def need_tool(command: str, package: str) -> None:
    """Skip the test where a program is missing, and say so; under CI that is a hole in the gate, and the test fails."""
    if shutil.which(command) is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"there is no `{command}` on PATH; `apt install {package}`")
