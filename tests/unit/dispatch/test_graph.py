"""Who needs whom, held against an oracle that goes over everything each time."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Mapping
from typing import final

import pytest

from annexe.dispatch.graph import Graph, GraphLimits, Impact, Requirement
from annexe.errors import DependencyError
from annexe.manifest import Manifest
from annexe.manifest.model import Provides, Requires, Runtime, ServiceNeed, ServiceOffer
from annexe.manifest.versions import is_in_range

TIGHT = GraphLimits(requirements=3, providers=3, dependents=3, depth=3)


def plugin(
    name: str,
    *,
    version: str = "1.0.0",
    offers: Mapping[str, str] | str = "",
    plugins: Mapping[str, str] | str = "",
    services: Mapping[str, str] | str = "",
    optional: str = "",
) -> Manifest:
    """Make a manifest; a text stands for several names, of any version and at version 1.0.0."""
    offered = offers if isinstance(offers, Mapping) else dict.fromkeys(offers.split(), "1.0.0")
    needed = services if isinstance(services, Mapping) else dict.fromkeys(services.split(), "")
    return Manifest(
        id=name,
        version=version,
        runtime=Runtime(kind="python", entry="main"),
        provides=Provides(services={service: ServiceOffer(version=one) for service, one in offered.items()}),
        requires=Requires(
            plugins=plugins if isinstance(plugins, Mapping) else dict.fromkeys(plugins.split(), ""),
            services={service: ServiceNeed(version=one) for service, one in needed.items()}
            | {service: ServiceNeed(version="", optional=True) for service in optional.split()},
        ),
    )


def graph_of(*manifests: Manifest, limits: GraphLimits | None = None) -> Graph:
    graph = Graph(limits)
    for manifest in manifests:
        graph.add(manifest)
    return graph


def refusal(graph: Graph, manifest: Manifest) -> DependencyError:
    """Return why a plugin is refused; nothing else of what can be asked may have changed."""
    before = seen(graph)
    with pytest.raises(DependencyError) as caught:
        graph.add(manifest)
    assert seen(graph) == before
    assert caught.value.plugin == manifest.id and caught.value.code == "dependency-refused"
    return caught.value


def seen(graph: Graph) -> object:
    """Return all that can be asked of a graph."""
    return [
        sorted(graph),
        graph.waves(),
        {
            one: (
                [(requirement, graph.providers(one, requirement)) for requirement in graph.requirements(one)],
                graph.dependents(one),
                graph.unmet(one),
                graph.impact(one),
            )
            for one in graph
        },
    ]


@final
class Oracle:
    """The same graph, worked out anew for each question."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self.plugins = {manifest.id: manifest for manifest in manifests}

    def needs(self, one: str) -> dict[Requirement, list[str]]:
        requires = self.plugins[one].requires
        found = {Requirement("plugin", name, version): self.versions(name, version) for name, version in requires.plugins.items()}
        for name, need in requires.services.items():
            fitting = [
                other
                for other, manifest in self.plugins.items()
                if other != one
                and name in manifest.provides.services
                and is_in_range(manifest.provides.services[name].version, need.version)
            ]
            found[Requirement("service", name, need.version, need.optional)] = fitting
        return found

    def versions(self, name: str, version: str) -> list[str]:
        return [name] if name in self.plugins and is_in_range(self.plugins[name].version, version) else []

    def orders(self, one: str) -> set[str]:
        return {provider for need, providers in self.needs(one).items() if not need.optional for provider in providers}

    def depth(self, one: str, below: tuple[str, ...] = ()) -> int:
        """Return the longest chain; RecursionError where there is a ring."""
        if one in below:
            raise RecursionError(one)
        return 1 + max((self.depth(other, (*below, one)) for other in self.orders(one)), default=0)

    def is_allowed(self, limits: GraphLimits) -> bool:
        try:
            depths = [self.depth(one) for one in self.plugins]
        except RecursionError:
            return False
        offers = [service for manifest in self.plugins.values() for service in manifest.provides.services]
        orders = {one: self.orders(one) for one in self.plugins}
        return (
            max(depths, default=0) <= limits.depth
            and all(offers.count(service) <= limits.providers for service in offers)
            and all(len(self.needs(one)) <= limits.requirements and len(orders[one]) <= limits.providers for one in self.plugins)
            and all(sum(one in others for others in orders.values()) <= limits.dependents for one in self.plugins)
        )

    def impact(self, gone: str, absent: Collection[str]) -> tuple[set[str], dict[str, tuple[Requirement, ...]]]:
        needs = {one: self.needs(one) for one in self.plugins}
        went, out = {gone}, {gone, *absent}
        changed = True
        while changed:
            changed = False
            for one in self.plugins.keys() - out:
                if any(not need.optional and went & {*there} and {*there} <= out for need, there in needs[one].items()):
                    went.add(one)
                    out.add(one)
                    changed = True
        loses = {one: tuple(need for need, there in needs[one].items() if went & {*there}) for one in self.plugins.keys() - out}
        return went - {gone}, {one: lost for one, lost in loses.items() if lost}


def check(graph: Graph, oracle: Oracle, chance: random.Random) -> None:
    """Hold all that can be asked of a graph against the oracle."""
    assert sorted(graph) == sorted(oracle.plugins)
    waves = graph.waves()
    assert sorted(one for wave in waves for one in wave) == sorted(oracle.plugins)
    for number, wave in enumerate(waves, 1):
        assert list(wave) == sorted(wave)
        assert {oracle.depth(one) for one in wave} == {number}
    absent = chance.sample(sorted(oracle.plugins), chance.randrange(len(oracle.plugins) + 1))
    for one in oracle.plugins:
        assert {need: list(graph.providers(one, need)) for need in graph.requirements(one)} == oracle.needs(one)
        assert graph.dependents(one) == tuple(sorted(other for other in oracle.plugins if one in oracle.orders(other)))
        assert len(graph.unmet(one)) == sum(not need.optional and not there for need, there in oracle.needs(one).items())
        for others in ((), absent):
            impact = graph.impact(one, absent=others)
            assert (set(impact.stops), impact.loses) == oracle.impact(one, others)
            assert len(set(impact.stops)) == len(impact.stops)
            for place, stopped in enumerate(impact.stops):  # each before what it requires
                assert not oracle.orders(stopped) & set(impact.stops[:place])


def drawn(chance: random.Random, names: list[str], services: list[str]) -> Manifest:
    def some(of: list[str], at_most: int) -> list[str]:
        return chance.sample(of, chance.randrange(at_most + 1))

    name = chance.choice(names)
    required = some(services, 2)
    return plugin(
        name,
        version=chance.choice(["1.0.0", "2.0.0"]),
        offers={service: chance.choice(["1.0.0", "1.5.0", "2.0.0"]) for service in some(services, 2)},
        plugins={other: chance.choice(["", ">=1,<2"]) for other in some([one for one in names if one != name], 2)},
        services={service: chance.choice(["", ">=1,<2", ">=1.5"]) for service in required},
        optional=" ".join(service for service in services[:1] if service not in required),
    )


@pytest.mark.parametrize("limits", [pytest.param(GraphLimits(), id="wide"), pytest.param(TIGHT, id="tight")])
@pytest.mark.parametrize("seed", range(25))
def test_graph_of_any_history_is_what_the_oracle_says(seed: int, limits: GraphLimits) -> None:
    chance = random.Random(seed)
    names, services = [f"p{number}" for number in range(3 + seed % 8)], ["s0", "s1", "s2"]
    graph, kept, refused = Graph(limits), dict[str, Manifest](), 0
    for _ in range(60):
        if kept and chance.random() < 0.25:
            name = chance.choice(sorted(kept))
            graph.remove(name)
            del kept[name]
        else:
            manifest = drawn(chance, names, services)
            if Oracle((kept | {manifest.id: manifest}).values()).is_allowed(limits):
                graph.add(manifest)
                kept[manifest.id] = manifest  # a dict keeps the place of a plugin that is there, and so does the graph
            else:
                refusal(graph, manifest)
                refused += 1
        check(graph, Oracle(kept.values()), chance)
    assert refused > 0
    for name in list(kept):
        graph.remove(name)
    assert seen(graph) == seen(Graph())
    assert not graph._offering and not graph._naming and not graph._places


# Rings.


@pytest.mark.parametrize(
    ("there", "added", "path"),
    [
        pytest.param([], plugin("a", plugins="a"), "a a", id="itself"),
        pytest.param([plugin("b", plugins="a")], plugin("a", plugins="b"), "a b a", id="two"),
        pytest.param([plugin("b", plugins="c"), plugin("c", plugins="a")], plugin("a", plugins="b"), "a b c a", id="three"),
        pytest.param([plugin("b", services="s")], plugin("a", offers="s", plugins="b"), "a b a", id="over-a-service"),
        pytest.param(
            [plugin("x"), plugin("b", plugins="a"), plugin("c", plugins="x b")], plugin("a", plugins="x c"), "a c b a", id="beside-ways-out"
        ),
    ],
)
def test_ring_is_refused_and_its_path_named(there: list[Manifest], added: Manifest, path: str) -> None:
    error = refusal(graph_of(*there), added)
    assert error.path == path.split()
    assert " → ".join(path.split()) in error.message or "requires itself" in error.message


def test_ring_that_a_change_of_manifest_would_close_leaves_the_plugin_as_it_was() -> None:
    graph = graph_of(plugin("a", offers="s"), plugin("b", plugins="a"), plugin("c", offers="s"), plugin("d", services="s"))
    assert refusal(graph, plugin("a", version="2.0.0", plugins="b")).path == ["a", "b", "a"]
    assert graph.providers("d", Requirement("service", "s", "")) == ("a", "c")
    assert graph.providers("d", Requirement("service", "of-another-manifest", "")) == ()
    assert graph.providers("gone", Requirement("service", "s", "")) == ()


@pytest.mark.parametrize(
    "added",
    [
        pytest.param(plugin("a", offers="t", optional="s"), id="it-is-optional"),
        pytest.param(plugin("a", offers="t", services={"s": ">=2"}), id="of-another-version"),
        pytest.param(plugin("a", offers="s", services="s"), id="own-service-is-not-its-provider"),
    ],
)
def test_what_orders_nothing_closes_no_ring(added: Manifest) -> None:
    graph = graph_of(plugin("b", offers="s", optional="t"))
    graph.add(added)
    assert "a" in graph


# Limits.


@pytest.mark.parametrize(
    ("there", "added", "said"),
    [
        pytest.param("", plugin("a", plugins="b c", services="s", optional="t"), "it has 4 requirements; expected at most 3", id="own"),
        pytest.param(
            "b:s c:s d:s", plugin("a", offers="s"), "service 's' is offered by 3 plugins already, expected at most that many", id="offers"
        ),
        pytest.param(
            "b:s c:s d:s e:t",
            plugin("a", services="s t"),
            "requirements of plugin 'a' lead to 4 plugins; expected at most 3",
            id="providers",
        ),
        pytest.param("a b::a c::a d::a", plugin("e", plugins="a"), "4 plugins require plugin 'a'; expected at most 3", id="dependents"),
        pytest.param("c::b d::c", plugin("a", offers="x", plugins=""), "", id="apart"),
        pytest.param(
            "b c::b e::d",
            plugin("d", plugins="c"),
            "it would make a chain of 4 plugins that require each other; expected at most 3",
            id="depth",
        ),
    ],
)
def test_graph_grows_up_to_its_limits(there: str, added: Manifest, said: str) -> None:
    graph = Graph(TIGHT)
    for one in there.split():
        name, offers, plugins = (*one.split(":"), "", "")[:3]
        graph.add(plugin(name, offers=offers, plugins=plugins))
    if said:
        assert refusal(graph, added).message == f"plugin {added.id!r} is refused: {said}"
    else:
        graph.add(added)


def test_provider_too_many_for_a_plugin_that_is_there_is_refused() -> None:
    graph = graph_of(*(plugin(one, offers="s") for one in "bc"), plugin("d", offers="t"), plugin("a", services="s t"), limits=TIGHT)
    assert "requirements of plugin 'a' lead to 4 plugins" in refusal(graph, plugin("e", offers="s")).message


def test_plugin_that_meets_two_requirements_counts_once() -> None:
    graph = graph_of(plugin("b", offers="s t u"), plugin("a", plugins="b", services="s t"), limits=GraphLimits(providers=1))
    assert graph.dependents("b") == ("a",)


def test_very_many_requirements_are_refused_quickly() -> None:
    graph = graph_of(*(plugin(f"p{number}") for number in range(100)))
    many = plugin("a", plugins={f"p{number}": ">=1,<2" for number in range(10_000)})
    began = time.process_time()
    assert "it has 10000 requirements; expected at most 128" in refusal(graph, many).message
    assert time.process_time() - began < 0.5


def test_layers_in_which_everybody_requires_everybody_below_are_taken_up_quickly() -> None:
    layers = [[f"p{layer}-{number}" for number in range(16)] for layer in range(24)]
    graph, began = Graph(), time.process_time()
    for below, layer in zip([[], *layers], layers, strict=False):
        for one in layer:
            graph.add(plugin(one, plugins=" ".join(below)))
    graph.add(plugin("top", plugins=" ".join(layers[-1])))
    with pytest.raises(DependencyError, match="ring") as caught:
        graph.add(plugin("p0-0", plugins="top"))
    assert (caught.value.path[0], caught.value.path[-1], len(caught.value.path)) == ("p0-0", "p0-0", 26)
    assert (len(graph.waves()), len(graph.impact("p0-0").stops)) == (25, 23 * 16 + 1)
    assert time.process_time() - began < 10.0


# Versions, and what is asked.


def test_unmet_requirements_say_what_is_there_instead() -> None:
    graph = graph_of(
        plugin("old", version="0.9.0", offers={"words": "1.0.0"}),
        plugin(
            "a",
            offers="own",
            plugins={"old": ">=1", "gone": ""},
            services={"words": ">=2,<3", "nothing": "", "word": "", "own": ""},
            optional="never",
        ),
    )
    assert graph.unmet("a") == [
        "plugin 'old' >=1: version 0.9.0 is there",
        "plugin 'gone': there is no such plugin",
        "service 'words' >=2,<3: old offers 1.0.0",
        "service 'nothing': no plugin offers it",
        "service 'word': no plugin offers it; did you mean 'words'?",
        "service 'own': no other plugin offers it, and what a plugin offers itself does not count",
    ]
    assert graph.dependents("old") == ()
    assert [graph.candidates("a", need) for need in graph.requirements("a")] == [{"old": "0.9.0"}, {}, {"old": "1.0.0"}, {}, {}, {}, {}]
    graph.add(plugin("old", version="1.1.0", offers={"words": "2.0.0"}))
    assert graph.unmet("a") == ["plugin 'gone': there is no such plugin", *graph.unmet("a")[1:]] and len(graph.unmet("a")) == 4
    assert graph.dependents("old") == ("a",)


def test_plugin_keeps_its_place_when_it_changes_and_loses_it_when_it_goes() -> None:
    graph = graph_of(plugin("b", offers="s"), plugin("a", services="s"), plugin("c", offers="s"))
    need = Requirement("service", "s", "")
    for _ in range(2):  # the second time nothing changes
        graph.add(plugin("b", offers={"s": "1.1.0"}))
        assert graph.providers("a", need) == ("b", "c")
    graph.remove("b")
    graph.add(plugin("b", offers="s"))
    assert graph.providers("a", need) == ("c", "b")


def test_concerned_are_those_who_name_it_whatever_version_they_want() -> None:
    graph = graph_of(plugin("a", services={"s": ">=9"}), plugin("b", plugins={"x": ">=9"}), plugin("c", optional="s"), plugin("d"))
    assert graph.concerned(plugin("x", offers="s", services="s")) == ["b", "a", "c"]


def test_plugin_that_is_not_there_has_nothing() -> None:
    graph = graph_of(plugin("a", plugins="gone"))
    graph.remove("gone")
    assert (graph.requirements("gone"), graph.dependents("gone"), graph.unmet("gone")) == ((), (), [])
    assert graph.impact("gone") == Impact(stops=(), loses={})


# Impact.


def test_impact_stops_dependents_in_order_and_tells_what_others_lose() -> None:
    graph = graph_of(
        plugin("base", offers="s"),
        plugin("other", offers="s"),
        plugin("mid", plugins="base", offers="t"),
        plugin("top", services="t"),
        plugin("both", services="s"),
        plugin("maybe", optional="t"),
    )
    assert graph.impact("base") == Impact(
        stops=("top", "mid"),
        loses={"both": (Requirement("service", "s", ""),), "maybe": (Requirement("service", "t", "", optional=True),)},
    )
    assert graph.impact("base", absent=["other"]).stops[-1] in ("mid", "both")
    assert set(graph.impact("base", absent=["other"]).stops) == {"top", "mid", "both"}
    assert graph.impact("base", absent=["mid", "top"]).stops == ()


def test_impact_is_not_blamed_for_what_others_failed_to_give_before() -> None:
    graph = graph_of(plugin("b", offers="s"), plugin("c", offers="s"), plugin("crashed", offers="t"), plugin("a", services="s t"))
    impact = graph.impact("b", absent=["crashed"])
    assert impact == Impact(stops=(), loses={"a": (Requirement("service", "s", ""),)})


def test_manifest_and_users_of_a_plugin_are_told() -> None:
    words = plugin("words", offers="words")
    graph = graph_of(plugin("b", services="words"), words, plugin("a", optional="words"), plugin("c", plugins="words"), plugin("d"))
    assert (graph.manifest_of("words"), graph.manifest_of("nobody")) == (words, None)
    assert graph.users("words") == ("a", "b", "c")
    assert graph.users("d") == graph.users("nobody") == ()
