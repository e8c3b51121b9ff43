"""Launch strategy ``process``: every plugin in an operating system process of its own.

What happens, in order:

1. On a worker thread, ``preparation``: interpreter, runtime folder, byte code, a uid, a private folder.
2. On the spawner thread: socket pair and pipes, the private frame into the channel, fork and exec, the record for the sweep.
3. On the event loop, ``launched``: watch for the end.

Nothing of the host's is inherited but the channel and the standard streams. ``preexec_fn`` is never used: it can deadlock in a host
with threads. The stub does in the new process what must be done there.

Source: features LC7, LC8, IS1, IS6; docs/explanation/launching.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import final

import platformdirs

from annexe.errors import AnnexeError, LaunchError, UnsupportedPlatformError
from annexe.launch.become import as_user
from annexe.launch.launched import LaunchedProcess, Spawned
from annexe.launch.preparation import Preparation, Prepared
from annexe.launch.processes import identity_of, open_pidfd
from annexe.launch.python_env import PythonFinder
from annexe.launch.receipts import receipt_of_limits
from annexe.launch.spawner import Spawner
from annexe.launch.strategy import LaunchedPlugin, LaunchRequest, LaunchStrategy
from annexe.launch.sweep import LaunchRecord, LaunchRecords, Swept
from annexe.launch.uids import UidAllocator
from annexe.launch.warden import Warden
from annexe.sandbox import IsolationLevel, require_level

__all__ = ["ProcessStrategy"]

_SO_PASSRIGHTS = 83  # Linux 6.16: the peer cannot pass descriptors to us
_MARSHAL_VERSION = 2  # understood by every Python there is
_MAX_PRIVATE_FRAME_BYTES = 65536
_TAG_FLOOR = 2**32


@final
class ProcessStrategy(LaunchStrategy):
    """Launches processes at level ``limits``.

    Args:
        state_dir: The host's state directory; records of launches are kept in it.
        cache_dir: Where runtime folders, copies of plugins and private folders are kept; plugins must be able to get there. By default
            the system's cache for root (``/var/cache/annexe``), a folder in ``state_dir`` for others.
        uids: Where a root host gets plugin users from; not used by others.
        pythons: How interpreters are found.
        runner: Module whose ``main(fd, entry)`` serves a Python plugin; it owns the descriptor.
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
        platform: str = sys.platform,
    ) -> None:
        is_root = platform != "win32" and os.geteuid() == 0
        if cache_dir is None:
            cache_dir = platformdirs.site_cache_path("annexe", appauthor=False) if is_root else state_dir / "cache"
        self._uids = (uids or UidAllocator()) if is_root else None
        self._preparation = Preparation(cache=cache_dir, pythons=pythons or PythonFinder(), uids=self._uids)
        self._records = LaunchRecords(state_dir / "launched")
        self._runner = runner
        self._platform = platform
        self._spawner = Spawner()
        self._warden: Warden | None = None
        self._discarding: set[asyncio.Task[None]] = set()

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
        require_level(request.plugin, achieved=IsolationLevel.LIMITS, required=request.floor)
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
        self._preparation.close()

    async def _launch(self, request: LaunchRequest) -> LaunchedPlugin:
        try:
            prepared, spawned = await self._start(request)
        except AnnexeError:
            raise
        except Exception as error:  # a full disk, a file that vanished meanwhile
            raise LaunchError(f"plugin {request.plugin!r} cannot be started: {error}", plugin=request.plugin) from error
        receipt = receipt_of_limits(
            request,
            python=str(prepared.python.interpreter.path),
            uid=os.getuid() if prepared.uid is None else prepared.uid,
            own_uid=prepared.uid is not None,
            is_linux=self._platform == "linux",
            can_tag=spawned.tag is not None,
            notes=prepared.notes,
        )
        return LaunchedProcess(spawned, receipt)

    async def _start(self, request: LaunchRequest) -> tuple[Prepared, Spawned]:
        prepared = await asyncio.to_thread(self._preparation.prepare, request)
        try:
            return prepared, await asyncio.wrap_future(self._spawner.submit(lambda: self._spawn(prepared)))
        except Exception:
            await asyncio.to_thread(self._preparation.undo, prepared)
            raise

    def _spawn(self, prepared: Prepared) -> Spawned:
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
            tag = _new_tag() if self._platform == "linux" else None
            sock.sendall(_private_frame(prepared, tag=tag, runner=self._runner))
            sock.setblocking(False)
            become, user = as_user(prepared.uid)
            child = subprocess.Popen(  # noqa: S603 - an interpreter that was probed, and our own stub
                [*become, str(prepared.python.interpreter.path), "-I", "-S", "-X", "faulthandler", str(prepared.runtime.stub)],
                stdin=subprocess.DEVNULL, stdout=stdout_writer, stderr=stderr_writer, pass_fds=(theirs.fileno(),), cwd="/",
                env={**prepared.request.environment, "TMPDIR": str(prepared.scratch), "ANNEXE_FD": str(theirs.fileno())},
                start_new_session=True, **user,
            )  # fmt: skip
            on_failure.callback(child.wait)
            on_failure.callback(child.kill)
            pidfd = open_pidfd(child.pid)
            if pidfd is not None:
                on_failure.callback(os.close, pidfd)
            record = self._record(prepared, child.pid, tag)
            on_failure.pop_all()
            return Spawned(
                child=child,
                pidfd=pidfd,
                sock=sock,
                stdout=stdout,
                stderr=stderr,
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


async def _discard(work: asyncio.Task[LaunchedPlugin]) -> None:
    with contextlib.suppress(AnnexeError):  # it failed by itself: nothing to take back
        await (await work).close()


def _pipe(on_failure: contextlib.ExitStack, always: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    on_failure.callback(os.close, reader)
    always.callback(os.close, writer)
    os.set_blocking(reader, False)
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


def _private_frame(prepared: Prepared, *, tag: int | None, runner: str) -> bytes:
    """Return what the stub is told: u32 big-endian length, marshalled dict."""
    request = prepared.request
    limits = request.profile.limits_for(python=not prepared.program, own_uid=prepared.uid is not None)
    if tag is not None:
        limits["RLIMIT_RTTIME"] = tag
    frame = {
        "host_pid": os.getpid(),
        "limits": limits,
        "nice": request.profile.nice,
        "thread_stack_bytes": request.profile.thread_stack_bytes,
        "program": list(prepared.program),
        "folder": str(prepared.folder),
        "libraries": [*map(str, prepared.python.packages), str(prepared.runtime.folder)],
        "runner": runner,
        "entry": request.entry,
    }
    packed = marshal.dumps(frame, _MARSHAL_VERSION)
    if len(packed) > _MAX_PRIVATE_FRAME_BYTES:
        raise LaunchError(f"plugin {request.plugin!r} has too many folders of packages in its .venv.", plugin=request.plugin)
    return len(packed).to_bytes(4, "big") + packed
