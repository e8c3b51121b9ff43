from __future__ import annotations

from typing import Any

import pytest

from annexe.channel.faults import _BY_CODE, error_from_wire, error_to_wire
from annexe.channel.messages import WireError
from annexe.errors import CallError, PluginRaisedError, QuotaExceededError, RejectedError


def received(code: str, facts: Any = None, *, message: str = "oh", method: str = "hook.a.b") -> Any:
    return error_from_wire(WireError(code=code, message=message, data=facts), plugin="sample", method=method)


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_known_codes_become_their_classes(code: str) -> None:
    error = received(code, {"a": 1})
    assert type(error) is _BY_CODE[code]
    assert isinstance(error, CallError)
    assert (error.code, error.plugin, error.method, error.data["reported"]) == (code, "sample", "hook.a.b", {"a": 1})


@pytest.mark.parametrize("code", ["", "permission-denied", "hook-failed", "storage-failed", "x" * 10_000])
def test_any_other_code_is_a_plugin_that_raised(code: str) -> None:
    error = received(code, ["no", "map"], message="y" * 100_000)
    assert type(error) is PluginRaisedError
    assert error.data["reported"] == {}
    assert len(error.message) < 4200


@pytest.mark.parametrize(
    ("facts", "code", "status", "retry_after_s"),
    [
        ({"code": "full", "status": 429, "retry_after_s": 2.5}, "full", 429, 2.5),
        ({"code": "full", "status": 200}, "full", 403, None),
        ({"code": "full", "status": 600}, "full", 403, None),
        ({"code": "full", "status": "429", "retry_after_s": "1"}, "full", 403, None),
        ({"status": True, "retry_after_s": -1}, "rejected", 403, None),
        ({"code": ["odd"], "retry_after_s": float("nan")}, "['odd']", 403, None),
        ({"code": "x" * 1000, "retry_after_s": 1e300}, "x" * 63 + "…", 403, None),
        (None, "rejected", 403, None),
    ],
)
def test_a_rejection_is_taken_as_far_as_it_makes_sense(facts: Any, code: str, status: int, retry_after_s: float | None) -> None:
    error = received("rejected", facts)
    assert isinstance(error, RejectedError)
    assert (error.plugin, error.hook, error.reject_code, error.status, error.retry_after_s) == (
        "sample",
        "a.b",
        code,
        status,
        retry_after_s,
    )


def test_the_hosts_own_calls_cannot_be_rejected() -> None:
    assert type(received("rejected", {"status": 429}, method="annexe.ping")) is PluginRaisedError


def test_our_errors_travel_with_their_plain_facts() -> None:
    error = QuotaExceededError("full", plugin="sample", limit_bytes=5, where={"not": "plain"})
    assert error_to_wire(error) == {"code": "quota-exceeded", "message": "full", "data": {"limit_bytes": 5}}
    assert error_to_wire(QuotaExceededError("full"))["data"] is None


def test_what_is_not_ours_travels_without_its_text() -> None:
    sent = error_to_wire(LookupError("password=hunter2"))
    assert sent["code"] == "internal"
    assert "LookupError" in sent["message"]
    assert "hunter2" not in str(sent)
