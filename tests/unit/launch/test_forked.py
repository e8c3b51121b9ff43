"""What a fork server tells of a fork's end."""

from __future__ import annotations

import os
import signal

import pytest

from annexe.launch import ExitStatus
from annexe.launch.forked import kill_through, status_of


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(b"\0\0\0\0", ExitStatus(code=0), id="success"),
        pytest.param(b"\0\0\x07\0", ExitStatus(code=7), id="status"),
        pytest.param(b"\0\0\xff\0", ExitStatus(code=255), id="largest-status"),
        pytest.param(b"\0\0\0\x09", ExitStatus(signal=9), id="signal"),
        pytest.param(b"\0\0\0\x8b", ExitStatus(signal=11), id="signal-with-core"),
        pytest.param(b"\0\0\0\x7f", ExitStatus(), id="stopped-is-no-end"),
        pytest.param(b"\xff\xff\xff\xff", ExitStatus(), id="no-status"),
        pytest.param(b"\0\0", ExitStatus(), id="too-short"),
        pytest.param(b"", ExitStatus(), id="nothing"),
    ],
)
def test_status_is_believed_only_if_it_is_one(told: bytes, expected: ExitStatus) -> None:
    assert status_of(told) == expected


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="fork servers are for Linux")
def test_killing_what_is_gone_does_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    pidfd = os.pidfd_open(pid)
    kill_through(pidfd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    kill_through(pidfd)
    os.close(pidfd)
