"""Warm starts: a fork server for each plugin, behind that plugin's own walls, from which its instances are forked.

A fork server is started like the plugin itself and has the same view of the machine, the same user and the same limits; it imports the SDK
and waits. Each fork has a channel, standard streams and a control group of its own, and goes through the steps of a cold start from its
private frame on.

* A server serves one plugin, and only while everything that its walls were made from is as it was: folder, packages, rights, limits,
  environment, interpreter, runtime folder, and the very files that were mounted. Otherwise another one is started.
* No more than so many are kept; the one not used for longest goes, if it has no fork. Where none can go, the start is a cold one.
* A server that ends, is slow or answers what it should not is ended, its forks with it; the start at hand is a cold one. After a few such
  failures in a row the plugin is not given another.
* Forks can have no children, so that ending one is ending its tree: plugins that may start programs, and machines without filters of system
  calls, have no fork servers.

Source: features IS2 and LC11; docs/adr/0080-a-fork-server-per-plugin.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import final

from annexe.errors import LaunchError, SandboxError
from annexe.launch.basis import Basis, basis_of
from annexe.launch.fork_server import ForkServer, NotServedError, RefusedError, enter
from annexe.launch.forked import Fork, ForkedProcess
from annexe.launch.orders import MAX_FORKS, fork_orders, server_orders
from annexe.launch.preparation import Prepared
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.receipts import PutUp
from annexe.launch.starter import Starter
from annexe.launch.strategy import LaunchRequest
from annexe.sandbox.cgroup import Group

__all__ = ["ForkServers"]

_PATIENCE = 3
_Made = tuple[Fork, Group, PutUp]
_logger = logging.getLogger(__name__)


def _can_be_forked(request: LaunchRequest) -> bool:
    """Return whether such a plugin can be forked, where the machine has filters of system calls."""
    return request.kind == "python" and not request.profile.subprocess


@final
class ForkServers:
    """The fork servers of one host.

    Args:
        starter: Starts them.
        runner: Module that serves a Python plugin.
        most: How many are kept.
    """

    def __init__(self, starter: Starter, *, runner: str, most: int) -> None:
        self._starter = starter
        self._runner = runner
        self._most = most
        self._servers: dict[str, ForkServer] = {}  # by plugin; the one not used for longest first
        self._alive: dict[ForkServer, asyncio.Task[None]] = {}  # those that are to end, too
        self._turns: dict[str, asyncio.Lock] = {}
        self._failures: Counter[str] = Counter()

    async def launch(self, request: LaunchRequest) -> ForkedProcess | None:
        """Fork an instance; None when it has to be started cold.

        Raises:
            LaunchError: It cannot be started in any way.
            SandboxError: The same.
        """
        plugin = request.plugin
        if not _can_be_forked(request) or self._failures[plugin] >= _PATIENCE:
            return None
        async with self._turns.setdefault(plugin, asyncio.Lock()):
            try:
                forked = await self._launch(request)
            except RefusedError:
                return None
            except NotServedError as error:
                self._failures[plugin] += 1
                self._give_up(plugin, error)
                return None
            if forked is not None:
                del self._failures[plugin]
            return forked

    def retire(self, plugin: str) -> ForkServer | None:
        """Give a plugin's server, if it has one, nothing more to do: it ends when it has no fork. Return it."""
        server = self._servers.pop(plugin, None)
        if server is not None:
            server.is_retired = True
            if server.forks == 0:
                server.process.kill()
        return server

    async def close(self) -> None:
        """End all servers; every fork is gone."""
        self._servers.clear()
        for server in self._alive:
            server.is_retired = True
            server.process.kill()
        await asyncio.gather(*self._alive.values())

    async def _launch(self, request: LaunchRequest) -> ForkedProcess | None:
        server = self._servers.pop(request.plugin, None)
        if server is not None:
            self._servers[request.plugin] = server  # the one used last is the last
            if server.forks >= MAX_FORKS:
                return None
            forked = await self._forked(server, request, partial(self._prepared_again, server, request))
            if forked is not None:
                return forked
            self.retire(request.plugin)
        if len(self._servers) >= self._most and not self._make_room():
            return None
        opened = await self._open(request)
        if opened is None:
            return None
        server, prepared = opened
        return await self._forked(server, request, lambda: prepared)

    async def _forked(self, server: ForkServer, request: LaunchRequest, prepare: Callable[[], Prepared | None]) -> ForkedProcess | None:
        """Have a server make a fork of what ``prepare`` returns; None when that is None."""
        server.forks += 1  # before anything else, so that it stays
        try:
            made = await self._starter.in_thread(self._make, server, request, prepare)
        except BaseException:
            self._on_gone(server)
            raise
        if made is None:
            self._on_gone(server)
            return None
        fork, group, put_up = made
        return ForkedProcess(fork, group=group, put_up=put_up, on_gone=partial(self._on_gone, server))

    def _prepared_again(self, server: ForkServer, request: LaunchRequest) -> Prepared | None:
        """Prepare a launch; None when the server was made from something else. Blocking."""
        prepared = self._starter.prepare(request, server.home)
        return prepared if basis_of(prepared) == server.basis else None

    def _make(self, server: ForkServer, request: LaunchRequest, prepare: Callable[[], Prepared | None]) -> _Made | None:
        """Have a server make a fork in a control group of its own. Blocking."""
        with contextlib.ExitStack() as on_failure:

            def meanwhile() -> tuple[Group, Prepared | None]:
                group = self._starter.group_for(request.instance, request.profile)
                on_failure.callback(group.remove)
                on_failure.callback(group.kill)
                return group, prepare()

            fork, (group, prepared) = server.fork(meanwhile, arena_bytes=request.arena_bytes)
            on_failure.callback(fork.discard)
            if prepared is None:
                return None
            enter(fork, group)
            fork.sock.setblocking(False)
            filters = prepared.offer.filters_for(request.profile, runs_program=False)
            put_up = self._starter.put_up(prepared, server.orders.limits, group, filters=len(filters), is_warm=True)
            on_failure.pop_all()
            return fork, group, put_up

    async def _open(self, request: LaunchRequest) -> tuple[ForkServer, Prepared] | None:
        """Start a server, and return it with the launch that was prepared; None where there can be none."""
        ready = await self._starter.in_thread(self._ready, request)
        if ready is None:
            self._failures[request.plugin] = _PATIENCE
            return None
        prepared, basis, group = ready
        as_server = replace(prepared, request=replace(prepared.request, instance=_server_of(request), arena_bytes=0))
        forks: list[PrivateFrame] = []

        def orders(tag: int | None) -> PrivateFrame:
            forks.append(fork_orders(prepared, tag=tag, runner=self._runner))
            return server_orders(as_server, forks[0], own=basis.own)

        try:
            process = await self._starter.start(as_server, group, orders)
        except (LaunchError, SandboxError) as error:
            raise NotServedError(str(error)) from error
        server = self._servers[request.plugin] = ForkServer(process, basis, forks[0])
        self._alive[server] = asyncio.create_task(self._watch(request.plugin, server), name=f"annexe-fork-server-{request.plugin}")
        return server, prepared

    def _ready(self, request: LaunchRequest) -> tuple[Prepared, Basis, Group] | None:
        """Get everything ready for a server; None where there can be none. Blocking."""
        prepared = self._starter.prepare(request)
        try:
            # Scopes of systemd begin with a command: there is none to put a fork into.
            if prepared.offer.seccomp and self._starter.control_groups().flavour != "v2-scope":
                return prepared, basis_of(prepared), self._starter.group_for(_server_of(request), prepared.request.profile)
        except BaseException:
            self._starter.undo(prepared)
            raise
        self._starter.undo(prepared)
        return None

    async def _watch(self, plugin: str, server: ForkServer) -> None:
        """Wait for a server's end, then give back what it held."""
        status = await server.process.wait()
        if not server.is_retired:
            _logger.warning("the fork server of plugin %s %s %s", plugin, status.text, server.process.said())
            self.retire(plugin)
        try:
            await server.process.close()
        except LaunchError as error:
            _logger.warning("the fork server of plugin %s: %s", plugin, error)
        del self._alive[server]

    def _make_room(self) -> bool:
        """Let the server go that was not used for longest, if there is one without forks."""
        idle = next((plugin for plugin, server in self._servers.items() if server.forks == 0), None)
        if idle is not None:
            self.retire(idle)
        return idle is not None

    def _give_up(self, plugin: str, error: NotServedError) -> None:
        """End a plugin's server, and its forks with it."""
        server, said = self.retire(plugin), ""
        if server is not None:
            said = server.process.said()
            server.process.kill()
        _logger.warning("plugin %s is started cold, since its fork server does not serve: %s", plugin, said or error)

    @staticmethod
    def _on_gone(server: ForkServer) -> None:
        server.forks -= 1
        if server.is_retired and server.forks == 0:
            server.process.kill()


def _server_of(request: LaunchRequest) -> str:
    """Return what a plugin's fork server is called in records and control groups."""
    return f"{request.instance}.server"
