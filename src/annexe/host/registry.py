"""The plugins of one host: found, judged, supervised.

Judging is ``judge``'s part; acting on the verdict is done here, whenever something that counts has changed: files, grants, configuration,
the operator's choice. One act at a time on each plugin: the next one begins where the last has ended.

Source: features LC1, LC3, PE1; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, final

from annexe.capabilities.config import ConfigService, schema_of
from annexe.capabilities.kv import KvService
from annexe.clock import Clock
from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import AnnexeError, ContractError, HostClosedError, PluginBlockedError, PluginUnavailableError, UnknownPluginError
from annexe.host.advice import command
from annexe.host.grant_book import GrantBook
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin
from annexe.host.planner import Planner
from annexe.host.reload_preview import ReloadPreview
from annexe.host.requirements import Requirements
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoredFailures, StoreThread
from annexe.launch import LaunchStrategy
from annexe.manifest import Discovered, Discovery, LoadedManifest, folder_digest
from annexe.record import EventKind, Events, LogStore, Metrics
from annexe.sandbox import Walls
from annexe.storage.plugin_state import StoredPluginState
from annexe.supervision.monitor import Monitor
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor

__all__ = ["Registry"]

_JUDGED_AT_ONCE = 8


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
        self._grants = GrantBook(thread, events=events, clock=clock)
        self._scanning = asyncio.Lock()
        self._is_closing = False
        self._following: set[asyncio.Task[None]] = set()  # what follows from another plugin's change
        self.monitor: Monitor | None = None

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

    async def expected_walls(self, plugin: str) -> Walls:
        """Return which walls a plugin would get if it were started now."""
        return await self._strategies[self._settings.strategy_of(plugin)].expected_walls()

    @asynccontextmanager
    async def _acting_on(self, plugin: str, *, urgent: bool = False) -> AsyncIterator[KnownPlugin]:
        """Hold a plugin for one act; an urgent one calls off the reloads that come before it.

        Raises:
            UnknownPluginError: It is not known, or not any more.
            HostClosedError: The host is closing.
        """
        while True:
            known = self.get(plugin)
            async with _held(known, urgent=urgent):
                if self._is_closing:
                    raise HostClosedError("this host is closing", plugin=plugin)
                if self.plugins.get(plugin) is known:  # not let go of meanwhile
                    yield known
                    return

    # What is in the folders.

    async def scan(self) -> None:
        """Look what is in the folders now: take up and start what is new or mended, let go of what is gone.

        A plugin that runs goes on as it was started, whatever its manifest says now; ``reload`` and ``restart`` take that up.
        """
        async with self._scanning:
            found: dict[str, Discovered] = {}
            # A folder whose manifest is refused goes by its own name: that must not hide a plugin that has it as its id.
            for discovered in sorted(await asyncio.to_thread(self._discovery.scan), key=lambda plugin: plugin.error is None):
                plugin = self._id_of(discovered)
                if plugin in found:
                    self._note_refusal(plugin, found[plugin])
                found[plugin] = discovered
            stored = {row.plugin: row for row in await self._thread.run(lambda: self._thread.store.plugin_state.all())}
            for gone in self.plugins.keys() - found.keys():
                await self._forget(gone)
            new = {plugin: stored.get(plugin, StoredPluginState(plugin=plugin)) for plugin in found.keys() - self.plugins.keys()}
            for plugin, discovered in found.items():
                if plugin in new:
                    self.plugins[plugin] = KnownPlugin(id=plugin, found=discovered, enabled=new[plugin].enabled)
                else:
                    await self._look_again(plugin, discovered)
            await self._take_up_all(new)

    async def _take_up_all(self, new: Mapping[str, StoredPluginState]) -> None:
        """Take up plugins that are new: judged by themselves, several at once; then together, in order; then started."""
        at_once = asyncio.Semaphore(_JUDGED_AT_ONCE)

        async def take_up(plugin: str) -> str | None:
            async with at_once:
                return await self._take_up(plugin, self.plugins[plugin].found, new[plugin])

        order = sorted(new)
        verdicts = dict(zip(order, await asyncio.gather(*map(take_up, order)), strict=True))
        for plugin in order:
            verdicts[plugin] = self._placed(self.plugins[plugin], verdicts[plugin])
            await asyncio.sleep(0)  # a thousand of them must not keep calls waiting
        # What lacks something comes last: what was admitted after it may offer that.
        for plugin in sorted(order, key=lambda plugin: bool(self.plugins[plugin].lacks)):
            await self._begin(plugin, new[plugin], verdicts[plugin])
            await asyncio.sleep(0)

    def _id_of(self, discovered: Discovered) -> str:
        """Return the id; for a folder whose manifest cannot be read any more, that of the plugin that was in it."""
        if discovered.manifest is None:
            for known in self.plugins.values():
                if known.found.folder == discovered.folder:
                    return known.id
        return discovered.id

    async def _take_up(self, plugin: str, discovered: Discovered, stored: StoredPluginState) -> str | None:
        """Take up a plugin that is new, or mended; return why it must not start, by itself. ``_placed`` and ``_begin`` come next."""
        async with self._acting_on(plugin) as known:
            known.found, known.error = discovered, discovered.error
            manifest = discovered.manifest
            if discovered.error is not None or manifest is None:
                self._note_refusal(plugin, discovered)
                return known.reason
            facts = {"folder": str(discovered.folder), "version": manifest.version}
            self._events.add(EventKind.PLUGIN_ADDED, plugin=plugin, reason="found", **facts)
            known.supervisor = Supervisor(
                plugin,
                plan=partial(self._planner.plan, known),
                strategy=self._strategies[self._settings.strategy_of(plugin)],
                lazy=manifest.runtime.start == "lazy",
                idle_stop_s=manifest.runtime.idle_stop_s,
                failures=stored.failures,
                log=self._logs.sink(plugin),
                events=self._events,
                clock=self._clock,
                memory=self._memory,
                policies=self._settings.policies,
                command=self._command,
                on_moved=partial(self._moved, known),
            )
            return await self._judge.judge_alone(known)

    async def _begin(self, plugin: str, stored: StoredPluginState, verdict: str | None) -> None:
        """Have the life of a plugin begin that was taken up."""
        with suppress(UnknownPluginError):  # let go of meanwhile
            async with self._acting_on(plugin) as known:
                known.taken_up.set()
                supervisor = known.supervisor
                if supervisor is None or supervisor.state is not PluginState.INSTALLED:
                    return
                if known.lacks:  # which one that was judged after it may offer
                    verdict = self._judge.admit(known)
                if verdict is not None:
                    supervisor.block(verdict)
                elif stored.quarantined_at is not None:
                    supervisor.resume_quarantine(stored.quarantine_reason or "quarantined earlier")
                else:
                    supervisor.allow("accepted")
                    if known.enabled:
                        supervisor.start("found")
                        self._follow(known)

    async def _look_again(self, plugin: str, discovered: Discovered) -> None:
        """Take up what changed in the folder of a plugin that does not run; say of one that runs that it could not be started again."""
        async with self._acting_on(plugin) as known:
            refusal, supervisor = discovered.error, known.supervisor
            if refusal is not None:
                if known.error is None or known.error.message != refusal.message:
                    known.error = refusal
                    self._note_refusal(plugin, discovered)
                if supervisor is None:
                    known.found = discovered
                elif not supervisor.state.has_process:
                    await self._block(known, refusal.message)
                return
            if supervisor is not None:
                if not supervisor.state.has_process and (known.error is not None or discovered != known.found):
                    self._adopt(known, discovered)
                    await self._reconsider(known, "its manifest changed", start=supervisor.state is PluginState.BLOCKED)
                return
        stored = StoredPluginState(plugin=plugin, enabled=known.enabled)
        verdict = await self._take_up(plugin, discovered, stored)
        await self._begin(plugin, stored, self._placed(known, verdict))

    def _adopt(self, known: KnownPlugin, discovered: Discovered) -> None:
        """Go by another manifest from now on."""
        known.found = discovered
        if known.supervisor is not None and discovered.manifest is not None:
            runtime = discovered.manifest.runtime
            known.supervisor.adopt(lazy=runtime.start == "lazy", idle_stop_s=runtime.idle_stop_s)

    def _note_refusal(self, plugin: str, refused: Discovered) -> None:
        reason = refused.error.message if refused.error is not None else "no manifest"
        self._events.add(EventKind.MANIFEST_REFUSED, plugin=plugin, reason=reason, folder=str(refused.folder))

    async def _forget(self, plugin: str) -> None:
        known = self.plugins.pop(plugin)
        async with _held(known, urgent=True):
            if known.supervisor is not None:
                await self._stop(known, "its folder is gone", leaves=True)
        self.requirements.graph.remove(plugin)
        self._kv.release(plugin)
        self._logs.release(plugin)
        self._events.add(EventKind.PLUGIN_REMOVED, plugin=plugin, reason="its folder is gone")
        self._events.forget(plugin)
        if self.monitor is not None:
            self.monitor.forget(plugin)
        self._metrics.forget(plugin)

    # Acting.

    async def _judged(self, known: KnownPlugin) -> str | None:
        """Judge a plugin and give it its place in what it provides; return why it must not start, None when it may.

        An enabled one has its place whether it may start or not: its failures there follow the policies.
        """
        return self._placed(known, await self._judge.judge_alone(known))

    def _placed(self, known: KnownPlugin, verdict: str | None) -> str | None:
        if known.supervisor is None or known.manifest is None or self.plugins.get(known.id) is not known:
            return verdict
        verdict = verdict or self._judge.admit(known)
        if not known.enabled or self._dispatcher.problems(known.manifest):
            self._dispatcher.remove(known.id)
            return verdict
        try:
            self._dispatcher.add(known.manifest, known.supervisor)
        except ContractError as error:  # its place contradicts another's
            known.error = error
            return verdict or error.message
        return verdict

    async def _reconsider(self, known: KnownPlugin, reason: str, *, start: bool = True) -> None:
        """Judge a plugin again after something changed, and act: stop what may run no more, start what may."""
        supervisor = known.supervisor
        if supervisor is None:
            return
        verdict = await self._judged(known)
        if verdict is not None:
            await self._block(known, verdict, because=reason)
            return
        supervisor.allow(reason)
        if known.enabled and start:
            supervisor.start(reason)
            self._follow(known)

    async def _block(self, known: KnownPlugin, verdict: str, *, because: str = "") -> None:
        known.withdraw_rights()
        supervisor = known.supervisor
        assert supervisor is not None
        await self._stop(known, because or verdict)
        if supervisor.state is not PluginState.BLOCKED or supervisor.life.reason != verdict:
            supervisor.allow(because or verdict)
            supervisor.block(verdict)
        if not known.lacks:
            self.requirements.graph.remove(known.id)  # nobody may wait for it

    async def _stop(self, known: KnownPlugin, reason: str, *, leaves: bool = False) -> None:
        """Stop a plugin that is not to run soon, and keep nothing ready for it; one that leaves keeps no place either."""
        await self._take_down(known, reason, leaves=leaves)
        self._strategies[self._settings.strategy_of(known.id)].release(known.id)

    # What follows for others.

    def _moved(self, known: KnownPlugin, state: PluginState) -> None:
        self._dispatcher.services.moved(known.id)
        if state is PluginState.READY:
            self._follow(known)
        elif state is PluginState.BLOCKED and known.lacks and self.requirements.are_met(known):
            self._start_later(known, "what it requires came meanwhile")

    def _follow(self, known: KnownPlugin) -> None:
        """Start what waits for a plugin that is there now."""
        if not known.is_there or known.manifest is None:
            return
        for dependent in self.requirements.lacking_one_of(known.manifest):
            self._start_later(dependent, f"plugin {known.id!r} is there")

    def _start_later(self, known: KnownPlugin, reason: str) -> None:
        if not self._is_closing:
            task = asyncio.get_running_loop().create_task(self._start_dependent(known, reason))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _start_dependent(self, dependent: KnownPlugin, reason: str) -> None:
        with suppress(UnknownPluginError, HostClosedError):
            async with self._acting_on(dependent.id) as known:
                if known.lacks and known.supervisor is not None and not known.supervisor.state.has_process:
                    await self._reconsider(known, reason)

    async def _take_down(self, known: KnownPlugin, reason: str, *, leaves: bool = False) -> None:
        """Stop a plugin, and before it what cannot do without it; that is started again once it can be."""
        assert known.supervisor is not None
        known.is_leaving = True
        try:
            await self._stop_dependents(known, reason)
            if leaves:
                self._dispatcher.remove(known.id)
            await known.supervisor.stop(reason)
        finally:
            known.is_leaving = False

    async def _stop_dependents(self, known: KnownPlugin, reason: str) -> None:
        for dependent in self.requirements.impact(known.id).stops:
            with suppress(UnknownPluginError, HostClosedError):
                async with self._acting_on(dependent, urgent=True) as other:
                    if other.supervisor is not None and other.is_there:
                        other.lacks = f"plugin {known.id!r}"
                        await self._block(
                            other, f"it requires plugin {known.id!r}, which was stopped ({reason}); it starts once that is there again"
                        )

    async def wait_settled(self) -> None:
        """Wait until none is starting."""
        for known in list(self.plugins.values()):
            await known.wait_settled()

    async def start(self, plugin: str) -> KnownPlugin:
        """Start a plugin that is stopped.

        Raises:
            PluginBlockedError: It is disabled.
        """
        async with self._acting_on(plugin) as known:
            self._check_enabled(known)
            if known.supervisor is not None:
                known.supervisor.start()
                self._follow(known)
            return known

    async def stop(self, plugin: str) -> KnownPlugin:
        """Stop a plugin until it is started again, or the host is."""
        async with self._acting_on(plugin, urgent=True) as known:
            if known.supervisor is not None:
                known.lacks = ""
                await self._take_down(known, "asked to")
            return known

    async def set_enabled(self, plugin: str, enabled: bool) -> KnownPlugin:
        """Take over the operator's choice; it outlives the host."""
        async with self._acting_on(plugin, urgent=not enabled) as known:
            await self._thread.run(lambda: self._thread.store.plugin_state.set_enabled(plugin, enabled))
            known.enabled = enabled
            self._events.add(EventKind.ENABLED_CHANGED, plugin=plugin, reason="enabled" if enabled else "disabled")
            if enabled:
                await self._reconsider(known, "enabled")
            elif known.supervisor is not None:
                await self._stop(known, "disabled", leaves=True)
            return known

    async def restart(self, plugin: str) -> KnownPlugin:
        """Start a plugin afresh, also out of quarantine, with what is in its folder now.

        Raises:
            PluginBlockedError: It is disabled.
        """
        if self.get(plugin).supervisor is None:
            await self.scan()  # refused so far: perhaps it is mended
            return self.get(plugin)
        discovered = await self._in_its_folder(self.get(plugin))
        async with self._acting_on(plugin) as known:
            self._check_enabled(known)
            if known.supervisor is None:
                return known
            await known.supervisor.stop("restarted")
            known.supervisor.forgive()
            self._dispatcher.forgive(plugin)
            if discovered is not None and discovered.error is not None:
                known.error = discovered.error
                self._note_refusal(plugin, discovered)
                await self._block(known, discovered.error.message)
                return known
            if discovered is not None:
                self._adopt(known, discovered)
            await self._reconsider(known, "restarted")
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
        if known.supervisor is None or known.supervisor.connection is None:
            return await self.restart(plugin)
        discovered = await self._in_its_folder(known) or known.found
        if discovered.error is not None:
            raise discovered.error
        async with self._acting_on(plugin) as known:
            self._check_enabled(known)
            coming = replace(known, found=discovered)
            try:
                await self._replace(known, coming)
            except BaseException:
                if known.manifest is not None:
                    self.requirements.graph.add(known.manifest)  # it goes by that still
                raise
            self._follow(known)
            return known

    async def _replace(self, known: KnownPlugin, coming: KnownPlugin) -> None:
        """Have a plugin taken over from by itself as it is coming."""
        supervisor = known.supervisor
        assert supervisor is not None
        await self._check_coming(known, coming)
        if known.urgent:
            text = f"plugin {known.id!r} was not replaced: it is about to be stopped"
            raise PluginUnavailableError(text, plugin=known.id, state=str(supervisor.state))
        commit, overlap = partial(self._commit, known, coming), self._may_overlap(known, coming)
        await supervisor.replace(partial(self._planner.plan, coming), commit=commit, overlap=overlap)

    async def _check_coming(self, known: KnownPlugin, coming: KnownPlugin) -> None:
        """Judge a plugin as it is coming, and hold it against what others have of it as it runs; it is in the graph then."""
        assert coming.manifest is not None
        before = self.requirements.graph.dependents(known.id)
        verdict = await self._judge.judge_alone(coming) or self.requirements.admit(coming)
        if verdict is not None:
            raise coming.error or PluginBlockedError(f"plugin {known.id!r} is not reloaded: {verdict}", plugin=known.id)
        if known.supervisor is not None and known.supervisor.instances:
            self.requirements.check_kept(coming.manifest, before)

    def _may_overlap(self, known: KnownPlugin, coming: KnownPlugin) -> bool:
        return not (self._planner.runs_alone(known) or self._planner.runs_alone(coming))

    def _commit(self, known: KnownPlugin, coming: KnownPlugin) -> None:
        """Go by what is coming from now on: the one step of a reload that cannot be half done."""
        assert known.supervisor is not None and coming.manifest is not None
        self._dispatcher.add(coming.manifest, known.supervisor)
        self._dispatcher.forgive(known.id)  # what failed too often was the one before
        known.loaded, known.decision, known.config = coming.loaded, coming.decision, coming.config
        # Instances may have been started meanwhile as it was: theirs are to be taken back, too, while they end.
        known.services, known.pace = tuple(dict.fromkeys((*known.services, *coming.services))), coming.pace
        known.error, known.judged_at = None, coming.judged_at
        self._adopt(known, coming.found)

    async def preview_reload(self, plugin: str) -> ReloadPreview:
        """Return what ``reload`` would do now; nothing is changed."""
        discovered = await self._in_its_folder(self.get(plugin)) or self.get(plugin).found
        async with self._acting_on(plugin) as known:
            graph = self.requirements.graph
            refusal: AnnexeError | None = discovered.error
            coming, users, before = replace(known, found=discovered), graph.users(plugin), graph.manifest_of(plugin)
            if refusal is None:
                try:
                    self._check_enabled(known)
                    await self._check_coming(known, coming)
                except AnnexeError as error:
                    refusal = error
                finally:
                    # Between what was taken into the graph and this nobody else had a turn.
                    graph.add(before) if before is not None else graph.remove(plugin)
            return ReloadPreview(
                plugin=plugin,
                before=known.manifest,
                after=discovered.manifest,
                instances=len(known.supervisor.instances) if known.supervisor is not None else 0,
                overlap=self._may_overlap(known, coming),
                users=users,
                refusal=refusal,
            )

    async def _in_its_folder(self, known: KnownPlugin) -> Discovered | None:
        """Return what is in a plugin's folder now; what is elsewhere under its id only when that folder is gone."""
        async with self._scanning:
            there = [found for found in await asyncio.to_thread(self._discovery.scan) if self._id_of(found) == known.id]
        return min(there, key=lambda found: found.folder != known.found.folder, default=None)

    async def on_disk(self, plugin: str) -> LoadedManifest:
        """Return what is in a plugin's folder now, whatever it was started with.

        Raises:
            UnknownPluginError: It is not known.
            ManifestError: It cannot be used.
        """
        known = self.get(plugin)
        return await _loaded(await self._in_its_folder(known) or known.found)

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
        discovered = await self._in_its_folder(self.get(plugin))
        async with self._acting_on(plugin) as known:
            discovered = discovered or known.found
            loaded = await _loaded(discovered)
            check(loaded)
            await self._grants.add(loaded, by=by, note=note, to_content=to_content, versions=versions)
            is_other = discovered != known.found or (to_content and known.loaded is not None and known.loaded.digest != loaded.digest)
            if is_other and known.supervisor is not None:
                if known.supervisor.state.has_process:
                    await known.supervisor.stop("it has changed since it was started")
                self._adopt(known, discovered)
            await self._reconsider(known, "granted")
            return known

    async def revoke(self, plugin: str, *, by: str, rights: Iterable[str] = ()) -> KnownPlugin:
        """Take back every stored grant of a plugin, or these rights alone, and act on it: a plugin that lacks one does not run."""
        async with self._acting_on(plugin, urgent=True) as known:
            problem = await self._grants.take_back(plugin, by=by, rights=frozenset(rights))
            await self._reconsider(known, "its grants were revoked")
            if problem is not None:
                raise problem
            return known

    async def configure(self, plugin: str, value: Mapping[str, Any], *, expected_revision: int | None = None) -> KnownPlugin:
        """Check, store and push a plugin's configuration.

        Raises:
            ConfigInvalidError: It does not fit the schema; nothing was stored.
        """
        async with self._acting_on(plugin) as known:
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
            await self._reconsider(known, reason)
        elif not await supervisor.configure(config):
            await self._replace(known, replace(known))

    async def stop_all(self, reason: str) -> None:
        """Stop every plugin for good, each once what requires it is stopped."""
        self._is_closing = True
        stopped = {plugin: asyncio.Event() for plugin in self.plugins}
        await asyncio.gather(*(self._stop_for_good(known, reason, stopped) for known in self.plugins.values()))
        if self._following:
            await asyncio.wait(self._following)

    async def _stop_for_good(self, known: KnownPlugin, reason: str, stopped: Mapping[str, asyncio.Event]) -> None:
        try:
            for dependent in self.requirements.graph.dependents(known.id):
                await stopped[dependent].wait()
            await self._stop_now(known, reason)
        finally:
            stopped[known.id].set()

    @staticmethod
    async def _stop_now(known: KnownPlugin, reason: str) -> None:
        if known.supervisor is not None:
            await known.supervisor.stop(reason)
        async with known.lock:  # an act that was under way may have started it again
            if known.supervisor is not None:
                await known.supervisor.stop(reason)

    def _command(self, words: str) -> str:
        """Return a command of ``annexe`` for this host."""
        return command(words, self._settings.state_dir)

    def _check_enabled(self, known: KnownPlugin) -> None:
        if not known.enabled:
            text = f"plugin {known.id!r} is disabled; let it run with: {self._command(f'enable {known.id}')}"
            raise PluginBlockedError(text, plugin=known.id)


@asynccontextmanager
async def _held(known: KnownPlugin, *, urgent: bool) -> AsyncIterator[None]:
    """Hold a plugin's lock; what is urgent does not wait until a reload's next instance is ready."""
    known.urgent += urgent
    try:
        if urgent and known.supervisor is not None:
            known.supervisor.call_off()
        await known.lock.acquire()
    finally:
        known.urgent -= urgent
    try:
        yield
    finally:
        known.lock.release()


async def _loaded(discovered: Discovered) -> LoadedManifest:
    """Return what is in a folder now, or raise why it cannot be used."""
    if discovered.error is not None or discovered.manifest is None:
        raise discovered.error or UnknownPluginError(f"plugin {discovered.id!r} has no manifest", plugin=discovered.id)
    return LoadedManifest(discovered.manifest, discovered.folder, await asyncio.to_thread(folder_digest, discovered.folder))
