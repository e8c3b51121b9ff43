"""What comes from a fork server is read strictly, whoever answers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import cast

import pytest

from annexe.launch.basis import Basis
from annexe.launch.fork_server import ForkServer, NotServedError, RefusedError
from annexe.launch.launched import LaunchedProcess
from annexe.launch.private_frame import PrivateFrame

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="fork servers are for Linux")


class FakeProcess:
    """Stands in for a server that was started: the test answers for it."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair()
        self.pid = os.getpid()
        self.is_confirmed = False

    def confirm(self) -> None:
        self.is_confirmed = True


class FakeBasis:
    class prepared:
        uid = None
        scratch = None


@pytest.fixture
def process() -> Iterator[FakeProcess]:
    process = FakeProcess()
    yield process
    process.sock.close()
    process.theirs.close()


def server_for(process: FakeProcess) -> ForkServer:
    return ForkServer(cast(LaunchedProcess, process), cast(Basis, FakeBasis()), PrivateFrame(host_pid=0, limits={}))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("answer", "descriptors", "text"),
    [
        pytest.param(b"+", 0, "with 0 descriptors", id="no-handle"),
        pytest.param(b"+", 2, "with 2 descriptors", id="two-handles"),
        pytest.param(b"+", 5, "descriptors", id="many-handles"),
        pytest.param(b"x", 1, "answered b'x'", id="another-byte"),
        pytest.param(b"-", 1, "answered b'-' with 1", id="refusal-with-a-handle"),
        pytest.param(b"++", 1, "answered b'++'", id="two-bytes"),
        pytest.param(b"", 0, "it has ended", id="end"),
    ],
)
def test_answer_that_is_none_is_refused_and_leaves_no_descriptor(process: FakeProcess, answer: bytes, descriptors: int, text: str) -> None:
    server = server_for(process)
    if answer:
        socket.send_fds(process.theirs, [answer], [0] * descriptors)
    else:
        process.theirs.shutdown(socket.SHUT_WR)
    before = open_descriptors()
    with pytest.raises(NotServedError, match=re.escape(text)):
        server.fork(lambda: None)
    assert open_descriptors() == before
    assert not process.is_confirmed


def test_handle_on_what_is_not_its_child_is_refused_and_nobody_is_killed(process: FakeProcess) -> None:
    server = server_for(process)
    process.pid = os.getppid()  # somebody else's child is handed over
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as somebody:
        pidfd = os.pidfd_open(somebody.pid)
        reader, writer = os.pipe()
        for handle in (reader, pidfd):
            socket.send_fds(process.theirs, [b"+"], [handle])
        before = open_descriptors()
        for _ in range(2):
            with pytest.raises(NotServedError, match="which is not its child"):
                server.fork(lambda: None)
        assert open_descriptors() == before
        assert somebody.poll() is None
        somebody.kill()
    for fd in (pidfd, reader, writer):
        os.close(fd)


def test_refusal_is_told_apart_and_what_was_done_meanwhile_stays_done(process: FakeProcess) -> None:
    server = server_for(process)
    process.theirs.sendall(b"-")
    done: list[int] = []
    with pytest.raises(RefusedError):
        server.fork(lambda: done.append(1))
    assert done == [1]


def test_fault_meanwhile_is_raised_after_the_answer_was_taken(process: FakeProcess) -> None:
    server = server_for(process)
    socket.send_fds(process.theirs, [b"-"], [])

    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(RefusedError) as caught:
        server.fork(fail)
    assert isinstance(caught.value.__context__, OSError)
    process.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        process.sock.recv(1)


def test_silence_is_not_waited_for_for_ever(process: FakeProcess) -> None:
    server = server_for(process)
    process.sock.settimeout(0.01)
    with pytest.raises(NotServedError, match="timed out"):
        server.fork(lambda: None)
