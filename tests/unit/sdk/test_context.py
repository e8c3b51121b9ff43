from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from annexe_sdk import Context, PermissionDenied, Plugin
from annexe_sdk.calls import Call
from annexe_sdk.context import UNCHANGED
from annexe_sdk.hints import _THEN
from annexe_sdk.runner import Runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Runner(theirs, Plugin)


def context(runner: Runner, **meta: Any) -> Context:
    return Context(runner, Call(1, "hook.a.b", [], meta, monotonic()))


def test_the_context_tells_what_came_with_the_call(runner: Runner) -> None:
    runner.config, runner.grants, runner.data_dir = {"a": 1}, ["kv"], "/data"
    ctx = context(runner, request="r-1", traceparent="00-1", caller="other", key="tenant", deadline_ms=1500)
    assert (ctx.request_id, ctx.traceparent, ctx.caller, ctx.key) == ("r-1", "00-1", "other", "tenant")
    assert (ctx.config, ctx.grants, ctx.data_dir) == ({"a": 1}, ["kv"], "/data")
    assert ctx.deadline_s is not None
    assert 1.0 < ctx.deadline_s <= 1.5
    assert not ctx.cancelled
    assert repr(ctx.unchanged) == repr(UNCHANGED) == "ctx.unchanged"


def test_without_the_right_the_private_folder_is_refused_with_the_manifests_line(runner: Runner) -> None:
    with pytest.raises(PermissionDenied) as caught:
        _ = context(runner).data_dir
    line = 'data = { quota = "50MiB" }'
    assert caught.value.data == {"permission": "data", "manifest_line": line}
    assert str(caught.value).endswith(f"has no permission 'data'; add to plugin.toml under [permissions]: {line}{_THEN}")


def test_without_a_call_there_is_nothing_to_tell(runner: Runner) -> None:
    ctx = Context(runner, None)
    assert (ctx.request_id, ctx.traceparent, ctx.caller, ctx.key, ctx.deadline_s, ctx.cancelled, ctx.state) == (None,) * 5 + (False, {})
    assert context(runner).deadline_s is None


@pytest.mark.parametrize(
    ("before", "change", "changed"),
    [
        ({"a": 1}, lambda state: None, None),
        ({"a": [1]}, lambda state: state["a"].append(2), {"a": [1, 2]}),
        ({"a": 1, "b": 2}, lambda state: state.pop("a"), {"a": None}),
        ({"a": 1}, lambda state: state.update(a=1, b={"c": 1}), {"b": {"c": 1}}),
        (None, lambda state: state.update(a=1), {"a": 1}),
    ],
)
def test_only_what_changed_of_the_state_is_sent_back(runner: Runner, before: Any, change: Any, changed: Any) -> None:
    ctx = context(runner, state=before)
    change(ctx.state)
    assert ctx._changed_state() == changed


def test_state_that_was_never_looked_at_costs_nothing(runner: Runner) -> None:
    assert context(runner, state={"a": 1})._changed_state() is None


def test_a_capability_is_called_by_position_or_by_name(runner: Runner) -> None:
    orders = context(runner).cap("orders")
    with pytest.raises(TypeError, match=r"cap\.orders\.find: pass all arguments by position or all by name"):
        orders.find(1, id=2)
    with pytest.raises(AttributeError):
        _ = orders._hidden
