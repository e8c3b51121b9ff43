"""What a single value in a manifest or policy may be.

Pure. Each converter takes what ``tomllib`` gave and returns the value in the form the rest of the program uses (bytes, seconds, normal
form), or raises ``MisfitError`` with what was expected. ``reader`` turns that into a problem with key path and line, so the error never
leaves this room.

* Every text is bounded in length and printable: a manifest is shown in terminals and logs.
* ``bool`` is never taken for a number, and NaN is in no range.

Source: docs/reference/manifest.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import final
from urllib.parse import urlsplit

from annexe.ids import is_plugin_id
from annexe.manifest.versions import is_range, is_version

__all__ = [
    "MisfitError",
    "boolean",
    "choice",
    "drain_s",
    "duration_s",
    "homepage",
    "integer",
    "matching",
    "number",
    "plugin_id",
    "size_bytes",
    "text",
    "version",
    "version_range",
    "start_timeout_s",
]

_MAX_TEXT_CHARS = 1024
_MAX_DURATION_S = 7 * 24 * 3600.0
_MAX_START_TIMEOUT_S = 600.0
_SIZE = re.compile(r"([1-9][0-9]{0,8})(B|KiB|MiB|GiB|TiB)")
_SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@final
class MisfitError(Exception):
    """A value that does not fit.

    Args:
        expected: What would have fitted, as it continues "expected ...".
    """

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


def text(value: object) -> str:
    """Accept one line of 1 to 1,024 printable characters."""
    # isprintable also refuses terminal escapes and the characters that reorder text.
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT_CHARS or not value.isprintable():
        raise MisfitError(f"one line of text, 1 to {_MAX_TEXT_CHARS} printable characters")
    return value


def matching(expected: str, *, accepts: Callable[[str], bool]) -> Callable[[object], str]:
    """Make a converter for texts that a predicate accepts."""

    def convert(value: object) -> str:
        if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARS or not accepts(value):
            raise MisfitError(expected)
        return value

    return convert


plugin_id = matching("a plugin id (lower-case words joined by single hyphens, at most 64 characters)", accepts=is_plugin_id)
version = matching("a semantic version such as '1.2.0'", accepts=is_version)
version_range = matching("a version range such as '>=1,<2'", accepts=is_range)


@cache  # the same few again with each manifest
def choice(*names: str) -> Callable[[object], str]:
    """Make a converter for one of a few names."""
    return matching("one of " + ", ".join(repr(name) for name in names), accepts=lambda value: value in names)


def boolean(value: object) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise MisfitError("true or false")
    return value


def integer(minimum: int, maximum: int) -> Callable[[object], int]:
    """Make a converter for whole numbers within bounds, both included."""

    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise MisfitError(f"a whole number from {minimum} to {maximum}")
        return value

    return convert


def number(above: float, maximum: float) -> Callable[[object], float]:
    """Make a converter for numbers greater than ``above`` and up to ``maximum``."""

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value <= maximum:
            raise MisfitError(f"a number greater than {above:g}, up to {maximum:g}")
        return float(value)

    return convert


def size_bytes(value: object) -> int:
    """Accept a size such as ``128MiB``; return bytes."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise MisfitError("a size such as '128MiB' (B, KiB, MiB, GiB or TiB)")
    return int(found[1]) * _SIZE_UNITS[found[2]]


def duration_s(value: object) -> float:
    """Accept a duration such as ``500ms``, ``10s`` or ``10m``, more than nothing and at most seven days; return seconds."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(found[1]) * _DURATION_UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _MAX_DURATION_S:
        raise MisfitError("a duration such as '500ms', '10s', '10m' or '1h', at most seven days")
    return seconds


def drain_s(value: object) -> float:
    """Accept a duration, or ``0s``; return seconds."""
    try:
        return 0.0 if value == "0s" else duration_s(value)
    except MisfitError as error:
        raise MisfitError(f"'0s', or {error.expected}") from None


def start_timeout_s(value: object) -> float:
    """Accept a duration of at most ten minutes: for so long a plugin can keep its host waiting; return seconds."""
    try:
        seconds = duration_s(value)
    except MisfitError:
        seconds = _MAX_DURATION_S
    if seconds > _MAX_START_TIMEOUT_S:
        raise MisfitError("a duration such as '500ms', '10s' or '2m', at most ten minutes")
    return seconds


def _is_web_address(value: str) -> bool:
    if not value.isprintable() or " " in value:
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


homepage = matching("a web address beginning with https:// or http://", accepts=_is_web_address)
