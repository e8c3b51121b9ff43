"""Code compiled before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from annexe.launch.bytecode import compile_folder, has_bytecode
from annexe.launch.python_env import Interpreter

TAG = sys.implementation.cache_tag
HERE = Interpreter(path=Path(sys.executable), version=sys.version_info[:3], cache_tag=TAG, suffix=EXTENSION_SUFFIXES[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    (tmp_path / "pkg" / "mod.py").write_text("x = 1\n")
    return tmp_path


def test_compile_folder_makes_what_python_itself_accepts(folder: Path) -> None:
    assert not has_bytecode(folder, TAG)
    assert compile_folder(folder, HERE) is None
    assert has_bytecode(folder, TAG)
    command = [sys.executable, "-v", "-c", "import pkg.mod"]
    said = subprocess.run(command, cwd=folder, env={"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True).stderr
    assert "mod.py" in said
    assert f"code object from '{folder / 'pkg' / '__pycache__'}" in said
    assert "wrote" not in said


def test_compile_folder_works_where_the_host_forbids_writing_bytecode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert compile_folder(folder, HERE) is None
    assert has_bytecode(folder, TAG)


@pytest.mark.parametrize("text", ["x = 2\n", "x = 22222\n"], ids=["another time", "another size"])
def test_bytecode_of_an_edited_module_is_stale(folder: Path, text: str) -> None:
    compile_folder(folder, HERE)
    (folder / "pkg" / "mod.py").write_text(text)
    if len(text) == len("x = 1\n"):
        os.utime(folder / "pkg" / "mod.py", (1, 1))
    assert not has_bytecode(folder, TAG)
    assert compile_folder(folder, HERE) is None
    assert has_bytecode(folder, TAG)


def test_syntax_error_is_left_to_show_itself_on_import(folder: Path) -> None:
    (folder / "pkg" / "bad.py").write_text("def\n")
    assert "could not be compiled" in str(compile_folder(folder, HERE))


def test_compile_folder_runs_nothing_of_the_plugin(folder: Path) -> None:
    (folder / "pkg" / "mod.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    assert compile_folder(folder, HERE) is None
    assert not (folder / "ran").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_read_only_folder_is_told_and_harms_nothing(folder: Path) -> None:
    folder.chmod(0o500)
    assert "read-only" in str(compile_folder(folder, HERE))
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="about a root host")
def test_root_writes_into_another_users_folder_only_as_that_user(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The owner laid a link where byte code goes: with root's rights that would write into root's folder."""
    victim = tmp_path_factory.mktemp("victim")
    (folder / "pkg" / "__pycache__").symlink_to(victim)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 64999, 64999, follow_symlinks=False)
    assert compile_folder(folder, HERE) is not None
    assert os.listdir(victim) == []


def test_interpreter_that_is_gone_is_told(folder: Path) -> None:
    gone = Interpreter(path=Path("/nonexistent/python"), version=(3, 11, 0), cache_tag=TAG, suffix=".so")
    assert "could not be made" in str(compile_folder(folder, gone))
