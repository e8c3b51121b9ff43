from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from annexe.channel.calls import HostCall
from annexe.channel.faults import _BY_CODE, error_from_wire, error_to_wire, fault_of, overdue
from annexe.channel.messages import RequestMeta, Response, WireError, decode_json
from annexe.errors import CallCancelledError, CallError, CallTimeoutError, PluginRaisedError, QuotaExceededError, RejectedError


def received(code: str, facts: Any = None, *, message: str = "oh", method: str = "hook.a.b") -> Any:
    raw = msgspec.Raw(msgspec.msgpack.encode(facts))
    return error_from_wire(WireError(code=code, message=message, data=raw), plugin="sample", method=method)


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
        ({"code": ["odd"], "retry_after_s": float("nan")}, "rejected", 403, None),
        ({"code": "x" * 1000, "retry_after_s": 1e300}, "x" * 63 + "…", 403, None),
        ({"code": "full", "status": 400, "retry_after_s": 365 * 86400}, "full", 400, 365 * 86400),
        ({"code": "full", "status": 599, "retry_after_s": True}, "full", 599, None),
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


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("facts", [{"code": "x", "status": 429, "why": "v" * 70_000}, {"code": "x", "deep": None}])
def test_facts_too_large_or_not_to_be_decoded_are_dropped_and_the_rest_is_kept(codec: str, facts: dict[str, Any]) -> None:
    raw = msgspec.json.encode(facts) if codec == "json" else msgspec.msgpack.encode(facts)
    if facts.get("deep", 0) is None:
        raw = b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}" if codec == "json" else b"\x81\xa1a" + b"\x91" * 20_000 + b"\xc0"
    error = error_from_wire(WireError(code="rejected", message="oh", data=msgspec.Raw(raw)), plugin="sample", method="hook.a.b")
    assert isinstance(error, RejectedError)
    assert (error.message, error.reject_code, error.status) == ("oh", "rejected", 403)


def test_facts_of_a_json_frame_are_read() -> None:
    answer = decode_json(b'[1,1,{"code":"rejected","message":"oh","data":{"code":"full","status":429}},null,{}]')
    assert isinstance(answer, Response)
    assert answer.error is not None
    error = error_from_wire(answer.error, plugin="sample", method="hook.a.b")
    assert isinstance(error, RejectedError)
    assert (error.reject_code, error.status) == ("full", 429)


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


@pytest.mark.parametrize(
    ("run_s", "sent_ms", "had_s", "limit"),
    [(0.3, 299, 0.3, "call"), (0.3, 120, 0.12, "deadline"), (None, 5000, 5.0, "deadline")],
)
def test_a_call_that_was_not_answered_in_time_says_how_long_that_was(run_s: float | None, sent_ms: int, had_s: float, limit: str) -> None:
    call = HostCall(None, "hook.a.b", (), RequestMeta(deadline_ms=sent_ms), 0.0, run_s, None, ())
    error = overdue(call, plugin="sample")
    assert error.message == f"plugin 'sample' did not answer hook.a.b within its deadline of {had_s:g} s"
    assert error.data == {"method": "hook.a.b", "had_s": had_s, "limit": limit}


def test_a_call_that_was_never_sent_says_so() -> None:
    error = overdue(HostCall(None, "hook.a.b", (), RequestMeta(), 0.0, 0.3, None, ()), plugin="sample")
    assert "within its deadline: it was not free to take it" in error.message
    assert error.data == {"method": "hook.a.b"}


def over(end: Any) -> HostCall:
    """Return a call that ended so: with a response, with an error, or called off."""
    loop = asyncio.new_event_loop()
    future: asyncio.Future[Any] = loop.create_future()
    loop.close()
    if end is None:
        future.cancel()
    elif isinstance(end, Exception):
        future.set_exception(end)
    else:
        future.set_result(end)
    return HostCall(SimpleNamespace(plugin="sample"), "event.a.b", None, RequestMeta(), 0.0, None, future, ())


def test_what_a_call_that_is_over_came_to_is_its_error_or_that_it_was_called_off() -> None:
    answered = decode_json(b"[1,1,null,null,{}]")
    refused = decode_json(b'[1,1,{"code":"rejected","message":"oh"},null,{}]')
    late = CallTimeoutError("late")
    assert fault_of(over(answered)) is None
    assert isinstance(fault_of(over(refused)), RejectedError)
    assert fault_of(over(late)) is late
    called_off = fault_of(over(None))
    assert isinstance(called_off, CallCancelledError)
    assert (called_off.plugin, called_off.method) == ("sample", "event.a.b")
