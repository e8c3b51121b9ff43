"""Modules of a plugin that runs in the host's process, apart from those of the host, of other plugins, and of its own earlier launches.

Each launch has a package of its own, by a name that no other has, whose modules are those in the plugin's folder. The plugin does not know:
what its ``import`` statements call ``main`` is ``plugin#1.main`` here.

* A module is read anew by each launch, byte code is neither read nor written: what runs is what is in the folder.
* A statement that names a module of the folder means that one; every other name, and any of the standard library, means what it does in
  the host.
* What is imported by ``importlib`` or by name alone, without a statement, is not told apart.
* Takes no lock and changes no module of anybody else's: launches may load at once, and import later.

Source: feature IS2.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, final

__all__ = ["OwnModules"]

_launches = count(1)
_SHARED = sys.stdlib_module_names | {"annexe", "annexe_sdk"}


@final
class OwnModules(MetaPathFinder):
    """The modules of one launch.

    Args:
        plugin: Id.
        folder: With its code.
        entry: Module, dotted where it is in a package.

    Attributes:
        entry: Name that the entry module is imported by.
    """

    def __init__(self, plugin: str, folder: Path, entry: str) -> None:
        self._package = f"{plugin}#{next(_launches)}"
        self._folder = str(folder)
        self._own = {entry.partition(".")[0]: True}
        self._builtins = {**vars(builtins), "__import__": self._import}
        self.entry = f"{self._package}.{entry}"

    def open(self) -> None:
        """Let them be imported."""
        importlib.invalidate_caches()  # the folder may have been written a moment ago
        package = ModuleType(self._package)
        package.__path__ = [self._folder]
        sys.modules[self._package] = package
        sys.meta_path.insert(0, self)

    def close(self) -> None:
        """Forget them. Idempotent."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in [name for name in sys.modules if name.partition(".")[0] == self._package]:
            del sys.modules[name]

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module of this launch; called by the import system."""
        if not fullname.startswith(f"{self._package}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self._builtins)
            spec.cached = None
        return spec

    def _import(
        self, name: str, globals_: Any = None, locals_: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> ModuleType:
        """Do what an ``import`` statement of the plugin's says."""
        first = name.partition(".")[0]
        if level or not self._is_own(first):
            return __import__(name, globals_, locals_, fromlist or (), level)
        found = __import__(f"{self._package}.{name}", globals_, locals_, fromlist or (), 0)
        return found if fromlist else sys.modules[f"{self._package}.{first}"]

    def _is_own(self, first: str) -> bool:
        own = self._own.get(first)
        if own is None:
            # A folder without code of its own, such as one for data, is no reason to pass over a module of that name.
            spec = None if first in _SHARED else PathFinder.find_spec(first, [self._folder])
            own = self._own[first] = spec is not None and spec.origin is not None
        return own


@final
class _Loader(SourceFileLoader):
    """Runs a module of the plugin's, whose ``import`` statements mean its own modules."""

    def __init__(self, name: str, path: str, its_builtins: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._builtins = its_builtins

    def get_code(self, fullname: str) -> CodeType | None:  # noqa: ARG002 - the signature is the import system's
        # Not what byte code says: it tells changes apart by the second.
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)
