"""What is in the plugin folders now, as the host goes by it.

One look at a time: what comes of one look is done before the next begins.

Source: features LC1 and LC14; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import final

from annexe.errors import ManifestError, UnknownPluginError
from annexe.host.known import KnownPlugin, KnownPlugins
from annexe.manifest import Discovered, Discovery, LoadedManifest, folder_digest
from annexe.record import EventKind, Events

__all__ = ["Digest", "PluginFolders", "digests", "load"]

_AT_ONCE = 50  # some milliseconds of a worker thread
_THREADS = 2

Digest = str | ManifestError
"""The digest of a folder, or why it has none."""


@final
class PluginFolders:
    """Looks into the plugin folders of one host.

    Args:
        folders: Each a folder of plugins or itself a plugin.
        plugins: All that are known: a folder whose manifest cannot be read any more is still theirs.
        events: Is told of manifests that are refused.
        memory_file: What manifests said when they were last read.
    """

    def __init__(self, folders: Sequence[Path], *, plugins: KnownPlugins, events: Events, memory_file: Path) -> None:
        self._discovery = Discovery(folders, memory_file=memory_file)
        self._plugins = plugins
        self._events = events
        self._looking = asyncio.Lock()

    @asynccontextmanager
    async def scanned(self) -> AsyncIterator[dict[str, Discovered]]:
        """Give what is there by id; nobody else looks until the caller has acted on it."""
        async with self._looking:
            found: dict[str, Discovered] = {}
            # A folder whose manifest is refused goes by its own name: that must not hide a plugin that has it as its id.
            for discovered in sorted(await asyncio.to_thread(self._discovery.scan), key=lambda plugin: plugin.error is None):
                plugin = self._id_of(discovered)
                if plugin in found:
                    self.note_refusal(plugin, found[plugin])
                found[plugin] = discovered
            yield found

    async def look_for(self, known: KnownPlugin) -> Discovered | None:
        """Return what is in a plugin's folder now; what is elsewhere under its id only when that folder is gone."""
        async with self._looking:
            there = [found for found in await asyncio.to_thread(self._discovery.scan) if self._id_of(found) == known.id]
        return min(there, key=lambda found: found.folder != known.found.folder, default=None)

    def _id_of(self, discovered: Discovered) -> str:
        """Return the id; for a folder whose manifest cannot be read any more, that of the plugin that was in it."""
        if discovered.manifest is None:
            for known in self._plugins.by_id.values():
                if known.found.folder == discovered.folder:
                    return known.id
        return discovered.id

    def note_refusal(self, plugin: str, refused: Discovered) -> None:
        """Tell that the manifest of a folder cannot be used."""
        reason = refused.error.message if refused.error is not None else "no manifest"
        self._events.add(EventKind.MANIFEST_REFUSED, plugin=plugin, reason=reason, folder=str(refused.folder))


async def load(discovered: Discovered) -> LoadedManifest:
    """Return what is in a folder now, with its digest.

    Raises:
        ManifestError: It cannot be used.
    """
    if discovered.error is not None or discovered.manifest is None:
        raise discovered.error or UnknownPluginError(f"plugin {discovered.id!r} has no manifest", plugin=discovered.id)
    return LoadedManifest(discovered.manifest, discovered.folder, await asyncio.to_thread(folder_digest, discovered.folder))


async def digests(folders: Iterable[Path]) -> dict[Path, Digest]:
    """Return the digests of many folders: a turn on a thread for each would cost more than the work."""
    waiting, made = iter(folders), dict[Path, Digest]()

    async def make() -> None:
        while some := list(islice(waiting, _AT_ONCE)):
            made.update(await asyncio.to_thread(_digests, some))

    await asyncio.gather(*(make() for _ in range(_THREADS)))
    return made


def _digests(folders: Iterable[Path]) -> dict[Path, Digest]:
    made: dict[Path, Digest] = {}
    for folder in folders:
        try:
            made[folder] = folder_digest(folder)
        except ManifestError as error:
            made[folder] = error
    return made
