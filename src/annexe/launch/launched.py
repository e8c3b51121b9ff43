"""A launched process and its end.

The end is learned from a pidfd on the event loop: no polling, no thread, no signal handler in the application. Where there are no pidfds, a
thread of the plugin's own waits for it.

Invariants:

* The process group is signalled only while its leader has not been reaped: until then its number cannot be given to anybody else. So
  what is left of the group is killed between the leader's end and its reaping. (Not on macOS before Python 3.13, which can only wait and
  reap at once.)
* A uid goes back to the allocator, and a record is struck out, only when the tree was seen to be gone.
* ``PR_SET_CHILD_SUBREAPER`` would make orphaned descendants findable too, but it changes the application's own process: it would inherit
  children that it never made and does not reap. Descendants are found by uid or by tag instead.

Source: features LC7, LC8; docs/adr/0033-finding-descendants.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.errors import LaunchError
from annexe.launch.processes import kill_matching, kill_user, tag_of
from annexe.launch.removal import remove_tree
from annexe.launch.strategy import ExitStatus, LaunchedPlugin, TreeReport
from annexe.sandbox import Receipt

__all__ = ["CLOSE_DEADLINE_S", "LaunchedProcess", "Spawned"]

CLOSE_DEADLINE_S = 10.0
_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """What the spawner made: everything that must be given back one day.

    Attributes:
        child: The process, leader of its own group and session.
        pidfd: Becomes readable when it ends; None where there are none.
        sock: The host's end of the channel.
        stdout: Read end of its standard output, non-blocking.
        stderr: The same for standard error.
        tag: What its descendants inherit; None when none could be given.
        uid: Its own uid; None when it shares the host's.
        scratch: Its private folder.
        record: File that the sweep would find it by; None where there is no sweep.
        release_uid: Gives the uid back.
    """

    child: subprocess.Popen[bytes]
    pidfd: int | None
    sock: socket.socket
    stdout: int
    stderr: int
    tag: int | None
    uid: int | None
    scratch: Path
    record: Path | None
    release_uid: Callable[[int], None]


@final
class LaunchedProcess(LaunchedPlugin):
    """A plugin in a process of its own. Made on the event loop that will use it."""

    def __init__(self, spawned: Spawned, receipt: Receipt) -> None:
        self.sock = spawned.sock
        self.pid = spawned.child.pid
        self.stdout = spawned.stdout
        self.stderr = spawned.stderr
        self.receipt = receipt
        self._spawned = spawned
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._closing: asyncio.Task[TreeReport] | None = None
        self._pidfd = spawned.pidfd
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._on_end)
        else:
            # Not one of the loop's executor: a few plugins would take all of them for life.
            threading.Thread(target=self._wait_for_end, name=f"annexe-wait-{self.pid}", daemon=True).start()

    def _wait_for_end(self) -> None:
        """Wait without reaping, on a thread; the loop does the rest."""
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):  # somebody else reaped it
                os.waitid(os.P_PID, self._spawned.child.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._spawned.child.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._on_end)

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        self._signal_group(signal.SIGKILL)

    async def close(self) -> TreeReport:
        # A task of its own: a caller that is cancelled must not leave half of it undone.
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name=f"annexe-close-{self.pid}")
        return await asyncio.shield(self._closing)

    def _signal_group(self, which: signal.Signals) -> None:
        if not self._ended.done():
            # EPERM: on macOS, a group of nothing but zombies.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._spawned.child.pid, which)

    def _on_end(self) -> None:
        """Kill what is left of the group, then reap its leader: in this order, see the invariants."""
        self._signal_group(signal.SIGKILL)
        self._stop_watching()
        if not self._ended.done():
            self._ended.set_result(_reap(self._spawned.child))

    def _stop_watching(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    async def _close(self) -> TreeReport:
        self.kill()
        ended = True
        try:
            await asyncio.wait_for(self.wait(), CLOSE_DEADLINE_S / 2)
        except TimeoutError:  # in uninterruptible sleep: nothing can be done but say so
            ended = False
            self._stop_watching()
        self.sock.close()
        for fd in (self.stdout, self.stderr):
            if fd is not None:
                os.close(fd)
        self.stdout = self.stderr = None
        try:
            killed, gone = await asyncio.to_thread(_clear, self._spawned)
        except OSError as error:
            # A full or failing disk. What was not given back is found by its record, or by the uid's owner, at a later host's start.
            raise LaunchError(f"what process {self.pid} held cannot all be given back: {error}", pid=self.pid) from error
        return TreeReport(gone=gone and ended, stragglers=killed, tree_kill=self.receipt.tree_kill)


def _reap(child: subprocess.Popen[bytes]) -> ExitStatus:
    if child.returncode is None:
        try:
            found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # the application ignores SIGCHLD, or waits for every child
            child.returncode = 0  # so that Popen looks no further
            return ExitStatus()
        if found is None:
            raise LaunchError(f"process {child.pid} was said to have ended, but has not", pid=child.pid)
        child.returncode = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
    return ExitStatus(code=child.returncode) if child.returncode >= 0 else ExitStatus(signal=-child.returncode)


def _clear(spawned: Spawned) -> tuple[int, bool]:
    """Kill what had left the group; if nothing is left, give uid, folder and record back. On a worker thread."""
    killed, gone = 0, True
    if spawned.uid is not None:
        killed, gone = kill_user(spawned.uid, deadline_s=CLOSE_DEADLINE_S / 2, group=spawned.child.pid)
    elif spawned.tag is not None:
        killed, gone = kill_matching(lambda pid: tag_of(pid) == spawned.tag, deadline_s=CLOSE_DEADLINE_S / 2, group=spawned.child.pid)
    if not gone:
        return killed, False
    try:
        remove_tree(spawned.scratch)
    except OSError as error:
        _logger.warning("private folder %s cannot be removed: %s", spawned.scratch, error)
    if spawned.uid is not None:  # after its folder: the next one with this uid must find nothing
        spawned.release_uid(spawned.uid)
    if spawned.record is not None:
        spawned.record.unlink(missing_ok=True)
    return killed, True
