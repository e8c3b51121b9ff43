"""Modules of plugins in one process are told apart."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from annexe.launch.own_modules import OwnModules


def write(folder: Path, **files: str) -> Path:
    """Write modules; what begins with ``pkg_`` is in a folder of that name."""
    for name, text in files.items():
        at = folder / f"{name.replace('pkg_', 'pkg/', 1)}.py"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
    return folder


@contextmanager
def loaded(folder: Path, entry: str = "main") -> Iterator[Any]:
    modules = OwnModules("alpha", folder, entry)
    modules.open()
    try:
        yield importlib.import_module(modules.entry)
    finally:
        modules.close()


def test_two_launches_share_no_module_even_when_they_import_late(tmp_path: Path) -> None:
    main = "import part\ndef late():\n    import other\n    return part.NAME, other.NAME"
    one, two = (write(tmp_path / name, main=main, part=f"NAME = {name!r}", other=f"NAME = 'late {name}'") for name in ("one", "two"))
    with loaded(one) as first, loaded(two) as second:
        assert (first.late(), second.late()) == (("one", "late one"), ("two", "late two"))


def test_a_launch_reads_what_is_in_the_folder_now(tmp_path: Path) -> None:
    found = []
    for number in (1, 2):  # of one size, within one second
        write(tmp_path, main="from part import NUMBER", part=f"NUMBER = {number}")
        with loaded(tmp_path) as main:
            found.append(main.NUMBER)
    assert found == [1, 2]
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "import pkg.part as part",
        "import pkg.part; part = pkg.part",
        "from pkg import part",
        "from pkg.part import NAME; import pkg.part as part",
        "import pkg; part = pkg.part",
    ],
)
def test_every_statement_finds_the_folders_module(tmp_path: Path, statement: str) -> None:
    write(tmp_path, main=statement, pkg___init__="from . import part", pkg_part="from .deep import NAME", pkg_deep="NAME = 'deep'")
    with loaded(tmp_path) as main:
        assert main.part.NAME == "deep"


def test_an_entry_in_a_folder_without_init_is_found(tmp_path: Path) -> None:
    write(tmp_path, pkg_main="from pkg.part import NAME", pkg_part="NAME = 'part'")
    with loaded(tmp_path, "pkg.main") as main:
        assert main.NAME == "part"


def test_other_names_mean_what_they_mean_in_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "part", ModuleType("part"))
    monkeypatch.setitem(sys.modules, "data", ModuleType("data"))
    write(tmp_path, main="import colorsys, data, json.decoder, part, annexe_sdk", part="", colorsys="")
    (tmp_path / "data").mkdir()
    with loaded(tmp_path) as main:
        assert main.part is not sys.modules["part"]
        assert main.part.__file__ == str(tmp_path / "part.py")
        for name in ("annexe_sdk", "colorsys", "data", "json"):
            assert getattr(main, name) is sys.modules[name]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    write(tmp_path, main="import part", part="")
    before, finders = set(sys.modules), [*sys.meta_path]
    with loaded(tmp_path) as main:
        assert main.__name__ in sys.modules
    assert (set(sys.modules), sys.meta_path) == (before, finders)
    OwnModules("alpha", tmp_path, "main").close()


def test_a_module_that_is_not_there_is_missed_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, main="import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="'no_such_module'"), loaded(tmp_path):
        pass
