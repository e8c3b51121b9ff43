"""A plugin's code in the process of its tests.

The same module that the tests import themselves, so that what they patch there is what runs. Of two plugins whose modules share a name,
the one that is loaded last has it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import final

from annexe.errors import ActivationError
from annexe.manifest import Manifest, load_manifest
from annexe_sdk import Plugin

__all__ = ["LoadedPlugin"]


@final
class LoadedPlugin:
    """The plugin of a folder. The folder is on ``sys.path`` until ``close``.

    Args:
        folder: Where its ``plugin.toml`` is.

    Attributes:
        manifest: Its manifest.
        folder: The same folder, as an absolute path.
        plugin: What its entry module calls ``plugin``.

    Raises:
        ManifestError: Its manifest was refused.
        TypeError: The entry module has no ``Plugin`` named ``plugin``.
    """

    def __init__(self, folder: Path) -> None:
        loaded = load_manifest(folder)
        self.manifest: Manifest = loaded.manifest
        self.folder = loaded.folder
        self._path = str(loaded.folder)
        entry = self.manifest.runtime.entry
        _forget_others(entry.partition(".")[0], self._path)
        sys.path.insert(0, self._path)
        importlib.invalidate_caches()  # the folder may have been written a moment ago
        try:
            self.plugin = _plugin_of(entry)
        except BaseException:
            self.close()
            raise

    def check_provided(self) -> None:
        """Hold the code against the manifest.

        Raises:
            ActivationError: It answers what the manifest does not declare, or declares what it does not answer.
        """
        provided, declared = self.plugin.provides(), self.manifest.provides
        subscribed = dict.fromkeys(self.manifest.permissions.events_subscribe)
        for what, given, wanted in (
            ("hook", provided["hooks"], declared.hooks),
            ("extension", provided["extensions"], declared.extensions),
            ("service", provided["services"], declared.services),
            ("event", provided["events"], subscribed),
        ):
            for name in sorted(given.keys() ^ wanted.keys()):
                if name in given:
                    text = f"the code answers {what} {name!r}, which plugin.toml does not declare"
                else:
                    text = f"plugin.toml declares {what} {name!r}, but the code does not answer it"
                raise ActivationError(text, plugin=self.manifest.id)

    def close(self) -> None:
        """Take the folder off ``sys.path``."""
        if self._path in sys.path:
            sys.path.remove(self._path)


def _plugin_of(entry: str) -> Plugin:
    found = getattr(importlib.import_module(entry), "plugin", None)
    if not isinstance(found, Plugin):
        raise TypeError(f"module {entry!r} has no Plugin named 'plugin'; write: plugin = Plugin()")
    return found


def _forget_others(name: str, folder: str) -> None:
    """Forget modules of this name that come from elsewhere."""
    for known, module in list(sys.modules.items()):
        if known.partition(".")[0] == name and not str(getattr(module, "__file__", None) or "").startswith(f"{folder}/"):
            del sys.modules[known]
