"""Contracts as their names say: ``module:Class``, ``module``, ``path/to/file.py:Class``, ``path/to/file.py``.

Importing them runs the code of that module; that is the application's own, or its author's.

Source: ADR-0057.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from annexe.contract import ExtensionPoint, HookSpec
from annexe.errors import ContractError

__all__ = ["BESIDE", "contracts_beside", "contracts_named"]

BESIDE = "contracts.py"


def contracts_named(name: str) -> list[type[Any]]:
    """Return the contract of this name, or all of a module.

    Args:
        name: ``module:Class`` or ``module``; a module is a dotted name, found from the working directory too, or the path of a file.

    Raises:
        ContractError: There is none; the text says what was found instead.
    """
    where, _, cls = name.partition(":")
    module = _module(where)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, HookSpec | ExtensionPoint) and value not in (HookSpec, ExtensionPoint)
    ]
    if cls:
        found = [contract for contract in found if contract.__name__ == cls]
    if not found:
        what = f"class {cls!r} that is a HookSpec or an ExtensionPoint" if cls else "HookSpec and no ExtensionPoint"
        raise ContractError(f"{where!r} has no {what}", name=name)
    return found


def contracts_beside(folder: Path) -> list[type[Any]]:
    """Return the contracts in ``contracts.py`` of a plugin's folder; none when there is no such file."""
    path = folder / BESIDE
    return contracts_named(str(path)) if path.is_file() else []


def _module(where: str) -> ModuleType:
    try:
        return _of_file(Path(where)) if where.endswith(".py") else _of_name(where)
    except (ImportError, OSError) as error:
        raise ContractError(f"the contracts in {where!r} could not be imported: {error}", name=where) from error


def _of_file(path: Path) -> ModuleType:
    # A name of its own: contracts.py of two plugins are two modules.
    name = f"annexe_contracts_{abs(hash(str(path.resolve())))}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _of_name(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)
