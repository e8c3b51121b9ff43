"""What the control socket tells of the graph of requirements, and of what follows when a plugin goes: plain values.

Nothing is changed here. Names are as plugins' authors wrote them; whoever draws them escapes them.

* A plugin that was refused for what it requires has no wave; if it was there before with another manifest, that one holds, and is told.

Source: docs/reference/control.md has the form for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annexe.dispatch.graph import Graph, Impact, Requirement
from annexe.errors import DependencyError
from annexe.host.known import KnownPlugin

__all__ = ["graph_view", "impact_view", "requirements_view"]


def graph_view(plugins: Mapping[str, KnownPlugin], graph: Graph) -> dict[str, Any]:
    """Return all plugins with their waves, what they require and who gives it, and which plugins were refused."""
    waves = {plugin: number for number, wave in enumerate(graph.waves(), 1) for plugin in wave}
    return {
        "plugins": [_plugin(known, waves.get(plugin)) for plugin, known in sorted(plugins.items())],
        "requirements": [{"plugin": plugin} | row for plugin in sorted(graph) for row in requirements_view(plugin, plugins, graph)],
        "refused": [
            {"plugin": plugin, "reason": known.error.message, "path": known.error.path}
            for plugin, known in sorted(plugins.items())
            if isinstance(known.error, DependencyError)
        ],
    }


def requirements_view(plugin: str, plugins: Mapping[str, KnownPlugin], graph: Graph) -> list[dict[str, Any]]:
    """Return what one plugin requires and who gives it; nothing for one that was not taken up."""
    return [_row(one) | _given(plugins, graph, plugin=plugin, requirement=one) for one in graph.requirements(plugin)]


def _plugin(known: KnownPlugin, wave: int | None) -> dict[str, Any]:
    version = known.manifest.version if known.manifest is not None else ""
    return {"id": known.id, "version": version, "state": str(known.state), "reason": known.reason, "wave": wave}


def _given(plugins: Mapping[str, KnownPlugin], graph: Graph, *, plugin: str, requirement: Requirement) -> dict[str, Any]:
    providers, candidates = graph.providers(plugin, requirement), graph.candidates(plugin, requirement)
    if providers:
        status = "met" if any(one in plugins and plugins[one].is_there for one in providers) else "down"
    else:
        status = "conflict" if candidates else "missing"
    others = {one: version for one, version in candidates.items() if one not in providers}
    return {"status": status, "providers": list(providers), "others": others}


def impact_view(plugin: str, impact: Impact, graph: Graph) -> dict[str, Any]:
    """Return what happens to others when a plugin goes, and who may use it now."""
    loses = {one: [_row(requirement) for requirement in lost] for one, lost in impact.loses.items()}
    return {"plugin": plugin, "stops": list(impact.stops), "loses": loses, "users": list(graph.users(plugin))}


def _row(requirement: Requirement) -> dict[str, Any]:
    return {"kind": requirement.kind, "name": requirement.name, "version": requirement.version, "optional": requirement.optional}
