"""Which Python runs a plugin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch.python_env import PythonFinder

HERE = Path(sys.executable).resolve()
VERSION = ".".join(map(str, sys.version_info[:3]))
MINOR = sys.version_info.minor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "plugin"
    path.mkdir()
    return path


def make_venv(folder: Path, *, minor: int = MINOR, python: Path = HERE) -> Path:
    packages = folder / ".venv" / "lib" / f"python3.{minor}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir()
    (folder / ".venv" / "bin" / "python").symlink_to(python)
    (folder / ".venv" / "pyvenv.cfg").write_text(f"home = {python.parent}\nversion = 3.{minor}.0\n")
    return packages


def test_plugin_without_environment_gets_the_hosts_real_interpreter(folder: Path) -> None:
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None)
    assert choice.interpreter.path == HERE
    assert choice.interpreter.version == sys.version_info[:3]
    assert choice.interpreter.cache_tag == sys.implementation.cache_tag
    assert (choice.packages, choice.notes) == ((), ())


def test_plugin_with_environment_gets_its_packages_and_an_interpreter_of_the_hosts(folder: Path) -> None:
    packages = make_venv(folder)
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python=">=3.11", uid=None)
    assert choice.interpreter.path == HERE
    assert choice.packages == (packages,)
    assert choice.notes == ()


def spy(folder: Path) -> tuple[Path, Path]:
    """Return a program that works as a Python and leaves a mark when it is run, and the mark."""
    program, mark = folder / "spy", folder / "spied"
    program.write_text(f'#!/bin/sh\n: > {mark}\nexec {HERE} "$@"\n')
    program.chmod(0o755)
    return program, mark


def test_interpreter_that_an_environment_names_is_never_run(folder: Path) -> None:
    program, mark = spy(folder)
    make_venv(folder, python=program)
    (folder / "python3").symlink_to(program)  # in the folder that pyvenv.cfg names as home
    assert PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None).interpreter.path == HERE
    with pytest.raises(LaunchError):
        PythonFinder(host=Path("/nonexistent/python"), system=[]).find(plugin="p", folder=folder, requires_python="", uid=None)
    assert not mark.exists()


@pytest.mark.parametrize("of_others", ["file", "folder"])
def test_interpreter_of_the_system_that_others_could_replace_is_never_run(folder: Path, of_others: str) -> None:
    program, mark = spy(folder)
    at = program if of_others == "file" else folder
    at.chmod(0o777)
    finder = PythonFinder(host=Path("/nonexistent/python"), system=[str(program)])
    with pytest.raises(LaunchError) as caught:
        finder.find(plugin="p", folder=None, requires_python="", uid=None)
    assert caught.value.data["tried"] == [f"{program}: others than root could have put it there (see owner and mode of {at})"]
    assert not mark.exists()


def test_interpreter_that_the_operator_names_is_used(folder: Path) -> None:
    program, mark = spy(folder)
    finder = PythonFinder(host=Path("/nonexistent/python"), given=[program], system=[])
    assert finder.find(plugin="p", folder=None, requires_python="", uid=None).interpreter.path == program
    assert mark.exists()


def test_what_is_no_small_text_file_among_pth_files_is_passed_over(folder: Path, tmp_path: Path) -> None:
    packages = make_venv(folder)
    os.mkfifo(packages / "a.pth")
    (packages / "b.pth").write_bytes(b"\xff\n")
    (packages / "c.pth").mkdir()
    (packages / "d.pth").write_text(f"{'x' * 5000}\n{tmp_path}\n")
    (packages.parent.parent / "python3.1x" / "site-packages").mkdir(parents=True)
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None, readable=[tmp_path])
    assert choice.packages == (packages, tmp_path)


def test_packages_under_development_are_found_and_no_code_of_a_pth_file_runs(folder: Path, tmp_path: Path) -> None:
    packages = make_venv(folder)
    (tmp_path / "editable").mkdir()
    (packages / "a.pth").write_text(f"# note\n{tmp_path / 'editable'}\n/nonexistent\nimport os; os.abort()\n\n")
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None, readable=[tmp_path])
    assert choice.packages == (packages, tmp_path / "editable")


def test_packages_outside_the_folder_that_nobody_granted_are_left_out_with_the_line_that_asks_for_them(
    folder: Path, tmp_path: Path
) -> None:
    packages = make_venv(folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "inside").mkdir()
    (folder / "link").symlink_to(outside)
    (packages / "a.pth").write_text(f"{outside}\n{folder / 'link'}\n{folder / 'inside'}\n/etc\n/proc\n../../../../../..\n")
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None)
    assert choice.packages == (packages, folder / "inside")
    assert len(choice.notes) == 5
    assert f'filesystem = {{ read = ["{outside}"] }}' in choice.notes[0]


def test_packages_that_are_a_link_out_of_the_folder_are_left_out(folder: Path, tmp_path: Path) -> None:
    packages = make_venv(folder)
    packages.rmdir()
    (tmp_path / "secret").mkdir()
    packages.symlink_to(tmp_path / "secret")
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None)
    assert choice.packages == ()
    assert "outside the plugin's folder" in choice.notes[0]


def test_lines_of_pth_files_are_bounded_whatever_they_say(folder: Path) -> None:
    packages = make_venv(folder)
    for number in range(40):
        (packages / f"{number}.pth").write_text("\n".join("./" * (line % 9) + "." for line in range(5000)))
        (packages / f"x{number}.pth").write_text("\n".join(f"p{number}-{line}" for line in range(500)))
    for line in range(300):
        (packages / f"p0-{line}").mkdir()
    choice = PythonFinder().find(plugin="p", folder=folder, requires_python="", uid=None)
    assert len(choice.packages) <= 257


def test_environment_of_another_minor_version_is_refused_with_reasons(folder: Path) -> None:
    make_venv(folder, minor=99)
    with pytest.raises(LaunchError) as caught:
        PythonFinder(system=[]).find(plugin="p", folder=folder, requires_python="", uid=None)
    assert caught.value.plugin == "p"
    assert caught.value.data["tried"] == [f"{HERE}: it is {VERSION}, expected 3.99 as in the plugin's .venv"]


def test_required_version_that_nobody_has_names_what_was_tried_and_the_cure(folder: Path) -> None:
    with pytest.raises(LaunchError, match="apt install python3") as caught:
        PythonFinder(system=[]).find(plugin="p", folder=folder, requires_python=">=3.99", uid=None)
    assert caught.value.data["tried"] == [f"{HERE}: it is {VERSION}, expected >=3.99"]


def test_fallback_is_noted_with_the_reason(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    broken.chmod(0o755)
    choice = PythonFinder(host=broken, given=[HERE], system=[]).find(plugin="p", folder=folder, requires_python="", uid=None)
    assert choice.interpreter.path == HERE
    assert choice.notes == (f"{HERE} is used, since: {broken}: it does not start (broken)",)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("#!/bin/sh\necho hello\n", "it does not start", id="not a Python"),
        pytest.param("#!/bin/sh\nprintf '3\\n8\\n1\\ncpython-38\\n.so\\n'\n", "it is 3.8.1, expected 3.11 or newer", id="too old"),
        pytest.param("#!/nonexistent/shell\n", "it does not start", id="no such program"),
    ],
)
def test_what_is_no_usable_python_is_never_chosen(folder: Path, tmp_path: Path, script: str, reason: str) -> None:
    path = tmp_path / "python"
    path.write_text(script)
    path.chmod(0o755)
    with pytest.raises(LaunchError) as caught:
        PythonFinder(host=path, system=[]).find(plugin="p", folder=folder, requires_python="", uid=None)
    assert reason in caught.value.data["tried"][0]


def test_file_that_may_not_be_executed_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "python").touch(mode=0o644)
    with pytest.raises(LaunchError) as caught:
        PythonFinder(host=tmp_path / "python", system=[]).find(plugin="p", folder=None, requires_python="", uid=None)
    assert caught.value.data["tried"] == [f"{tmp_path / 'python'}: it may not be executed"]


def test_each_interpreter_is_asked_once(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\necho asked >> {tmp_path / "log"}\nexec {HERE} "$@"\n')
    path.chmod(0o755)
    finder = PythonFinder(host=path, system=[])
    for _ in range(3):
        finder.find(plugin="p", folder=folder, requires_python="", uid=None)
    assert (tmp_path / "log").read_text() == "asked\n"
