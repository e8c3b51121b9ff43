"""Names of things: plugin ids, request ids, instance ids.

Pure. A name that is not well-formed never gets further than this module.
"""

from __future__ import annotations

import itertools
import re
import secrets
from typing import final

__all__ = ["MAX_REQUEST_ID_CHARS", "RequestIds", "is_plugin_id", "is_request_id", "new_request_id"]

_PLUGIN_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_REQUEST_ID = re.compile(r"[\x21-\x7e]+")
_MAX_PLUGIN_ID_CHARS = 64
MAX_REQUEST_ID_CHARS = 128


def is_plugin_id(text: str) -> bool:
    """Say whether this is a plugin id: lower-case words joined by single hyphens, at most 64 characters."""
    return len(text) <= _MAX_PLUGIN_ID_CHARS and _PLUGIN_ID.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Say whether this can name a request: 1 to 128 printable ASCII characters without blanks."""
    return len(text) <= MAX_REQUEST_ID_CHARS and _REQUEST_ID.fullmatch(text) is not None


def new_request_id() -> str:
    """Return a request id nobody has used."""
    return "r-" + secrets.token_hex(8)


@final
class RequestIds:
    """Ids for requests and traces of one host: unguessable together, cheap each (asking the system for chance costs a call into it)."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._request_prefix = f"r-{secrets.token_hex(4)}-"
        self._count = itertools.count(1)

    def new(self) -> tuple[str, str]:
        """Return a request id nobody has used, and a W3C ``traceparent`` that begins a trace of its own."""
        number = f"{next(self._count):016x}"
        return self._request_prefix + number, f"00-{self._prefix}{number}-{number}-01"
