"""What another plugin may do, for the attacker to do as well: ``annexe attack ID``.

Source: feature IS10.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from annexe.manifest.load import read_manifest

__all__ = ["Terms", "read_terms", "write_terms"]

_TABLES = ("permissions", "resources", "sandbox")


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """Tables of a manifest, as TOML has them.

    Attributes:
        plugin: Whose.
        tables: By name: ``permissions``, ``resources``, ``sandbox``.
    """

    plugin: str
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_terms(folder: Path) -> Terms:
    """Return what the plugin in a folder asks for.

    Raises:
        ManifestError: Its manifest cannot be used.
        OSError: It cannot be read.
    """
    manifest = read_manifest(folder)
    written = tomllib.loads((folder / "plugin.toml").read_text(encoding="utf-8"))
    return Terms(manifest.id, {name: written[name] for name in _TABLES if name in written})


def write_terms(path: Path, terms: Terms) -> None:
    """Put them into the attacker's manifest, in place of its own; its store and the time it needs for an attack stay."""
    own = tomllib.loads(path.read_text(encoding="utf-8"))
    merged: dict[str, Any] = {**own}
    for name, table in terms.tables.items():
        merged[name] = dict(table)
    merged["permissions"] = {**own["permissions"], **merged["permissions"]}
    merged["resources"] = {**merged["resources"], "call-timeout": own["resources"]["call-timeout"]}
    path.write_text("".join(f"{_key(name)} = {_toml(value)}\n" for name, value in merged.items()), encoding="utf-8")


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=True)


def _toml(value: Any) -> str:
    """Write a value of a manifest in one line; a manifest has no dates."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=True)  # texts, numbers and booleans are written alike in both
