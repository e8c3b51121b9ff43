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

__all__ = ["MANIFEST_MODE_WARNING", "Grant", "GrantDecision", "decide", "denial", "grant_as_asked", "why_lapsed"]

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
        had: Of those missing, what a grant to its folder names that holds no longer because more is asked for now.
        lapsed: Why grants of this plugin that exist do not hold, one text each.
        was_to_content: One of those was bound to the plugin's content: so should the next one be.
    """

    plugin: str
    granted: frozenset[str]
    missing: frozenset[str]
    had: frozenset[str] = frozenset()
    lapsed: tuple[str, ...] = ()
    was_to_content: bool = False

    @property
    def is_blocked(self) -> bool:
        """Whether the plugin must not start."""
        return bool(self.missing)

    @property
    def lacking(self) -> frozenset[str]:
        """What nobody has granted at all, where that is why grants hold no longer."""
        return self.missing - self.had

    @property
    def problem(self) -> str:
        """For people: what is missing and why; empty when nothing is."""
        if not self.missing:
            return ""
        if self.had:
            besides = ", ".join(sorted(self.granted | self.had))
            return f"it asks for {', '.join(sorted(self.lacking))}, which nobody has granted; granted was: {besides}"
        asked = f"it asks for {', '.join(sorted(self.missing))}"
        return f"{asked}; its grant holds no longer: {'; '.join(self.lapsed)}" if self.lapsed else f"{asked}, which nobody has granted"


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
    had: frozenset[str] = frozenset()
    lapsed: list[str] = []
    was_to_content = False
    for grant in grants:
        if grant.plugin != manifest.id:
            continue
        reason = why_lapsed(grant, manifest, digest=digest, folder=folder)
        if reason:
            lapsed.append(reason)
            was_to_content = was_to_content or grant.digest is not None
            had |= grant.rights & asked if grant.folder == folder and is_in_range(manifest.version, grant.version_range) else frozenset()
        else:
            granted |= grant.rights & asked
    missing = asked - granted
    return GrantDecision(
        plugin=manifest.id,
        granted=granted,
        missing=missing,
        had=had & missing if missing - had else frozenset(),
        lapsed=tuple(lapsed),
        was_to_content=was_to_content,
    )


def grant_as_asked(manifest: Manifest, *, folder: str, note: str) -> Grant:
    """Make the grant of ``grants="manifest"``, and of approving a plugin under development: all that is asked for, to this folder."""
    return Grant(plugin=manifest.id, rights=manifest.permission_set(), folder=folder, note=note)


def denial(plugin: str, right: str, manifest: Manifest, *, command: str) -> PermissionDeniedError:
    """Make the error for a right that a plugin used and has not, with the author's line and the operator's command.

    Args:
        plugin: Who used it.
        right: In normal form.
        manifest: The plugin's.
        command: What grants it in this host.
    """
    return PermissionDeniedError(plugin=plugin, permission=right, manifest_line=manifest_line(right, manifest.permissions), command=command)


def why_lapsed(grant: Grant, manifest: Manifest, *, digest: str, folder: str) -> str:
    """Return why a grant of this plugin does not hold, empty when it does.

    Args:
        grant: Of this plugin.
        manifest: What it asks for now.
        digest: Of its folder as it is now.
        folder: The folder, resolved.
    """
    if grant.digest is not None and grant.digest != digest:
        return "its content has changed since"
    if grant.folder is not None and grant.folder != folder:
        return f"it was granted in the folder {grant.folder}"
    asked = manifest.permission_set()
    if grant.folder is not None and grant.rights != asked:
        more, fewer = sorted(asked - grant.rights), sorted(grant.rights - asked)
        differing = [f"it asks for {', '.join(more)}, which it was not granted"] if more else []
        differing += [f"it was granted {', '.join(fewer)}, for which it asks no longer"] if fewer else []
        return ", and ".join(differing)
    if not is_in_range(manifest.version, grant.version_range):
        return f"it was granted for versions {grant.version_range}, this is {manifest.version}"
    return ""
