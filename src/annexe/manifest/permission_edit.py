"""Change what a manifest asks for, in its own text: what else is written there, comments included, stays as it is.

Pure: text in, text out.

* Only the table ``[permissions]`` is changed, and of it only the keys that ask for something else now.
* What comes out is read again: it asks for exactly what it should, or nothing comes out.

Source: docs/how-to/learn-permissions.md.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from annexe.errors import ManifestError
from annexe.manifest.lines import KeyPath, key_lines
from annexe.manifest.model import Permissions
from annexe.manifest.parse import parse_manifest
from annexe.manifest.rights import kind_of

__all__ = ["asking_for", "permission_lines", "with_permissions"]

_TABLE = "permissions"
_HEADER = re.compile(r"\s*\[\s*permissions\s*\]\s*(#.*)?")
_UNITS = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"), (1, "B"))
_DEFAULT_KV_BYTES, _DEFAULT_DATA_BYTES = 1024**2, 50 * 1024**2
_FIELDS = {
    "network": "network",
    "filesystem.read": "filesystem_read",
    "filesystem.write": "filesystem_write",
    "env": "env",
    "secrets": "secrets",
    "services": "services",
    "events.publish": "events_publish",
    "events.subscribe": "events_subscribe",
    "cap": "capabilities",
    "devices": "devices",
}


def asking_for(rights: Iterable[str], *, was: Permissions) -> Permissions:
    """Return what asks for exactly these rights.

    Args:
        rights: In normal form.
        was: Has the quotas; what is new gets the usual one. Names that it asks for already keep their order.
    """
    wanted = list(rights)
    changes: dict[str, Any] = {}
    for kind, field in _FIELDS.items():
        names = {right.partition(":")[2] for right in wanted if kind_of(right) == kind}
        changes[field] = (*(name for name in getattr(was, field) if name in names), *sorted(names - set(getattr(was, field))))
    return replace(
        was,
        kv_quota_bytes=(was.kv_quota_bytes or _DEFAULT_KV_BYTES) if "kv" in wanted else None,
        data_quota_bytes=(was.data_quota_bytes or _DEFAULT_DATA_BYTES) if "data" in wanted else None,
        subprocess="subprocess" in wanted,
        **changes,
    )


def permission_lines(permissions: Permissions) -> Mapping[str, str]:
    """Return the lines of the table ``[permissions]`` that ask for this, by their key."""
    lines = {}
    if permissions.kv_quota_bytes is not None:
        lines["kv"] = f'kv = {{ quota = "{_size(permissions.kv_quota_bytes)}" }}'
    if permissions.data_quota_bytes is not None:
        kept = f', kept = "{permissions.data_kept}"' if permissions.data_kept != "disk" else ""
        lines["data"] = f'data = {{ quota = "{_size(permissions.data_quota_bytes)}"{kept} }}'
    for table, verbs in (("filesystem", ("read", "write")), ("events", ("publish", "subscribe"))):
        lists = {verb: getattr(permissions, f"{table}_{verb}") for verb in verbs}
        if any(lists.values()):
            lines[table] = f"{table} = {{ {', '.join(f'{verb} = {_array(names)}' for verb, names in lists.items() if names)} }}"
    for key in ("network", "env", "secrets", "services", "capabilities", "devices"):
        if names := getattr(permissions, key):
            lines[key] = f"{key} = {_array(names)}"
    if permissions.subprocess:
        lines["subprocess"] = "subprocess = true"
    return lines


def with_permissions(text: str, permissions: Permissions, *, was: Permissions) -> str:
    """Return a manifest's text that asks for something else.

    Args:
        text: Of a manifest that is valid.
        permissions: What it shall ask for; of names that it asks for already in the same order.
        was: What it asks for.

    Raises:
        ValueError: It is written in a form that is not changed here: ``[permissions]`` is no table of its own with a line for each key.
    """
    before, after = permission_lines(was), permission_lines(permissions)
    wanted = {key: after.get(key, "") for key in [*after, *before] if before.get(key) != after.get(key)}
    lines, places = text.split("\n"), key_lines(text)
    header = places.get((_TABLE,))
    if header is None:
        edited = _appended(lines, wanted.values()) if wanted else text
    elif _HEADER.fullmatch(lines[header - 1]) is not None:
        edited = _changed(lines, header, places, wanted)
    else:
        raise ValueError("[permissions] is not written as a table of its own")
    try:
        found: Permissions | None = parse_manifest(edited.encode(), source="the edited manifest").permissions
    except ManifestError:
        found = None
    if found != permissions:
        raise ValueError("[permissions] is written in parts")
    return edited


def _appended(lines: list[str], wanted: Iterable[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n\n" + "\n".join([f"[{_TABLE}]", *wanted, ""])


def _changed(lines: list[str], header: int, places: Mapping[KeyPath, int], wanted: Mapping[str, str]) -> str:
    extents = {
        path[1]: (line - 1, _end_of(lines, line - 1))
        for path, line in places.items()
        if len(path) == 2 and path[0] == _TABLE and not lines[line - 1].lstrip().startswith("[")
    }
    last = max([header, *(end for _, end in extents.values())])
    lines[last:last] = [line for key, line in wanted.items() if line and key not in extents]
    for key, (start, end) in sorted(extents.items(), key=lambda item: item[1], reverse=True):
        if key in wanted:
            lines[start:end] = [wanted[str(key)] + _comment_of(lines[start:end])] if wanted[str(key)] else []
    return "\n".join(lines)


def _end_of(lines: list[str], start: int) -> int:
    """Return the line after a key's value."""
    return next(end for end in range(start + 1, len(lines) + 1) if _table("\n".join(lines[start:end])))


def _comment_of(lines: list[str]) -> str:
    """Return what stands behind a value in its line; empty where there is nothing, or the value has several lines."""
    whole = _table("\n".join(lines))
    marks = [match.start() for match in re.finditer("#", lines[0])] if len(lines) == 1 else []
    return next((f"  {lines[0][at:]}" for at in marks if _table(lines[0][:at]) == whole), "")


def _table(text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _size(count: int) -> str:
    unit, name = next((unit, name) for unit, name in _UNITS if count % unit == 0)
    return f"{count // unit}{name}"


def _array(names: Iterable[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False)
