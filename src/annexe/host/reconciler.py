"""Brings plugins into the state that they should be in, and those with them that they require.

The start of one plugin is the start of what waits for it; the stop of one is the stop of what cannot do without it. So both are done here.

* Whoever calls this holds the plugin it names; others are held here, one after another, and only ever those that require the one held.
* What was stopped because something that it requires went is started by itself once that is back.

Source: features LC3, LC17, SV6; docs/explanation/services.md; ADR-0091.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import final

from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import ContractError, HostClosedError, UnknownPluginError
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin, KnownPlugins
from annexe.host.requirements import Requirements
from annexe.launch import LaunchStrategy
from annexe.supervision.state import PluginState

__all__ = ["Reconciler"]


@final
class Reconciler:
    """Acts on verdicts: stops what may run no more, starts what may.

    Args:
        plugins: All that are known.
        requirements: Who requires whom.
        judge: Says whether a plugin may start.
        dispatcher: Has the places of plugins in what they provide.
        strategy_of: Says how a plugin is launched.
    """

    def __init__(
        self,
        plugins: KnownPlugins,
        *,
        requirements: Requirements,
        judge: Judge,
        dispatcher: Dispatcher,
        strategy_of: Callable[[str], LaunchStrategy],
    ) -> None:
        self._plugins = plugins
        self._requirements = requirements
        self._judge = judge
        self._dispatcher = dispatcher
        self._strategy_of = strategy_of
        self._following: set[asyncio.Task[None]] = set()  # what follows from another plugin's change
        dispatcher.plugin_hooks.on_changed = self._hooks_changed

    async def reconcile(self, known: KnownPlugin, reason: str, *, start: bool = True) -> None:
        """Judge a plugin again after something changed, and act: stop what may run no more, start what may."""
        supervisor = known.supervisor
        if supervisor is None:
            return
        verdict = self.place(known, await self._judge.judge_alone(known))
        if verdict is not None:
            await self.block(known, verdict, because=reason)
            return
        supervisor.allow(reason)
        if known.enabled and start:
            supervisor.start(reason)
            self.follow(known)

    def place(self, known: KnownPlugin, verdict: str | None) -> str | None:
        """Give a plugin that was judged by itself its place in the graph, and in what it provides.

        An enabled one has its place whether it may start or not: its failures there follow the policies.

        Args:
            known: It.
            verdict: Why it must not start, by itself; None when it may.

        Returns:
            Why it must not start, with others; None when it may.
        """
        if known.supervisor is None or known.manifest is None or not self._plugins.has(known):
            return verdict
        verdict = verdict or self._judge.admit(known)
        problem = next(iter(self._dispatcher.problems(known.manifest)), None)
        if not known.enabled or problem is not None:
            self._dispatcher.remove(known.id)
            if problem is not None and verdict is None:  # that came with another plugin, since it was judged
                known.error = problem
                return problem.message
            return verdict
        is_granted = known.decision is not None and not known.decision.is_blocked
        try:
            self._dispatcher.add(known.manifest, known.supervisor, is_granted=is_granted)
        except ContractError as error:  # its place contradicts another's
            known.error = error
            return verdict or error.message
        return verdict

    async def block(self, known: KnownPlugin, verdict: str, *, because: str = "") -> None:
        """Stop a plugin and keep it from starting.

        Args:
            known: It.
            verdict: Why it must not start.
            because: What brought that about, for its history; empty: the verdict says it.
        """
        known.withdraw_rights()
        supervisor = known.supervisor
        assert supervisor is not None
        await self.stop(known, because or verdict)
        if supervisor.state is not PluginState.BLOCKED or supervisor.life.reason != verdict:
            supervisor.allow(because or verdict)
            supervisor.block(verdict)
        if not known.lacks:
            self._requirements.graph.remove(known.id)  # nobody may wait for it

    # Stopping.

    async def stop(self, known: KnownPlugin, reason: str, *, leaves: bool = False, soon_back: bool = False, cure: str = "") -> None:
        """Stop a plugin, and before it what cannot do without it; that is started again once it can be.

        Args:
            known: It.
            reason: Why.
            leaves: It keeps no place in what it provides either.
            soon_back: Keep ready what makes its next start fast.
            cure: The command that starts it again, for those that are stopped with it.
        """
        assert known.supervisor is not None
        known.is_leaving = True
        try:
            if known.supervisor.guest is not None:  # it may be held in a debugger, and those that wait for it would be waited for
                await known.supervisor.stop(reason)
            for dependent in self._requirements.impact(known.id).stops:
                with suppress(UnknownPluginError, HostClosedError):
                    await self._stop_dependent(dependent, known.id, reason, cure=cure)
            if leaves:
                self._dispatcher.remove(known.id)
            await known.supervisor.stop(reason)
        finally:
            known.is_leaving = False
        if not soon_back:
            self._strategy_of(known.id).release(known.id)

    async def _stop_dependent(self, dependent: str, plugin: str, reason: str, *, cure: str) -> None:
        async with self._plugins.acting_on(dependent, urgent=True) as other:
            if other.supervisor is not None and other.is_there:
                other.lacks = f"plugin {plugin!r}"
                graph = self._requirements.graph
                needed = (one for one in graph.requirements(dependent) if not one.optional)
                needs = [str(one) for one in needed if plugin in graph.providers(dependent, one)]
                why = (
                    f"it requires {', '.join(needs)}, and plugin {plugin!r} was"
                    if needs
                    else f"what it requires needs plugin {plugin!r}, which was"
                )
                verdict = f"{why} stopped ({reason}); it starts once that is there again" + (f", with: {cure}" if cure else "")
                await self.block(other, verdict)

    async def stop_all(self, reason: str) -> None:
        """Stop every plugin for good, each once what requires it is stopped; no act begins any more."""
        self._plugins.is_closing = True
        stopped = {plugin: asyncio.Event() for plugin in self._plugins.by_id}
        await asyncio.gather(*(self._stop_for_good(known, reason, stopped) for known in self._plugins.by_id.values()))
        if self._following:
            await asyncio.wait(self._following)

    async def _stop_for_good(self, known: KnownPlugin, reason: str, stopped: Mapping[str, asyncio.Event]) -> None:
        try:
            for dependent in self._requirements.graph.dependents(known.id):
                await stopped[dependent].wait()
            if known.supervisor is not None:
                await known.supervisor.stop(reason)
            async with known.held():  # an act that was under way may have started it again
                if known.supervisor is not None:
                    await known.supervisor.stop(reason)
        finally:
            stopped[known.id].set()

    # What follows for others.

    def moved(self, known: KnownPlugin, state: PluginState) -> None:
        """Take note that a plugin has come into another state."""
        self._dispatcher.services.moved(known.id)
        if state is PluginState.READY:
            self.follow(known)
        elif state is PluginState.BLOCKED and known.lacks and self._requirements.are_met(known):
            self._start_later(known, "what it requires came meanwhile")

    def follow(self, known: KnownPlugin) -> None:
        """Start what waits for a plugin, if that is there now."""
        if not known.is_there or known.manifest is None:
            return
        for dependent in self._requirements.lacking_one_of(known.manifest):
            self._start_later(dependent, f"plugin {known.id!r} is there")

    def _hooks_changed(self, names: frozenset[str]) -> None:
        """Look again at those that were refused for the name of a hook: it is another plugin's, or nobody's, from now on."""
        for known in self._plugins.by_id.values():
            if known.manifest is not None and known.state is PluginState.BLOCKED and isinstance(known.error, ContractError):
                provides = known.manifest.provides
                if names & (provides.hooks.keys() | provides.hook_specs.keys()):
                    self._start_later(known, f"plugins define other hooks: {', '.join(sorted(names))}")

    def _start_later(self, known: KnownPlugin, reason: str) -> None:
        if not self._plugins.is_closing:
            task = asyncio.get_running_loop().create_task(self._start_dependent(known, reason))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _start_dependent(self, dependent: KnownPlugin, reason: str) -> None:
        with suppress(UnknownPluginError, HostClosedError):
            async with self._plugins.acting_on(dependent.id) as known:
                is_waiting = known.lacks or isinstance(known.error, ContractError)
                if is_waiting and known.supervisor is not None and not known.supervisor.state.has_process:
                    await self.reconcile(known, reason)
