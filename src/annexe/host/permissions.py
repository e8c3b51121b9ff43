"""What a plugin may do, who said so, what it made of it, and what it was refused: plain values, for the control socket.

Nothing is asked of a plugin here, and nothing is changed.

Source: features PE1, PE4, PE5; docs/reference/permissions.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

from annexe.host.denials import TOLD_IN, denials
from annexe.host.known import KnownPlugin
from annexe.host.registry import Registry
from annexe.host.right_uses import OBSERVABLE, RightUses
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoreThread
from annexe.manifest.rights import kind_of
from annexe.record import EventKind
from annexe.record.entry import rfc3339
from annexe.sandbox.enforcement import Enforcement, EnforcementState, enforcement
from annexe.storage.events import StoredEvent
from annexe.storage.grants import StoredGrant
from annexe.trust.grants import Grant, why_lapsed

__all__ = ["Permissions"]

_MAX_EVENTS = 200


@final
class Permissions:
    """The permissions of one host's plugins.

    Args:
        settings: Says where grants come from.
        registry: The plugins.
        thread: The store, with grants and events.
        uses: Which rights were used.
    """

    def __init__(self, settings: HostSettings, *, registry: Registry, thread: StoreThread, uses: RightUses) -> None:
        self._settings = settings
        self._registry = registry
        self._thread = thread
        self._uses = uses

    async def of(self, plugin: str) -> dict[str, Any]:
        """Return everything about one plugin's permissions.

        Raises:
            UnknownPluginError: There is none of that id.
        """
        known = self._registry.get(plugin)
        used = await self._uses.last_used(plugin)
        stored, events = await self._thread.run(lambda: self._read(plugin))
        grants = [_grant_row(known, grant) for grant in stored]
        # Oldest first: what was granted twice, and holds both ways, it has had since the first time.
        holding = [grant for grant, row in zip(stored, grants, strict=True) if row["holds"]]
        since = {right: grant.granted_at for grant in reversed(holding) for right in grant.rights}
        source = self._settings.grants
        return {
            "id": plugin,
            "version": known.manifest.version if known.manifest is not None else "",
            "state": str(known.state),
            "reason": known.reason,
            "source": str(source) if isinstance(source, Path) else source,
            "rights": list(self._rights(known, await self._worth(known), used, since)),
            "grants": grants,
            "denied": denials(
                events,
                asked=known.manifest.permissions if known.manifest is not None else None,
                granted=known.decision.granted if known.decision is not None else frozenset(),
                since=since,
            ),
        }

    def _read(self, plugin: str) -> tuple[list[StoredGrant], list[StoredEvent]]:
        store = self._thread.store
        grants = store.grants.of(plugin) if self._settings.grants == "stored" else []
        kinds = (EventKind.PERMISSION_DENIED, *TOLD_IN)
        return grants, [event for kind in kinds for event in store.events.newest(_MAX_EVENTS, plugin=plugin, kind=str(kind))]

    async def _worth(self, known: KnownPlugin) -> Mapping[str, Enforcement]:
        """Return what rights are worth to a plugin: where it runs, or where it would."""
        instance = known.supervisor.instance if known.supervisor is not None else None
        return instance.launched.receipt.rights if instance is not None else enforcement(await self._registry.expected_walls(known.id))

    def _rights(
        self, known: KnownPlugin, worth: Mapping[str, Enforcement], used: Mapping[str, float], since: Mapping[str, float]
    ) -> Iterable[dict[str, Any]]:
        decision = known.decision
        granted = decision.granted | decision.had if decision is not None else frozenset()
        for right in sorted(known.manifest.permission_set()) if known.manifest is not None else ():
            found, at, granted_at = worth[kind_of(right)], used.get(right), since.get(right)
            yield {
                "right": right,
                "granted": right in granted,
                "worth": str(found.state),
                "why": found.why,
                "granted_at": None if granted_at is None else rfc3339(granted_at),
                "last_used": None if at is None else rfc3339(at),
                "use": _use(right, found, used_at=at, granted_at=granted_at if right in granted else None),
            }


def _use(right: str, found: Enforcement, *, used_at: float | None, granted_at: float | None) -> str:
    if found.state is EnforcementState.NOT_AVAILABLE:
        return "not available"
    if kind_of(right) in ("provide", "define", "events.subscribe"):
        return "claimed"
    if kind_of(right) not in OBSERVABLE:
        return "not observable"
    return "unused" if used_at is None or (granted_at is not None and used_at < granted_at) else "used"


def _grant_row(known: KnownPlugin, grant: StoredGrant) -> dict[str, Any]:
    lapsed = _lapsed(known, grant)
    return {
        "rights": sorted(grant.rights),
        "bound_to": "content" if grant.digest is not None else "folder",
        "digest": grant.digest,
        "folder": grant.folder,
        "versions": grant.version_range,
        "by": grant.granted_by,
        "at": rfc3339(grant.granted_at),
        "note": grant.note,
        "holds": not lapsed,
        "lapsed": lapsed,
    }


def _lapsed(known: KnownPlugin, stored: StoredGrant) -> str:
    if known.manifest is None or known.loaded is None:
        return "its manifest cannot be used"
    grant = Grant(
        plugin=stored.plugin, rights=stored.rights, digest=stored.digest, folder=stored.folder, version_range=stored.version_range
    )
    return why_lapsed(grant, known.manifest, digest=known.loaded.digest, folder=str(known.loaded.folder))
