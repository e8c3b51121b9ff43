"""One record of a plugin's log as a line of JSON.

Pure. The shape is ``{"time", "plugin", "instance", "level", "source", "message", "request", "fields"}``, and ``"cut_bytes"`` or
``"cut_fields"`` where something was cut.

* A line is never longer than ``MAX_RECORD_BYTES``, its line feed included.
* What the plugin chose lies in ``message``, ``level`` (one of five words) and under ``fields``, nowhere else: nothing it sends can
  say where a record comes from.
* Every text is safe to show in a terminal (``safetext``).

Source: docs/reference/logs.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, final

import msgspec

from annexe.ids import is_request_id
from annexe.record.fields import bounded
from annexe.record.safetext import clipped, escaped

__all__ = ["LEVELS", "MAX_RECORD_BYTES", "Entry", "Source", "encode_entry", "parse_line", "rfc3339"]

Source = Literal["log", "stdout", "stderr", "host"]

LEVELS = ("debug", "info", "warning", "error", "critical")
MAX_RECORD_BYTES = 16 * 1024
_MAX_FIELDS_BYTES = 6 * 1024
_ENVELOPE_BYTES = 768  # everything but message and fields, at its longest
_MAX_INSTANCE_BYTES = 64

_LEVEL_OF = {level: level for level in LEVELS} | {
    "trace": "debug",
    "notice": "info",
    "warn": "warning",
    "err": "error",
    "exception": "error",
    "fatal": "critical",
}
_DEFAULT_LEVEL = {"log": "info", "stdout": "info", "stderr": "warning", "host": "info"}
_MESSAGE_KEYS = ("message", "msg", "event")  # the logging module's formatters, most others, structlog
_LEVEL_KEYS = ("level", "levelname", "severity")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a record is made from; texts still as they came.

    Attributes:
        at: Unix time in seconds.
        level: One of ``LEVELS`` or a common other name; anything else becomes the default of the source.
        request: Id of the request it belongs to, where known.
        cut_bytes: Bytes of the message that were thrown away before it came here.
    """

    at: float
    plugin: str
    source: Source
    instance: str = ""
    level: object = None
    message: object = ""
    request: str | None = None
    fields: object = field(default_factory=dict)
    cut_bytes: int = 0


def encode_entry(entry: Entry) -> bytes:
    """Return the entry as one line, line feed included, at most ``MAX_RECORD_BYTES`` long."""
    fields, cut_fields = bounded(_as_mapping(entry.fields), _MAX_FIELDS_BYTES)
    encoded_fields = msgspec.json.encode(fields)
    message = entry.message if isinstance(entry.message, str) else f"<{type(entry.message).__name__}>"
    rough = message[:MAX_RECORD_BYTES]
    room_bytes = MAX_RECORD_BYTES - _ENVELOPE_BYTES - len(encoded_fields)
    text, cut_bytes = clipped(escaped(rough), room_bytes)
    cut_bytes += entry.cut_bytes
    if len(rough) < len(message):
        cut_bytes += len(message[MAX_RECORD_BYTES:].encode("utf-8", "surrogatepass"))
    request = entry.request
    record: dict[str, Any] = {
        "time": rfc3339(entry.at),
        "plugin": entry.plugin,
        "instance": clipped(escaped(entry.instance[:_MAX_INSTANCE_BYTES]), _MAX_INSTANCE_BYTES)[0],
        "level": _level(entry.level, entry.source),
        "source": entry.source,
        "message": f"{text} …[{cut_bytes} bytes cut]" if cut_bytes else text,
        "request": request if request is not None and is_request_id(request) else None,
        "fields": msgspec.Raw(encoded_fields),
    }
    if cut_bytes:
        record["cut_bytes"] = cut_bytes
    if cut_fields:
        record["cut_fields"] = cut_fields
    return msgspec.json.encode(record) + b"\n"


def parse_line(line: bytes, *, cut_bytes: int = 0) -> tuple[object, str, Mapping[str, Any]]:
    """Read one captured line of output.

    Args:
        line: Without its line feed; not longer than a record, so that the work is bounded.
        cut_bytes: How much of the line was thrown away before; a cut line is taken as plain text.

    Returns:
        Level if the line told one, message, and fields. A line that is a JSON object becomes fields, its ``message`` (or ``msg``,
        ``event``) the message and its ``level`` the level; any other line is the message.
    """
    text = line.removesuffix(b"\r")
    if not cut_bytes and text.startswith(b"{") and text.endswith(b"}"):
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # it only looked like JSON
        else:
            return _popped(fields, _LEVEL_KEYS), _popped(fields, _MESSAGE_KEYS) or "", fields
    return None, text.decode("utf-8", "backslashreplace"), {}


def rfc3339(at: float) -> str:
    """Return a Unix time as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _popped(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        if isinstance(fields.get(name), str):
            text: str = fields.pop(name)
            return text
    return None


def _level(level: object, source: Source) -> str:
    return _LEVEL_OF.get(level.lower() if isinstance(level, str) else "", _DEFAULT_LEVEL[source])


def _as_mapping(fields: object) -> Mapping[Any, Any]:
    if isinstance(fields, Mapping):
        return fields
    return {} if fields is None else {"value": fields}
