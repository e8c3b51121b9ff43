"""Values that do not fit, as errors that say whose fault it is.

Pure.
"""

from __future__ import annotations

from typing import Any

from annexe.contract import InvalidValueError
from annexe.errors import InvalidParamsError, InvalidResultError

__all__ = ["invalid_result", "unsendable"]


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
