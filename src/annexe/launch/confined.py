"""A plugin's process behind its walls, however it was made: what is read back of it, and how it is taken down.

How it is signalled, and how its end is learned, differ: ``launched`` knows of processes that were started, ``forked`` of those that a fork
server made.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from abc import abstractmethod
from dataclasses import replace

from annexe.errors import LaunchError, SandboxError
from annexe.launch.egress import Egress
from annexe.launch.processes import is_ending
from annexe.launch.readback import differences, read_back
from annexe.launch.receipts import PutUp
from annexe.launch.strategy import ExitStatus, LaunchedPlugin, TreeReport
from annexe.sandbox.cgroup import Group, GroupLimits, GroupUsage

__all__ = ["CLOSE_DEADLINE_S", "ConfinedProcess"]

CLOSE_DEADLINE_S = 10.0


class ConfinedProcess(LaunchedPlugin):
    """A plugin in a process of its own. Made on the event loop that will use it.

    Args:
        pid: Its number, as far as it is known yet.
        sock: The host's end of the channel.
        stdout: Read end of its standard output, non-blocking.
        stderr: The same for standard error.
        group: Its control group.
        put_up: What it was put behind.
    """

    def __init__(self, *, pid: int, sock: socket.socket, stdout: int, stderr: int, group: Group, put_up: PutUp) -> None:
        self.sock = sock
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.receipt = put_up.receipt()
        self.egress: Egress | None = None
        self._put_up = put_up
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._closing: asyncio.Task[TreeReport] | None = None

    def group_usage(self) -> GroupUsage | None:
        return self._group.usage() if self._group.controllers else None

    def confirm(self) -> None:
        pid = self._found()
        found = read_back(pid) if pid is not None else None
        if pid is None or found is None:
            return  # it has ended, and somebody else will tell; or there is no /proc
        put_up = self._put_up
        wrong = differences(found, walls=put_up.walls, uid=put_up.uid, limits=put_up.limits, filters=put_up.filters)
        wrong += self._loose_in_group(pid)
        if wrong and is_ending(pid):
            return  # it ended while it was looked at
        if wrong:
            plugin = put_up.request.plugin
            raise SandboxError(f"plugin {plugin!r} was started behind walls that do not stand: {'; '.join(wrong)}.", plugin=plugin)
        self.pid = pid
        self.receipt = put_up.receipt(confirmed=True)

    def _loose_in_group(self, pid: int) -> list[str]:
        """Return what its control group does not do as it was told."""
        group, profile = self._group, self._put_up.request.profile
        if not group.controllers:
            return []
        if not group.holds(pid):
            return ["it is not in its control group"]
        asked = GroupLimits(memory_bytes=profile.memory_bytes, cpu=profile.cpu, tasks=profile.tasks)
        loose = sorted(group.controllers - asked.kept_by(group.read_limits()))
        return [f"its control group does not limit {', '.join(loose)} as it was told"] if loose else []

    def _has_ended(self, status: ExitStatus) -> None:
        """Tell whoever waits, with what its control group says of the end: where it is killed whole, nobody else sees that in time."""
        if status.signal == signal.SIGKILL and self._group.usage().oom_kills:
            status = replace(status, out_of_memory=True)
        self._ended.set_result(status)

    def _has_joined(self) -> None:
        """Take over what its control group limits, now that it is in it: a scope of systemd's claims nothing before."""
        walls = replace(self._put_up.walls, cgroup=self._group.controllers)
        if walls != self._put_up.walls:
            self._put_up = replace(self._put_up, walls=walls)
            self.receipt = self._put_up.receipt()

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._ended)

    async def close(self) -> TreeReport:
        # A task of its own: a caller that is cancelled must not leave half of it undone.
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name=f"annexe-close-{self.pid}")
        return await asyncio.shield(self._closing)

    async def _close(self) -> TreeReport:
        self.kill()
        ended = True
        try:
            await asyncio.wait_for(self.wait(), CLOSE_DEADLINE_S / 2)
        except TimeoutError:  # in uninterruptible sleep: nothing can be done but say so
            ended = False
        self._let_go()
        self.sock.close()
        if self.files is not None:
            self.files.close_descriptors()
            self.files = None  # unmapped once the connection has no use for it either
        if self.egress is not None:
            self.egress.listener.close()
        for fd in (self.stdout, self.stderr):
            if fd is not None:
                os.close(fd)
        self.stdout = self.stderr = None
        try:
            killed, gone = await asyncio.to_thread(self._clear)
        except OSError as error:
            # A full or failing disk. What was not given back is found by its record, or by the uid's owner, at a later host's start.
            raise LaunchError(f"what process {self.pid} held cannot all be given back: {error}", pid=self.pid) from error
        return TreeReport(gone=gone and ended, stragglers=killed, tree_kill=self.receipt.tree_kill)

    @abstractmethod
    def _found(self) -> int | None:
        """Return the number of the plugin's own process; None once it is gone."""

    @abstractmethod
    def _let_go(self) -> None:
        """Stop watching for the end, and close what that took. Called on the event loop; doing it again does nothing."""

    @abstractmethod
    def _clear(self) -> tuple[int, bool]:
        """Kill what is left of it and give back what it held, if nothing is. On a worker thread.

        Returns:
            How many processes had to be hunted down, and whether none is left.
        """
