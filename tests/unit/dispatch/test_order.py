from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.dispatch.order import Ordered, absent_names, order_implementations
from annexe.errors import ContractError


def impl(plugin: str, priority: int = 100, *, before: str = "", after: str = "") -> Ordered:
    return Ordered(plugin=plugin, priority=priority, before=tuple(before.split()), after=tuple(after.split()))


@pytest.mark.parametrize(
    ("implementations", "operator", "expected"),
    [
        pytest.param([], "", "", id="none"),
        pytest.param([impl("b", 10), impl("a", 20)], "", "b a", id="priority"),
        pytest.param([impl("b"), impl("a")], "", "a b", id="id-where-priorities-tie"),
        pytest.param([impl("a", 10), impl("b", 20, before="a")], "", "b a", id="before-wins-over-priority"),
        pytest.param([impl("a", 10, after="b"), impl("b", 20)], "", "b a", id="after-wins-over-priority"),
        pytest.param([impl("a", 10, after="c"), impl("b", 20), impl("c", 30)], "", "b c a", id="others-keep-their-priority"),
        pytest.param([impl("a", 1, after="b c"), impl("b", after="c"), impl("c")], "", "c b a", id="chain"),
        pytest.param([impl("a", before="x", after="y"), impl("b", 1)], "", "b a", id="absent-names-ignored"),
        pytest.param([impl("a", before="b"), impl("b", 1)], "b a", "b a", id="operator-wins-over-before"),
        pytest.param([impl("a", 1), impl("b", 2), impl("c", 3)], "c x c", "c a b", id="operator-first-then-others"),
        pytest.param([impl("a", after="b"), impl("b", after="a")], "b", "b a", id="operator-mends-a-cycle"),
        pytest.param([impl("a", before="b b", after="b"), impl("b", before="a")], "a b", "a b", id="operator-orders-all"),
    ],
)
def test_implementations_are_ordered(implementations: list[Ordered], operator: str, expected: str) -> None:
    for permutation in itertools.permutations(implementations):
        assert order_implementations(permutation, operator.split()) == expected.split()


@pytest.mark.parametrize(
    ("implementations", "cycle"),
    [
        pytest.param([impl("a", before="a")], "a a", id="itself"),
        pytest.param([impl("a", before="b"), impl("b", before="a")], "a b a", id="two"),
        pytest.param([impl("a", after="b"), impl("b", after="c"), impl("c", after="a"), impl("d")], "a c b a", id="three"),
        pytest.param([impl("a", after="b"), impl("b", after="c"), impl("c", after="b")], "b c b", id="beside-a-plugin-that-waits-for-it"),
    ],
)
def test_cycle_is_refused_and_its_path_named(implementations: list[Ordered], cycle: str) -> None:
    with pytest.raises(ContractError, match=re.escape(cycle.replace(" ", " → "))) as caught:
        order_implementations(implementations)
    assert caught.value.data == {"cycle": cycle.split()}


def test_plugin_given_twice_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="two of 'a'"):
        order_implementations([impl("a"), impl("a")])


def test_absent_names_are_reported() -> None:
    implementations = [impl("a", before="b x"), impl("b", after="y a")]
    assert absent_names(implementations, ["b", "z"]) == ["z", "x", "y"]
    assert absent_names([impl("a")]) == []


PLUGINS = "abcdef"


NAMES = st.sets(st.sampled_from(PLUGINS))


@given(
    st.dictionaries(st.sampled_from(PLUGINS), st.tuples(st.integers(0, 3), NAMES, NAMES)),
    st.lists(st.sampled_from(PLUGINS), max_size=3),
)
def test_order_holds_every_rule_or_names_a_true_cycle(drawn: dict[str, tuple[int, set[str], set[str]]], operator: list[str]) -> None:
    implementations = [Ordered(plugin=name, priority=p, before=tuple(b), after=tuple(a)) for name, (p, b, a) in drawn.items()]
    first = [name for name in dict.fromkeys(operator) if name in drawn]
    rest = drawn.keys() - set(first)
    must = {(name, later) for name in rest for later in drawn[name][1] & rest} | {(e, name) for name in rest for e in drawn[name][2] & rest}
    try:
        order = order_implementations(implementations, operator)
    except ContractError as error:
        cycle = error.data["cycle"]
        assert cycle[0] == cycle[-1]
        assert all(pair in must for pair in itertools.pairwise(cycle))
    else:
        assert sorted(order) == sorted(drawn)
        assert order[: len(first)] == first
        assert all(order.index(earlier) < order.index(later) for earlier, later in must)
