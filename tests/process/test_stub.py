"""The stub by itself, as the host runs it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from annexe.launch.private_frame import PrivateFrame
from annexe.sandbox import stub

RUNNER = "def main(fd, entry):\n    import os\n    os.write(fd, b'ran')\n    os._exit(7)\n"


def frame(**changes: Any) -> bytes:
    fields: dict[str, Any] = {"host_pid": os.getpid(), "limits": {}, "folder": "/nonexistent", "runner": "stand_in", "entry": "entry"}
    return PrivateFrame(**fields | changes).packed()


def run(sent: bytes, program: Path = Path(stub.__file__)) -> tuple[int, bytes, bytes]:
    """Return status, what came back over the channel and what was said on standard error."""
    host, plugin = socket.socketpair()
    with host, plugin:
        host.sendall(sent)
        host.shutdown(socket.SHUT_WR)
        environ = {"ANNEXE_FD": str(plugin.fileno())}
        command = [sys.executable, "-I", "-S", str(program)]
        done = subprocess.run(command, pass_fds=[plugin.fileno()], env=environ, capture_output=True, timeout=10)
        plugin.close()
        return done.returncode, host.recv(1000), done.stderr


@pytest.fixture
def libraries(tmp_path: Path) -> list[str]:
    (tmp_path / "stand_in.py").write_text(RUNNER)
    return [str(tmp_path)]


def test_stub_hands_over_to_the_runner(libraries: list[str]) -> None:
    assert run(frame(libraries=libraries)) == (7, b"ran", b"")


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x20abc"], ids=["nothing", "part of the length", "part of the frame"])
def test_stub_ends_quietly_when_the_host_is_gone_before_the_frame(sent: bytes) -> None:
    assert run(sent) == (0, b"", b"")


def test_stub_does_not_run_for_another_parent_than_its_host(libraries: list[str]) -> None:
    """The host died before the kernel was asked for the parent-death signal."""
    assert run(frame(libraries=libraries, host_pid=os.getppid())) == (0, b"", b"")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        pytest.param(b"\xff\xff\xff\xff", b"private frame of 4294967295 bytes", id="size that would never come"),
        pytest.param(b"\0\0\0\x03abc", b"marshal data too short", id="garbage"),
        pytest.param(frame(program=["/nonexistent/program"]), b"FileNotFoundError", id="no such program"),
        pytest.param(frame(), b"No module named 'stand_in'", id="no runner"),
        pytest.param(frame(limits={"RLIMIT_NOFILE": -5}), b"RLIMIT_NOFILE = -5", id="impossible limit"),
    ],
)
def test_stub_that_fails_says_why_and_runs_nothing(sent: bytes, said: bytes) -> None:
    status, back, error = run(sent)
    assert (status, back) == (71, b"")
    assert error.startswith(b"annexe stub: ")
    assert said in error
    assert error.count(b"\n") == 1


REPORTER = """
def main(fd, entry):
    import os
    kept = [number for number in range(3, 60) if is_open(number)]
    os.write(fd, repr((fd, kept, os.pread(4, 9, 0), os.pread(5, 9, 0))).encode())
    os._exit(7)


def is_open(number):
    import os
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
"""


@pytest.mark.parametrize("numbers", [*itertools.permutations((3, 4, 5)), (9, 8, 7), (4, 7, 3), (5, 3, 9), (30, 4, 5)])
def test_stub_keeps_channel_and_memory_files_in_order_wherever_they_are(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    (tmp_path / "stand_in.py").write_text(REPORTER)
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    # Puts what it inherits where the test wants it, and one thing more, then becomes the stub.
    launcher = (
        "import os, sys\n"
        f"given = [os.dup2(int(fd), 40 + at) for at, fd in enumerate(sys.argv[1:4])]\n"
        f"for fd, number in zip(given, {numbers}): os.dup2(fd, number)\n"
        f"os.dup2(0, 33)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-I', '-S', {str(stub.__file__)!r}])\n"
    )
    host, plugin = socket.socketpair()
    with host, plugin, open(tmp_path / "first") as first, open(tmp_path / "second") as second:
        host.sendall(frame(libraries=[str(tmp_path)], memory=numbers[1:]))
        passed = [plugin.fileno(), first.fileno(), second.fileno()]
        command = [sys.executable, "-c", launcher, *map(str, passed)]
        done = subprocess.run(command, pass_fds=passed, env={"ANNEXE_FD": str(numbers[0])}, capture_output=True, timeout=10)
        plugin.close()
        assert (done.returncode, host.recv(200).decode(), done.stderr) == (7, repr((3, [3, 4, 5], b"first", b"second")), b"")
