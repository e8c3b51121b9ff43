"""Processes that people start, under a debugger, and that join a running host in the place of an installed plugin.

An operator, over the control socket, has a plugin invited; whoever shows the token of the invitation on the socket for that, is that
plugin from then on: who it is, what it may and how it is configured come from the invitation and the host's own books, nothing from the
process.

* A token is good for once, for ``VALID_S``, and for one plugin. The host keeps its hash alone, in memory.
* Who connects must be our own user or root, as the kernel tells it; has ``HELLO_S`` to show the token; at most ``MAX_WAITING`` at once.
* No byte after the token is read here: it is the channel's.
* The invitation lives as long as the operator's own connection: when that goes, it is withdrawn, or the process detached.

Source: features LC15 and WP8; docs/how-to/attach-a-debugger.md; docs/reference/protocol.md, "Attaching"; ADR-0095.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, final

from annexe.errors import AnnexeError, CallTimeoutError, HostError, PluginBlockedError, PluginBusyError, PluginUnavailableError
from annexe.host.control_socket import bind_control, peer_pid, peer_uid
from annexe.host.known import KnownPlugin
from annexe.host.planner import Planner
from annexe.host.registry import Registry
from annexe.host.settings import HostSettings
from annexe.launch.attach import AttachStrategy, check_floor
from annexe.record import EventKind, Events
from annexe.supervision.attachment import Guest
from annexe.supervision.instance import Instance, InstancePlan
from annexe.supervision.scaling import Scaling
from annexe.supervision.state import PluginState

__all__ = ["HELLO_S", "MAX_INVITATIONS", "MAX_WAITING", "VALID_S", "Attaching"]

VALID_S = 300.0
"""How long a token is good for."""

HELLO_S = 5.0
"""How long who connects may take to show one."""

MAX_INVITATIONS = 8
"""How many are open at once."""

MAX_WAITING = 8
"""How many that have shown no token yet are connected at once."""

_PREFIX = b"annexe-attach 1 "
_TOKEN_CHARS = 64
_LINE_BYTES = len(_PREFIX) + _TOKEN_CHARS + 1

_LOG = logging.getLogger("annexe.host")


@final
@dataclass(slots=True, eq=False)
class _Invitation:
    """A plugin that waits for a process to take its place.

    Attributes:
        plugin: Id.
        digest: SHA3-256 of the token.
        expires_at: Monotonic time.
        news: What becomes of it, for the operator.
        guest: The process, once it has shown the token.
    """

    plugin: str
    digest: bytes
    expires_at: float
    news: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    guest: Guest | None = None

    def tell(self, state: str, **facts: Any) -> None:
        """Tell the operator."""
        self.news.put_nowait({"state": state, "plugin": self.plugin, **facts})


@final
class Attaching:
    """Invites, lets in, and lets go.

    Args:
        settings: The host's.
        registry: Its plugins.
        planner: Plans their instances.
        events: Is told who comes and goes.
        path: Where the socket is to be.
    """

    def __init__(self, settings: HostSettings, *, registry: Registry, planner: Planner, events: Events, path: Path) -> None:
        self._settings = settings
        self._registry = registry
        self._planner = planner
        self._events = events
        self._path = path
        self._invitations: list[_Invitation] = []
        self._waiting = 0
        self._listening: socket.socket | None = None
        self._is_closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let nobody in any more; who is attached is let go with the plugin."""
        self._is_closed = True
        self._invitations.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._listening is not None:
            self._listening.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    # The operator's side.

    async def attach(self, plugin: str) -> AsyncGenerator[dict[str, Any], None]:
        """Invite a process, and tell what becomes of it until the installed plugin is back; ending this withdraws, or detaches.

        Yields:
            ``state``: ``invited`` first, with the token; then ``attached``, ``detached`` and last ``back``, or last ``failed``.

        Raises:
            HostError: This host lets nobody attach.
            AnnexeError: The plugin cannot be attached to now.
            CallTimeoutError: Nobody came in time.
        """
        self._check(self._registry.get(plugin))
        self._sweep()
        if len(self._invitations) >= MAX_INVITATIONS:
            raise PluginBusyError(f"{MAX_INVITATIONS} plugins wait for a process to attach already; try again", limit=MAX_INVITATIONS)
        self._open()
        token = os.urandom(_TOKEN_CHARS // 2).hex()
        invitation = _Invitation(plugin, _digest(token.encode()), monotonic() + VALID_S)
        self._invitations.append(invitation)
        try:
            yield {"state": "invited", "plugin": plugin, "invitation": f"{token}@{self._path}", "valid_s": VALID_S, **self._entry(plugin)}
            while True:
                news = await self._news(invitation)
                yield news
                if news["state"] in ("back", "failed"):
                    return
        finally:
            self._withdraw(invitation)

    async def _news(self, invitation: _Invitation) -> dict[str, Any]:
        wait_s = None if invitation.guest is not None else max(0.0, invitation.expires_at - monotonic())
        try:
            async with asyncio.timeout(wait_s):
                return await invitation.news.get()
        except TimeoutError:
            if invitation.guest is not None:  # it came at the last moment
                return await invitation.news.get()
            text = f"no process attached to plugin {invitation.plugin!r} within {VALID_S:g} s; invite it again"
            raise CallTimeoutError(text, plugin=invitation.plugin) from None

    def _withdraw(self, invitation: _Invitation) -> None:
        if invitation in self._invitations:
            self._invitations.remove(invitation)
        known = self._registry.plugins.get(invitation.plugin)
        if invitation.guest is not None and known is not None and known.supervisor is not None and not self._is_closed:
            if known.supervisor.guest is invitation.guest:
                known.supervisor.detach("the operator ended it")
            else:
                invitation.guest.reason = "the operator ended it"
                known.supervisor.call_off()

    def _entry(self, plugin: str) -> dict[str, Any]:
        """Return where the plugin's code is, for the command that is to be pasted."""
        found = self._registry.get(plugin).found
        runtime = found.manifest.runtime if found.manifest is not None else None
        if runtime is None or runtime.kind != "python" or not runtime.entry:
            return {"folder": str(found.folder), "file": None}
        module = found.folder.joinpath(*runtime.entry.split("."))
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        return {"folder": str(found.folder), "file": str(file)}

    def _check(self, known: KnownPlugin) -> None:
        """Refuse what cannot be, or not now."""
        plugin, supervisor, manifest = known.id, known.supervisor, known.manifest
        if not self._settings.may_attach:
            text = (
                "this host lets no process attach: that takes every wall away from a plugin, which is for development; "
                "where it is meant, start the host with --attach, or Host(attach=True)"
            )
            raise HostError(text, reason="attach")
        if supervisor is None or manifest is None:
            raise known.error or PluginBlockedError(f"plugin {plugin!r} has no manifest that can be used", plugin=plugin)
        if not known.enabled or supervisor.state in (PluginState.BLOCKED, PluginState.INSTALLED):
            why = "it is disabled" if not known.enabled else f"it is {supervisor.state} ({known.reason})"
            raise PluginBlockedError(f"no process can attach to plugin {plugin!r}: {why}", plugin=plugin)
        if supervisor.guest is not None:
            text = f"process {supervisor.guest.pid} is attached to plugin {plugin!r} already; end that one first"
            raise PluginBusyError(text, plugin=plugin, pid=supervisor.guest.pid)
        check_floor(plugin, self._planner.floor_of(manifest))

    def _sweep(self) -> None:
        now = monotonic()
        self._invitations = [one for one in self._invitations if one.expires_at > now]

    # The process's side.

    def _open(self) -> None:
        if self._listening is None:
            self._listening = bind_control(self._path)
            self._spawn(self._accept(self._listening))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="annexe-attach")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor is left, for a while
                _LOG.warning("a process that wants to attach cannot be taken up: %s", error)
                await asyncio.sleep(0.1)
                continue
            sock.setblocking(False)
            if self._waiting >= MAX_WAITING:
                with contextlib.suppress(OSError):
                    sock.send(_answer(PluginBusyError(f"{MAX_WAITING} processes that have shown no token are connected already")))
                sock.close()
                continue
            self._waiting += 1
            self._spawn(self._receive(sock))

    async def _receive(self, sock: socket.socket) -> None:
        """Let in who shows a token that is good."""
        loop, pid = asyncio.get_running_loop(), peer_pid(sock)
        strategy = AttachStrategy(sock, pid=pid)
        try:
            try:
                async with asyncio.timeout(HELLO_S):
                    invitation = await self._welcome(sock)
            finally:
                self._waiting -= 1
            invitation.guest = Guest(strategy=strategy, pid=pid)
            await loop.sock_sendall(sock, _line({"plugin": invitation.plugin}))
            await self._bring_in(invitation, invitation.guest)
        except AnnexeError as error:
            self._events.add(EventKind.ATTACH_REFUSED, reason=error.message, pid=pid, uid=peer_uid(sock))
            with contextlib.suppress(OSError):
                sock.send(_answer(error))
        except (OSError, TimeoutError) as error:
            self._events.add(EventKind.ATTACH_REFUSED, reason=f"it showed no token: {error or 'it was silent'}", pid=pid)
        finally:
            await strategy.close()

    async def _welcome(self, sock: socket.socket) -> _Invitation:
        """Return what a process is invited to, by the token it shows."""
        uid = peer_uid(sock)
        if uid is None or uid not in (os.geteuid(), 0):
            raise HostError(f"only uid {os.geteuid()} and root may attach, got {uid}", reason="uid", uid=uid)
        line, loop = b"", asyncio.get_running_loop()
        while len(line) < _LINE_BYTES:
            chunk = await loop.sock_recv(sock, _LINE_BYTES - len(line))
            if not chunk:
                raise ConnectionError("it hung up")
            line += chunk
        invitation = self._redeem(line)
        known = self._registry.get(invitation.plugin)
        self._check(known)
        return invitation

    def _redeem(self, line: bytes) -> _Invitation:
        """Return the invitation whose token this is, which is good no more then."""
        digest, found = _digest(line[len(_PREFIX) : -1]), None
        for invitation in self._invitations:  # all of them, however early it is found
            if hmac.compare_digest(invitation.digest, digest):
                found = invitation
        if found is None or not line.startswith(_PREFIX) or not line.endswith(b"\n"):
            raise HostError("the token is wrong, was used, or is too old; invite the plugin again with `annexe attach ID`", reason="token")
        self._invitations.remove(found)
        if found.expires_at <= monotonic():
            raise HostError(f"the token is older than {VALID_S:g} s; invite the plugin again", reason="token", plugin=found.plugin)
        return found

    async def _bring_in(self, invitation: _Invitation, guest: Guest) -> None:
        """Have a process take the plugin's place."""
        known = self._registry.get(invitation.plugin)
        assert known.supervisor is not None
        found = known.found

        def commit() -> None:
            if known.found is not found or not known.enabled or guest.reason:
                text = f"plugin {known.id!r} was changed while a process attached; attach again"
                raise PluginUnavailableError(text, plugin=known.id, state=str(known.state))

        try:
            overlap = not self._planner.runs_alone(known)
            await known.supervisor.attach(partial(self._plan, known, invitation), commit=commit, overlap=overlap)
        except AnnexeError as error:
            self._events.add(EventKind.ATTACH_REFUSED, plugin=known.id, reason=error.message, pid=guest.pid)
            invitation.tell("failed", error=error.as_dict())

    async def _plan(self, known: KnownPlugin, invitation: _Invitation, number: int) -> InstancePlan:
        """Plan it as the installed one, without what only a process of the host's own can have."""
        plan = await self._planner.plan(known, number)
        forever = float("inf")
        return replace(
            plan,
            launch=replace(plan.launch, arena_bytes=0, warm=False, environment={}),
            limits=replace(plan.limits, hung_s=forever, stuck_s=forever),
            scaling=Scaling(concurrency=plan.scaling.concurrency),
            open_egress=None,
            on_ready=partial(self._note_attached, known, invitation, plan),
            guest=invitation.guest,
        )

    def _note_attached(self, known: KnownPlugin, invitation: _Invitation, plan: InstancePlan, instance: Instance) -> None:
        plan.on_ready(instance)
        pid = instance.launched.pid
        reason = f"process {pid} takes the place of the installed plugin, without any sandbox"
        self._events.add(EventKind.ATTACHED, plugin=known.id, reason=reason, pid=pid)
        invitation.tell("attached", pid=pid)
        instance.ended.add_done_callback(lambda ended: self._note_detached(known, invitation, pid, ended.result()))

    def _note_detached(self, known: KnownPlugin, invitation: _Invitation, pid: int | None, how: str) -> None:
        reason = (invitation.guest.reason if invitation.guest is not None else "") or how
        self._events.add(EventKind.DETACHED, plugin=known.id, reason=reason, pid=pid)
        invitation.tell("detached", pid=pid, reason=reason)
        if not self._is_closed:
            self._spawn(self._tell_back(known, invitation))

    @staticmethod
    async def _tell_back(known: KnownPlugin, invitation: _Invitation) -> None:
        await known.wait_settled()
        invitation.tell("back", plugin_state=str(known.state), reason=known.reason)


def _digest(token: bytes) -> bytes:
    import hashlib  # a millisecond, for this alone

    return hashlib.sha3_256(token).digest()


def _answer(error: AnnexeError) -> bytes:
    return _line({"error": {"code": error.code, "message": error.message}})


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=True).encode()[:4000] + b"\n"
