"""Processes that people start, under a debugger, and that join a running host in the place of an installed plugin.

An operator, over the control socket, has a plugin invited; whoever shows the token of the invitation on the socket for that, is that
plugin from then on: who it is, what it may and how it is configured come from the invitation and the host's own books, nothing from the
process.

* A token is good for once, for a short time, and for one plugin: see ``invitations``.
* Who may connect, and how little of what it says is read here, is the ``Door``'s part.
* The invitation lives as long as the operator's own connection: when that goes, it is withdrawn, or the process detached.

Source: features LC15 and WP8; docs/how-to/attach-a-debugger.md; docs/reference/protocol.md, "Attaching"; ADR-0095.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, final

from annexe.errors import (
    AnnexeError,
    CallTimeoutError,
    HostClosedError,
    HostError,
    PluginBlockedError,
    PluginBusyError,
    PluginUnavailableError,
)
from annexe.host.advice import command
from annexe.host.attach_door import Door, told, turn_away
from annexe.host.control_socket import peer_pid, peer_uid
from annexe.host.invitations import LINE_BYTES, VALID_S, Invitation, Invitations
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

__all__ = ["Attaching"]

_LOG = logging.getLogger("annexe.host")


@final
class Attaching:
    """Invites, lets in, and lets go.

    Args:
        settings: The host's.
        registry: Its plugins.
        planner: Plans their instances.
        events: Is told who comes and goes.
        forgive: Lets a plugin's failures in hooks count no more, by its id: they were another one's.
        path: Where the socket is to be.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        registry: Registry,
        planner: Planner,
        events: Events,
        forgive: Callable[[str], None],
        path: Path,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._planner = planner
        self._events = events
        self._forgive = forgive
        self._invitations = Invitations()
        self._door = Door(path, line_bytes=LINE_BYTES, enter=self._enter, refused=self._note_refused)
        self._is_closed = False

    async def close(self) -> None:
        """Let nobody in any more, and whoever is attached go: plugins that wait for one would be stopped before it, and take long."""
        self._is_closed = True
        self._invitations.clear()
        await self._door.close()
        attached = (known.supervisor for known in self._registry.plugins.values() if known.supervisor is not None)
        await asyncio.gather(*(one.stop("the host stopped") for one in attached if one.guest is not None))

    # The operator's side.

    async def attach(self, plugin: str) -> AsyncGenerator[dict[str, Any], None]:
        """Invite a process, and tell what becomes of it until the installed plugin is back; ending this withdraws, or detaches.

        Yields:
            ``state``: ``invited`` first, with the token; ``coming``, ``attached``, ``detached`` and last ``back``, or last ``failed``.

        Raises:
            HostError: This host lets nobody attach.
            AnnexeError: The plugin cannot be attached to now.
            CallTimeoutError: Nobody came in time.
        """
        self._check(self._registry.get(plugin))
        self._door.open()
        token, invitation = self._invitations.issue(plugin, now=monotonic())
        try:
            yield {
                "state": "invited",
                "plugin": plugin,
                "invitation": f"{token}@{self._door.path}",
                "valid_s": VALID_S,
                **self._entry(plugin),
            }
            while True:
                news = await self._news(invitation)
                yield news
                if news["state"] in ("back", "failed"):
                    return
        finally:
            self._withdraw(invitation)

    async def _news(self, invitation: Invitation) -> dict[str, Any]:
        wait_s = None if invitation.guest is not None else max(0.0, invitation.expires_at - monotonic())
        try:
            async with asyncio.timeout(wait_s):
                return await invitation.news.get()
        except TimeoutError:
            if invitation.guest is not None:  # it came at the last moment
                return await invitation.news.get()
            text = f"no process attached to plugin {invitation.plugin!r} within {VALID_S:g} s; invite it again"
            raise CallTimeoutError(text, plugin=invitation.plugin) from None

    def _withdraw(self, invitation: Invitation) -> None:
        self._invitations.withdraw(invitation)
        known = self._registry.plugins.get(invitation.plugin)
        if invitation.guest is not None and known is not None and known.supervisor is not None and not self._is_closed:
            if known.supervisor.guest is invitation.guest:
                known.supervisor.detach("the operator ended it")
            else:
                invitation.guest.let_go("the operator ended it")

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
        if self._is_closed:
            raise HostClosedError("this host is closing", plugin=plugin)
        if not self._settings.may_attach:
            text = (
                "this host lets no process attach: that takes every wall away from a plugin, which is for development; "
                "where it is meant, start the host with --attach, or Host(attach=True)"
            )
            raise HostError(text, reason="attach")
        if supervisor is None or manifest is None:
            raise known.error or PluginBlockedError(f"plugin {plugin!r} has no manifest that can be used", plugin=plugin)
        if not known.enabled or supervisor.state in (PluginState.BLOCKED, PluginState.INSTALLED):
            cure = f"let it run with: {command(f'enable {plugin}', self._settings.state_dir)}"
            why = f"it is disabled; {cure}" if not known.enabled else f"it is {supervisor.state} ({known.reason})"
            raise PluginBlockedError(f"no process can attach to plugin {plugin!r}: {why}", plugin=plugin)
        holder = supervisor.guest or known.coming
        if holder is not None:
            text = f"process {holder.pid} is attached to plugin {plugin!r} already; end that one first"
            raise PluginBusyError(text, plugin=plugin, pid=holder.pid)
        check_floor(plugin, self._planner.floor_of(manifest))

    # The process's side.

    async def _enter(self, sock: socket.socket, line: bytes) -> None:
        """Let in who shows a token that is good."""
        strategy, invitation = AttachStrategy(sock, pid=peer_pid(sock)), None
        try:
            invitation = self._invitations.redeem(line, now=monotonic())
            await self._bring_in(invitation, Guest(strategy=strategy, pid=strategy.pid), sock)
        except Exception as error:  # noqa: BLE001 - whatever it was, the operator is told
            refusal = _refusal(error)
            self._note_refused(sock, refusal, invitation)
            if invitation is None or invitation.guest is None:  # afterwards the socket is its channel
                turn_away(sock, refusal)
        finally:
            await strategy.close()

    def _note_refused(self, sock: socket.socket, refusal: AnnexeError, invitation: Invitation | None = None) -> None:
        """Tell everybody whom it concerns that a process was not let in, or did not become ready."""
        plugin, guest = (invitation.plugin, invitation.guest) if invitation is not None else (None, None)
        pid = guest.pid if guest is not None else peer_pid(sock)
        self._events.add(EventKind.ATTACH_REFUSED, plugin=plugin, reason=refusal.message, pid=pid, uid=peer_uid(sock))
        if invitation is not None:
            invitation.tell("failed", error=refusal.as_dict())

    async def _bring_in(self, invitation: Invitation, guest: Guest, sock: socket.socket) -> None:
        """Have a process take the plugin's place."""
        known = self._registry.get(invitation.plugin)
        self._check(known)
        supervisor = known.supervisor
        assert supervisor is not None
        found, before, known.coming, invitation.guest = known.found, _facts(known), guest, guest
        is_down = supervisor.state is PluginState.STOPPED and not supervisor.is_there

        def commit() -> None:
            # What was to run, and was stopped for one that is let go by now, runs again by going on.
            is_let_go = guest.reason and (supervisor.state.takes_calls or is_down)
            is_there = known.enabled and known.state is not PluginState.BLOCKED and self._registry.plugins.get(known.id) is known
            if is_let_go or not is_there or known.found is not found or _facts(known) != before:
                text = f"plugin {known.id!r} was changed while a process attached; attach again"
                raise PluginUnavailableError(text, plugin=known.id, state=str(known.state))

        try:
            invitation.tell("coming", pid=guest.pid)
            await asyncio.get_running_loop().sock_sendall(sock, told({"plugin": known.id}))
            overlap = not self._planner.runs_alone(known)
            await supervisor.attach(partial(self._plan, known, invitation), commit=commit, overlap=overlap)
        finally:
            known.coming = None

    async def _plan(self, known: KnownPlugin, invitation: Invitation, number: int) -> InstancePlan:
        """Plan it as the installed one, without what only a process of the host's own can have."""
        plan = await self._planner.plan(known, number)
        forever = float("inf")
        return replace(
            plan,
            launch=replace(plan.launch, arena_bytes=0, warm=False, environment={}),
            limits=replace(plan.limits, sent_ahead=0, hung_s=forever, stuck_s=forever),
            scaling=Scaling(concurrency=plan.scaling.concurrency),
            open_egress=None,
            on_ready=partial(self._note_attached, known, invitation, plan),
            guest=invitation.guest,
        )

    def _note_attached(self, known: KnownPlugin, invitation: Invitation, plan: InstancePlan, instance: Instance) -> None:
        is_told, known.is_told = known.is_told, True  # what is not enforced is said of the installed one
        plan.on_ready(instance)
        known.is_told = is_told
        self._forgive(known.id)
        pid = instance.launched.pid
        reason = f"process {pid} takes the place of the installed plugin, without any sandbox"
        self._events.add(EventKind.ATTACHED, plugin=known.id, reason=reason, pid=pid)
        invitation.tell("attached", pid=pid)
        instance.ended.add_done_callback(lambda ended: self._note_detached(known, invitation, pid, ended.result()))

    def _note_detached(self, known: KnownPlugin, invitation: Invitation, pid: int | None, how: str) -> None:
        reason = (invitation.guest.reason if invitation.guest is not None else "") or _let_go(known) or how
        self._events.add(EventKind.DETACHED, plugin=known.id, reason=reason, pid=pid)
        self._forgive(known.id)
        invitation.tell("detached", pid=pid, reason=reason)
        if not self._is_closed:
            self._door.spawn(self._tell_back(known, invitation))

    @staticmethod
    async def _tell_back(known: KnownPlugin, invitation: Invitation) -> None:
        async with known.lock:  # whoever lets it go may have more to do
            pass
        await known.wait_settled()
        invitation.tell("back", plugin_state=str(known.state), reason=known.reason)


def _refusal(error: Exception) -> AnnexeError:
    """Return what to tell of a fault, and log one of the host's own."""
    if isinstance(error, AnnexeError):
        return error
    if isinstance(error, OSError):
        return HostError(f"it hung up: {error}", reason="token")
    _LOG.error("letting a process attach failed inside the host", exc_info=error)
    return HostError(f"attaching failed inside the host: {type(error).__name__}; its log says more", reason="internal")


def _facts(known: KnownPlugin) -> tuple[object, ...]:
    """Return what an instance of a plugin is told when it starts."""
    return known.config, known.decision.granted if known.decision is not None else None


def _let_go(known: KnownPlugin) -> str:
    """Return why the host let a guest go whose own end it was not; empty when it takes calls still."""
    supervisor = known.supervisor
    if supervisor is None or supervisor.guest is not None:
        return ""
    return f"the host let it go: {'another instance took over' if supervisor.state.takes_calls else supervisor.life.reason}"
