"""Starts processes: everything that a launch needs and many launches share.

Used by the strategy for plugins that are started, and by ``zygote`` for fork servers. Nothing of the host's is inherited but the channel,
the standard streams and the two memory files of the channel. ``preexec_fn`` is never used: it can deadlock in a host with threads. The stub
does in the new process what must be done there.

Source: features LC7, LC8, IS1, IS6; docs/explanation/launching.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, final

from annexe.errors import HostClosedError
from annexe.launch.become import as_user
from annexe.launch.descriptors import channel_ends, memory_ends, pipe_ends
from annexe.launch.launched import LaunchedProcess, Spawned
from annexe.launch.orders import packed, put_up_for
from annexe.launch.preparation import Home, Preparation, Prepared
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.processes import identity_of, open_pidfd
from annexe.launch.receipts import PutUp
from annexe.launch.spawner import Spawner
from annexe.launch.strategy import LaunchRequest
from annexe.launch.sweep import LaunchRecord, LaunchRecords
from annexe.launch.uids import UidAllocator
from annexe.launch.warden import Warden
from annexe.sandbox import Profile, require_level
from annexe.sandbox.bubblewrap import arguments
from annexe.sandbox.cgroup import ControlGroups, Group, GroupLimits
from annexe.sandbox.cgroup_probe import find_control_groups
from annexe.sandbox.receipt import Lack

__all__ = ["Starter"]

_TAG_FLOOR = 2**32
_THREADS = 32

T = TypeVar("T")


@final
class Starter:
    """Starts the processes of one host.

    Args:
        preparation: Prepares launches.
        records: Where they are written down.
        uids: The allocator of a root host.
        groups: Control groups; None: what this machine offers, found at first use.
        may_move_host: Whether finding them may move the host into a leaf of its own group.
        platform: What ``sys.platform`` says.
    """

    def __init__(
        self,
        *,
        preparation: Preparation,
        records: LaunchRecords,
        uids: UidAllocator | None,
        groups: ControlGroups | None,
        may_move_host: bool,
        platform: str,
    ) -> None:
        self._preparation = preparation
        self._records = records
        self._uids = uids
        self._groups = groups
        self._may_move_host = may_move_host
        self._finding_groups = threading.Lock()
        self._no_groups_because = ""
        self._is_linux = platform == "linux"
        self._spawner = Spawner()
        self._warden: Warden | None = None
        # Not the application's own: a plugin whose files are slow to read keeps no thread that anybody else waits for.
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="annexe-launch")

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Do what blocks on a thread of the launcher's own.

        Raises:
            HostClosedError: After ``close``.
        """
        try:
            done = asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments))
        except RuntimeError as error:
            raise HostClosedError("the host is closed; no plugin can be launched any more.") from error
        return await done

    @property
    def controllers(self) -> frozenset[str]:
        """What control groups limit, as far as is known yet."""
        return self._groups.controllers if self._groups is not None else frozenset()

    def prepare(self, request: LaunchRequest, home: Home | None = None) -> Prepared:
        """Get everything ready but the control group. Blocking.

        Args:
            request: What for.
            home: What a fork server of the plugin's has taken already.

        Raises:
            LaunchError: Something cannot be had.
            SandboxError: The level is below what is required.
        """
        prepared = self._preparation.prepare(request, home)
        try:
            walls = prepared.offer.walls(own_uid=prepared.uid is not None, cgroup=frozenset())
            require_level(request.plugin, achieved=walls.level, required=request.floor, lacking=prepared.offer.lacking())
        except BaseException:
            if home is None:
                self._preparation.undo(prepared)
            raise
        return prepared

    def group_for(self, name: str, profile: Profile) -> Group:
        """Make a control group. Blocking.

        Args:
            name: Of the launch.
            profile: Has the limits.
        """
        limits = GroupLimits(memory_bytes=profile.memory_bytes, cpu=profile.cpu, tasks=profile.tasks)
        return self.control_groups().make(name, limits)

    def control_groups(self) -> ControlGroups:
        """Return the control groups of this host, found at first use. Blocking."""
        with self._finding_groups:
            if self._groups is None:
                self._groups, self._no_groups_because = find_control_groups(may_move_host=self._may_move_host)
                self._groups.sweep()
            return self._groups

    async def start(self, prepared: Prepared, group: Group, orders: Callable[[int | None], PrivateFrame]) -> LaunchedProcess:
        """Start a process and give it its orders.

        Args:
            prepared: The launch; given back if this fails.
            group: The same.
            orders: Makes the frame, given the tag that its descendants will have.

        Raises:
            LaunchError: It could not be started, or ended before it had its orders.
            SandboxError: Its control group does not take it.
        """
        self._take_wait()
        try:
            spawned = await asyncio.wrap_future(self._spawner.submit(lambda: self._spawn(prepared, group)))
        except Exception:
            await self.in_thread(self.undo, prepared, group)
            raise
        frame = replace(orders(spawned.tag), memory=spawned.memory)
        launched = LaunchedProcess(spawned, self.put_up(prepared, frame.limits, group, filters=len(frame.filters)))
        try:
            await self.in_thread(launched.settle, packed(frame, prepared.request.plugin), frame.egress)
        except BaseException:
            await launched.close()
            raise
        return launched

    def _take_wait(self) -> None:
        """Begin to take the wait for the control group, which the process would have on joining it; nobody awaits the end of that."""
        if self._groups is not None and self._groups.flavour == "v2":
            with contextlib.suppress(RuntimeError):  # the host is closed: what comes next says so
                self._threads.submit(self._groups.take_wait)

    def put_up(self, prepared: Prepared, limits: Mapping[str, int], group: Group, *, filters: int, is_warm: bool = False) -> PutUp:
        """Return what is put up around a launch; see ``put_up_for``."""
        lacks = (Lack("cgroup", self._no_groups_because),) if self._no_groups_because else ()
        return put_up_for(
            prepared,
            limits=limits,
            filters=filters,
            cgroup=group.controllers,
            is_linux=self._is_linux,
            is_warm=is_warm,
            lacks=lacks,
        )

    def undo(self, prepared: Prepared, group: Group | None = None) -> None:
        """Give back what a launch took that came to nothing. Blocking."""
        if group is not None:
            group.kill()
            group.remove()
        self._preparation.undo(prepared)

    async def close(self) -> None:
        """Give everything back; every process is gone."""
        if self._warden is not None:
            await asyncio.to_thread(self._warden.close)
            self._warden = None
        await asyncio.to_thread(self._spawner.close)
        if self._uids is not None:
            await asyncio.to_thread(self._uids.close)
        if self._groups is not None:
            await asyncio.to_thread(self._groups.close)
        self._preparation.close()
        self._threads.shutdown(wait=False)

    def _spawn(self, prepared: Prepared, group: Group) -> Spawned:
        """Make the process. On the spawner thread; whatever fails, nothing stays behind but what ``prepared`` holds."""
        if self._is_linux and (self._warden is None or self._warden.has_ended):
            self._warden = Warden(self._records.folder, self._uids)
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            sock, theirs = channel_ends(on_failure, always)
            stdout, stdout_writer = pipe_ends(on_failure, always)
            stderr, stderr_writer = pipe_ends(on_failure, always)
            command = [str(prepared.python.interpreter.path), "-I", "-S", "-X", "faulthandler", str(prepared.runtime.stub)]
            passed = [theirs.fileno()]
            files, memory = memory_ends(prepared.request.arena_bytes, on_failure, always)
            passed += memory
            info = gate = None
            if prepared.offer.bubblewrap is not None:
                info, info_writer = pipe_ends(on_failure, always, blocking=True)
                gate_reader, gate = pipe_ends(always, on_failure, blocking=True)
                passed += [info_writer, gate_reader]
                bubblewrap, *built = arguments(
                    prepared.offer.bubblewrap, prepared.places, tmp_bytes=prepared.request.profile.tmp_bytes,
                    scratch=str(prepared.scratch), info_fd=info_writer, block_fd=gate_reader, in_memory=prepared.in_memory,
                )  # fmt: skip
                # The mark, in an option that does nothing, is for the sweep: it finds by it what has no tag yet.
                command = [bubblewrap, "--unsetenv", self._records.mark(os.getpid()), *built, *command]
            become, user = as_user(prepared.uid)
            with group.entered():  # born in it: to be moved into it afterwards takes ten times as long
                child = subprocess.Popen(  # noqa: S603 - bubblewrap, an interpreter that was probed, and our own stub
                    [*group.prefix, *become, *command],
                    stdin=subprocess.DEVNULL, stdout=stdout_writer, stderr=stderr_writer, pass_fds=passed, cwd="/",
                    env={**prepared.request.environment, "TMPDIR": prepared.tmp, "ANNEXE_FD": str(theirs.fileno())},
                    start_new_session=True, **user,
                )  # fmt: skip
            on_failure.callback(child.wait)
            on_failure.callback(child.kill)
            pidfd = open_pidfd(child.pid)
            if pidfd is not None:
                on_failure.callback(os.close, pidfd)
            tag = _new_tag() if self._is_linux else None
            record = self._record(prepared, child.pid, tag)
            on_failure.pop_all()
            return Spawned(
                child=child,
                pidfd=pidfd,
                sock=sock,
                stdout=stdout,
                stderr=stderr,
                info=info,
                gate=gate,
                files=files,
                memory=memory,
                group=group,
                tag=tag,
                uid=prepared.uid,
                scratch=prepared.scratch,
                record=record,
                release_uid=self._preparation.release_uid,
            )

    def _record(self, prepared: Prepared, pid: int, tag: int | None) -> Path | None:
        main = identity_of(pid)
        if main is None:  # no /proc, or dead already: nothing to be found later
            return None
        request = prepared.request
        return self._records.add(
            LaunchRecord(
                plugin=request.plugin, instance=request.instance, main=main, tag=tag, scratch=str(prepared.scratch), host_pid=os.getpid()
            )
        )


def _new_tag() -> int | None:
    """Return a number that only descendants of one launch will have; None where the host itself was given too narrow a limit.

    It becomes their limit on real-time CPU time (which they cannot use anyhow): inherited by every descendant, shown by the kernel to
    everyone, and impossible to raise again.
    """
    import resource  # not on Windows

    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    ceiling = 2**62 if hard == resource.RLIM_INFINITY else hard
    return _TAG_FLOOR + secrets.randbelow(ceiling - _TAG_FLOOR) if ceiling > 2 * _TAG_FLOOR else None
