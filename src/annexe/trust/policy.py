"""The operator's policy file: which plugin may have which rights.

Pure: text in, policy out. Strict like a manifest: every problem at once, with line and nearest known name.

::

    policy-version = 1

    [plugins."*"]                       # every plugin
    rights = ["kv"]

    [plugins.pii-redactor]              # this one, besides
    rights = ["cap:orders", "network:*"]
    versions = ">=1,<2"                 # optional
    digest = "sha3-512:..."             # optional; without it any content of that id is trusted

* ``kind:*`` allows every name of a kind; there is no "everything".
* A policy allows, it never adds: a plugin gets no right that its manifest does not ask for.

Source: docs/reference/permissions.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from annexe.errors import ConfigInvalidError
from annexe.ids import is_plugin_id
from annexe.manifest import values
from annexe.manifest.model import Manifest
from annexe.manifest.reader import Section
from annexe.manifest.rights import kind_of, right_or_whole_kind
from annexe.manifest.toml import UnreadableTomlError, parse_toml
from annexe.manifest.versions import is_in_range
from annexe.trust.grants import Grant

__all__ = ["MAX_POLICY_BYTES", "Policy", "PolicyEntry", "parse_policy"]

MAX_POLICY_BYTES = 1024 * 1024
_EVERY_PLUGIN = "*"
_DIGEST = re.compile(r"sha3-512:[0-9a-f]{128}")

_digest = values.matching("a digest as 'sha3-512:' and 128 hex digits", accepts=lambda value: _DIGEST.fullmatch(value) is not None)
_plugin = values.matching("a plugin id, or '*' for every plugin", accepts=lambda value: value == _EVERY_PLUGIN or is_plugin_id(value))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """What is allowed to one plugin, or to every one. ``versions`` empty and ``digest`` None: any."""

    rights: frozenset[str]
    versions: str = ""
    digest: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows, by plugin id or ``*``."""

    entries: Mapping[str, PolicyEntry] = field(default_factory=dict)

    def grants_for(self, manifest: Manifest, digest: str) -> tuple[Grant, ...]:
        """Return what the policy allows to this plugin as it is now, as grants bound to its content.

        Args:
            manifest: The plugin's.
            digest: Digest of its folder as it is now.
        """
        entries = [self.entries[name] for name in (_EVERY_PLUGIN, manifest.id) if name in self.entries]
        asked = manifest.permission_set()
        return tuple(
            Grant(plugin=manifest.id, rights=_allowed(asked, entry.rights), digest=digest, note="policy file")
            for entry in entries
            if entry.digest in (None, digest) and is_in_range(manifest.version, entry.versions)
        )


def parse_policy(text: bytes, *, source: str) -> Policy:
    """Parse and check a policy file.

    Args:
        text: Its content, UTF-8, at most 1 MiB.
        source: Its path, for the error.

    Raises:
        ConfigInvalidError: With every problem in ``problems``.
    """
    try:
        document, problems = parse_toml(text, max_bytes=MAX_POLICY_BYTES)
    except UnreadableTomlError as error:
        raise _invalid(source, [error.problem]) from error
    with Section(document, (), problems) as root, root.section("plugins") as plugins:
        root.need("policy-version", values.integer(1, 1), 1)
        entries = {
            name: PolicyEntry(
                rights=frozenset(section.items("rights", right_or_whole_kind, max_items=4096)),
                versions=section.take("versions", values.version_range, ""),
                digest=section.take("digest", _digest, None),
            )
            for name, section in plugins.sections(_plugin)
        }
    if problems:
        raise _invalid(source, problems.texts())
    return Policy(entries)


def _allowed(asked: frozenset[str], rights: frozenset[str]) -> frozenset[str]:
    return frozenset(right for right in asked if right in rights or f"{kind_of(right)}:*" in rights)


def _invalid(source: str, problems: list[str]) -> ConfigInvalidError:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return ConfigInvalidError(f"{source} is not a valid policy:\n{listed}", source=source, problems=problems)
