"""Contracts as their names say: ``module:Class``, ``module:LIST``, ``module``, ``path/to/file.py:Class``, ``path/to/file.py``.

Importing them runs the code of that module; that is the application's own, or its author's. The one module of this package that does so:
for the ``annexe`` command and for tests, never for a running host.

Source: ADR-0057.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from annexe.contract.specs import ExtensionPoint, HookSpec
from annexe.errors import ContractError

__all__ = ["BESIDE", "contracts_beside", "contracts_named"]

BESIDE = "contracts.py"
_OURS = "annexe_contracts_"


def contracts_named(name: str) -> list[type[Any]]:
    """Return the contract of this name, or all of a module.

    Args:
        name: ``module:Class``, ``module:LIST`` of classes, or ``module``; a module is a dotted name, found from the working directory
            too, or the path of a file.

    Raises:
        ContractError: There is none; the text says what was found instead.
    """
    where, _, cls = name.partition(":")
    module = _module(where)
    found = _contracts_in(module)
    if cls:
        named = getattr(module, cls, None)
        listed: list[Any] = list(named) if isinstance(named, (list, tuple)) else [named]
        found = listed if all(map(_is_contract, listed)) else []
    if not found:
        what = f"{cls!r} that is a HookSpec, an ExtensionPoint or a list of them" if cls else "HookSpec and no ExtensionPoint"
        raise ContractError(f"{where!r} has no {what}", name=name)
    return found


def contracts_beside(folder: Path) -> list[type[Any]]:
    """Return the contracts in ``contracts.py`` of a plugin's folder; none when there is no such file.

    What that file imports is looked for beside the folder, too: the application is there, for a plugin that grows up with it. A test that
    has imported the file has its classes, and the host must open those very classes.
    """
    path = (folder / BESIDE).resolve()
    if not path.is_file():
        return []
    _see(path.parent.parent)
    imported = sys.modules.get(path.stem)
    if imported is not None and _is_made_from(imported, path):
        return _contracts_in(imported)
    return contracts_named(str(path))


def _contracts_in(module: ModuleType) -> list[type[Any]]:
    return [value for value in vars(module).values() if _is_contract(value)]


def _is_contract(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, HookSpec | ExtensionPoint) and value not in (HookSpec, ExtensionPoint)


def _is_made_from(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _module(where: str) -> ModuleType:
    try:
        return _of_file(Path(where)) if where.endswith(".py") else _of_name(where)
    except (ImportError, OSError) as error:
        raise ContractError(f"the contracts in {where!r} could not be imported: {error}", name=where) from error


def _of_file(path: Path) -> ModuleType:
    """Return the module a test has imported from this file, or run the file.

    Afresh each time: ``annexe dev`` comes here again after each change, sooner than Python's bytecode cache tells two apart.
    """
    known = _imported_already(str(path.resolve()))
    if known is not None:
        return known
    # A name of its own: contracts.py of two plugins are two modules.
    module = ModuleType(f"{_OURS}{abs(hash(str(path.resolve())))}")
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec")
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    _see(Path.cwd())
    exec(code, vars(module))  # noqa: S102 - that is what importing does
    return module


def _imported_already(path: str) -> ModuleType | None:
    named = ((name, module) for name, module in list(sys.modules.items()) if not name.startswith(_OURS))
    return next((module for _, module in named if getattr(module, "__file__", None) == path), None)


def _of_name(name: str) -> ModuleType:
    _see(Path.cwd())
    return importlib.import_module(name)


def _see(folder: Path) -> None:
    """Let modules be found in a folder."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
