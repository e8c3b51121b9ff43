"""A process that was started for a plugin, and its end.

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

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from annexe.channel.memory_files import MemoryFiles
from annexe.errors import LaunchError
from annexe.launch.confined import CLOSE_DEADLINE_S, ConfinedProcess
from annexe.launch.descriptors import let_descriptors_pass
from annexe.launch.egress import receive_egress
from annexe.launch.processes import kill_matching, kill_user, open_pidfd, tag_of
from annexe.launch.readback import child_of
from annexe.launch.receipts import PutUp
from annexe.launch.removal import remove_tree
from annexe.launch.strategy import ExitStatus
from annexe.sandbox.cgroup import Group

__all__ = ["LaunchedProcess", "Spawned"]

_TELLING_S = 10.0
_SIGNALLED = 128
_MAX_SAID_BYTES = 4096
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
        info: Where bubblewrap tells the process that it made; None without it. Read and closed by ``settle``.
        files: Memory shared with it; None where there is none.
        memory: Numbers of both files' descriptors that it inherited.
        gate: Where it waits for a byte before it goes on; None without it. Closed by ``settle``.
        group: Its control group.
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
    info: int | None
    files: MemoryFiles | None
    memory: tuple[int, ...]
    gate: int | None
    group: Group
    tag: int | None
    uid: int | None
    scratch: Path
    record: Path | None
    release_uid: Callable[[int], None]


@final
class LaunchedProcess(ConfinedProcess):
    """A plugin in a process that was started for it. Made on the event loop that will use it."""

    def __init__(self, spawned: Spawned, put_up: PutUp) -> None:
        super().__init__(
            pid=spawned.child.pid, sock=spawned.sock, stdout=spawned.stdout, stderr=spawned.stderr, group=spawned.group, put_up=put_up
        )
        self._first: int | None = None  # first process of its namespace: bubblewrap's, whose only child is the plugin
        self._plugin: int | None = None  # a pidfd, where the plugin is not the process that was spawned
        self._open = [fd for fd in (spawned.info, spawned.gate) if fd is not None]
        self._spawned = spawned
        self.files = spawned.files
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

    def settle(self, orders: bytes, egress: Mapping[str, Any] | None = None) -> None:
        """Learn which process the plugin will be, put it into its control group, and give the stub its orders. Blocking.

        Args:
            orders: The private frame; until it has it, the stub does nothing.
            egress: What is said there of a way out, to be taken from the stub.

        Raises:
            LaunchError: The process has ended: most likely bubblewrap has refused; the text is what it said.
            SandboxError: The control group does not take it.
        """
        spawned = self._spawned
        try:
            if spawned.info is not None:
                self._first = _first_process(spawned.info)
            spawned.group.add(self._first or spawned.child.pid)
            self._has_joined()
            if spawned.gate is not None:
                os.write(spawned.gate, b"\n")
            if egress is not None:
                let_descriptors_pass(self.sock, True)  # before the stub can send it
            self.sock.sendall(orders)
            if egress is not None:
                self.egress = receive_egress(self.sock, egress)
            self.sock.setblocking(False)
        except OSError as error:
            text = self.said() or str(error)
            raise LaunchError(f"process {spawned.child.pid} could not build its walls: {text}", pid=spawned.child.pid) from error
        finally:
            self._close_all()

    @property
    def tag(self) -> int | None:
        """What its descendants inherit; None when none could be given."""
        return self._spawned.tag

    def said(self) -> str:
        """Return what it has written to standard error and nobody has read."""
        said = b""
        with contextlib.suppress(OSError):
            said = os.read(self._spawned.stderr, _MAX_SAID_BYTES)
        return said.decode("utf-8", "replace").strip()

    def _close_all(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def confirm(self) -> None:
        super().confirm()
        self._pinned()

    def _found(self) -> int | None:
        return self.pid if self._first is None else child_of(self._first)

    def terminate(self) -> None:
        if self._first is None:
            self._signal_group(signal.SIGTERM)
        elif not self._ended.done() and (plugin := self._pinned()) is not None:
            # Not to bubblewrap: it would end at once, and the plugin with it, however much it still has to do.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(plugin, signal.SIGTERM)
        else:
            self.kill()  # nothing of the plugin runs yet, and bubblewrap's first process is deaf to SIGTERM

    def _pinned(self) -> int | None:
        """Return a pidfd of the plugin's process within its namespaces; None when it has ended."""
        pid = child_of(self._first) if self._plugin is None and self._first is not None else None
        if pid is not None:
            self.pid = pid
            with contextlib.suppress(ProcessLookupError):
                self._plugin = open_pidfd(pid)
        return self._plugin

    def kill(self) -> None:
        self._signal_group(signal.SIGKILL)

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
            self._has_ended(_reap(self._spawned.child, is_told=self._spawned.info is not None))

    def _stop_watching(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _let_go(self) -> None:
        self._stop_watching()
        if self._plugin is not None:
            os.close(self._plugin)
            self._plugin = None
        self._close_all()

    def _clear(self) -> tuple[int, bool]:
        return _clear(self._spawned)


def _reap(child: subprocess.Popen[bytes], *, is_told: bool) -> ExitStatus:
    """Reap a child.

    Args:
        child: Has ended.
        is_told: It is bubblewrap, which tells the end of the plugin as a shell does: 128 and the number of the signal.
    """
    if child.returncode is None:
        try:
            found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # the application ignores SIGCHLD, or waits for every child
            child.returncode = 0  # so that Popen looks no further
            return ExitStatus()
        if found is None:
            raise LaunchError(f"process {child.pid} was said to have ended, but has not", pid=child.pid)
        child.returncode = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
    code = child.returncode
    if is_told and _SIGNALLED < code < _SIGNALLED + signal.NSIG:
        code = _SIGNALLED - code
    return ExitStatus(code=code) if code >= 0 else ExitStatus(signal=-code)


def _first_process(info: int) -> int:
    """Return the first process of the plugin's namespace, as bubblewrap tells it.

    Raises:
        OSError: It tells none.
    """
    told = b""
    reading = select.poll()  # select() knows no descriptor above 1023, and a host of many plugins has those
    reading.register(info, select.POLLIN)
    while b"}" not in told:
        chunk = os.read(info, 4096) if reading.poll(_TELLING_S * 1000) else b""
        if not chunk:
            raise ChildProcessError("bubblewrap ended, or said nothing for long, before there was a process")
        told += chunk
    return int(json.loads(told)["child-pid"])


def _clear(spawned: Spawned) -> tuple[int, bool]:
    """Kill what had left the group; if nothing is left, give uid, folder and record back. On a worker thread."""
    killed, gone = 0, True
    if spawned.uid is not None:
        killed, gone = kill_user(spawned.uid, deadline_s=CLOSE_DEADLINE_S / 2, group=spawned.child.pid)
    elif spawned.tag is not None:
        killed, gone = kill_matching(lambda pid: tag_of(pid) == spawned.tag, deadline_s=CLOSE_DEADLINE_S / 2, group=spawned.child.pid)
    if spawned.info is not None:  # with the first process its whole namespace ends, which takes a moment: nothing had escaped
        killed = 0
    if not (spawned.group.kill(deadline_s=CLOSE_DEADLINE_S / 2) and gone):
        return killed, False
    if not spawned.group.remove():
        _logger.warning("the control group of process %s cannot be removed", spawned.child.pid)
    try:
        remove_tree(spawned.scratch)
    except OSError as error:
        _logger.warning("private folder %s cannot be removed: %s", spawned.scratch, error)
    if spawned.uid is not None:  # after its folder: the next one with this uid must find nothing
        spawned.release_uid(spawned.uid)
    if spawned.record is not None:
        spawned.record.unlink(missing_ok=True)
    return killed, True
