"""The plugins of one host, and what people do to them: start, stop, enable, restart, reload, grant, configure.

One act at a time on each plugin: the next one begins where the last has ended. What there is, is ``Scanner``'s part; whether it may run,
``Judge``'s; bringing it there, and others with it, ``Reconciler``'s; replacing it without losing a call, that of ``Reloads``.

Source: features LC1, LC3, PE1; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, final

from annexe.capabilities.config import ConfigService, schema_of
from annexe.capabilities.kv import KvService
from annexe.clock import Clock
from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import AnnexeError, PluginBlockedError, UnknownPluginError
from annexe.host.advice import command
from annexe.host.grant_book import GrantBook
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin, KnownPlugins
from annexe.host.planner import Planner
from annexe.host.plugin_folders import PluginFolders, load
from annexe.host.reconciler import Reconciler
from annexe.host.reload_preview import ReloadPreview
from annexe.host.reloads import Reloads
from annexe.host.requirements import Requirements
from annexe.host.scanner import Scanner
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoredFailures, StoreThread
from annexe.launch import LaunchStrategy
from annexe.manifest import LoadedManifest, Manifest
from annexe.record import EventKind, Events, LogStore, Metrics
from annexe.sandbox import Walls
from annexe.supervision.gate import StartGate
from annexe.supervision.monitor import Monitor
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor

__all__ = ["Registry"]


@final
class Registry:
    """Finds plugins and keeps each in the state it should be in."""

    def __init__(
        self,
        settings: HostSettings,
        plugins: dict[str, KnownPlugin],
        *,
        requirements: Requirements,
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
        self.plugins = plugins
        self.requirements = requirements
        self._planner = planner
        self._dispatcher = dispatcher
        self._strategies = strategies
        self._thread = thread
        self._kv = kv
        self._logs = logs
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._memory = StoredFailures(thread, clock)
        self._gate = StartGate()
        self._grants = GrantBook(thread, events=events, clock=clock)
        self.monitor: Monitor | None = None
        known = self._known = KnownPlugins(plugins)
        self._folders = PluginFolders(settings.folders, plugins=known, events=events, memory_file=settings.state_dir / "manifests.msgpack")
        self._reconciler = Reconciler(known, requirements=requirements, judge=judge, dispatcher=dispatcher, strategy_of=self._strategy_of)
        self._reloads = Reloads(requirements=requirements, judge=judge, planner=planner, dispatcher=dispatcher)
        self._scanner = Scanner(
            known,
            folders=self._folders,
            judge=judge,
            reconciler=self._reconciler,
            thread=thread,
            events=events,
            supervise=self._supervise,
            release=self._release,
        )

    def get(self, plugin: str) -> KnownPlugin:
        """Return what is known of a plugin.

        Raises:
            UnknownPluginError: Nothing.
        """
        return self._known.get(plugin)

    async def expected_walls(self, plugin: str) -> Walls:
        """Return which walls a plugin would get if it were started now."""
        return await self._strategy_of(plugin).expected_walls()

    async def on_disk(self, plugin: str) -> LoadedManifest:
        """Return what is in a plugin's folder now, whatever it was started with.

        Raises:
            UnknownPluginError: It is not known.
            ManifestError: It cannot be used.
        """
        known = self.get(plugin)
        return await load(await self._folders.look_for(known) or known.found)

    async def scan(self) -> None:
        """Look what is in the folders now: take up and start what is new or mended, let go of what is gone.

        A plugin that runs goes on as it was started, whatever its manifest says now; ``reload`` and ``restart`` take that up.
        """
        await self._scanner.scan()

    async def wait_settled(self) -> None:
        """Wait until each that is starting is done with that; what fails may be starting again by then, and is waited for no longer."""
        everyone = list(self.plugins.values())
        for known in everyone:
            await known.taken_up.wait()
        await asyncio.gather(*(known.wait_settled() for known in everyone if not known.is_settled))

    async def stop_all(self, reason: str) -> None:
        """Stop every plugin for good, each once what requires it is stopped."""
        await self._reconciler.stop_all(reason)

    # What people do.

    async def start(self, plugin: str) -> KnownPlugin:
        """Start a plugin that is stopped.

        Raises:
            PluginBlockedError: It is disabled.
        """
        async with self._known.acting_on(plugin) as known:
            self._check_enabled(known)
            if known.supervisor is not None:
                known.supervisor.start()
                self._reconciler.follow(known)
            return known

    async def stop(self, plugin: str) -> KnownPlugin:
        """Stop a plugin until it is started again, or the host is."""
        async with self._known.acting_on(plugin, urgent=True) as known:
            if known.supervisor is not None:
                known.lacks = ""
                await self._reconciler.stop(known, "asked to", soon_back=True, cure=self._command(f"start {plugin}"))
            return known

    async def set_enabled(self, plugin: str, enabled: bool) -> KnownPlugin:
        """Take over the operator's choice; it outlives the host."""
        async with self._known.acting_on(plugin, urgent=not enabled) as known:
            await self._thread.run(lambda: self._thread.store.plugin_state.set_enabled(plugin, enabled))
            known.enabled = enabled
            self._events.add(EventKind.ENABLED_CHANGED, plugin=plugin, reason="enabled" if enabled else "disabled")
            if enabled:
                await self._reconciler.reconcile(known, "enabled")
            elif known.supervisor is not None:
                await self._reconciler.stop(known, "disabled", leaves=True, cure=self._command(f"enable {plugin}"))
            return known

    async def restart(self, plugin: str) -> KnownPlugin:
        """Start a plugin afresh, also out of quarantine, with what is in its folder now.

        Raises:
            PluginBlockedError: It is disabled.
        """
        if self.get(plugin).supervisor is None:
            await self.scan()  # refused so far: perhaps it is mended
            return self.get(plugin)
        discovered = await self._folders.look_for(self.get(plugin))
        async with self._known.acting_on(plugin) as known:
            self._check_enabled(known)
            if known.supervisor is None:
                return known
            await known.supervisor.stop("restarted")
            known.supervisor.forgive()
            self._dispatcher.forgive(plugin)
            if discovered is not None and discovered.error is not None:
                known.error = discovered.error
                self._folders.note_refusal(plugin, discovered)
                await self._reconciler.block(known, discovered.error.message)
                return known
            if discovered is not None:
                known.adopt(discovered)
            await self._reconciler.reconcile(known, "restarted")
            return known

    async def reload(self, plugin: str) -> KnownPlugin:
        """Take up what is in a plugin's folder now, and its grants and configuration, without losing a call.

        One that does not run is started afresh. Else another instance takes over from the one that runs, once it is ready; whatever keeps
        it from that leaves the old one as it was.

        Raises:
            PluginBlockedError: It is disabled, or may not run as it is now.
            ManifestError: What is in its folder now cannot be used.
            DependencyError: Plugins that require it could not use it as it is now.
            LaunchError: It did not become ready.
            PluginUnavailableError: It ended, or was stopped, meanwhile.
        """
        known = self.get(plugin)
        if known.supervisor is None:
            return await self.restart(plugin)
        if known.supervisor.connection is None:
            with known.supervisor.awaited():  # that, too, loses no call
                return await self.restart(plugin)
        try:
            return await self._replace(known)
        except AnnexeError as error:
            if self._known.has(known):
                self._events.add(EventKind.RELOAD_FAILED, plugin=plugin, reason=error.message)
            raise

    async def _replace(self, known: KnownPlugin) -> KnownPlugin:
        discovered = await self._folders.look_for(known)
        if discovered is None:
            raise self._gone(known)
        if discovered.error is not None:
            raise discovered.error
        async with self._known.acting_on(known.id) as known:
            self._check_enabled(known)
            await self._reloads.replace(known, discovered)
            self._reconciler.follow(known)
            return known

    async def preview_reload(self, plugin: str) -> ReloadPreview:
        """Return what ``reload`` would do now; nothing is changed."""
        found = await self._folders.look_for(self.get(plugin))
        async with self._known.acting_on(plugin) as known:
            refusal = (self._gone(known) if found is None else found.error) or (self._disabled(known) if not known.enabled else None)
            return await self._reloads.preview(known, found or known.found, refusal=refusal)

    async def grant(
        self,
        plugin: str,
        *,
        by: str,
        note: str,
        to_content: bool,
        versions: str = "",
        check: Callable[[LoadedManifest], None],
    ) -> KnownPlugin:
        """Store a grant of all that a plugin asks for as it is in its folder now, and act on it.

        One that runs and was started with another manifest is started afresh, and so is one whose content is other than what was granted.

        Args:
            plugin: Id.
            by: Who.
            note: Why.
            to_content: Bind it to the content, not to the folder.
            versions: That it holds for; empty: any.
            check: Is shown what is about to be granted, and raises what speaks against it.

        Raises:
            ManifestError: What is in its folder now cannot be used; nothing was granted.
        """
        if self.get(plugin).supervisor is None:
            await self.scan()  # refused so far: perhaps it is mended
        discovered = await self._folders.look_for(self.get(plugin))
        async with self._known.acting_on(plugin) as known:
            discovered = discovered or known.found
            loaded = await load(discovered)
            check(loaded)
            await self._grants.add(loaded, by=by, note=note, to_content=to_content, versions=versions)
            is_other = discovered != known.found or (to_content and known.loaded is not None and known.loaded.digest != loaded.digest)
            if is_other and known.supervisor is not None:
                if known.supervisor.state.has_process or known.supervisor.state is PluginState.BACKING_OFF:
                    await known.supervisor.stop("it has changed since it was started")
                known.adopt(discovered)
            await self._reconciler.reconcile(known, "granted")
            return known

    async def revoke(self, plugin: str, *, by: str, rights: Iterable[str] = ()) -> KnownPlugin:
        """Take back every stored grant of a plugin, or these rights alone, and act on it: a plugin that lacks one does not run."""
        async with self._known.acting_on(plugin, urgent=True) as known:
            problem = await self._grants.take_back(plugin, by=by, rights=frozenset(rights))
            await self._reconciler.reconcile(known, "its grants were revoked")
            if problem is not None:
                raise problem
            return known

    async def configure(self, plugin: str, value: Mapping[str, Any], *, expected_revision: int | None = None) -> KnownPlugin:
        """Check, store and push a plugin's configuration.

        Raises:
            ConfigInvalidError: It does not fit the schema; nothing was stored.
        """
        async with self._known.acting_on(plugin) as known:
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
            await self._push(known, known.config.value)
            return known

    async def _push(self, known: KnownPlugin, config: Mapping[str, Any]) -> None:
        supervisor, reason = known.supervisor, "its configuration changed"
        if supervisor is None:
            return
        await supervisor.wait_settled()  # one that starts may have been given the old one
        if supervisor.state is PluginState.BLOCKED:
            await self._reconciler.reconcile(known, reason)
        elif not await supervisor.configure(config):
            await self._reloads.replace(known, known.found)

    # What the parts ask back.

    def _strategy_of(self, plugin: str) -> LaunchStrategy:
        return self._strategies[self._settings.strategy_of(plugin)]

    def _supervise(self, known: KnownPlugin, manifest: Manifest, failures: int) -> Supervisor:
        """Return a supervisor for a plugin that is taken up."""
        return Supervisor(
            known.id,
            plan=partial(self._planner.plan, known),
            strategy=self._strategy_of(known.id),
            lazy=manifest.runtime.start == "lazy",
            idle_stop_s=manifest.runtime.idle_stop_s,
            failures=failures,
            gate=self._gate,
            log=self._logs.sink(known.id),
            events=self._events,
            clock=self._clock,
            memory=self._memory,
            policies=self._settings.policies,
            command=self._command,
            on_moved=partial(self._reconciler.moved, known),
        )

    def _release(self, plugin: str) -> None:
        """Keep nothing of a plugin whose folder is gone."""
        self.requirements.graph.remove(plugin)
        self._kv.release(plugin)
        self._logs.release(plugin)
        self._events.add(EventKind.PLUGIN_REMOVED, plugin=plugin, reason="its folder is gone")
        self._events.forget(plugin)
        if self.monitor is not None:
            self.monitor.forget(plugin)
        self._metrics.forget(plugin)

    def _command(self, words: str) -> str:
        """Return a command of ``annexe`` for this host."""
        return command(words, self._settings.state_dir)

    def _check_enabled(self, known: KnownPlugin) -> None:
        if not known.enabled:
            raise self._disabled(known)

    def _gone(self, known: KnownPlugin) -> PluginBlockedError:
        text = f"plugin {known.id!r} cannot be reloaded: there is no plugin.toml in {known.found.folder} any more"
        return PluginBlockedError(f"{text}; put it back, or let the plugin go with: {self._command('scan')}", plugin=known.id)

    def _disabled(self, known: KnownPlugin) -> PluginBlockedError:
        text = f"plugin {known.id!r} is disabled; let it run with: {self._command(f'enable {known.id}')}"
        return PluginBlockedError(text, plugin=known.id)
