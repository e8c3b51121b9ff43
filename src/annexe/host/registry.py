"""The plugins of one host: found, judged, supervised.

Judging is ``judge``'s part; acting on the verdict is done here, whenever something that counts has changed: files, grants, configuration,
the operator's choice.

Source: features LC1, LC3, PE1; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, final

from annexe.capabilities.config import ConfigService, schema_of
from annexe.capabilities.kv import KvService
from annexe.clock import Clock
from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import AnnexeError, ContractError, UnknownPluginError
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin
from annexe.host.planner import Planner
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoredFailures, StoreThread
from annexe.launch import LaunchStrategy
from annexe.manifest import Discovered, Discovery
from annexe.record import EventKind, Events, LogStore, Metrics
from annexe.storage.grants import StoredGrant
from annexe.storage.plugin_state import StoredPluginState
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor

__all__ = ["Registry"]


@final
class Registry:
    """Finds plugins and keeps each in the state it should be in."""

    def __init__(
        self,
        settings: HostSettings,
        *,
        judge: Judge,
        planner: Planner,
        dispatcher: Dispatcher,
        strategies: Mapping[str, LaunchStrategy],
        thread: StoreThread,
        kv: KvService,
        logs: LogStore,
        events: Events,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._judge = judge
        self._planner = planner
        self._dispatcher = dispatcher
        self._strategies = strategies
        self._thread = thread
        self._kv = kv
        self._logs = logs
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._discovery = Discovery(settings.folders)
        self._memory = StoredFailures(thread, clock)
        self.plugins: dict[str, KnownPlugin] = {}

    def get(self, plugin: str) -> KnownPlugin:
        """Return what is known of a plugin.

        Raises:
            UnknownPluginError: Nothing.
        """
        known = self.plugins.get(plugin)
        if known is None:
            there = ", ".join(sorted(self.plugins)) or "none"
            raise UnknownPluginError(f"no plugin {plugin!r} is known; known are: {there}", plugin=plugin)
        return known

    async def scan(self) -> None:
        """Look what is in the folders now: take up what is new, let go of what is gone."""
        found: dict[str, Discovered] = {}
        # A folder whose manifest is refused goes by its own name: that must not hide a plugin that has it as its id.
        for discovered in sorted(await asyncio.to_thread(self._discovery.scan), key=lambda plugin: plugin.error is None):
            if discovered.id in found:
                self._note_refusal(found[discovered.id])
            found[discovered.id] = discovered
        stored = {row.plugin: row for row in await self._thread.run(lambda: self._thread.store.plugin_state.all())}
        for gone in self.plugins.keys() - found.keys():
            await self._forget(gone)
        for plugin, discovered in found.items():
            known = self.plugins.get(plugin)
            if known is None or (known.supervisor is None and discovered.error is None):  # new, or mended
                await self._take_up(discovered, stored.get(plugin, StoredPluginState(plugin=plugin)))

    async def _take_up(self, discovered: Discovered, stored: StoredPluginState) -> None:
        known = KnownPlugin(id=discovered.id, found=discovered, error=discovered.error, enabled=stored.enabled)
        self.plugins[known.id] = known
        manifest = discovered.manifest
        if discovered.error is not None or manifest is None:
            self._note_refusal(discovered)
            return
        self._events.add(EventKind.PLUGIN_ADDED, plugin=known.id, reason="found", folder=str(discovered.folder), version=manifest.version)
        supervisor = known.supervisor = Supervisor(
            known.id,
            plan=partial(self._planner.plan, known),
            strategy=self._strategies[self._settings.strategy_of(known.id)],
            lazy=manifest.runtime.start == "lazy",
            idle_stop_s=manifest.runtime.idle_stop_s,
            failures=stored.failures,
            log=self._logs.sink(known.id),
            events=self._events,
            clock=self._clock,
            memory=self._memory,
            policies=self._settings.policies,
        )
        verdict = await self._judge.judge(known)
        contradiction = self._place(known)
        if verdict is not None or contradiction is not None:
            supervisor.block(verdict or contradiction or "")
        elif stored.quarantined_at is not None:
            supervisor.resume_quarantine(stored.quarantine_reason or "quarantined earlier")
        else:
            supervisor.allow("accepted")

    def _note_refusal(self, refused: Discovered) -> None:
        reason = refused.error.message if refused.error is not None else "no manifest"
        self._events.add(EventKind.MANIFEST_REFUSED, plugin=refused.id, reason=reason, folder=str(refused.folder))

    async def _forget(self, plugin: str) -> None:
        known = self.plugins.pop(plugin)
        if known.supervisor is not None:
            self._dispatcher.remove(plugin)
            await known.supervisor.stop("its folder is gone")
        self._kv.release(plugin)
        self._logs.release(plugin)
        self._events.add(EventKind.PLUGIN_REMOVED, plugin=plugin, reason="its folder is gone")
        self._events.forget(plugin)
        self._metrics.forget(plugin)

    # Acting.

    def _place(self, known: KnownPlugin) -> str | None:
        """Let an enabled plugin take part in what it provides; its failures there follow the policies, blocked or not.

        Before it is started: one whose place contradicts another's must not be. Returns why there is no place for it, None when there is.
        """
        if known.supervisor is None or known.manifest is None or known.manifest.id not in self.plugins:
            return None
        if not known.enabled or self._dispatcher.problems(known.manifest):
            self._dispatcher.remove(known.id)
            return None
        try:
            self._dispatcher.add(known.manifest, known.supervisor)
        except ContractError as error:
            known.error = error
            return error.message
        return None

    def start_enabled(self) -> None:
        """Start what is enabled and may start."""
        for known in self.plugins.values():
            if known.enabled and known.supervisor is not None:
                known.supervisor.start("the host started")

    async def wait_settled(self) -> None:
        """Wait until none is starting."""
        for known in list(self.plugins.values()):
            if known.supervisor is not None:
                await known.supervisor.wait_settled()

    async def reconsider(self, plugin: str, reason: str) -> KnownPlugin:
        """Judge a plugin again after something changed, and act: stop what may run no more, start what may."""
        known = self.get(plugin)
        supervisor = known.supervisor
        if supervisor is None:
            return known
        verdict = await self._judge.judge(known)
        contradiction = self._place(known)
        verdict = verdict or contradiction
        if verdict is not None:
            await supervisor.stop(reason)
            if supervisor.state is not PluginState.BLOCKED or supervisor.life.reason != verdict:
                supervisor.allow(reason)
                supervisor.block(verdict)
        else:
            supervisor.allow(reason)
            if known.enabled:
                supervisor.start(reason)
        return known

    async def set_enabled(self, plugin: str, enabled: bool) -> KnownPlugin:
        """Take over the operator's choice; it outlives the host."""
        known = self.get(plugin)
        await self._thread.run(lambda: self._thread.store.plugin_state.set_enabled(plugin, enabled))
        known.enabled = enabled
        self._events.add(EventKind.ENABLED_CHANGED, plugin=plugin, reason="enabled" if enabled else "disabled")
        if known.supervisor is not None:
            if not enabled:
                self._dispatcher.remove(plugin)
                await known.supervisor.stop("disabled")
            else:
                await self.reconsider(plugin, "enabled")
        return known

    async def restart(self, plugin: str) -> KnownPlugin:
        """Start a plugin afresh, also out of quarantine, with what is in its folder now."""
        known = self.get(plugin)
        for discovered in await asyncio.to_thread(self._discovery.scan):
            if discovered.id == plugin and known.supervisor is not None and discovered.manifest is not None:
                known.found = discovered
        if known.supervisor is not None:
            await known.supervisor.stop("restarted")
            known.supervisor.forgive()
            known = await self.reconsider(plugin, "restarted")
        return known

    async def grant(self, plugin: str, *, by: str, note: str, to_content: bool) -> KnownPlugin:
        """Store a grant of all that a plugin asks for, and act on it."""
        known = self.get(plugin)
        if known.manifest is None or known.loaded is None:
            raise known.error or UnknownPluginError(f"plugin {plugin!r} has no manifest that could be granted anything", plugin=plugin)
        grant = StoredGrant(
            plugin=plugin,
            rights=known.manifest.permission_set(),
            digest=known.loaded.digest if to_content else None,
            folder=None if to_content else str(known.loaded.folder),
            version_range="",
            note=note,
            granted_by=by,
            granted_at=self._clock.now(),
        )
        await self._thread.run(lambda: self._thread.store.grants.put(grant))
        self._events.add(EventKind.GRANT_CHANGED, plugin=plugin, reason=f"granted by {by}", rights=sorted(grant.rights))
        return await self.reconsider(plugin, "granted")

    async def revoke(self, plugin: str, *, by: str) -> KnownPlugin:
        """Take back every stored grant of a plugin, and act on it."""
        self.get(plugin)
        count = await self._thread.run(lambda: self._thread.store.grants.delete(plugin))
        self._events.add(EventKind.GRANT_CHANGED, plugin=plugin, reason=f"revoked by {by}", grants=count)
        return await self.reconsider(plugin, "its grants were revoked")

    async def configure(self, plugin: str, value: Mapping[str, Any], *, expected_revision: int | None = None) -> KnownPlugin:
        """Check, store and push a plugin's configuration.

        Raises:
            ConfigInvalidError: It does not fit the schema; nothing was stored.
        """
        known = self.get(plugin)
        if known.manifest is None or known.loaded is None:
            raise known.error or UnknownPluginError(f"plugin {plugin!r} has no configuration", plugin=plugin)
        schema = await asyncio.to_thread(schema_of, known.loaded.folder, known.manifest.config_schema, plugin=plugin)
        service = ConfigService(self._thread.store.config, self._clock)
        try:
            known.config = await self._thread.run(service.write, plugin, schema, dict(value), expected_revision=expected_revision)
        except AnnexeError as error:
            self._events.add(EventKind.CONFIG_REFUSED, plugin=plugin, reason=error.message)
            raise
        self._events.add(EventKind.CONFIG_CHANGED, plugin=plugin, reason="configured", revision=known.config.revision)
        if known.supervisor is not None:
            await known.supervisor.configure(known.config.value)
            if known.supervisor.state is PluginState.BLOCKED:
                await self.reconsider(plugin, "its configuration changed")
        return known

    async def stop_all(self, reason: str) -> None:
        """Stop every plugin, all at once."""
        await asyncio.gather(*(known.supervisor.stop(reason) for known in self.plugins.values() if known.supervisor is not None))
