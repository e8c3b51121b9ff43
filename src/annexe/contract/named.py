"""Contracts as their names say: ``module:Class``, ``module:LIST``, ``module``, ``path/to/file.py:Class``, ``path/to/file.py``.

Importing them runs the code of that module; that is the application's own, or its author's. The one module of this package that does so:
for the ``annexe`` command and for tests, never for a running host.

Source: ADR-0057.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from annexe.contract.specs import ExtensionPoint, HookSpec
from annexe.errors import ContractError
from annexe_sdk import Service

__all__ = ["BESIDE", "contracts_beside", "contracts_named", "importable_as", "services_named"]

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


def services_named(name: str) -> list[type[Any]]:
    """Return the contracts of services of this name, or all of a module, as for ``contracts_named``; none where there is none."""
    where, _, cls = name.partition(":")
    module = _module(where)
    return [value for key, value in vars(module).items() if _is_service(value) and cls in ("", key)]


def contracts_beside(folder: Path) -> list[type[Any]]:
    """Return the contracts in ``contracts.py`` of a plugin's folder; none when there is no such file.

    What that file imports is looked for beside the folder, too, and last one folder further up (``app.py`` beside ``plugins/ID/``): the
    application is there, for a plugin that grows up with it. A test that has imported the file has its classes, and the host must open
    those very classes.
    """
    path = (folder / BESIDE).resolve()
    if not path.is_file():
        return []
    _see(path.parent.parent)
    above = str(path.parent.parent.parent)
    if above not in sys.path:
        sys.path.append(above)  # last: it must hide nothing
    imported = sys.modules.get(path.stem)
    if imported is not None and _is_made_from(imported, path):
        return _contracts_in(imported)
    return contracts_named(str(path))


def importable_as(where: str) -> tuple[str, Path | None]:
    """Return by what name code elsewhere can import a module of contracts, and the folder that must be on its path for that.

    Args:
        where: The module, which ``contracts_named`` has imported: a dotted name or the path of a file.

    Returns:
        Its name, and an absolute folder; None for what is installed and found anyway.

    Raises:
        ContractError: No ``import`` can name the file.
    """
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.stem.isidentifier():
            raise ContractError(f"{where!r} cannot be imported by that name; call the file {path.stem.replace('-', '_')}.py", name=where)
        return path.stem, path.parent
    file = getattr(sys.modules[where], "__file__", None)
    if file is None:
        return where, None
    path = Path(file).resolve()
    folder = path.parents[where.count(".") + (path.name == "__init__.py")]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    return where, None if folder in installed else folder


def _contracts_in(module: ModuleType) -> list[type[Any]]:
    return [value for value in vars(module).values() if _is_contract(value)]


def _is_contract(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, HookSpec | ExtensionPoint) and value not in (HookSpec, ExtensionPoint)


def _is_service(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Service) and "_annexe_contract" in vars(value)


def _is_made_from(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _module(where: str) -> ModuleType:
    try:
        return _of_file(Path(where)) if where.endswith(".py") else _of_name(where)
    except (ImportError, OSError) as error:
        text = f"the contracts in {where!r} could not be imported: {error}{_what_helps(where, error)}"
        raise ContractError(text, name=where) from error


def _what_helps(where: str, error: Exception) -> str:
    """Return where a module was looked for, when it is that one that was not found; empty for what it imports itself."""
    if where.endswith(".py") or getattr(error, "name", None) not in (where, where.partition(".")[0]):
        return ""
    file = f"{where.partition('.')[0]}.py"
    looked = f"It was looked for in {Path.cwd()} and where Python looks"
    return f". {looked}; run this where {file} lies, set PYTHONPATH, or give the path of the file"


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
