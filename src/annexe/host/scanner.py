"""Takes up what is in the plugin folders, and lets go of what is gone.

A plugin that is new is judged by itself, gets its place among the others, and begins its life; in this order, each for all new ones before
the next, so that the order of folders does not decide who finds what it requires.

Source: features LC1, LC3, LC14; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import final

from annexe.errors import UnknownPluginError
from annexe.host.collector import collected_seldom
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin, KnownPlugins
from annexe.host.plugin_folders import Digest, PluginFolders, digests
from annexe.host.reconciler import Reconciler
from annexe.host.store_thread import StoreThread
from annexe.manifest import Discovered, Manifest
from annexe.record import EventKind, Events
from annexe.storage.plugin_state import StoredPluginState
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor

__all__ = ["Scanner", "Supervise"]

_JUDGED_AT_ONCE = 2  # more would wait for each other

Supervise = Callable[[KnownPlugin, Manifest, int], Supervisor]
"""Makes the supervisor of a plugin; given its manifest and how often in a row it failed in an earlier life of the host."""


@final
class Scanner:
    """Keeps what is known of one host's plugins in step with the folders.

    Args:
        plugins: All that are known.
        folders: Where they are.
        judge: Says whether a plugin may start.
        reconciler: Acts on that.
        thread: The store, with what is to be remembered of plugins.
        events: Is told what came.
        supervise: Makes supervisors.
        release: Drops what is kept of a plugin, by its id: called when its folder is gone and it has stopped.
    """

    def __init__(
        self,
        plugins: KnownPlugins,
        *,
        folders: PluginFolders,
        judge: Judge,
        reconciler: Reconciler,
        thread: StoreThread,
        events: Events,
        supervise: Supervise,
        release: Callable[[str], None],
    ) -> None:
        self._plugins = plugins
        self._folders = folders
        self._judge = judge
        self._reconciler = reconciler
        self._thread = thread
        self._events = events
        self._supervise = supervise
        self._release = release

    async def scan(self) -> None:
        """Look what is in the folders now: take up and start what is new or mended, let go of what is gone.

        A plugin that runs goes on as it was started, whatever its manifest says now; ``reload`` and ``restart`` take that up.
        """
        with collected_seldom():
            await self._scan()

    async def _scan(self) -> None:
        plugins = self._plugins.by_id
        async with self._folders.scanned() as found:
            stored = {row.plugin: row for row in await self._thread.run(lambda: self._thread.store.plugin_state.all())}
            for gone in plugins.keys() - found.keys():
                await self._let_go(gone)
            new = {plugin: stored.get(plugin, StoredPluginState(plugin=plugin)) for plugin in found.keys() - plugins.keys()}
            for plugin, discovered in found.items():
                if plugin in new:
                    plugins[plugin] = KnownPlugin(id=plugin, found=discovered, enabled=new[plugin].enabled)
                else:
                    await self._look_again(plugin, discovered)
            await self._take_up_all(new)

    async def _take_up_all(self, new: Mapping[str, StoredPluginState]) -> None:
        """Take up plugins that are new: judged by themselves, several at once; then together, in order; then started."""
        plugins, order = self._plugins.by_id, sorted(new)
        made = await digests(plugins[plugin].found.folder for plugin in order if plugins[plugin].found.error is None)
        waiting, verdicts = iter(order), dict[str, str | None]()

        async def take_up() -> None:
            for plugin in waiting:
                found = plugins[plugin].found
                verdicts[plugin] = await self._take_up(plugin, found, new[plugin], digest=made.get(found.folder))
                await asyncio.sleep(0)  # a thousand of them must not keep calls waiting

        await asyncio.gather(*(take_up() for _ in range(_JUDGED_AT_ONCE)))
        for plugin in order:
            verdicts[plugin] = self._reconciler.place(plugins[plugin], verdicts[plugin])
            await asyncio.sleep(0)
        # What lacks something comes last: what was admitted after it may offer that.
        for plugin in sorted(order, key=lambda plugin: bool(plugins[plugin].lacks)):
            await self._begin(plugin, new[plugin], verdicts[plugin])
            await asyncio.sleep(0)

    async def _take_up(self, plugin: str, discovered: Discovered, stored: StoredPluginState, *, digest: Digest | None = None) -> str | None:
        """Take up a plugin that is new, or mended; return why it must not start, by itself. Its place and ``_begin`` come next."""
        async with self._plugins.acting_on(plugin) as known:
            known.found, known.error = discovered, discovered.error
            manifest = discovered.manifest
            if discovered.error is not None or manifest is None:
                self._folders.note_refusal(plugin, discovered)
                return known.reason
            facts = {"folder": str(discovered.folder), "version": manifest.version}
            self._events.add(EventKind.PLUGIN_ADDED, plugin=plugin, reason="found", **facts)
            known.supervisor = self._supervise(known, manifest, stored.failures)
            return await self._judge.judge_alone(known, digest=digest)

    async def _begin(self, plugin: str, stored: StoredPluginState, verdict: str | None) -> None:
        """Have the life of a plugin begin that was taken up."""
        with suppress(UnknownPluginError):  # let go of meanwhile
            async with self._plugins.acting_on(plugin) as known:
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
                        self._reconciler.follow(known)

    async def _look_again(self, plugin: str, discovered: Discovered) -> None:
        """Take up what changed in the folder of a plugin that does not run; say of one that runs that it could not be started again."""
        async with self._plugins.acting_on(plugin) as known:
            refusal, supervisor = discovered.error, known.supervisor
            if refusal is not None:
                if known.error is None or known.error.message != refusal.message:
                    known.error = refusal
                    self._folders.note_refusal(plugin, discovered)
                if supervisor is None:
                    known.found = discovered
                elif not supervisor.state.has_process:
                    await self._reconciler.block(known, refusal.message)
                return
            if supervisor is not None:
                if not supervisor.state.has_process and (known.error is not None or discovered != known.found):
                    known.adopt(discovered)
                    start = supervisor.state is PluginState.BLOCKED
                    await self._reconciler.reconcile(known, "its manifest changed", start=start)
                return
        stored = StoredPluginState(plugin=plugin, enabled=known.enabled)
        verdict = await self._take_up(plugin, discovered, stored)
        await self._begin(plugin, stored, self._reconciler.place(known, verdict))

    async def _let_go(self, plugin: str) -> None:
        known = self._plugins.by_id.pop(plugin)
        async with known.held(urgent=True):
            if known.supervisor is not None:
                await self._reconciler.stop(known, "its folder is gone", leaves=True)
        self._release(plugin)
