"""What plugins require of each other, held against which of them are there.

Two questions. May a plugin be taken up at all: nobody here offers what it requires, or it would close a ring? Those are asked of the graph
and answered by what manifests say. And may it start now: of those who fit, is one ready? That changes with every state.

Source: features SV2, SV6, LC17; docs/explanation/services.md; ADR-0091.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import final

from annexe.dispatch.graph import Graph, Impact, Requirement
from annexe.errors import DependencyError, PluginBlockedError
from annexe.host.known import KnownPlugin
from annexe.manifest import Manifest

__all__ = ["Requirements"]


@final
class Requirements:
    """The requirements of one host's plugins.

    Args:
        plugins: All that are known, by id; the registry's own.

    Attributes:
        graph: Who requires whom.
    """

    def __init__(self, plugins: Mapping[str, KnownPlugin]) -> None:
        self._plugins = plugins
        self.graph = Graph()

    def admit(self, known: KnownPlugin) -> str | None:
        """Take a plugin into the graph, as its manifest is now; return why it must not start, None when all that it requires is here.

        Only what was granted all that it asks for may be taken in: what claims a name without leave must stand in nobody's way.

        Raises:
            DependencyError: It cannot be taken in, whoever comes; what was known of the plugin before still holds.
        """
        assert known.manifest is not None
        self.graph.add(known.manifest)
        unmet = self.graph.unmet(known.id)
        known.lacks = "; ".join(unmet)
        if not unmet:
            return None
        would = "".join(f"; {text}" for text in self._would_offer(known))
        return f"it requires {known.lacks}{would}"

    def _would_offer(self, known: KnownPlugin) -> Iterator[str]:
        """Tell of plugins that are not in the graph, and would give what this one lacks."""
        lacking = [one for one in self.graph.requirements(known.id) if not one.optional and not self.graph.providers(known.id, one)]
        ids = {one.name for one in lacking if one.kind == "plugin"}
        services = {one.name for one in lacking if one.kind == "service"}
        for other in self._plugins.values():
            manifest = other.manifest
            if manifest is None or other.id == known.id or (other.id not in ids and services.isdisjoint(manifest.provides.services)):
                continue
            if other.id not in self.graph:
                reason = other.reason.replace("\n  - ", " ")  # problems of a manifest are lines of their own
                yield f"plugin {other.id!r} would, and is {other.state}: {reason}"

    def is_not_installed(self, known: KnownPlugin) -> bool:
        """Say whether a plugin requires what no other one here has, in whatever version and state."""
        others = [other for other in self._plugins.values() if other.id != known.id]
        ids = {other.id for other in others}
        services = {name for other in others if other.manifest is not None for name in other.manifest.provides.services}
        needs = (one for one in self.graph.requirements(known.id) if not one.optional)
        return any(one.name not in (ids if one.kind == "plugin" else services) for one in needs)

    def check_kept(self, manifest: Manifest, dependents: Iterable[str]) -> None:
        """Refuse a manifest that takes away what plugins that run require.

        Raises:
            DependencyError: It does.
        """
        lost = [f"plugin {one!r} requires {why}" for one in dependents if self._is_there(one) for why in self.graph.unmet(one)]
        if lost:
            text = f"plugin {manifest.id!r} {manifest.version} would take away what others require: {'; '.join(lost)}"
            raise DependencyError(f"{text}; stop those first, or reload them with a range that takes both", plugin=manifest.id, path=[])

    async def wait_met(self, known: KnownPlugin) -> None:
        """Wait while what a plugin requires is starting.

        Raises:
            PluginBlockedError: Something of it is not there, and does not come by itself.
        """
        known.lacks = ""
        for requirement in self.graph.requirements(known.id):
            if not requirement.optional:
                await self._wait_for(known, requirement)

    async def _wait_for(self, known: KnownPlugin, requirement: Requirement) -> None:
        while True:
            providers = [self._plugins[one] for one in self.graph.providers(known.id, requirement) if one in self._plugins]
            if any(provider.is_there for provider in providers):
                return
            starting = [provider for provider in providers if not provider.is_settled]
            if not starting:
                known.lacks = str(requirement)
                raise PluginBlockedError(f"it requires {requirement}: {_why(providers)}", plugin=known.id)
            waits = [asyncio.ensure_future(provider.wait_settled()) for provider in starting]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def are_met(self, known: KnownPlugin) -> bool:
        """Say whether all that a plugin requires is there now."""
        return not self.graph.unmet(known.id) and all(
            requirement.optional or any(self._is_there(one) for one in self.graph.providers(known.id, requirement))
            for requirement in self.graph.requirements(known.id)
        )

    def _is_there(self, plugin: str) -> bool:
        return plugin in self._plugins and self._plugins[plugin].is_there

    def impact(self, plugin: str) -> Impact:
        """Return what happens to others, as they are now, when a plugin goes."""
        absent = [one for one in self.graph if not self._is_there(one) and (one not in self._plugins or self._plugins[one].is_settled)]
        return self.graph.impact(plugin, absent=absent)

    def lacking_one_of(self, manifest: Manifest) -> list[KnownPlugin]:
        """Return the plugins that do not run for want of something, and name this plugin or a service of its."""
        named = [self._plugins[one] for one in self.graph.concerned(manifest) if one in self._plugins]
        return [known for known in named if known.lacks]


def _why(providers: list[KnownPlugin]) -> str:
    states = "; ".join(f"plugin {provider.id!r} is {provider.state} ({provider.reason})" for provider in providers)
    return states or "no plugin that fits is there"
