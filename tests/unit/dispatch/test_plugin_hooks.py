"""Whose a hook that a plugin defines is, and who is passed over at it; calls are tested with real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from annexe.clock import SystemClock
from annexe.dispatch.dispatcher import Dispatcher
from annexe.dispatch.policy import DispatchPolicy
from annexe.errors import ContractError
from annexe.manifest.model import HookImpl, HookSpecOffer, Manifest, Provides, Runtime
from annexe.record import Events, Explain, Metrics


def plugin(name: str, *, defines: Mapping[str, Any] | None = None, **hooks: HookImpl) -> Manifest:
    offers = {
        hook: HookSpecOffer(schema="a.json", schema_text=b"{}", **{"kind": "filter", **terms}) for hook, terms in (defines or {}).items()
    }
    impls = {hook.replace("_", "."): impl for hook, impl in hooks.items()}
    return Manifest(id=name, version="1.0.0", runtime=Runtime(kind="python"), provides=Provides(hooks=impls, hook_specs=offers))


def run(scenario: Callable[[Dispatcher, list[Manifest], list[set[str]]], None], **policy: Any) -> None:
    async def scene() -> None:
        events, known = Events(SystemClock()), list[Manifest]()
        dispatcher = Dispatcher(
            [],
            policy=DispatchPolicy(**policy),
            explain=Explain(),
            events=events,
            metrics=Metrics(),
            clock=SystemClock(),
            command=str,
            declared=lambda: known,
        )
        changed: list[set[str]] = []
        dispatcher.plugin_hooks.on_changed = lambda names: changed.append(set(names))
        scenario(dispatcher, known, changed)
        dispatcher.close()

    asyncio.run(scene())


def add(dispatcher: Dispatcher, manifest: Manifest, **terms: Any) -> None:
    provider: Any = SimpleNamespace(id=manifest.id)
    dispatcher.add(manifest, provider, **terms)


def provided(**kinds: str) -> Any:
    facts = {hook.replace("_", "."): SimpleNamespace(kind=kind, at="") for hook, kind in kinds.items()}
    return SimpleNamespace(hooks=facts, services={}, watches={})


def test_hook_is_open_once_its_plugin_is_granted_it_and_closes_with_it() -> None:
    def scenario(dispatcher: Dispatcher, known: list[Manifest], changed: list[set[str]]) -> None:
        definer, worker = plugin("definer", defines={"sums.add": {}}), plugin("worker", sums_add=HookImpl(revision=1))
        assert [type(problem) for problem in dispatcher.problems(worker)] == [ContractError]
        known.append(definer)
        assert dispatcher.problems(worker) == []
        add(dispatcher, worker)
        add(dispatcher, definer, is_granted=False)
        assert (dispatcher.implementers("sums.add"), changed) == (
            ([], {"worker": "no enabled plugin that was granted define:sums.add defines it"}),
            [],
        )
        add(dispatcher, definer)
        assert (dispatcher.implementers("sums.add"), changed) == ((["worker"], {}), [{"sums.add"}])
        add(dispatcher, definer)
        assert changed == [{"sums.add"}]
        add(dispatcher, definer, is_granted=False)
        assert "sums.add" not in dispatcher.pipelines and changed == [{"sums.add"}] * 2
        add(dispatcher, definer)
        dispatcher.remove("definer")
        assert "sums.add" not in dispatcher.pipelines and len(changed) == 4
        known.clear()
        assert dispatcher.problems(worker) == []  # it was known once
        assert dispatcher.open_breakers("worker") == {}

    run(scenario)


def test_hook_that_is_defined_no_more_is_closed_and_others_stay_as_they_are() -> None:
    def scenario(dispatcher: Dispatcher, known: list[Manifest], changed: list[set[str]]) -> None:
        add(dispatcher, plugin("definer", defines={"sums.add": {}, "sums.take": {}}))
        kept = dispatcher.pipelines["sums.add"]
        add(dispatcher, plugin("definer", defines={"sums.add": {}, "sums.new": {"revision": 2}}))
        assert dispatcher.pipelines.keys() == {"sums.add", "sums.new"} and dispatcher.pipelines["sums.add"] is kept
        assert changed[-1] == {"sums.take", "sums.new"}

    run(scenario)


def test_name_of_another_plugin_is_a_problem_until_it_leaves() -> None:
    def scenario(dispatcher: Dispatcher, known: list[Manifest], changed: list[set[str]]) -> None:
        add(dispatcher, plugin("first", defines={"sums.add": {}}))
        second = plugin("second", defines={"sums.add": {}})
        (problem,) = dispatcher.problems(second)
        assert "which plugin 'first' defines already" in problem.message
        with pytest.raises(ContractError):
            add(dispatcher, second)
        dispatcher.remove("first")
        assert dispatcher.problems(second) == []

    run(scenario)


def test_other_revision_or_kind_is_passed_over() -> None:
    def scenario(dispatcher: Dispatcher, known: list[Manifest], changed: list[set[str]]) -> None:
        add(dispatcher, plugin("definer", defines={"sums.add": {"revision": 2}}))
        connection: Any = None
        for name, revision in (("alpha", 1), ("beta", 2), ("gamma", 2)):
            add(dispatcher, plugin(name, sums_add=HookImpl(revision=revision)))
        gamma = plugin("gamma", sums_add=HookImpl(revision=2))
        dispatcher.learn(gamma, provided(sums_add="action"), connection)
        assert dispatcher.implementers("sums.add") == (
            ["beta"],
            {
                "alpha": "it implements revision 1, and plugin 'definer' defines revision 2",
                "gamma": "it answers it as action, and plugin 'definer' defines it as filter",
            },
        )
        assert dispatcher.plugin_hooks.passed_over(gamma) == {"sums.add": dispatcher.implementers("sums.add")[1]["gamma"]}
        dispatcher.learn(gamma, provided(sums_add="filter"), connection)
        assert dispatcher.implementers("sums.add")[0] == ["beta", "gamma"]

    run(scenario)


def test_order_holds_when_the_definer_comes_last() -> None:
    def scenario(dispatcher: Dispatcher, known: list[Manifest], changed: list[set[str]]) -> None:
        definer = plugin("definer", defines={"sums.add": {}})
        known.append(definer)
        add(dispatcher, plugin("alpha", sums_add=HookImpl(revision=1, after=("beta", "absent"))))
        add(dispatcher, plugin("beta", sums_add=HookImpl(revision=1)))
        add(dispatcher, plugin("gamma", sums_add=HookImpl(revision=1, priority=500)))
        with pytest.raises(ContractError, match="contradict each other"):
            add(dispatcher, plugin("delta", sums_add=HookImpl(revision=1, after=("alpha",), before=("beta",))))
        add(dispatcher, definer)
        assert dispatcher.implementers("sums.add")[0] == ["gamma", "beta", "alpha"]  # the operator's order comes first
        assert dispatcher.pipelines["sums.add"].absent == ("nobody", "absent")
        dispatcher.remove("beta")
        assert dispatcher.implementers("sums.add")[0] == ["gamma", "alpha"]

    run(scenario, order={"sums.add": ["gamma", "nobody"]})


def test_decisions_about_hooks_that_nobody_defines_are_told() -> None:
    def scenario(dispatcher: Dispatcher, known: list[Manifest], changed: list[set[str]]) -> None:
        assert dispatcher.undecided() == [("order", "sums.add"), ("on_failure", "sums.take")]
        add(dispatcher, plugin("definer", defines={"sums.add": {}}))
        assert dispatcher.undecided() == [("on_failure", "sums.take")]

    run(scenario, order={"sums.add": []}, on_failure={"sums.take": "closed", "some-plugin": "closed"})
    with pytest.raises(ContractError, match="order names 'plain', which the host does not open"):
        run(lambda *_: None, order={"plain": []})
