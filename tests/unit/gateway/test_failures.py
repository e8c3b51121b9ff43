"""What a client is told when there is no answer."""

from __future__ import annotations

import msgspec
import pytest

from annexe.errors import CallTimeoutError, HookError, PluginBusyError, PluginUnavailableError, RejectedError
from examples.gateway.failures import failure_of
from examples.gateway.upstream import UpstreamError


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (RejectedError("slow down", plugin="p", hook="h", reject_code="rate-limited", status=429), 429, "rate-limited", "rate_limit_error"),
        (RejectedError("no", plugin="p", hook="h", reject_code="teapot", status=418), 418, "teapot", "invalid_request_error"),
        (HookError("p failed", plugin="p", hook="h", reason="deadline-exceeded"), 502, "plugin_failed", "server_error"),
        (CallTimeoutError("late", plugin="p"), 504, "deadline_exceeded", "server_error"),
        (PluginBusyError("full", plugin="p"), 503, "busy", "server_error"),
        (PluginUnavailableError("gone", plugin="p"), 503, "unavailable", "server_error"),
        (UpstreamError("no answer"), 502, "upstream_failed", "server_error"),
        (msgspec.ValidationError("x"), 400, "invalid_request", "invalid_request_error"),
        (KeyError("secret"), 500, "internal_error", "server_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_failure_of_an_error_has_status_and_openai_body(error: Exception, status: int, code: str, kind: str) -> None:
    failure = failure_of(error)
    body = failure.body()["error"]
    assert (failure.status, body["code"], body["type"]) == (status, code, kind)
    assert "secret" not in body["message"]
    assert failure.observed().status == status


def test_failure_of_an_upstream_refusal_passes_its_own_words_on() -> None:
    refusal = {"error": {"message": "unknown key", "type": "authentication_error", "code": "invalid_api_key"}}
    failure = failure_of(UpstreamError("refused", status=401, body=refusal))
    assert (failure.status, failure.body()) == (401, refusal)
