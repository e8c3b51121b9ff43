"""Errors carry their facts, and say what happened and what mends it."""

from __future__ import annotations

import copy
import pickle

import pytest

from annexe import Responded, errors
from annexe.contract import InvalidValueError


def test_error_shows_its_facts_as_attributes_and_data() -> None:
    error = errors.AnnexeError("It went wrong.", plugin="chaos", limit_bytes=3)
    assert (str(error), error.message, error.plugin, error.data) == ("It went wrong.", "It went wrong.", "chaos", {"limit_bytes": 3})
    assert error.limit_bytes == 3  # type: ignore[attr-defined]


def test_manifest_error_lists_every_problem_under_its_source() -> None:
    error = errors.ManifestError(source="plugin.toml", problems=["no id", "no version"])
    assert error.message == "plugin.toml is not a valid manifest:\n  - no id\n  - no version"
    assert error.data["problems"] == ["no id", "no version"]


@pytest.mark.parametrize(("actual", "older"), [(1, "the plugin"), (3, "the host")])
def test_revision_mismatch_names_who_must_be_upgraded(actual: int, older: str) -> None:
    error = errors.RevisionMismatchError(plugin="chaos", contract="chat", expected=2, actual=actual)
    assert f"revision {actual}, expected 2; {older} must be upgraded" in error.message


def test_permission_denied_names_the_line_and_the_command_that_mend_it() -> None:
    error = errors.PermissionDeniedError(plugin="chaos", permission="kv", manifest_line="kv = {}", command="annexe grant chaos kv")
    assert error.message.endswith("add to plugin.toml under [permissions]: kv = {}; then grant it with: annexe grant chaos kv")


def test_permission_denied_asks_for_no_line_that_is_there() -> None:
    error = errors.PermissionDeniedError(plugin="chaos", permission="kv", manifest_line="", command="annexe grant chaos kv")
    assert error.message == "plugin 'chaos' has no permission 'kv'; grant it with: annexe grant chaos kv"


def test_protocol_call_hook_and_rejection_errors_carry_their_names() -> None:
    assert errors.RemoteProtocolError("No.", rule="frame-too-large", plugin="chaos").data == {"rule": "frame-too-large"}
    assert errors.CallTimeoutError("Late.", plugin="chaos", method="hook.chat.on_request", waited_s=1.0).data == {
        "method": "hook.chat.on_request",
        "waited_s": 1.0,
    }
    assert errors.HookError("No.", plugin="chaos", hook="chat.on_request", reason="deadline-exceeded").data["reason"] == "deadline-exceeded"
    rejected = errors.RejectedError("No.", plugin="chaos", hook="chat.on_request", reject_code="rate-limited", status=429)
    assert (rejected.data["reject_code"], rejected.data["status"]) == ("rate-limited", 429)


def test_wrong_context_can_be_caught_as_what_python_would_raise() -> None:
    with pytest.raises(RuntimeError, match="loop"):
        raise errors.WrongContextError("Inside a running loop.")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errors.ManifestError(source="plugin.toml", problems=["no id"]), id="made from its facts"),
        pytest.param(errors.RejectedError("No.", plugin="chaos", hook="a.b", reject_code="full", status=429), id="with facts of its own"),
        pytest.param(errors.CallTimeoutError("Late.", plugin="chaos", method="hook.a.b"), id="with an optional fact"),
    ],
)
def test_error_reaches_another_process_as_it_was(error: errors.AnnexeError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert (str(other), other.plugin, other.data, vars(other)) == (str(error), error.plugin, error.data, vars(error))


def test_answers_that_are_raised_reach_another_process_too() -> None:
    responded = pickle.loads(pickle.dumps(Responded([1], plugin="one", hook="a.b")))
    assert (responded.value, responded.plugin, responded.hook) == ([1], "one", "a.b")
    invalid = copy.copy(InvalidValueError(path="$.a", expected="int", actual="str"))
    assert str(invalid) == "at $.a: expected int, got str"
