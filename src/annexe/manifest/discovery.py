"""Finding plugins on disk.

Reads manifests only. A plugin is a folder that holds ``plugin.toml``; a folder of plugins holds such folders.

* A broken plugin is found, with its error, and stops no other.
* Two folders with one id are both refused: taking the first would let whoever adds a folder take a plugin's place.
* A scan walks the folders, and reads only manifests that changed since the last one, and those that define hooks by further files.
* Which manifest changed is told by path, time of change, size and inode.
* At the first scan, what a manifest says may be remembered from an earlier process, by its text.

Source: features LC1 and LC14.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from annexe.errors import ManifestError
from annexe.manifest.load import MANIFEST_NAME, read_manifest
from annexe.manifest.memory import ManifestMemory
from annexe.manifest.model import Manifest, Provides

__all__ = ["Discovered", "Discovery"]

_Key = tuple[str, int, int, int]


@final
@dataclass(frozen=True, slots=True)
class Discovered:
    """One folder that holds, or should hold, a plugin.

    Attributes:
        folder: Resolved.
        manifest: None when it could not be read.
        error: Why this plugin cannot be used; None when it can.
    """

    folder: Path
    manifest: Manifest | None
    error: ManifestError | None

    @property
    def id(self) -> str:
        """The plugin's id, or the folder's name when there is no telling."""
        if self.manifest is not None:
            return self.manifest.id
        name = self.folder.name.encode("utf-8", "backslashreplace").decode()  # not UTF-8: no store and no socket would take it
        return (self.error.plugin if self.error else None) or name


@final
class Discovery:
    """The plugins in some folders.

    Not for several threads at once.

    Args:
        folders: Each a folder of plugins or itself a plugin. An earlier one is listed first; nothing else follows from the order.
        memory_file: What manifests said when they were last read; where the host alone may write. None: nowhere.
    """

    def __init__(self, folders: Sequence[Path], *, memory_file: Path | None = None) -> None:
        self._folders = tuple(folders)
        self._memory_file = memory_file
        self._read: dict[_Key, Discovered] = {}

    def scan(self) -> tuple[Discovered, ...]:
        """Walk the folders and return what is there now, broken ones included, by folder and then by name."""
        read: dict[_Key, Discovered] = {}
        found: dict[Path, Discovered] = {}
        memory = ManifestMemory(self._memory_file) if self._memory_file is not None else None
        for folder in _plugin_folders(self._folders):
            if folder not in found:
                found[folder] = self._discovered(folder, read, memory)
        if memory is not None:
            memory.save()
            self._memory_file = None  # from now on the manifests themselves are there
        self._read = read
        return _without_duplicates(found.values())

    def _discovered(self, folder: Path, read: dict[_Key, Discovered], memory: ManifestMemory | None) -> Discovered:
        """Return what is in a folder, from the earlier scan when the manifest is the same, and remember it in ``read``."""
        try:
            status = (folder / MANIFEST_NAME).lstat()
            key = (str(folder), status.st_mtime_ns, status.st_size, status.st_ino)
            plugin = self._read.get(key)
            # Another file may have been what was wrong: a refusal is not remembered. Nor are schemas, which are files of their own.
            if plugin is None or plugin.manifest is None or _has_schemas(plugin.manifest.provides):
                plugin = Discovered(folder, read_manifest(folder, memory=memory), None)
            read[key] = plugin
        except ManifestError as error:
            source = str(error.data["source"]).encode("utf-8", "backslashreplace").decode()
            return Discovered(folder, None, ManifestError(source=source, problems=error.problems, plugin=error.plugin))
        except OSError as error:
            problem = f"expected a plugin or a folder of plugins, which cannot be read: {error.strerror}"
            return Discovered(folder, None, ManifestError(source=str(folder), problems=[problem]))
        return plugin


def _has_schemas(provides: Provides) -> bool:
    return bool(provides.hook_specs) or any(offer.schema for offer in provides.services.values())


def _plugin_folders(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the folders to look into, resolved: a folder itself if it has a manifest or cannot be read, else those below that have one."""
    for folder in map(Path.resolve, folders):
        if os.path.lexists(folder / MANIFEST_NAME):
            yield folder
            continue
        try:
            with os.scandir(folder) as found:
                below = sorted(found, key=lambda child: child.name)
        except OSError:
            yield folder
            continue
        for child in below:
            if not child.name.startswith(".") and os.path.lexists(f"{child.path}/{MANIFEST_NAME}"):
                yield Path(child.path).resolve() if child.is_symlink() else Path(child.path)


def _without_duplicates(plugins: Iterable[Discovered]) -> tuple[Discovered, ...]:
    """Return the plugins with those refused that share an id."""
    listed = list(plugins)
    folders: dict[str, list[str]] = {}
    for plugin in listed:
        if plugin.manifest is not None:
            folders.setdefault(plugin.manifest.id, []).append(str(plugin.folder))
    return tuple(_refused(plugin, folders[plugin.id]) if plugin.manifest and len(folders[plugin.id]) > 1 else plugin for plugin in listed)


def _refused(plugin: Discovered, folders: list[str]) -> Discovered:
    problem = f"expected the id {plugin.id!r} in one folder, got it in " + " and ".join(folders)
    return replace(plugin, error=ManifestError(source=str(plugin.folder / MANIFEST_NAME), problems=[problem], plugin=plugin.id))
