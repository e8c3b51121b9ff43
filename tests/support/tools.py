"""Programs that a test needs and a machine may lack; set-up installs them where it can."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Any

import pytest

__all__ = ["level_here", "need_tool"]

_NOBODY = 65534


def need_tool(command: str, package: str) -> None:
    """Skip the test where a program is missing, and say so; under CI that is a hole in the gate, and the test fails."""
    if shutil.which(command) is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"there is no `{command}` on PATH; `apt install {package}`")


@functools.cache
def level_here() -> str:
    """Return the level at which plugins run on this machine: ``full`` where bubblewrap works without rights, and under CI always."""
    if os.environ.get("CI"):
        return "full"
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        return "landlock"
    user: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    command = [bubblewrap, "--unshare-all", "--ro-bind", "/", "/", "true"]
    return "full" if subprocess.run(command, capture_output=True, check=False, cwd="/", **user).returncode == 0 else "landlock"
