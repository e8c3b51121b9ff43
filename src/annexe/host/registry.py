"""The plugins of one host: found, judged, supervised.

Judging a plugin is one function from what is known to a verdict; acting on the verdict is another. Both run again whenever something
that counts has changed: files, grants, configuration, the operator's choice.

Source: features LC1, LC3, PE1; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from annexe import __version__
from annexe.capabilities.config import ConfigService, PluginConfig, schema_of
from annexe.capabilities.kv import KvService
from annexe.capabilities.services import Capability, PluginServices
from annexe.channel import ChannelLimits
from annexe.clock import Clock
from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import AnnexeError, ContractError, UnknownPluginError
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoredFailures, StoreThread
from annexe.launch import LaunchRequest, LaunchStrategy, is_grantable, plugin_environment
from annexe.manifest import Discovered, Discovery, LoadedManifest, Manifest, folder_digest, this_machine, unmet_requirements
from annexe.manifest.rights import kind_of
from annexe.record import EventKind, Events, LogStore, Metrics
from annexe.sandbox import IsolationLevel, Profile, Receipt
from annexe.sandbox.levels import LIMITS, EnforcementState
from annexe.storage.grants import StoredGrant
from annexe.storage.plugin_state import StoredPluginState
from annexe.supervision.instance import InstancePlan
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor
from annexe.trust.grants import Grant, GrantDecision, decide, grant_as_asked
from annexe.trust.policy import Policy

__all__ = ["KnownPlugin", "Registry"]

_SDK_THREADS = 32


@final
@dataclass(slots=True)
class KnownPlugin:
    """What the host knows of one plugin.

    Attributes:
        loaded: Manifest, folder and digest; None when the manifest was refused.
        error: Why it cannot be used at all.
        decision: Rights granted and missing.
        config: As it is now.
        enabled: The operator's choice.
        is_told: An event said which of its rights and limits cannot be enforced here.
    """

    id: str
    found: Discovered
    loaded: LoadedManifest | None = None
    error: AnnexeError | None = None
    decision: GrantDecision | None = None
    config: PluginConfig | None = None
    enabled: bool = True
    is_told: bool = False
    supervisor: Supervisor | None = None
    services: PluginServices | None = None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, if it was accepted."""
        return self.found.manifest

    @property
    def state(self) -> PluginState:
        """Where it is in its life."""
        return self.supervisor.state if self.supervisor is not None else PluginState.BLOCKED

    @property
    def reason(self) -> str:
        """Why it is there."""
        if self.supervisor is not None:
            return self.supervisor.life.reason
        return self.error.message if self.error is not None else ""


@final
class Registry:
    """Finds plugins and keeps each in the state it should be in."""

    def __init__(
        self,
        settings: HostSettings,
        *,
        dispatcher: Dispatcher,
        strategies: Mapping[str, LaunchStrategy],
        thread: StoreThread,
        kv: KvService,
        logs: LogStore,
        events: Events,
        metrics: Metrics,
        clock: Clock,
        capabilities: Mapping[str, Capability],
        policy: Policy | None,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._strategies = strategies
        self._thread = thread
        self._kv = kv
        self._logs = logs
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._capabilities = capabilities
        self._policy = policy
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
            plan=partial(self._plan, known),
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
        verdict = await self.judge(known)
        if verdict is not None:
            supervisor.block(verdict)
        elif stored.quarantined_at is not None:
            supervisor.resume_quarantine(stored.quarantine_reason or "quarantined earlier")
        else:
            supervisor.allow("accepted")
        self._place(known)

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

    # Judging.

    async def judge(self, known: KnownPlugin) -> str | None:
        """Bring what is known of a plugin up to date; return why it must not start, None when it may."""
        manifest = known.manifest
        assert manifest is not None
        known.error = None
        try:
            return await self._judge(known, manifest)
        except AnnexeError as error:
            known.error = error
            return error.message

    async def _judge(self, known: KnownPlugin, manifest: Manifest) -> str | None:
        folder = known.found.folder
        known.loaded = LoadedManifest(manifest, folder, await asyncio.to_thread(folder_digest, folder))
        problems: list[ContractError] = self._dispatcher.problems(manifest)
        if problems:
            known.error = problems[0]
            return "; ".join(problem.message for problem in problems)
        unmet = unmet_requirements(manifest, this_machine(host=__version__, libs=manifest.runtime.requires_libs))
        if unmet:
            return f"this machine does not fit: {'; '.join(unmet)}"
        if self._settings.strategy_of(known.id) == "in-process" and self._settings.production:
            named = not isinstance(self._settings.strategy, str)
            if not named:
                return "it would run inside the host's process; in production name it: strategy={\"" + known.id + '": "in-process"}'
        bad = [name for name in manifest.permissions.env if not is_grantable(name)]
        if bad:
            return f"it asks for environment variables that no plugin can get: {', '.join(bad)}"
        known.decision = await self._decide(known.loaded)
        if known.decision.is_blocked:
            return known.decision.message
        known.config = await self._configuration(known.loaded)
        return None

    async def _decide(self, loaded: LoadedManifest) -> GrantDecision:
        manifest, folder = loaded.manifest, str(loaded.folder)
        if self._settings.grants == "manifest":
            grants: list[Grant] = [grant_as_asked(manifest, folder=folder, note='grants="manifest"')]
        elif self._policy is not None:
            grants = list(self._policy.grants_for(manifest, loaded.digest))
        else:
            stored = await self._thread.run(lambda: self._thread.store.grants.of(manifest.id))
            grants = [_grant(row) for row in stored]
        return decide(manifest, digest=loaded.digest, folder=folder, grants=grants)

    async def _configuration(self, loaded: LoadedManifest) -> PluginConfig:
        manifest = loaded.manifest
        schema = await asyncio.to_thread(schema_of, loaded.folder, manifest.config_schema, plugin=manifest.id)
        given = self._settings.config.get(manifest.id)
        if given is not None:
            return PluginConfig(value=schema.complete(dict(given)), written=dict(given), revision=0)
        service = ConfigService(self._thread.store.config, self._clock)
        return await self._thread.run(service.read, manifest.id, schema)

    # Acting.

    def _place(self, known: KnownPlugin) -> None:
        """Let an enabled plugin take part in what it provides; its failures there follow the policies, blocked or not."""
        if known.supervisor is None or known.manifest is None or known.manifest.id not in self.plugins:
            return
        if not known.enabled or self._dispatcher.problems(known.manifest):
            self._dispatcher.remove(known.id)
            return
        try:
            self._dispatcher.add(known.manifest, known.supervisor)
        except ContractError as error:
            known.error = error
            known.supervisor.block(error.message)

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
        verdict = await self.judge(known)
        if verdict is not None:
            await supervisor.stop(reason)
            if supervisor.state is not PluginState.BLOCKED or supervisor.life.reason != verdict:
                supervisor.allow(reason)
                supervisor.block(verdict)
        else:
            supervisor.allow(reason)
            if known.enabled:
                supervisor.start(reason)
        self._place(known)
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
            known = await self.reconsider(plugin, "restarted")
            if known.enabled and known.supervisor is not None and known.state is not PluginState.BLOCKED:
                await known.supervisor.restart("restarted")
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

    # Launching.

    def _plan(self, known: KnownPlugin, number: int) -> InstancePlan:
        """Decide everything about the next instance, as things stand now."""
        manifest, loaded = known.manifest, known.loaded
        assert manifest is not None and loaded is not None and known.decision is not None
        granted = known.decision.granted
        kv = self._kv.handle(known.id, manifest.permissions.kv_quota_bytes or 0) if "kv" in granted else None
        log = self._logs.sink(known.id)
        services = known.services = PluginServices(
            manifest,
            granted,
            kv=kv,
            capabilities=self._capabilities,
            log=log,
            metrics=self._metrics.plugin(known.id),
            events=self._events,
        )
        resources, runtime = manifest.resources, manifest.runtime
        launch = LaunchRequest(
            plugin=known.id,
            instance=f"{known.id}-{number}",
            kind=runtime.kind,
            entry=runtime.entry_for(this_machine(host=__version__).targets) if runtime.entry_by_target else runtime.entry,
            folder=loaded.folder,
            environment=plugin_environment(os.environ, granted=[right[4:] for right in granted if right.startswith("env:")]),
            profile=Profile(
                memory_bytes=resources.memory_bytes,
                tasks=resources.processes + _SDK_THREADS,
                open_files=resources.open_files,
                file_bytes=resources.disk_bytes,
            ),
            requires_python=runtime.requires_python,
            floor=IsolationLevel(manifest.sandbox_require),
        )
        return InstancePlan(
            launch=launch,
            limits=ChannelLimits(
                concurrency=runtime.concurrency, streams=runtime.streams, stuck_s=self._settings.policies.health.stuck_after_s
            ),
            start_timeout_s=resources.start_timeout_s,
            host={"name": self._settings.name, "version": self._settings.version},
            version=manifest.version,
            activation={
                "config": known.config.value if known.config is not None else {},
                "grants": sorted(granted),
                "data_dir": None,
                "log_level": "debug",
            },
            serve=services.serve,
            on_refused=services.note_refusal,
            on_notification=services.notify,
            check=partial(self._dispatcher.check_provided, manifest),
            codecs=tuple(self._settings.codecs),
            on_ready=partial(self._tell_unenforced, known),
        )

    def _tell_unenforced(self, known: KnownPlugin, receipt: Receipt) -> None:
        """Say once what a plugin asks for, or is limited to, that cannot be held here."""
        if known.is_told or known.manifest is None:
            return
        known.is_told = True
        asked = {kind_of(right) for right in known.manifest.permission_set()} | set(LIMITS)
        loose = sorted(name for name in asked if name in receipt.rights and receipt.rights[name].state is EnforcementState.NOT_ENFORCED)
        if loose:
            reason = "; ".join(f"{name}: {receipt.rights[name].why}" for name in loose)
            self._events.add(EventKind.LIMIT_NOT_ENFORCED, plugin=known.id, reason=reason, limits=loose)


def _grant(row: StoredGrant) -> Grant:
    return Grant(plugin=row.plugin, rights=row.rights, digest=row.digest, folder=row.folder, version_range=row.version_range, note=row.note)
