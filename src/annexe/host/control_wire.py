"""What crosses the control socket: bounds, and errors as values.

Pure, and light: the ``annexe`` command pays for every import here.

Frames are lines of JSON. A request is ``{"id", "method", "params"}``; answers carry its ``id`` and either ``item`` (any number, of methods
that stream), ``result`` (last) or ``error`` (last): ``{"code", "message", "plugin", "data"}``. No class ever crosses.

Source: docs/reference/control.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from annexe.errors import AnnexeError, HostError

__all__ = ["MAX_HELLO_BYTES", "MAX_REQUEST_BYTES", "MAX_RESPONSE_BYTES", "PROTOCOL", "error_from_dict"]

PROTOCOL = 1
MAX_HELLO_BYTES = 4096
MAX_REQUEST_BYTES = 1024 * 1024
MAX_RESPONSE_BYTES = 16 * 1024 * 1024

_OWN_NAMES = frozenset({"self", "message", "plugin", "code", "data", "args"})


def error_from_dict(told: Mapping[str, Any]) -> AnnexeError:
    """Return the error that the other side told: of the class with its code, with message, plugin and facts as they were there."""
    cls = next((cls for cls in _walk(AnnexeError) if cls.code == told.get("code")), HostError)
    facts = told.get("data")
    named = {name: value for name, value in facts.items() if name not in _OWN_NAMES} if isinstance(facts, dict) else {}
    plugin = told.get("plugin")
    return cls.restored(str(told.get("message", "")), plugin if isinstance(plugin, str) else None, named)


def _walk(cls: type[AnnexeError]) -> Iterator[type[AnnexeError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _walk(child)
