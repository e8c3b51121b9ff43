"""What a reload would do now, as plain values for the control socket.

Nothing is changed, and nothing of the plugin is run: what only shows when the new instance starts is not known here.

Source: docs/how-to/reload-a-plugin.md; docs/reference/control.md has the form for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from annexe.errors import AnnexeError
from annexe.manifest import Manifest

__all__ = ["ReloadPreview", "preview_view"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadPreview:
    """What a reload of one plugin would do.

    Attributes:
        plugin: Its id.
        before: The manifest that it goes by now; None when that was refused.
        after: The one in its folder now; None when that cannot be used.
        instances: How many would be replaced; 0: it does not run, and would be started afresh.
        overlap: The new ones become ready beside the old ones; else calls wait while one follows the other.
        users: Plugins whose requirements it meets now.
        refusal: What would refuse it; None: nothing that is known before it is tried.
    """

    plugin: str
    before: Manifest | None
    after: Manifest | None
    instances: int
    overlap: bool
    users: tuple[str, ...]
    refusal: AnnexeError | None


def preview_view(preview: ReloadPreview) -> dict[str, Any]:
    """Return a preview as plain values."""
    before, after = _parts(preview.before), _parts(preview.after)
    is_read = preview.after is not None
    return {
        "plugin": preview.plugin,
        "version": preview.before.version if preview.before is not None else "",
        "new_version": preview.after.version if preview.after is not None else "",
        "gains": [{"kind": kind, "name": name} for kind, name in after if (kind, name) not in before],
        "loses": [{"kind": kind, "name": name} for kind, name in before if is_read and (kind, name) not in after],
        "instances": preview.instances,
        "overlap": preview.overlap,
        "users": list(preview.users),
        "refusal": preview.refusal.as_dict() if preview.refusal is not None else None,
    }


def _parts(manifest: Manifest | None) -> list[tuple[str, str]]:
    return list(_each_part(manifest)) if manifest is not None else []


def _each_part(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Give what a manifest asks for and provides that others may notice, as kind and name."""
    provides, requires = manifest.provides, manifest.requires
    yield from (("right", right) for right in sorted(manifest.permission_set()))
    yield from (("hook", name) for name in sorted(provides.hooks))
    yield from (("hook of its own", f"{name} revision {offer.revision}") for name, offer in sorted(provides.hook_specs.items()))
    yield from (("extension", name) for name in sorted(provides.extensions))
    yield from (("service", f"{name} {offer.version}") for name, offer in sorted(provides.services.items()))
    yield from (("topic", name) for name in sorted(provides.topics))
    yield from (("requirement", f"plugin {name} {version}") for name, version in sorted(requires.plugins.items()))
    yield from (("requirement", f"service {name} {need.version}") for name, need in sorted(requires.services.items()))
