"""What a plugin may raise, and what calls to the host raise.

Raise ``Reject`` to refuse a request and ``Respond`` to answer it at once; neither is a failure. Everything else a handler raises reaches
the application as ``PluginRaisedError`` with file and line.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CallCancelled", "CallFailed", "DeadlineExceeded", "PermissionDenied", "Reject", "Respond", "call_failed"]


class Reject(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """Refuse the request.

    Args:
        code: Kebab-case name of the refusal, for example ``rate-limited``.
        message: For the person who made the request.
        status: The HTTP status that fits, 400 to 599.
        retry_after_s: When to try again, in seconds.
    """

    def __init__(self, code: str, message: str, *, status: int = 403, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s


class Respond(Exception):  # noqa: N818 - an answer, not an error
    """End the pipeline with this answer instead of going on.

    Args:
        value: What the hook declares as ``responds``, or else a value of the hook's own type.
    """

    def __init__(self, value: "Any") -> None:
        super().__init__("respond")
        self.value = value


class CallFailed(Exception):  # noqa: N818 - named after what happened to the call
    """A call to the host, a capability or another plugin did not give a result.

    Attributes:
        code: Stable kebab-case name; docs/reference/protocol.md lists them.
        message: For a person.
        data: Further facts, or None.
    """

    def __init__(self, code: str, message: str, data: "Any" = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data = data


class PermissionDenied(CallFailed):
    """The right was not granted; the message holds the manifest line and the operator's command."""


class DeadlineExceeded(CallFailed):
    """The time of the request is over."""


class CallCancelled(CallFailed):
    """The caller no longer wants the answer. Let it pass; there is nothing to do."""


_CLASSES = {"permission-denied": PermissionDenied, "deadline-exceeded": DeadlineExceeded, "cancelled": CallCancelled}


def call_failed(error: "Any") -> CallFailed:
    """Make the exception for an error as it came over the wire."""
    if not isinstance(error, dict):
        return CallFailed("internal", f"malformed error from the host: {error!r}")
    code = str(error.get("code", "internal"))
    return _CLASSES.get(code, CallFailed)(code, str(error.get("message", "")), error.get("data"))
