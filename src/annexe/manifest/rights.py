"""Rights as text: their kinds, their spelling, and the manifest line that asks for one.

Pure. A right is ``kind`` or ``kind:name`` in the normal form that ``Permissions.as_set`` gives: ``kv``, ``cap:orders``,
``network:api.example.org:443``. Equal texts are equal rights and nothing else is compared.

Source: docs/reference/permissions.md.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from annexe.manifest import model, names, values
from annexe.manifest.model import Permissions
from annexe.manifest.values import MisfitError

__all__ = ["RIGHT_KINDS", "kind_of", "manifest_line", "manifest_lines", "right", "right_or_whole_kind", "rights_in"]

RIGHT_KINDS: Mapping[str, Callable[[object], str] | None] = {
    "kv": None,
    "data": None,
    "network": names.network_target,
    "filesystem.read": names.absolute_path,
    "filesystem.write": names.absolute_path,
    "env": names.env_name,
    "secrets": names.word,
    "services": names.word,
    "provide": names.word,
    "define": names.dotted_name,
    "events.publish": names.dotted_name,
    "events.subscribe": names.dotted_name,
    "cap": names.word,
    "devices": values.choice(*model.DEVICES),
    "subprocess": None,
}
"""Every kind of right, with the converter for its name; None for a kind that takes no name."""

_PLAIN_LINES = {"kv": 'kv = { quota = "1MiB" }', "data": 'data = { quota = "50MiB" }', "subprocess": "subprocess = true"}
_ARRAYS = {
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


def kind_of(text: str) -> str:
    """Return the kind of a right, which is all before the first colon."""
    return text.partition(":")[0]


def right(value: object) -> str:
    """Accept one right; return its normal form (a converter, for ``reader.Section``)."""
    if not isinstance(value, str):
        raise MisfitError("a right such as 'kv' or 'cap:orders'")
    kind, colon, name = value.partition(":")
    if kind not in RIGHT_KINDS:
        raise MisfitError("a right of one of the kinds " + ", ".join(RIGHT_KINDS))
    convert = RIGHT_KINDS[kind]
    if convert is None:
        if colon:
            raise MisfitError(f"{kind!r} without a name")
        return kind
    return f"{kind}:{convert(name)}"


def right_or_whole_kind(value: object) -> str:
    """Accept one right, or ``kind:*`` for every name of a kind that takes names."""
    if isinstance(value, str) and value.endswith(":*") and RIGHT_KINDS.get(value[:-2]) is not None:
        return value
    return right(value)


def manifest_line(text: str, permissions: Permissions) -> str:
    """Return the line of the table ``[permissions]`` that asks for a right beside those of its kind asked for already.

    Args:
        text: A right, in normal form.
        permissions: What the manifest asks for now.

    Returns:
        One line of TOML; empty when the right is asked for already.
    """
    if text in permissions.as_set():
        return ""
    kind, _, name = text.partition(":")
    if kind in _PLAIN_LINES:
        return _PLAIN_LINES[kind]
    if kind in ("filesystem.read", "filesystem.write", "events.publish", "events.subscribe"):
        table = kind.partition(".")[0]
        pair = [other for other in RIGHT_KINDS if other.startswith(f"{table}.")]
        arrays = {other.partition(".")[2]: _array(other, name if other == kind else "", permissions) for other in pair}
        return f"{table} = {{ {', '.join(f'{verb} = {array}' for verb, array in arrays.items() if array != '[]')} }}"
    return f"{_ARRAYS[kind].replace('_', '-')} = {_array(kind, name, permissions)}"


def manifest_lines(rights: Iterable[str], permissions: Permissions) -> dict[str, str]:
    """Return for each of some rights the line that asks for it, and for all others of them that stand under the same key.

    Args:
        rights: In normal form; those that are asked for already are left out.
        permissions: What the manifest asks for now.
    """
    by_key: dict[str, list[str]] = {}
    for text in sorted(frozenset(rights) - permissions.as_set()):
        kind = kind_of(text)
        by_key.setdefault(kind.partition(".")[0] if kind in _ARRAYS else kind, []).append(text)
    lines = {}
    for texts in by_key.values():
        others = permissions
        for text in texts[:-1]:
            kind, _, name = text.partition(":")
            field: dict[str, Any] = {_ARRAYS[kind]: (*getattr(others, _ARRAYS[kind]), name)}
            others = replace(others, **field)
        lines.update(dict.fromkeys(texts, manifest_line(texts[-1], others)))
    return lines


def rights_in(line: str) -> frozenset[str]:
    """Return the rights that a line of the table ``[permissions]`` asks for; none where it is no such line."""
    try:
        found = (right(text) for key, value in tomllib.loads(line).items() for text in _texts(key, value))
        return frozenset(text for text in found if kind_of(text) in _ARRAYS or kind_of(text) in _PLAIN_LINES)
    except (MisfitError, ValueError, RecursionError):  # a ValueError: it is no TOML
        return frozenset()


def _texts(key: str, value: object) -> Iterator[str]:
    kind = next((kind for kind, name in _ARRAYS.items() if name == key.replace("-", "_")), key)
    if isinstance(value, list):
        yield from (f"{kind}:{name}" for name in value)
    elif key in ("filesystem", "events") and isinstance(value, dict):
        for verb, names_ in value.items():
            yield from _texts(f"{key}.{verb}", names_)
    else:
        yield key


def _array(kind: str, added: str, permissions: Permissions) -> str:
    asked: tuple[str, ...] = getattr(permissions, _ARRAYS[kind])
    return json.dumps([*asked, added] if added else list(asked), ensure_ascii=False)  # a JSON array of plain texts is a TOML array
