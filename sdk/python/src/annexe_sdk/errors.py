"""What a plugin may raise, and what calls to the host raise.

Raise ``Reject`` to refuse a request and ``Respond`` to answer it at once; neither is a failure. Everything else a handler raises reaches
the application as ``PluginRaisedError`` with file and line.
"""

from annexe_sdk.wire import MAX_REJECT_STATUS, MAX_RETRY_AFTER_S, MIN_REJECT_STATUS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CallCancelled",
    "CallFailed",
    "DeadlineExceeded",
    "PermissionDenied",
    "Reject",
    "Respond",
    "call_failed",
    "right_missing",
    "sendable",
]

_MAX_TEXT_CHARS = 4096


class Reject(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """Refuse the request.

    Args:
        code: Kebab-case name of the refusal, for example ``rate-limited``.
        message: For the person who made the request.
        status: The HTTP status that fits, 400 to 599.
        retry_after_s: When to try again, in seconds from 0 to a year of 365 days; None says nothing about it.

    Raises:
        TypeError: Something is not of its type.
        ValueError: A number is out of its bounds.
    """

    def __init__(self, code: str, message: str, *, status: int = 403, retry_after_s: float | None = None) -> None:
        # Checked here, where the fault is in the author's line: once it is raised, it could only fail to be sent.
        for name, text in (("code", code), ("message", message)):
            if not isinstance(text, str):
                raise TypeError(f"Reject: {name}: expected text, got {text!r}")
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"Reject: status: expected a whole number, got {status!r}")
        if not MIN_REJECT_STATUS <= status <= MAX_REJECT_STATUS:
            raise ValueError(f"Reject: status: expected {MIN_REJECT_STATUS} to {MAX_REJECT_STATUS}, got {int(status)}")
        if retry_after_s is not None:
            if not isinstance(retry_after_s, (int, float)) or isinstance(retry_after_s, bool):
                raise TypeError(f"Reject: retry_after_s: expected a number of seconds or None, got {retry_after_s!r}")
            if not 0 <= retry_after_s <= MAX_RETRY_AFTER_S:  # NaN is not either
                raise ValueError(f"Reject: retry_after_s: expected 0 to {MAX_RETRY_AFTER_S} seconds, got {retry_after_s}")
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
        super().__init__(f"{code}: {message}" if type(self) is CallFailed else message)  # else the class says it
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


def right_missing(right: str, line: str) -> PermissionDenied:
    """Make the exception for a right that the SDK itself knows to be missing.

    Args:
        right: In normal form.
        line: That asks for it in the manifest.
    """
    text = f"the plugin has no permission {right!r}; add to plugin.toml under [permissions]: {line}"
    text += "; then have it granted with: annexe grant ID"  # as hints say: the host knows more, and its command
    return PermissionDenied("permission-denied", text, {"permission": right, "manifest_line": line})


def sendable(text: str) -> str:
    """Return a text for an error: at most as long as the host reads, and without what UTF-8 cannot say."""
    text = text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + "…"
    return text.encode("utf-8", "backslashreplace").decode()
