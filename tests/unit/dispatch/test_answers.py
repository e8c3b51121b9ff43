"""Faults and answers carry what a reader needs."""

from __future__ import annotations

from annexe.contract import InvalidValueError
from annexe.dispatch.faults import invalid_result, unsendable
from annexe.dispatch.outcomes import Responded


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


def test_responded_holds_value_plugin_and_hook() -> None:
    answer = Responded(7, plugin="one", hook="t.edit")
    assert (answer.value, answer.plugin, answer.hook, str(answer)) == (7, "one", "t.edit", "plugin 'one' responded at t.edit")
