"""What a plugin asks for as it lies in its folder now: what a person reads before a grant.

A plugin that runs goes on with the manifest that it was started with; a grant is of what is on disk. Nothing is changed here.

Source: feature PE1; docs/reference/permissions.md, "Granting".
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, final

from annexe.host.known import KnownPlugin
from annexe.host.registry import Registry
from annexe.host.settings import HostSettings
from annexe.launch.granted_paths import why_not_given
from annexe.launch.uids import DEFAULT_UID_RANGE
from annexe.manifest import Manifest
from annexe.manifest.rights import kind_of
from annexe.sandbox.enforcement import enforcement
from annexe.trust.grants import GrantDecision

__all__ = ["Asking"]

_SOME_PLUGINS_UID = DEFAULT_UID_RANGE[-1]


@final
class Asking:
    """What the plugins of one host ask for.

    Args:
        settings: Say how plugins are launched, and which folders are the host's own.
        registry: The plugins.
    """

    def __init__(self, settings: HostSettings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry

    async def of(self, plugin: str) -> dict[str, Any]:
        """Return what a plugin asks for now, and what speaks against it.

        Raises:
            UnknownPluginError: There is none of that id.
            ManifestError: What is in its folder now cannot be used.
        """
        loaded = await self._registry.on_disk(plugin)
        known, manifest = self._registry.get(plugin), loaded.manifest
        worth = enforcement(await self._registry.expected_walls(plugin))
        has = _has(known.decision)
        return {
            "id": plugin,
            "version": manifest.version,
            "folder": str(loaded.folder),
            "digest": loaded.digest,
            "changed": _is_changed(known, manifest),
            "rights": [
                {"right": right, "granted": right in has, "worth": str(worth[kind_of(right)].state), "why": worth[kind_of(right)].why}
                for right in sorted(manifest.permission_set())
            ],
            "doubts": await asyncio.to_thread(self._doubts, manifest),
        }

    def _doubts(self, manifest: Manifest) -> list[str]:
        """Return why it would be blocked although it was granted all that it asks for."""
        if self._settings.strategy_of(manifest.id) == "in-process":
            return []
        own: list[Path] = [self._settings.state_dir.absolute(), *(folder.absolute() for folder in self._settings.folders)]
        uid = _SOME_PLUGINS_UID if hasattr(os, "geteuid") and os.geteuid() == 0 else None
        asked = manifest.permissions
        return why_not_given(manifest.id, read=asked.filesystem_read, write=asked.filesystem_write, uid=uid, hosts_own=own)


def _has(decision: GrantDecision | None) -> frozenset[str]:
    return decision.granted | decision.had if decision is not None else frozenset()


def _is_changed(known: KnownPlugin, manifest: Manifest) -> bool:
    """Return whether it runs, and was started with another manifest."""
    return known.supervisor is not None and known.supervisor.state.has_process and known.manifest != manifest
