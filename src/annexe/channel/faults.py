"""Errors at the edge of the wire: codes to classes and back.

Pure. Only code, message and facts cross the socket; this is the one table of both directions.

Source: docs/reference/protocol.md, "Errors".
"""

from __future__ import annotations

from typing import Any

from annexe.channel.calls import HostCall
from annexe.channel.messages import WireError, read_map
from annexe.errors import (
    AnnexeError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    InvalidParamsError,
    InvalidResultError,
    MethodNotFoundError,
    OutcomeUnknownError,
    PluginBusyError,
    PluginRaisedError,
    PluginUnavailableError,
    RejectedError,
)
from annexe_sdk.wire import MAX_REJECT_STATUS, MAX_RETRY_AFTER_S, MIN_REJECT_STATUS

__all__ = ["busy", "error_from_wire", "error_to_wire", "fault_of", "gone", "overdue"]

_BY_CODE: dict[str, type[CallError]] = {
    cls.code: cls
    for cls in (
        CallCancelledError,
        CallTimeoutError,
        InvalidParamsError,
        InvalidResultError,
        MethodNotFoundError,
        OutcomeUnknownError,
        PluginBusyError,
        PluginRaisedError,
        PluginUnavailableError,
    )
}
_COARSENESS_S = 0.002  # the plugin is told whole milliseconds
_MAX_FACTS_BYTES = 64 * 1024
_MAX_MESSAGE_CHARS = 4096
_MAX_REJECT_CODE_CHARS = 64


def busy(method: str, why: str, *, plugin: str) -> PluginBusyError:
    """Make the exception for a call that cannot be taken now."""
    return PluginBusyError(f"plugin {plugin!r} is busy: {why}", plugin=plugin, method=method)


def gone(call: HostCall, error: AnnexeError | None, *, plugin: str) -> CallError:
    """Make the exception for a call whose connection is over, by an error or without one."""
    because = f": {error}" if error is not None else ""
    if call.id == 0:
        text = f"plugin {plugin!r} went away before {call.method} was sent{because}"
        return PluginUnavailableError(text, plugin=plugin, method=call.method)
    text = f"plugin {plugin!r} went away while {call.method} was open{because}; it may or may not have happened"
    return OutcomeUnknownError(text, plugin=plugin, method=call.method)


def overdue(call: HostCall, *, plugin: str) -> CallTimeoutError:
    """Make the exception for a call whose deadline came before its answer.

    Returns:
        With ``had_s``, how long the plugin had, and ``limit``: ``call`` where it is ``run_s``, ``deadline`` where the caller had none left.
    """
    start = f"plugin {plugin!r} did not answer {call.method} within its deadline"
    if call.meta.deadline_ms is None:
        text = f"{start}: it was not free to take it, calls that came before were not answered"
        return CallTimeoutError(text, plugin=plugin, method=call.method)
    had_s, limit = call.meta.deadline_ms / 1000, "deadline"
    if call.run_s is not None and call.run_s - had_s < _COARSENESS_S:
        had_s, limit = call.run_s, "call"
    return CallTimeoutError(f"{start} of {had_s:.3g} s", plugin=plugin, method=call.method, had_s=had_s, limit=limit)


def error_from_wire(error: WireError, *, plugin: str, method: str) -> AnnexeError:
    """Make the exception for what a plugin answered.

    A code we do not know becomes a ``PluginRaisedError``: a plugin cannot make the host raise anything else.
    """
    facts = _facts(error)
    error.message = _cut(error.message, _MAX_MESSAGE_CHARS)
    # The host's own calls cannot be rejected: there is no request to refuse.
    if error.code == RejectedError.code and not method.startswith("annexe."):
        return _rejected(error, facts, plugin=plugin, method=method)
    cls = _BY_CODE.get(error.code, PluginRaisedError)
    return cls(f"plugin {plugin!r}, {method}: {error.message}", plugin=plugin, method=method, reported=facts)


def fault_of(call: HostCall) -> BaseException | None:
    """Return why a call that is over gave no result; None where it gave one."""
    plugin, future = call.connection.plugin, call.future
    if future.cancelled():
        return CallCancelledError(f"{call.method} was called off", plugin=plugin, method=call.method)
    fault: BaseException | None = future.exception()
    if fault is None and (error := future.result().error) is not None:
        return error_from_wire(error, plugin=plugin, method=call.method)
    return fault


def _facts(error: WireError) -> dict[str, Any]:
    try:
        return read_map(error.data, limit_bytes=_MAX_FACTS_BYTES) or {}
    except ValueError:
        return {}  # code and message still say what happened


def _rejected(error: WireError, facts: dict[str, Any], *, plugin: str, method: str) -> RejectedError:
    status = facts.get("status")
    if not isinstance(status, int) or not MIN_REJECT_STATUS <= status <= MAX_REJECT_STATUS:
        status = 403
    retry_after_s = facts.get("retry_after_s")
    # Without bool, which is an int to Python: JSON's true says no time.
    if isinstance(retry_after_s, bool) or not isinstance(retry_after_s, (int, float)) or not 0 <= retry_after_s <= MAX_RETRY_AFTER_S:
        retry_after_s = None
    code = facts.get("code")
    return RejectedError(
        error.message,
        plugin=plugin,
        hook=method.removeprefix("hook."),
        reject_code=_cut(code, _MAX_REJECT_CODE_CHARS) if isinstance(code, str) else "rejected",
        status=status,
        retry_after_s=retry_after_s,
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """Describe an error to a plugin. What is not ours becomes ``internal`` without its text: it may hold the application's secrets."""
    if isinstance(error, AnnexeError):
        facts = {name: value for name, value in error.data.items() if isinstance(value, (str, int, float, bool))}
        return {"code": error.code, "message": error.message, "data": facts or None}
    return {"code": "internal", "message": f"the host failed with {type(error).__name__}; its log has the details", "data": None}
