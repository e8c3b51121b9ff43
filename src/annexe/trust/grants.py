"""Which of the rights a plugin asks for it has.

Pure rules; grants are kept by ``annexe.storage`` and read from a policy file by ``trust.policy``.

* Deny by default: a right is there only when the manifest asks for it **and** a grant that holds gives it.
* Every grant is bound to something: to the content (digest), or while developing to the folder. There is no grant of a mere name.
* A content grant holds for that digest and version range alone. A folder grant lets the code change, but not the rights: it
  holds only while the manifest asks for exactly the rights that were granted.
* A plugin with a missing right is blocked; it never runs with fewer rights than it asks for.

Source: features PE1 and PE3; docs/reference/permissions.md; ADR-0017.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from annexe.errors import PermissionDeniedError
from annexe.manifest.model import Manifest
from annexe.manifest.rights import manifest_line
from annexe.manifest.versions import is_in_range

__all__ = ["MANIFEST_MODE_WARNING", "Grant", "GrantDecision", "decide", "denial", "grant_as_asked", "grant_command"]

MANIFEST_MODE_WARNING = (
    'grants="manifest": every plugin is granted all that it asks for, and nobody has read what that is. For development alone.'
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Rights that somebody gave to a plugin.

    Attributes:
        plugin: Id.
        rights: In normal form.
        digest: Content that it is bound to, as ``folder_digest`` gives it; None when bound to a folder.
        folder: Resolved folder that it is bound to; None when bound to content.
        version_range: Versions that it holds for; empty: any.
        note: Who gave it and why, for people.
    """

    plugin: str
    rights: frozenset[str]
    digest: str | None = None
    folder: str | None = None
    version_range: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if bool(self.digest) == bool(self.folder):
            raise ValueError(f"a grant is bound to a digest or to a folder, got digest={self.digest!r}, folder={self.folder!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GrantDecision:
    """What a plugin has, and what it lacks.

    Attributes:
        granted: Rights asked for and granted.
        missing: Rights asked for and not granted; not empty: the plugin is blocked.
        lapsed: Why grants of this plugin that exist do not hold, one text each.
    """

    plugin: str
    granted: frozenset[str]
    missing: frozenset[str]
    lapsed: tuple[str, ...] = ()

    @property
    def is_blocked(self) -> bool:
        """Whether the plugin must not start."""
        return bool(self.missing)

    @property
    def message(self) -> str:
        """For people: what is missing, why, and the command that grants it; empty when nothing is."""
        if not self.missing:
            return ""
        why = f" (a grant no longer holds: {'; '.join(self.lapsed)})" if self.lapsed else ""
        return (
            f"plugin {self.plugin!r} is blocked: it asks for {', '.join(sorted(self.missing))}, which nobody has granted{why}; "
            f"grant with: {grant_command(self.plugin)}"
        )


def decide(manifest: Manifest, *, digest: str, folder: str, grants: Iterable[Grant]) -> GrantDecision:
    """Decide what a plugin may do.

    Args:
        manifest: What it asks for.
        digest: Digest of its folder as it is now.
        folder: The folder, resolved.
        grants: All that exist; those of other plugins are passed over.
    """
    asked = manifest.permission_set()
    granted: frozenset[str] = frozenset()
    lapsed: list[str] = []
    for grant in grants:
        if grant.plugin != manifest.id:
            continue
        reason = _reason_lapsed(grant, manifest, digest=digest, folder=folder)
        if reason:
            lapsed.append(reason)
        else:
            granted |= grant.rights & asked
    return GrantDecision(plugin=manifest.id, granted=granted, missing=asked - granted, lapsed=tuple(lapsed))


def grant_as_asked(manifest: Manifest, *, folder: str, note: str) -> Grant:
    """Make the grant of ``grants="manifest"``, and of approving a plugin under development: all that is asked for, to this folder."""
    return Grant(plugin=manifest.id, rights=manifest.permission_set(), folder=folder, note=note)


def grant_command(plugin: str) -> str:
    """Return the operator's command that grants a plugin what it asks for."""
    return f"annexe grant {plugin}"


def denial(plugin: str, right: str, manifest: Manifest) -> PermissionDeniedError:
    """Make the error for a right that a plugin used and has not, with the author's line and the operator's command.

    Args:
        plugin: Who used it.
        right: In normal form.
        manifest: The plugin's.
    """
    return PermissionDeniedError(
        plugin=plugin, permission=right, manifest_line=manifest_line(right, manifest.permissions), command=grant_command(plugin)
    )


def _reason_lapsed(grant: Grant, manifest: Manifest, *, digest: str, folder: str) -> str:
    """Return why a grant of this plugin does not hold, empty when it does."""
    if grant.digest is not None and grant.digest != digest:
        return "its content has changed since"
    if grant.folder is not None and grant.folder != folder:
        return f"it was granted in the folder {grant.folder}"
    if grant.folder is not None and grant.rights != manifest.permission_set():
        return "it asks for other rights now"
    if not is_in_range(manifest.version, grant.version_range):
        return f"it was granted for versions {grant.version_range}, this is {manifest.version}"
    return ""
