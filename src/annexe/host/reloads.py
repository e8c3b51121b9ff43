"""A plugin taken over from by itself, as it is coming: checked against what others have of it, then switched in one step.

* Whoever calls this holds the plugin.
* What is coming is a copy of what is known; until the switch nothing but the graph goes by it, and when there is no switch that goes back.

Source: feature LC10; docs/how-to/reload-a-plugin.md; ADR-0092.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import final
from weakref import WeakSet

from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import AnnexeError, PluginBlockedError, PluginUnavailableError
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin
from annexe.host.planner import Planner
from annexe.host.reload_preview import ReloadPreview
from annexe.host.requirements import Requirements
from annexe.manifest import Discovered

__all__ = ["Reloads"]


@final
class Reloads:
    """Replaces what runs, without losing a call.

    Args:
        requirements: Who requires whom.
        judge: Says whether a plugin may start.
        planner: Plans the next instances.
        dispatcher: Has the places of plugins in what they provide.
    """

    def __init__(self, *, requirements: Requirements, judge: Judge, planner: Planner, dispatcher: Dispatcher) -> None:
        self._requirements = requirements
        self._judge = judge
        self._planner = planner
        self._dispatcher = dispatcher

    async def replace(self, known: KnownPlugin, discovered: Discovered) -> None:
        """Have a plugin taken over from by itself as it is in a folder, judged anew; it has a supervisor.

        Raises:
            PluginBlockedError: It may not run as it is coming.
            DependencyError: Plugins that require it could not use it.
            LaunchError: It did not become ready.
            PluginUnavailableError: It ended, or was stopped, meanwhile.
        """
        try:
            await self._take_over(known, replace(known, found=discovered, services=WeakSet()))
        except BaseException:
            if known.manifest is not None:
                self._requirements.graph.add(known.manifest)  # it goes by that still
            raise

    async def _take_over(self, known: KnownPlugin, coming: KnownPlugin) -> None:
        supervisor = known.supervisor
        assert supervisor is not None
        await self._check(known, coming)
        if known.urgent:
            text = f"plugin {known.id!r} was not replaced: it is about to be stopped"
            raise PluginUnavailableError(text, plugin=known.id, state=str(supervisor.state))
        commit, overlap = partial(self._commit, known, coming), self._may_overlap(known, coming)
        version = coming.manifest.version if coming.manifest is not None else ""
        await supervisor.replace(partial(self._planner.plan, coming), commit=commit, overlap=overlap, version=version)

    async def _check(self, known: KnownPlugin, coming: KnownPlugin) -> None:
        """Judge a plugin as it is coming, and hold it against what others have of it as it runs; it is in the graph then."""
        assert coming.manifest is not None
        before = self._requirements.graph.dependents(known.id)
        verdict = await self._judge.judge_alone(coming) or self._judge.lacking(coming)
        if verdict is not None:
            raise coming.error or PluginBlockedError(f"plugin {known.id!r} is not reloaded: {verdict}", plugin=known.id)
        if known.supervisor is not None and known.supervisor.instances:
            self._requirements.check_kept(coming.manifest, before)

    def _may_overlap(self, known: KnownPlugin, coming: KnownPlugin) -> bool:
        return not (self._planner.runs_alone(known) or self._planner.runs_alone(coming))

    def _commit(self, known: KnownPlugin, coming: KnownPlugin) -> None:
        """Go by what is coming from now on: the one step of a reload that cannot be half done."""
        assert known.supervisor is not None and coming.manifest is not None
        self._dispatcher.add(coming.manifest, known.supervisor)
        self._dispatcher.forgive(known.id)  # what failed too often was the one before
        known.loaded, known.decision, known.config = coming.loaded, coming.decision, coming.config
        # Instances may have been started meanwhile as it was: theirs are to be taken back, too, while they end.
        known.services.update(coming.services)
        known.pace = coming.pace
        known.error, known.judged_at = None, coming.judged_at
        known.adopt(coming.found)

    async def preview(self, known: KnownPlugin, discovered: Discovered, *, refusal: AnnexeError | None) -> ReloadPreview:
        """Return what a reload with this would do now; nothing is changed.

        Args:
            known: The plugin.
            discovered: What it would be taken over from by.
            refusal: What would refuse that before it is judged; None: nothing.
        """
        graph, plugin = self._requirements.graph, known.id
        coming, users, before = replace(known, found=discovered), graph.users(plugin), graph.manifest_of(plugin)
        if refusal is None:
            try:
                await self._check(known, coming)
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
