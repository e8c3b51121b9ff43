"""Code compiled before it is needed, and nobody else's byte code."""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from annexe.launch.bytecode import Bytecode
from annexe.launch.python_env import Interpreter

TAG = sys.implementation.cache_tag
HERE = Interpreter(path=Path(sys.executable), version=sys.version_info[:3], cache_tag=TAG, suffix=EXTENSION_SUFFIXES[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "plugin"
    (path / "pkg").mkdir(parents=True)
    (path / "pkg" / "__init__.py").touch()
    (path / "pkg" / "mod.py").write_text("x = 1\n")
    return path


@pytest.fixture
def bytecode(tmp_path: Path) -> Bytecode:
    return Bytecode(tmp_path / "stamps")


def compiled(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.pyc")}


def value_of_x(folder: Path) -> str:
    """Return what a fresh interpreter finds, byte code and all."""
    return subprocess.run([sys.executable, "-c", "from pkg.mod import x; print(x)"], cwd=folder, capture_output=True, text=True).stdout


def forge(folder: Path, text: str) -> None:
    """Put byte code beside mod.py that has nothing to do with it and that Python would believe."""
    source = folder / "pkg" / "forged.txt"
    source.write_text(text)
    target = folder / "pkg" / "__pycache__" / f"mod.{TAG}.pyc"
    py_compile.compile(str(source), cfile=str(target), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.unlink()


def test_ensure_makes_what_python_itself_accepts(bytecode: Bytecode, folder: Path) -> None:
    assert bytecode.ensure(folder, HERE)
    command = [sys.executable, "-v", "-c", "import pkg.mod"]
    said = subprocess.run(command, cwd=folder, env={"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True).stderr
    assert f"code object from '{folder / 'pkg' / '__pycache__'}" in said
    assert compiled(folder) == {f"pkg/__pycache__/{name}.{TAG}.pyc" for name in ("__init__", "mod")}


def test_ensure_works_where_the_host_forbids_writing_bytecode(bytecode: Bytecode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert bytecode.ensure(folder, HERE)
    assert compiled(folder)


def test_ensure_compiles_once(bytecode: Bytecode, folder: Path) -> None:
    assert bytecode.ensure(folder, HERE)
    gone = Interpreter(path=HERE.path, version=HERE.version, cache_tag=TAG, suffix="")
    before = {path: path.stat() for path in folder.rglob("*.pyc")}
    assert bytecode.ensure(folder, gone)
    assert {path: path.stat() for path in folder.rglob("*.pyc")} == before


def test_forged_bytecode_would_run_without_ensure(folder: Path) -> None:
    forge(folder, "x = 'forged'")
    assert value_of_x(folder) == "forged\n"


def test_forged_bytecode_that_came_with_the_plugin_never_runs(bytecode: Bytecode, folder: Path) -> None:
    forge(folder, "x = 'forged'")
    assert bytecode.ensure(folder, HERE)
    assert value_of_x(folder) == "1\n"


def test_forged_bytecode_that_came_later_never_runs(bytecode: Bytecode, folder: Path) -> None:
    assert bytecode.ensure(folder, HERE)
    target = folder / "pkg" / "__pycache__" / f"mod.{TAG}.pyc"
    before = target.stat()
    forge(folder, "x = 'forged'")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert value_of_x(folder) == "forged\n"
    assert bytecode.ensure(folder, HERE)
    assert value_of_x(folder) == "1\n"


def test_forged_bytecode_of_a_module_that_does_not_compile_is_removed(bytecode: Bytecode, folder: Path) -> None:
    (folder / "pkg" / "mod.py").write_text("def\n")
    forge(folder, "x = 'forged'")
    assert bytecode.ensure(folder, HERE)
    assert value_of_x(folder) == ""


def test_modules_hidden_in_the_cache_folder_are_removed(bytecode: Bytecode, folder: Path) -> None:
    """They are not part of the digest either."""
    assert bytecode.ensure(folder, HERE)
    (folder / "pkg" / "__pycache__" / "evil.py").write_text("x = 1")
    (folder / "__pycache__").symlink_to("/tmp")
    assert bytecode.ensure(folder, HERE)
    assert not (folder / "pkg" / "__pycache__" / "evil.py").exists()
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize("text", ["x = 2\n", "x = 22222\n"], ids=["same size", "another size"])
def test_edited_module_is_compiled_again(bytecode: Bytecode, folder: Path, text: str) -> None:
    bytecode.ensure(folder, HERE)
    (folder / "pkg" / "mod.py").write_text(text)
    bytecode.ensure(folder, HERE)
    assert value_of_x(folder) == text.removeprefix("x = ")


def test_ensure_runs_nothing_of_the_plugin(bytecode: Bytecode, folder: Path) -> None:
    (folder / "pkg" / "mod.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    assert bytecode.ensure(folder, HERE)
    assert not (folder / "ran").exists()


BOMBS = {
    "memory": f"x = [{'[],' * 600_000}]\n",
    "too big": "#" * (2 * 1024 * 1024 + 1),
    "nested": "(" * 5000 + ")" * 5000,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_source_beyond_the_limits_is_left_uncompiled_and_spoils_no_other(bytecode: Bytecode, folder: Path, text: str) -> None:
    (folder / "bomb.py").write_text(text)
    assert bytecode.ensure(folder, HERE)
    assert compiled(folder) == {f"pkg/__pycache__/{name}.{TAG}.pyc" for name in ("__init__", "mod")}


def test_pipe_among_the_sources_makes_nobody_wait(bytecode: Bytecode, folder: Path) -> None:
    os.mkfifo(folder / "pipe.py")
    (folder / "loop.py").symlink_to("loop.py")
    assert bytecode.ensure(folder, HERE)
    assert compiled(folder) == {f"pkg/__pycache__/{name}.{TAG}.pyc" for name in ("__init__", "mod")}


@pytest.mark.parametrize("limit", ["_CPU_S", "_TIMEOUT_S"])
def test_compiler_that_takes_too_long_is_ended_and_no_forged_bytecode_is_left(
    bytecode: Bytecode, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"annexe.launch.bytecode.{limit}", 1)
    forge(folder, "x = 'forged'")
    for number in range(40):
        (folder / f"slow{number}.py").write_text("x = 1 + 1\n" * 60_000)
    assert bytecode.ensure(folder, HERE)
    assert sum(path.name.startswith("slow") for path in folder.rglob("*.pyc")) < 40
    assert value_of_x(folder) == "1\n"


def test_environment_is_compiled_in_copies_only(bytecode: Bytecode, folder: Path) -> None:
    package = folder / ".venv" / "lib"
    package.mkdir(parents=True)
    (package / "dep.py").touch()
    assert bytecode.ensure(folder, HERE)
    assert not (package / "__pycache__").exists()
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    assert bytecode.ensure(copy, HERE, is_copy=True)
    assert (copy / ".venv" / "lib" / "__pycache__").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_read_only_folder_is_told(bytecode: Bytecode, folder: Path) -> None:
    (folder / "pkg").chmod(0o500)
    assert not bytecode.ensure(folder, HERE)
    (folder / "pkg").chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="about a root host")
def test_root_writes_into_another_users_folder_only_as_that_user(
    bytecode: Bytecode, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The owner laid a link where byte code goes: with root's rights that would write into root's folder."""
    victim = tmp_path_factory.mktemp("victim")
    (victim / f"mod.{TAG}.pyc").touch()
    (folder / "pkg" / "__pycache__").symlink_to(victim)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 64999, 64999, follow_symlinks=False)
    assert not bytecode.ensure(folder, HERE)  # that user cannot even enter pytest's folder
    assert os.listdir(victim) == [f"mod.{TAG}.pyc"]
    assert (victim / f"mod.{TAG}.pyc").stat().st_size == 0


def test_interpreter_that_is_gone_is_told(bytecode: Bytecode, folder: Path) -> None:
    assert not bytecode.ensure(folder, Interpreter(path=Path("/nonexistent/python"), version=(3, 11, 0), cache_tag=TAG, suffix=".so"))
