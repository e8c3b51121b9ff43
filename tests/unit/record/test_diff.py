from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annexe.record.diff import MAX_DEPTH, diff


def applied(value: Any, changes: list[dict[str, Any]]) -> Any:
    """Apply a patch as RFC 6902 says."""
    root = {"": copy.deepcopy(value)}
    for change in changes:
        tokens = [token.replace("~1", "/").replace("~0", "~") for token in change["path"].split("/")]
        target: Any = root
        for token in tokens[:-1]:
            target = target[int(token) if isinstance(target, list) else token]
        last: Any = int(tokens[-1]) if isinstance(target, list) else tokens[-1]
        if change["op"] == "remove":
            del target[last]
        elif change["op"] == "add" and isinstance(target, list):
            target.insert(last, change["value"])
        else:
            target[last] = change["value"]
    return root[""]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, [], id="same"),
        pytest.param({"a": 1}, {"a": 2}, [{"op": "replace", "path": "/a", "value": 2, "before": 1}], id="replace"),
        pytest.param({"a": 1}, {}, [{"op": "remove", "path": "/a", "before": 1}], id="remove"),
        pytest.param({}, {"a": 1}, [{"op": "add", "path": "/a", "value": 1}], id="add"),
        pytest.param("x", ["x"], [{"op": "replace", "path": "", "value": ["x"], "before": "x"}], id="root"),
        pytest.param({"a/b~": 1}, {"a/b~": 2}, [{"op": "replace", "path": "/a~1b~0", "value": 2, "before": 1}], id="pointer-escapes"),
        pytest.param([1, 2, 3], [1, 3], [{"op": "remove", "path": "/1", "before": 2}], id="list-remove"),
        pytest.param([1, 3], [1, 2, 3], [{"op": "add", "path": "/1", "value": 2}], id="list-add"),
        pytest.param([1, 2, 3], [1, 9, 3], [{"op": "replace", "path": "/1", "value": 9, "before": 2}], id="list-replace"),
        pytest.param([{"a": 1}], [{"a": 2}], [{"op": "replace", "path": "/0/a", "value": 2, "before": 1}], id="nested"),
        pytest.param(1, True, [{"op": "replace", "path": "", "value": True, "before": 1}], id="one-is-not-true"),
        pytest.param([1], [1.0], [{"op": "replace", "path": "/0", "value": 1.0, "before": 1}], id="one-is-not-one-point-nought"),
        pytest.param([[1]], [[True]], [{"op": "replace", "path": "/0/0", "value": True, "before": 1}], id="deep-type"),
    ],
)
def test_diff_lists_what_changed(before: Any, after: Any, expected: list[dict[str, Any]]) -> None:
    changes, is_cut = diff(before, after)
    assert changes == expected
    assert [type(change.get("value")) for change in changes] == [type(change.get("value")) for change in expected]
    assert not is_cut


def test_diff_of_many_changes_is_cut_and_says_so() -> None:
    before, after = {str(number): 0 for number in range(101)}, {str(number): 1 for number in range(101)}
    changes, is_cut = diff(before, after, max_changes=100)
    assert (len(changes), is_cut) == (100, True)
    assert diff(before, after, max_changes=101)[1] is False


def nested(bottom: Any, depth: int) -> Any:
    for _ in range(depth):
        bottom = [bottom]
    return bottom


def test_diff_below_its_depth_replaces_whole() -> None:
    (change,), _ = diff(nested([1], 200), nested([2], 200))
    assert change["op"] == "replace"
    assert change["path"] == "/0" * MAX_DEPTH


def test_diff_of_values_made_to_be_dear_stops_looking_and_is_still_right() -> None:
    # Each level would compare the whole list below it again.
    before, after = nested([0] * 30_000 + [1], 60), nested([0] * 30_000 + [2], 60)
    changes, _ = diff(before, after)
    assert [change["op"] for change in changes] == ["replace"]
    assert len(changes[0]["path"]) < len("/0" * 60)
    assert applied(before, changes) == after


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b", "a/b", "~"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["a", "b", "a/b", "~", ""]), inner),
    max_leaves=25,
)


@settings(deadline=None, max_examples=300)
@given(_JSON, _JSON)
def test_diff_applied_to_the_first_value_gives_the_second(before: Any, after: Any) -> None:
    changes, is_cut = diff(before, after, max_changes=10_000)
    assert not is_cut
    assert repr(applied(before, changes)) == repr(after) or applied(before, changes) == after
    assert diff(before, before) == ([], False)
    assert (changes == []) == (sorted_repr(before) == sorted_repr(after))


def sorted_repr(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{sorted_repr(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(sorted_repr, value)) + "]"
    return repr(value)
