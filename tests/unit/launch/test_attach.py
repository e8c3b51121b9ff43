"""The other end of a socket as a launched plugin: never signalled, and over when its process is."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from annexe.errors import LaunchError, SandboxError
from annexe.launch import LaunchRequest
from annexe.launch.attach import AttachStrategy
from annexe.sandbox import IsolationLevel


def request(floor: IsolationLevel = IsolationLevel.NONE) -> LaunchRequest:
    return LaunchRequest(plugin="p", instance="p-1", kind="python", entry="main", folder=Path("/"), floor=floor)


def test_a_process_is_launched_once_at_level_none_and_its_end_is_the_end_of_the_socket() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        strategy = AttachStrategy(ours, pid=os.getpid())
        launched = await strategy.launch(request())
        assert (launched.pid, launched.receipt.level, launched.stdout) == (os.getpid(), IsolationLevel.NONE, None)
        assert f"process {os.getpid()} was started by hand" in launched.receipt.as_text()
        with pytest.raises(LaunchError, match="has done so once"):
            await strategy.launch(request())
        waits = asyncio.ensure_future(launched.wait())
        await asyncio.sleep(0)
        assert not waits.done()
        launched.kill()
        assert theirs.recv(1) == b""
        await waits
        assert (await launched.close()).gone
        theirs.close()

    asyncio.run(scenario())


def test_where_a_level_is_required_nothing_is_launched_and_the_socket_is_given_back() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        strategy = AttachStrategy(ours, pid=None)
        with pytest.raises(SandboxError, match="has no walls at all"):
            await strategy.launch(request(IsolationLevel.LIMITS))
        strategy.hang_up()
        assert theirs.recv(1) == b""
        await strategy.close()
        assert ours.fileno() == -1
        strategy.hang_up()
        theirs.close()

    asyncio.run(scenario())


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there are no pidfds here")
def test_a_child_that_has_inherited_the_channel_does_not_keep_it_open() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            launched = await AttachStrategy(ours, pid=process.pid).launch(request())
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(launched.sock, 1) == b""  # though theirs is open
        await launched.close()
        theirs.close()

    asyncio.run(scenario())
