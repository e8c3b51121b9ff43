"""Values that do not fit, as errors that say whose fault it is.

Pure.
"""

from __future__ import annotations

from typing import Any

from annexe.contract import InvalidValueError
from annexe.errors import CallTimeoutError, InvalidParamsError, InvalidResultError

__all__ = ["invalid_result", "tell_whose_limit", "unsendable"]


def unsendable(what: str, error: Exception, *, method: str) -> InvalidParamsError:
    """Return the error for a value of the application's that cannot be sent to plugins."""
    return InvalidParamsError(f"{what} was given a value that cannot be sent: {error}", method=method)


def invalid_result(
    what: str, error: InvalidValueError, *, plugin: str, method: str, at: str | None = None, **facts: Any
) -> InvalidResultError:
    """Return the error for a plugin's result that does not fit the declared type.

    Args:
        what: What the plugin answered, as people know it.
        error: Where in the value, what was expected, what was there.
        plugin: Who.
        method: Name on the wire.
        at: ``file:line`` of the plugin's handler, as the plugin tells it.
        facts: Further facts.
    """
    where = f" (handler at {at})" if at else ""
    text = f"plugin {plugin!r} answered {what} with a wrong result{where}: {error}"
    return InvalidResultError(
        text, plugin=plugin, method=method, path=error.path, expected=error.expected, actual=error.actual, at=at, **facts
    )


def tell_whose_limit(error: BaseException, *, budget_s: float | None = None) -> None:
    """Add to the error for a plugin that took too long whose limit that was.

    Args:
        error: As the channel made it; of one in the plugin's own words nothing is known. Any other is left as it is.
        budget_s: The hook's; None: it has none.
    """
    if not isinstance(error, CallTimeoutError):
        return
    limit = error.data.get("limit")
    if limit == "deadline":
        error.message += ", what the request had left for it"
    elif limit == "call":
        is_hooks = error.data["had_s"] == budget_s
        error.message += f", {'the budget of the hook' if is_hooks else 'call-timeout under [resources] in its plugin.toml'}"
