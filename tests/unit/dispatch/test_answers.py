"""Faults and answers carry what a reader needs."""

from __future__ import annotations

from typing import Any

import pytest

from annexe.contract import InvalidValueError
from annexe.dispatch.faults import invalid_result, tell_whose_limit, unsendable
from annexe.dispatch.outcomes import Responded
from annexe.errors import CallTimeoutError, InvalidResultError


def test_unsendable_value_names_what_and_why() -> None:
    error = unsendable("t.edit", ValueError("no"), method="hook.t.edit")
    assert error.message == "t.edit was given a value that cannot be sent: no"
    assert error.data["method"] == "hook.t.edit"


def test_invalid_result_names_the_place_and_where_the_handler_is() -> None:
    wrong = InvalidValueError(path="$.a", expected="int", actual="str")
    error = invalid_result("t.edit", wrong, plugin="one", method="hook.t.edit", at="x.py:1")
    assert (error.plugin, error.data["path"], error.data["at"]) == ("one", "$.a", "x.py:1")
    assert "(handler at x.py:1)" in error.message
    assert "handler" not in invalid_result("t.edit", wrong, plugin="one", method="hook.t.edit").message


@pytest.mark.parametrize(
    ("facts", "added"),
    [
        ({"had_s": 0.3, "limit": "call"}, ", the budget of the hook"),
        ({"had_s": 0.2, "limit": "call"}, ", call-timeout under [resources] in its plugin.toml"),
        ({"had_s": 0.1, "limit": "deadline"}, ", what the request had left for it"),
        ({"reported": {}}, ""),
    ],
)
def test_a_plugin_that_is_late_is_told_whose_limit_it_was(facts: dict[str, Any], added: str) -> None:
    error = CallTimeoutError("late", plugin="one", **facts)
    tell_whose_limit(error, budget_s=0.3)
    assert str(error) == f"late{added}"


def test_responded_holds_value_plugin_and_hook() -> None:
    answer = Responded(7, plugin="one", hook="t.edit")
    assert (answer.value, answer.plugin, answer.hook, str(answer)) == (7, "one", "t.edit", "plugin 'one' responded at t.edit")


def test_whose_limit_it_was_is_told_of_time_outs_alone() -> None:
    error = InvalidResultError("as it was", limit="deadline")
    tell_whose_limit(error)
    assert error.message == "as it was"
