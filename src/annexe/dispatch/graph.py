"""Who needs whom: plugins, the plugins and services they require, and what follows from it.

Pure. Kept up to date one plugin at a time; everything asked of it is answered from tables.

* What is not optional orders: a plugin starts after what it requires and is stopped before it. Optional requirements order nothing.
* A plugin is refused when it is added, and nothing is changed, if it closes a ring or would make the graph larger than ``GraphLimits``.
* A requirement is met by any plugin that fits; a plugin never meets its own requirement of a service.
* Plugins that fit are in the order in which they first came: a plugin keeps its place when it goes by another manifest.

Source: features SV2 and LC17; docs/explanation/services.md; ADR-0091.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal, TypeVar, final

from annexe.errors import DependencyError
from annexe.manifest import Manifest
from annexe.manifest.reader import nearest
from annexe.manifest.versions import is_in_range

__all__ = ["Graph", "GraphLimits", "Impact", "Requirement"]


Key = TypeVar("Key", str, tuple[str, str])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLimits:
    """How large the graph may become.

    Attributes:
        requirements: Of one plugin.
        providers: Plugins that one plugin's requirements lead to, or that offer one service.
        dependents: Plugins whose requirements lead to one plugin.
        depth: Plugins in the longest chain of requirements.
    """

    requirements: int = 128
    providers: int = 256
    dependents: int = 4096
    depth: int = 64


@final
@dataclass(frozen=True, slots=True)
class Requirement:
    """What one plugin requires.

    Attributes:
        kind: A plugin by its id, or a service by its name, whoever offers it.
        version: Range that it must be in; empty: any.
    """

    kind: Literal["plugin", "service"]
    name: str
    version: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} {self.version}".rstrip()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What happens to others when a plugin goes.

    Attributes:
        stops: Plugins that cannot do without, in the order in which they are to be stopped: each before what it requires.
        loses: Plugins that go on, with what they lose: an optional requirement, or one of several that offer a service.
    """

    stops: tuple[str, ...]
    loses: dict[str, tuple[Requirement, ...]]


@final
class _Node:
    __slots__ = ("dependents", "manifest", "providers", "requirements")

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.requirements = tuple(_requirements(manifest))
        self.providers: dict[Requirement, list[str]] = {requirement: [] for requirement in self.requirements}
        self.dependents: set[str] = set()  # by what is not optional

    @property
    def orders(self) -> list[str]:
        """Plugins that it starts after, each once."""
        return list(dict.fromkeys(one for requirement, plugins in self.providers.items() if not requirement.optional for one in plugins))


def _requirements(manifest: Manifest) -> Iterator[Requirement]:
    for plugin, version in manifest.requires.plugins.items():
        yield Requirement("plugin", plugin, version)
    for service, need in manifest.requires.services.items():
        yield Requirement("service", service, need.version, need.optional)


@final
class Graph:
    """The plugins of one host and what they require of each other."""

    def __init__(self, limits: GraphLimits | None = None) -> None:
        self._limits = limits or GraphLimits()
        self._nodes: dict[str, _Node] = {}
        self._places: dict[str, int] = {}  # which plugin came first; they are counted up for ever
        self._last_place = 0
        self._offering: dict[str, list[str]] = {}  # plugins by service, in the order in which they came
        self._naming: dict[tuple[str, str], list[str]] = {}  # plugins that require something, by its kind and name

    def __contains__(self, plugin: str) -> bool:
        return plugin in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    # What changes it.

    def add(self, manifest: Manifest) -> None:
        """Add a plugin, or go by another manifest of one that is there.

        Raises:
            DependencyError: It requires itself, closes a ring, or there would be too much; nothing was changed.
        """
        plugin, before = manifest.id, self._nodes.get(manifest.id)
        if before is not None and before.manifest == manifest:
            return
        self._check_alone(manifest)
        if before is None:
            self._last_place += 1
            self._places[plugin] = self._last_place
        else:
            self._unlink(plugin)
        self._link(manifest)
        try:
            self._check_linked(plugin)
        except DependencyError:
            if before is None:
                self.remove(plugin)
            else:
                self._unlink(plugin)
                self._link(before.manifest)
            raise

    def remove(self, plugin: str) -> None:
        """Let go of a plugin; what others require of it is not there any more."""
        if plugin in self._nodes:
            self._unlink(plugin)
            del self._places[plugin]

    def _unlink(self, plugin: str) -> None:
        node = self._nodes.pop(plugin)
        for service in node.manifest.provides.services:
            _take_out(self._offering, service, plugin)
        for requirement, providers in node.providers.items():
            _take_out(self._naming, (requirement.kind, requirement.name), plugin)
            for provider in providers:
                self._nodes[provider].dependents.discard(plugin)
        for dependent in self.concerned(node.manifest):
            for providers in self._nodes[dependent].providers.values():
                if plugin in providers:
                    providers.remove(plugin)

    def _link(self, manifest: Manifest) -> None:
        plugin = manifest.id
        node = self._nodes[plugin] = _Node(manifest)
        for service in manifest.provides.services:
            self._put_in(self._offering.setdefault(service, []), plugin)
        for requirement in node.requirements:
            self._naming.setdefault((requirement.kind, requirement.name), []).append(plugin)
            for candidate in self._candidates(requirement):
                self._join(plugin, requirement, candidate)
        for dependent in self.concerned(manifest):
            for requirement in self._nodes[dependent].requirements:
                self._join(dependent, requirement, plugin)

    def _candidates(self, requirement: Requirement) -> Iterable[str]:
        if requirement.kind == "service":
            return self._offering.get(requirement.name, ())
        return (requirement.name,) if requirement.name in self._nodes else ()

    def concerned(self, manifest: Manifest) -> list[str]:
        """Return every plugin that names this one or one of its services, whatever version it wants."""
        names = [("plugin", manifest.id), *(("service", service) for service in manifest.provides.services)]
        found = dict.fromkeys(plugin for name in names for plugin in self._naming.get(name, ()))
        found.pop(manifest.id, None)
        return list(found)

    def _join(self, dependent: str, requirement: Requirement, plugin: str) -> None:
        if dependent != plugin and self._fits(requirement, plugin):
            self._put_in(self._nodes[dependent].providers[requirement], plugin)
            if not requirement.optional:
                self._nodes[plugin].dependents.add(dependent)

    def _put_in(self, plugins: list[str], plugin: str) -> None:
        insort(plugins, plugin, key=self._places.__getitem__)

    def _fits(self, requirement: Requirement, plugin: str) -> bool:
        manifest = self._nodes[plugin].manifest
        if requirement.kind == "plugin":
            return plugin == requirement.name and is_in_range(manifest.version, requirement.version)
        offer = manifest.provides.services.get(requirement.name)
        return offer is not None and is_in_range(offer.version, requirement.version)

    # What is refused.

    def _check_alone(self, manifest: Manifest) -> None:
        plugin = manifest.id
        wanted = len(manifest.requires.plugins) + len(manifest.requires.services)
        if wanted > self._limits.requirements:
            raise _refused(plugin, f"it has {wanted} requirements; expected at most {self._limits.requirements}")
        if plugin in manifest.requires.plugins:
            raise _refused(plugin, f"it requires itself: take {plugin!r} out of [requires.plugins]", path=[plugin, plugin])

    def _check_linked(self, plugin: str) -> None:
        path = self._ring(plugin)
        if path:
            text = f"it would close a ring of requirements: {' → '.join(path)}; take one out, or make a required service optional"
            raise _refused(plugin, text, path=path)
        limits, node = self._limits, self._nodes[plugin]
        for service in node.manifest.provides.services:
            if len(self._offering[service]) > limits.providers:
                raise _refused(plugin, f"service {service!r} is offered by {limits.providers} plugins already, expected at most that many")
        for one in (plugin, *node.dependents):
            count = len(self._nodes[one].orders)
            if count > limits.providers:
                text = f"requirements of plugin {one!r} lead to {count} plugins; expected at most {limits.providers}"
                raise _refused(plugin, text)
        for one in (plugin, *node.orders):
            count = len(self._nodes[one].dependents)
            if count > limits.dependents:
                raise _refused(plugin, f"{count} plugins require plugin {one!r}; expected at most {limits.dependents}")
        depth = self._reach(plugin, up=True) + self._reach(plugin, up=False) - 1
        if depth > limits.depth:
            raise _refused(plugin, f"it would make a chain of {depth} plugins that require each other; expected at most {limits.depth}")

    def _ring(self, plugin: str) -> list[str]:
        """Return the way from a plugin over what it requires back to itself; empty when there is none."""
        came_from: dict[str, str] = {}
        ahead = [plugin] if self._nodes[plugin].dependents else []  # nobody requires it: no way leads back
        while ahead:
            here = ahead.pop()
            for provider in self._nodes[here].orders:
                if provider == plugin:
                    path = [plugin, here]
                    while path[-1] != plugin:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                if provider not in came_from:
                    came_from[provider] = here
                    ahead.append(provider)
        return []

    def _reach(self, plugin: str, *, up: bool) -> int:
        """Return how many plugins the longest chain from this one has, itself included; there is no ring."""
        longest: dict[str, int] = {}
        ahead = [plugin]
        while ahead:
            here = ahead[-1]
            if here in longest:  # several ways lead to it
                ahead.pop()
                continue
            following = self._nodes[here].orders if up else self._nodes[here].dependents
            waiting = [one for one in following if one not in longest]
            if waiting:
                ahead += waiting
            else:
                longest[here] = 1 + max((longest[one] for one in following), default=0)
        return longest[plugin]

    # What is asked.

    def manifest_of(self, plugin: str) -> Manifest | None:
        """Return the manifest that a plugin goes by here; None for one that is not there."""
        return self._nodes[plugin].manifest if plugin in self._nodes else None

    def users(self, plugin: str) -> tuple[str, ...]:
        """Return the plugins one of whose requirements this one meets, optional ones included, by id."""
        nodes = sorted(self._nodes.items())
        return tuple(other for other, node in nodes if any(plugin in providers for providers in node.providers.values()))

    def requirements(self, plugin: str) -> tuple[Requirement, ...]:
        """Return what a plugin requires; nothing for one that is not there."""
        return self._nodes[plugin].requirements if plugin in self._nodes else ()

    def providers(self, plugin: str, requirement: Requirement) -> tuple[str, ...]:
        """Return the plugins that fit a requirement of a plugin's, in the order in which they came; none where it has none such."""
        return tuple(self._nodes[plugin].providers.get(requirement, ())) if plugin in self._nodes else ()

    def unmet(self, plugin: str) -> list[str]:
        """Return what a plugin requires and nobody here can give, one text each with what is there instead."""
        needs = [one for one in self.requirements(plugin) if not one.optional]
        return [self._why_unmet(plugin, one) for one in needs if not self._nodes[plugin].providers[one]]

    def _why_unmet(self, plugin: str, requirement: Requirement) -> str:
        candidates = self.candidates(plugin, requirement)
        if requirement.kind == "plugin":
            there = f"version {candidates[requirement.name]} is there" if candidates else "there is no such plugin"
        else:
            there = ", ".join(f"{one} offers {version}" for one, version in candidates.items()) or self._nobody(plugin, requirement.name)
        return f"{requirement}: {there}"

    def _nobody(self, plugin: str, service: str) -> str:
        if service in self._nodes[plugin].manifest.provides.services:
            return "no other plugin offers it, and what a plugin offers itself does not count"
        like = nearest(service, list(self._offering))
        return "no plugin offers it" + (f"; did you mean {like!r}?" if like is not None else "")

    def candidates(self, plugin: str, requirement: Requirement) -> dict[str, str]:
        """Return who has what a plugin requires, whether it fits or not, with the version that each has."""
        manifests = [self._nodes[one].manifest for one in self._candidates(requirement) if one != plugin]
        if requirement.kind == "plugin":
            return {manifest.id: manifest.version for manifest in manifests}
        return {manifest.id: manifest.provides.services[requirement.name].version for manifest in manifests}

    def dependents(self, plugin: str) -> tuple[str, ...]:
        """Return the plugins that start after this one, by id."""
        return tuple(sorted(self._nodes[plugin].dependents)) if plugin in self._nodes else ()

    def waves(self) -> list[tuple[str, ...]]:
        """Return all plugins in the order in which they can start: each wave needs only what came in those before it."""
        sorter = TopologicalSorter({plugin: set(node.orders) for plugin, node in self._nodes.items()})
        sorter.prepare()
        waves = []
        while sorter.is_active():
            wave = sorter.get_ready()
            waves.append(tuple(sorted(wave)))
            sorter.done(*wave)
        return waves

    def impact(self, plugin: str, *, absent: Collection[str] = ()) -> Impact:
        """Return what happens to others when a plugin goes.

        Args:
            plugin: Which.
            absent: Plugins that are not there to stand in for it, and that nothing more happens to.
        """
        if plugin not in self._nodes:
            return Impact(stops=(), loses={})
        gone = {plugin, *absent}
        stops: set[str] = set()
        ahead = [plugin]
        while ahead:
            here = ahead.pop()
            for dependent in self._nodes[here].dependents - gone:
                if self._is_lost(dependent, here, gone):
                    gone.add(dependent)
                    stops.add(dependent)
                    ahead.append(dependent)
        loses = {}
        for other in sorted(self._nodes.keys() - gone):
            lost = tuple(one for one, providers in self._nodes[other].providers.items() if {plugin, *stops}.intersection(providers))
            if lost:
                loses[other] = lost
        order = [one for wave in self.waves() for one in wave if one in stops]
        return Impact(stops=tuple(reversed(order)), loses=loses)

    def _is_lost(self, dependent: str, plugin: str, gone: set[str]) -> bool:
        """Say whether nobody is left for something that a plugin gave; what others failed to give before is not its doing."""
        needs = [providers for one, providers in self._nodes[dependent].providers.items() if not one.optional]
        return any(plugin in providers and gone.issuperset(providers) for providers in needs)


def _take_out(table: dict[Key, list[str]], key: Key, plugin: str) -> None:
    plugins = table[key]
    plugins.remove(plugin)
    if not plugins:
        del table[key]


def _refused(plugin: str, why: str, *, path: list[str] | None = None) -> DependencyError:
    return DependencyError(f"plugin {plugin!r} is refused: {why}", plugin=plugin, path=path or [])
