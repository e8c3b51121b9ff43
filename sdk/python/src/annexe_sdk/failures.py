"""What the host is told of a handler that raised. Imported by the first one.

* A refusal and an early answer are no failures, and travel as what they are.
* Everything else is told with file and line, and printed as the interpreter prints it.

Source: docs/reference/sdk.md, "Raising".
"""

import sys

from annexe_sdk.errors import Reject, Respond, sendable
from annexe_sdk.life import describe, last_frame, with_hint
from annexe_sdk.plugin import Misfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from annexe_sdk.calls import Call
    from annexe_sdk.context import Context
    from annexe_sdk.plugin import Handler
    from annexe_sdk.runner import Runner

__all__ = ["frame_of"]


def frame_of(runner: "Runner", call: "Call", handler: "Handler", error: BaseException, ctx: "Context | None") -> bytes:
    """Make the answer for what a handler raised."""
    session = runner.session
    if type(error) is Misfit:  # not the plugin's fault
        return session.error(call.id, "invalid-params", str(error))
    unsaid = ""
    if isinstance(error, (Reject, Respond)):
        try:
            return _meant(runner, call, handler, error, ctx)
        except Exception as fault:  # a class of the plugin's own that leaves out what belongs to it, or has it wrong
            unsaid = f", which cannot be sent ({describe(fault)})"
    if call.cancelled:
        return session.error(call.id, "cancelled", "cancelled while it ran")
    where = last_frame(error) or handler.at
    print(f"annexe_sdk: {call.method} raised", file=sys.stderr)
    sys.excepthook(type(error), error, error.__traceback__)  # the interpreter's own printer: ``traceback`` costs 10 ms to import
    text, facts = with_hint(runner, error, f"{describe(error)}{unsaid} (at {where})", {"type": type(error).__name__, "at": where})
    return session.error(call.id, "plugin-raised", text, facts)


def _meant(runner: "Runner", call: "Call", handler: "Handler", error: "Reject | Respond", ctx: "Context | None") -> bytes:
    """Make the answer that a handler gave by raising it."""
    if isinstance(error, Respond):
        return runner.result(call, handler, error.value, "respond", ctx)
    session, message = runner.session, sendable(str(error.message))
    facts = {"code": sendable(str(error.code)), "message": message, "status": error.status}
    if error.retry_after_s is not None:
        facts["retry_after_s"] = error.retry_after_s
    session.encode(facts)  # refuses what cannot be sent: without its facts it would be another refusal
    return session.error(call.id, "rejected", message, facts)
