"""What a client is told when there is no answer, in OpenAI's form. Pure; the one table from errors to HTTP status."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from annexe.errors import AnnexeError, CallTimeoutError, HookError, PluginBusyError, PluginUnavailableError, RejectedError
from examples.gateway.contract import ChatFailure
from examples.gateway.upstream import UpstreamError

__all__ = ["Failure", "failure_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed request: for the client, and for plugins that watch."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    upstream_body: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """Return the response's body; what the model's service said is passed on as it was."""
        if self.upstream_body is not None:
            return self.upstream_body
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    def observed(self) -> ChatFailure:
        """Return what plugins are told."""
        return ChatFailure(code=self.code, message=self.message, status=self.status)


def failure_of(error: Exception) -> Failure:
    """Return what an error means for the client. An error nobody expected says nothing of itself."""
    match error:
        case RejectedError():
            return Failure(status=error.data["status"], code=error.data["reject_code"], message=error.message, headers=_retry(error))
        case UpstreamError():
            return Failure(status=error.status, code="upstream_failed", message=str(error), upstream_body=error.body)
        case HookError():
            return Failure(status=502, code="plugin_failed", message=error.message)
        case CallTimeoutError():
            return Failure(status=504, code="deadline_exceeded", message=error.message)
        case PluginUnavailableError():
            return Failure(status=503, code=error.code, message=error.message)
        case PluginBusyError():
            return Failure(status=503, code="busy", message=error.message, headers={"retry-after": "1"})
        case AnnexeError():
            return Failure(status=502, code=error.code.replace("-", "_"), message=error.message)
        case msgspec.DecodeError():
            return Failure(status=400, code="invalid_request", message=f"The request is no chat completion request: {error}")
        case _:
            return Failure(status=500, code="internal_error", message="The gateway failed. Its log says more.")


def _retry(error: RejectedError) -> dict[str, str]:
    after_s = error.data.get("retry_after_s")
    return {"retry-after": str(math.ceil(after_s))} if after_s is not None else {}
