"""Grants as they are stored: written down, taken back, told as events. What comes of it for the plugin is the registry's part.

Source: feature PE1; docs/reference/permissions.md, "Granting".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from annexe.clock import Clock
from annexe.errors import ConflictError, InvalidParamsError
from annexe.host.store_thread import StoreThread
from annexe.manifest import LoadedManifest
from annexe.manifest.versions import is_in_range, is_range
from annexe.record import EventKind, Events
from annexe.storage.grants import StoredGrant

__all__ = ["GrantBook", "check_as_read"]


@final
class GrantBook:
    """The grants of one host.

    Args:
        thread: The store.
        events: Is told who gave and took what.
        clock: For times that people read.
    """

    def __init__(self, thread: StoreThread, *, events: Events, clock: Clock) -> None:
        self._thread = thread
        self._events = events
        self._clock = clock

    async def add(self, loaded: LoadedManifest, *, by: str, note: str, to_content: bool, versions: str) -> None:
        """Store a grant of all that a plugin asks for, in place of one that is bound alike.

        Raises:
            InvalidParamsError: The version range is none, or the plugin as it is now is outside.
        """
        manifest = loaded.manifest
        if versions and not is_range(versions):
            raise InvalidParamsError(f"grant: expected a version range such as '>=1,<2', got {versions[:64]!r}", method="grant")
        if not is_in_range(manifest.version, versions):
            text = f"plugin {manifest.id!r} is {manifest.version}, which versions {versions} leave out; nothing was granted"
            raise InvalidParamsError(text, plugin=manifest.id, method="grant")
        grant = StoredGrant(
            plugin=manifest.id,
            rights=manifest.permission_set(),
            digest=loaded.digest if to_content else None,
            folder=None if to_content else str(loaded.folder),
            version_range=versions,
            note=note,
            granted_by=by,
            granted_at=self._clock.now(),
        )
        await self._thread.run(lambda: self._thread.store.grants.put(grant))
        self._events.add(EventKind.GRANT_CHANGED, plugin=manifest.id, reason=f"granted by {by}", rights=sorted(grant.rights))

    async def take_back(self, plugin: str, *, by: str, rights: frozenset[str]) -> InvalidParamsError | None:
        """Take rights out of every grant of a plugin.

        Args:
            plugin: Id.
            by: Who.
            rights: Which; none: all of them.

        Returns:
            What is to be raised when that was acted on: it was not granted some of these.
        """
        if not rights:
            count = await self._thread.run(lambda: self._thread.store.grants.delete(plugin))
            self._events.add(EventKind.GRANT_CHANGED, plugin=plugin, reason=f"revoked by {by}", grants=count)
            return None
        taken = await self._thread.run(lambda: self._thread.store.grants.take(plugin, rights))
        if taken:
            self._events.add(EventKind.GRANT_CHANGED, plugin=plugin, reason=f"revoked in part by {by}", rights=sorted(taken))
        if rights == taken:
            return None
        text = f"plugin {plugin!r} was not granted {', '.join(sorted(rights - taken))}; see: annexe permissions {plugin}"
        return InvalidParamsError(text, plugin=plugin, method="revoke")


def check_as_read(loaded: LoadedManifest, *, rights: Iterable[str], digest: str | None) -> None:
    """Refuse to grant anything but what somebody read: the plugin may have changed in between.

    Args:
        loaded: What is about to be granted.
        rights: That were read.
        digest: Of the content that was read; None: whatever it is.

    Raises:
        ConflictError: It is something else.
    """
    plugin, asked, read = loaded.manifest.id, sorted(loaded.manifest.permission_set()), sorted(rights)
    if read != asked:
        text = (
            f"plugin {plugin!r} asks for {', '.join(asked) or 'nothing'} now, expected {', '.join(read) or 'nothing'}; nothing was granted"
        )
        raise ConflictError(text, plugin=plugin, expected=read, actual=asked)
    if digest is not None and digest != loaded.digest:
        text = f"the content of plugin {plugin!r} has changed; nothing was granted"
        raise ConflictError(text, plugin=plugin, expected=digest, actual=loaded.digest)
