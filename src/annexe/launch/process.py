"""Launch strategy ``process``: every plugin in an operating system process of its own.

What happens, in order:

1. On a worker thread, ``preparation``: interpreter, runtime folder, byte code, a uid, a private folder.
2. On the spawner thread: socket pair and pipes, fork and exec, the record for the sweep.
3. On a worker thread again: the control group, then the private frame into the channel. Until it has come, nothing runs.
4. On the event loop, ``launched``: watch for the end.

Nothing of the host's is inherited but the channel and the standard streams. ``preexec_fn`` is never used: it can deadlock in a host
with threads. The stub does in the new process what must be done there.

Source: features LC7, LC8, IS1, IS6; docs/explanation/launching.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import final

import platformdirs

from annexe.errors import AnnexeError, LaunchError, UnsupportedPlatformError
from annexe.launch.become import as_user
from annexe.launch.data_folders import DataFolders
from annexe.launch.launched import LaunchedProcess, Spawned
from annexe.launch.offer import OfferFinder
from annexe.launch.preparation import Preparation, Prepared
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.processes import identity_of, open_pidfd
from annexe.launch.python_env import PythonFinder
from annexe.launch.receipts import PutUp
from annexe.launch.spawner import Spawner
from annexe.launch.strategy import LaunchedPlugin, LaunchRequest, LaunchStrategy
from annexe.launch.sweep import LaunchRecord, LaunchRecords, Swept
from annexe.launch.uids import UidAllocator
from annexe.launch.warden import Warden
from annexe.sandbox import Walls, require_level
from annexe.sandbox.bubblewrap import arguments
from annexe.sandbox.cgroup import ControlGroups, Group, GroupLimits
from annexe.sandbox.cgroup_probe import find_control_groups
from annexe.sandbox.landlock import ruleset
from annexe.sandbox.receipt import Lack

__all__ = ["ProcessStrategy"]

_SO_PASSRIGHTS = 83  # Linux 6.16: the peer cannot pass descriptors to us
_TAG_FLOOR = 2**32
_MIB = 1024 * 1024


@final
class ProcessStrategy(LaunchStrategy):
    """Launches processes behind all the walls that this machine offers.

    Args:
        state_dir: The host's state directory; records of launches are kept in it.
        cache_dir: Where runtime folders, copies of plugins and private folders are kept; plugins must be able to get there. By default
            the system's cache for root (``/var/cache/annexe``), a folder in ``state_dir`` for others.
        uids: Where a root host gets plugin users from; not used by others.
        pythons: How interpreters are found.
        runner: Module whose ``main(fd, entry)`` serves a Python plugin; it owns the descriptor.
        data: Where plugins' private folders are; without it none is given.
        offers: How it is found out which walls there are.
        groups: Control groups; by default what this machine offers.
        platform: What ``sys.platform`` says.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        cache_dir: Path | None = None,
        uids: UidAllocator | None = None,
        pythons: PythonFinder | None = None,
        runner: str = "annexe_sdk.runner",
        data: DataFolders | None = None,
        offers: OfferFinder | None = None,
        groups: ControlGroups | None = None,
        platform: str = sys.platform,
    ) -> None:
        is_root = platform != "win32" and os.geteuid() == 0
        if cache_dir is None:
            cache_dir = platformdirs.site_cache_path("annexe", appauthor=False) if is_root else state_dir / "cache"
        self._uids = (uids or UidAllocator()) if is_root else None
        self._offers = offers or OfferFinder()
        self._preparation = Preparation(cache=cache_dir, pythons=pythons or PythonFinder(), uids=self._uids, offers=self._offers, data=data)
        self._groups = groups
        self._finding_groups = threading.Lock()
        self._no_groups_because = ""
        self._records = LaunchRecords(state_dir / "launched")
        self._runner = runner
        self._platform = platform
        self._spawner = Spawner()
        self._warden: Warden | None = None
        self._discarding: set[asyncio.Task[None]] = set()

    def expected_walls(self) -> Walls:
        offer = self._offers.latest
        return Walls(
            own_uid=self._uids is not None,
            rlimits=True,
            namespaces=offer.bubblewrap is not None,
            seccomp=offer.seccomp,
            landlock_abi=offer.landlock_abi,
            cgroup=self._groups.controllers if self._groups is not None else frozenset(),
        )

    async def sweep(self) -> tuple[Swept, ...]:
        """Clear away what dead hosts left behind, in this state directory and among the machine's plugin users, and what nobody uses.

        Called by the supervisor once, at start, when it holds the state directory's lock and before anything is launched.
        """
        swept = await asyncio.to_thread(self._records.sweep)
        if self._uids is not None:
            await asyncio.to_thread(self._uids.sweep)
        await asyncio.to_thread(self._preparation.sweep)
        return swept

    async def launch(self, request: LaunchRequest) -> LaunchedPlugin:
        if self._platform not in ("linux", "darwin"):
            raise UnsupportedPlatformError(
                f"plugin {request.plugin!r} needs a process of its own, which annexe cannot give it on {self._platform!r}; run the host "
                "under WSL 2 (Windows) or in a Linux container.",
                plugin=request.plugin,
                platform=self._platform,
            )
        if self._platform == "darwin" and self._uids is not None:
            raise UnsupportedPlatformError(
                f"plugin {request.plugin!r} would run as root: plugins get users of their own on Linux only; run the host as another user.",
                plugin=request.plugin,
                platform=self._platform,
            )
        work = asyncio.create_task(self._launch(request), name=f"annexe-launch-{request.instance}")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A fork cannot be called off half-way: let it happen, then take it back.
            discard = asyncio.create_task(_discard(work), name=f"annexe-discard-{request.instance}")
            self._discarding.add(discard)
            discard.add_done_callback(self._discarding.discard)
            raise

    async def close(self) -> None:
        await asyncio.gather(*self._discarding)
        if self._warden is not None:
            await asyncio.to_thread(self._warden.close)
            self._warden = None
        await asyncio.to_thread(self._spawner.close)
        if self._uids is not None:
            await asyncio.to_thread(self._uids.close)
        if self._groups is not None:
            await asyncio.to_thread(self._groups.close)
        self._preparation.close()

    async def _launch(self, request: LaunchRequest) -> LaunchedPlugin:
        try:
            return await self._start(request)
        except AnnexeError:
            raise
        except Exception as error:  # a full disk, a file that vanished meanwhile
            raise LaunchError(f"plugin {request.plugin!r} cannot be started: {error}", plugin=request.plugin) from error

    async def _start(self, request: LaunchRequest) -> LaunchedPlugin:
        prepared, group = await asyncio.to_thread(self._prepare, request)
        try:
            spawned = await asyncio.wrap_future(self._spawner.submit(lambda: self._spawn(prepared, group)))
        except Exception:
            await asyncio.to_thread(self._undo, prepared, group)
            raise
        orders = _orders(prepared, tag=spawned.tag, runner=self._runner)
        launched = LaunchedProcess(spawned, self._put_up(prepared, group, orders))
        try:
            await asyncio.to_thread(launched.settle, _packed(orders, request.plugin))
        except BaseException:
            await launched.close()
            raise
        return launched

    def _prepare(self, request: LaunchRequest) -> tuple[Prepared, Group]:
        """Get everything ready, the control group too. On a worker thread."""
        prepared = self._preparation.prepare(request)
        try:
            profile, offer = request.profile, prepared.offer
            require_level(request.plugin, achieved=self._walls(prepared).level, required=request.floor, lacking=offer.lacking())
            limits = GroupLimits(memory_bytes=profile.memory_bytes, cpu=profile.cpu, tasks=profile.tasks)
            return prepared, self._control_groups().make(request.instance, limits)
        except BaseException:
            self._preparation.undo(prepared)
            raise

    def _control_groups(self) -> ControlGroups:
        """Return the control groups of this host, found at first use. Blocking."""
        with self._finding_groups:
            if self._groups is None:
                self._groups, self._no_groups_because = find_control_groups()
                self._groups.sweep()
            return self._groups

    def _undo(self, prepared: Prepared, group: Group) -> None:
        group.kill()
        group.remove()
        self._preparation.undo(prepared)

    @staticmethod
    def _walls(prepared: Prepared, cgroup: frozenset[str] = frozenset()) -> Walls:
        offer = prepared.offer
        return Walls(
            own_uid=prepared.uid is not None,
            rlimits=offer.rlimits,
            namespaces=offer.bubblewrap is not None,
            seccomp=offer.seccomp,
            landlock_abi=offer.landlock_abi,
            cgroup=cgroup,
        )

    def _spawn(self, prepared: Prepared, group: Group) -> Spawned:
        """Make the process. On the spawner thread; whatever fails, nothing stays behind but what ``prepared`` holds."""
        if self._platform == "linux" and (self._warden is None or self._warden.has_ended):
            self._warden = Warden(self._records.folder, self._uids)
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            on_failure.callback(sock.close)
            always.callback(theirs.close)
            stdout, stdout_writer = _pipe(on_failure, always)
            stderr, stderr_writer = _pipe(on_failure, always)
            if self._platform == "linux":
                with contextlib.suppress(OSError):  # older kernels; the host never looks for passed descriptors anyway
                    sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
            command = [str(prepared.python.interpreter.path), "-I", "-S", "-X", "faulthandler", str(prepared.runtime.stub)]
            passed = [theirs.fileno()]
            info = gate = None
            if prepared.offer.bubblewrap is not None:
                info, info_writer = _pipe(on_failure, always, blocking=True)
                gate_reader, gate = _pipe(always, on_failure, blocking=True)
                passed += [info_writer, gate_reader]
                command = [
                    *arguments(
                        prepared.offer.bubblewrap, prepared.places, tmp_bytes=prepared.request.profile.tmp_bytes,
                        scratch=str(prepared.scratch), info_fd=info_writer, block_fd=gate_reader,
                    ),
                    *command,
                ]  # fmt: skip
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
            tag = _new_tag() if self._platform == "linux" else None
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
                group=group,
                tag=tag,
                uid=prepared.uid,
                scratch=prepared.scratch,
                record=record,
                release_uid=self._preparation.release_uid,
            )

    def _put_up(self, prepared: Prepared, group: Group, orders: PrivateFrame) -> PutUp:
        found, profile = prepared.offer.bubblewrap, prepared.request.profile
        in_memory = found is not None and found.caps_tmp
        return PutUp(
            request=prepared.request,
            walls=self._walls(prepared, group.controllers),
            python=str(prepared.python.interpreter.path),
            uid=os.getuid() if prepared.uid is None else prepared.uid,
            limits=orders.limits,
            filters=len(orders.filters),
            tmp=f"{profile.tmp_bytes // _MIB} MiB in memory" if in_memory else "on disk, each file capped, their number nowhere",
            is_linux=self._platform == "linux",
            can_tag="RLIMIT_RTTIME" in orders.limits,
            notes=prepared.notes,
            lacks=(*prepared.offer.lacks, *((Lack("cgroup", self._no_groups_because),) if self._no_groups_because else ())),
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


async def _discard(work: asyncio.Task[LaunchedPlugin]) -> None:
    with contextlib.suppress(AnnexeError):  # it failed by itself: nothing to take back
        await (await work).close()


def _pipe(reader_in: contextlib.ExitStack, writer_in: contextlib.ExitStack, *, blocking: bool = False) -> tuple[int, int]:
    """Return a pipe's ends, each to be closed with one of the stacks."""
    reader, writer = os.pipe()
    reader_in.callback(os.close, reader)
    writer_in.callback(os.close, writer)
    os.set_blocking(reader, blocking)
    return reader, writer


def _new_tag() -> int | None:
    """Return a number that only descendants of one launch will have; None where the host itself was given too narrow a limit.

    It becomes their limit on real-time CPU time (which they cannot use anyhow): inherited by every descendant, shown by the kernel to
    everyone, and impossible to raise again.
    """
    import resource  # not on Windows

    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    ceiling = 2**62 if hard == resource.RLIM_INFINITY else hard
    return _TAG_FLOOR + secrets.randbelow(ceiling - _TAG_FLOOR) if ceiling > 2 * _TAG_FLOOR else None


def _packed(orders: PrivateFrame, plugin: str) -> bytes:
    try:
        return orders.packed()
    except ValueError as error:
        text = f"plugin {plugin!r} has too many folders of packages in its .venv, or too many places were granted to it: {error}."
        raise LaunchError(text, plugin=plugin) from error


def _orders(prepared: Prepared, *, tag: int | None, runner: str) -> PrivateFrame:
    """Return what the stub is told."""
    request, offer = prepared.request, prepared.offer
    in_namespaces = offer.bubblewrap is not None
    limits: dict[str, int] = {}
    if offer.rlimits:
        limits = request.profile.limits_for(python=not prepared.program, own_uid=prepared.uid is not None or in_namespaces)
    if tag is not None:
        limits["RLIMIT_RTTIME"] = tag
    return PrivateFrame(
        host_pid=0 if in_namespaces else os.getpid(),
        limits=limits,
        nice=request.profile.nice,
        landlock=ruleset(offer.landlock_abi, prepared.places, private=prepared.private) if offer.landlock_abi else None,
        filters=offer.filters_for(request.profile, runs_program=bool(prepared.program)),
        granted=[(one.path, one.device, one.inode) for one in prepared.granted],
        thread_stack_bytes=request.profile.thread_stack_bytes,
        program=prepared.program,
        folder=str(prepared.folder),
        libraries=[*map(os.path.realpath, prepared.python.packages), str(prepared.runtime.folder)],
        runner=runner,
        entry=request.entry,
    )
