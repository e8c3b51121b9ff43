"""The attack on inherited descriptors finds what it is there to find: nothing that is always on can be turned off to see it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

import annexe.attack

PLUGIN = Path(annexe.attack.__file__).parent / "plugin"
LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
from escape import descriptors
from escape.catalogue import ATTACKS
print(ATTACKS["inherited-descriptors"](None))
"""
_SEAL = 1

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")


def memory(*, sealed: bool) -> int:
    fd = os.memfd_create("m", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEAL)
    return fd


def null() -> int:
    return os.open("/dev/null", os.O_RDONLY)


@pytest.mark.parametrize(
    ("number", "kind", "found"),
    [
        pytest.param(4, "sealed", False, id="the channel's memory"),
        pytest.param(4, "unsealed", True, id="memory in its place"),
        pytest.param(5, "null", True, id="another file in its place"),
        pytest.param(9, "sealed", True, id="memory of another plugin"),
        pytest.param(9, "null", True, id="a file of the host"),
    ],
)
def test_descriptor_that_came_along_is_found_unless_it_is_the_channels(number: int, kind: str, found: bool) -> None:
    opened = null() if kind == "null" else memory(sealed=kind == "sealed")
    fd = fcntl.fcntl(opened, fcntl.F_DUPFD, 60)
    os.close(opened)
    # A shell puts it at the number: the test's own descriptors are in the way here.
    move = ["/bin/bash", "-c", f'exec {number}<&{fd} {fd}<&-; exec "$@"', "sh", sys.executable, "-I", "-c", LOOK, str(PLUGIN)]
    try:
        done = subprocess.run(move, pass_fds=[fd], capture_output=True, text=True, check=True)
    finally:
        os.close(fd)
    assert (f"found [{number}]" in done.stdout) is found, done.stdout
