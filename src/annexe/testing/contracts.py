"""Contracts as their names say: ``module:Class``, ``module``, ``path/to/file.py:Class``, ``path/to/file.py``.

Importing them runs the code of that module; that is the application's own, or its author's.

Source: ADR-0057.
"""

from __future__ import annotations

import importlib
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
    """Run the file afresh: ``annexe dev`` comes here again after each change, sooner than Python's bytecode cache tells two apart."""
    # A name of its own: contracts.py of two plugins are two modules.
    module = ModuleType(f"annexe_contracts_{abs(hash(str(path.resolve())))}")
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec")
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    _see_working_directory()
    exec(code, vars(module))  # noqa: S102 - that is what importing does
    return module


def _of_name(name: str) -> ModuleType:
    _see_working_directory()
    return importlib.import_module(name)


def _see_working_directory() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
