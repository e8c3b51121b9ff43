"""Launch strategy ``process``: every plugin in an operating system process of its own.

What happens, in order:

1. On a worker thread, ``preparation``: interpreter, runtime folder, byte code, a uid, a private folder; and a control group.
2. On the spawner thread, ``starter``: socket pair and pipes, fork and exec, the record for the sweep.
3. On a worker thread again: the process joins its control group, then gets its private frame. Until that has come, nothing runs.
4. On the event loop, ``launched``: watch for the end.

Where the request is ``warm`` and it can be done, a fork server of the plugin's makes the process instead: see ``zygote``.

Source: features LC7, LC8, IS1, IS6; docs/explanation/launching.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import final

import platformdirs

from annexe.errors import AnnexeError, LaunchError, UnsupportedPlatformError
from annexe.launch.data_folders import DataFolders
from annexe.launch.offer import OfferFinder
from annexe.launch.orders import orders_for
from annexe.launch.preparation import Preparation, Prepared
from annexe.launch.python_env import PythonFinder
from annexe.launch.starter import Starter
from annexe.launch.strategy import LaunchedPlugin, LaunchRequest, LaunchStrategy
from annexe.launch.sweep import LaunchRecords, Swept
from annexe.launch.uids import UidAllocator
from annexe.launch.zygote import ForkServers
from annexe.sandbox import Walls
from annexe.sandbox.cgroup import ControlGroups, Group

__all__ = ["ProcessStrategy"]


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
        may_move_host: Whether the host may be moved into a leaf ``annexe-host`` of its own control group, where it is alone in one that
            was delegated; only matters without ``groups``.
        most_fork_servers: How many plugins have one at most, for requests that are ``warm``; the one not used for longest ends first.
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
        may_move_host: bool = True,
        most_fork_servers: int = 16,
        platform: str = sys.platform,
    ) -> None:
        is_root = platform != "win32" and os.geteuid() == 0
        if cache_dir is None:
            cache_dir = platformdirs.site_cache_path("annexe", appauthor=False) if is_root else state_dir / "cache"
        self._uids = (uids or UidAllocator()) if is_root else None
        self._offers = offers or OfferFinder()
        self._preparation = Preparation(cache=cache_dir, pythons=pythons or PythonFinder(), uids=self._uids, offers=self._offers, data=data)
        self._records = LaunchRecords(state_dir / "launched")
        self._starter = Starter(
            preparation=self._preparation,
            records=self._records,
            uids=self._uids,
            groups=groups,
            may_move_host=may_move_host,
            platform=platform,
        )
        self._servers = ForkServers(self._starter, runner=runner, most=most_fork_servers)
        self._runner = runner
        self._platform = platform
        self._discarding: dict[asyncio.Task[None], str] = {}  # with the plugin's id

    async def expected_walls(self) -> Walls:
        if self._platform not in ("linux", "darwin"):
            return Walls()  # nothing is ever launched
        offer = self._offers.latest
        if offer is None:
            try:
                offer = await asyncio.to_thread(self._preparation.look)
                await asyncio.to_thread(self._starter.control_groups)
            except (AnnexeError, OSError):  # whoever launches is told
                return Walls()
        return offer.walls(own_uid=self._uids is not None, cgroup=self._starter.controllers)

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
            self._discarding[discard] = request.plugin
            discard.add_done_callback(self._discarding.pop)
            raise

    def release(self, plugin: str) -> None:
        self._servers.retire(plugin)
        for discard, released in self._discarding.items():
            if released == plugin:  # it may be making a server just now
                discard.add_done_callback(lambda _: self._servers.retire(plugin))

    async def close(self) -> None:
        await asyncio.gather(*self._discarding)
        await self._servers.close()
        await self._starter.close()

    async def _launch(self, request: LaunchRequest) -> LaunchedPlugin:
        try:
            return await self._start(request)
        except AnnexeError:
            raise
        except Exception as error:  # a full disk, a file that vanished meanwhile
            raise LaunchError(f"plugin {request.plugin!r} cannot be started: {error}", plugin=request.plugin) from error

    async def _start(self, request: LaunchRequest) -> LaunchedPlugin:
        if request.warm and self._platform == "linux":
            forked = await self._servers.launch(request)
            if forked is not None:
                return forked
        prepared, group = await self._starter.in_thread(self._prepare, request)
        return await self._starter.start(prepared, group, lambda tag: orders_for(prepared, tag=tag, runner=self._runner))

    def _prepare(self, request: LaunchRequest) -> tuple[Prepared, Group]:
        """Get everything ready, the control group too. On a worker thread."""
        prepared = self._starter.prepare(request)
        try:
            return prepared, self._starter.group_for(request.instance, request.profile)
        except BaseException:
            self._starter.undo(prepared)
            raise


async def _discard(work: asyncio.Task[LaunchedPlugin]) -> None:
    with contextlib.suppress(AnnexeError):  # it failed by itself: nothing to take back
        await (await work).close()
