"""What a plugin that is not Python is run by, from its first line and the path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annexe.errors import LaunchError
from annexe.launch.programs import Program, program_of
from annexe.launch.removal import remove_tree
from annexe.launch.strategy import LaunchRequest

OTHER = 54321


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that every user can pass: pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="annexe-tests-", dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    remove_tree(folder)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)
    return path


def found(folder: Path, first_line: str, *, path: str = "", uid: int | None = None) -> Program:
    (folder / "plugin").mkdir(exist_ok=True)
    (folder / "plugin" / "run").write_text(first_line + "\n")
    return program_of(request_for(folder, path=path), folder / "plugin", uid=uid)


def request_for(folder: Path, *, path: str, **changes: Any) -> LaunchRequest:
    fields: dict[str, Any] = {"plugin": "p", "instance": "p-1", "kind": "binary", "entry": "run", "folder": folder / "plugin"}
    return LaunchRequest(**fields | {"environment": {"PATH": path}} | changes)


def test_python_plugin_has_no_program(folder: Path) -> None:
    assert program_of(request_for(folder, path="", kind="python"), folder, uid=None) == Program()


def test_compiled_program_needs_nothing_but_itself(folder: Path) -> None:
    own = str(folder / "plugin" / "run")
    assert found(folder, "\x7fELF") == Program(argv=(own,), executables=(own,))


def test_program_that_is_not_there_is_left_to_show_itself(folder: Path) -> None:
    own = str(folder / "nothing" / "run")
    assert program_of(request_for(folder, path=""), folder / "nothing", uid=None) == Program(argv=(own,), executables=(own,))


def test_program_behind_a_link_that_leads_out_is_not_read(folder: Path) -> None:
    program(folder / "elsewhere" / "run").write_text(f"#!{program(folder / 'bin' / 'tool')}\n")
    (folder / "plugin").mkdir()
    (folder / "plugin" / "sub").symlink_to(folder / "elsewhere")
    request = request_for(folder, path=str(folder / "bin"), entry="sub/run")
    own = str(folder / "plugin" / "sub" / "run")
    assert program_of(request, folder / "plugin", uid=None) == Program(argv=(own,), executables=(own,))


def test_program_behind_a_link_within_its_folder_is_read(folder: Path) -> None:
    tool = str(program(folder / "bin" / "tool"))
    program(folder / "plugin" / "real" / "run").write_text(f"#!{tool}\n")
    (folder / "plugin" / "sub").symlink_to("real")
    request = request_for(folder, path=str(folder / "bin"), entry="sub/run")
    own = str(folder / "plugin" / "sub" / "run")
    assert program_of(request, folder / "plugin", uid=None).executables == (own, tool)


@pytest.mark.parametrize(
    ("line", "more"),
    [
        pytest.param("#!{folder}/bin/tool", ("bin/tool",), id="itself"),
        pytest.param("#!{folder}/bin/link", ("bin/link", "bin/tool"), id="a link"),
        pytest.param("#!{folder}/bin/tool -x {folder}/bin/other", ("bin/tool",), id="its arguments are no programs"),
        pytest.param("#!{folder}/bin/env tool", ("bin/env", "bin/tool"), id="looked up"),
        pytest.param("#! {folder}/bin/env -S tool -x", ("bin/env", "bin/tool"), id="looked up, split"),
        pytest.param("#!{folder}/bin/env link", ("bin/env", "bin/link", "bin/tool"), id="looked up, a link"),
        pytest.param("#!{folder}/bin/env missing", ("bin/env",), id="looked up in vain"),
        pytest.param("#!{folder}/bin/env", ("bin/env",), id="nothing to look up"),
        pytest.param("#!", (), id="nothing"),
        pytest.param("#!{folder}/secret/python-deploy", (), id="somebody's"),
        pytest.param("#!{folder}/bin/env {folder}/secret/python-deploy", ("bin/env",), id="somebody's, looked up"),
        pytest.param("#!{folder}/plugin/env python-deploy", ("plugin/env",), id="its own env looks nothing up"),
        pytest.param("#!{folder}/plugin/own", ("plugin/own",), id="its own"),
        pytest.param("#!{folder}/plugin/out", (), id="its own link to somebody's"),
    ],
)
def test_first_line_names_what_else_may_be_executed(folder: Path, line: str, more: tuple[str, ...]) -> None:
    for name in ("env", "tool", "other"):
        program(folder / "bin" / name)
    (folder / "bin" / "link").symlink_to("tool")
    for name in ("secret/python-deploy", "plugin/env", "plugin/own"):
        program(folder / name)
    (folder / "plugin" / "out").symlink_to(folder / "secret" / "python-deploy")
    executables = found(folder, line.format(folder=folder), path=f"/nonexistent:{folder}/bin").executables
    assert executables == (str(folder / "plugin" / "run"), *(f"{folder}/{name}" for name in more))


def test_looked_up_is_what_the_plugins_own_user_can_reach(folder: Path) -> None:
    program(folder / "closed" / "tool")
    program(folder / "open" / "tool")
    (folder / "closed").chmod(0o700)
    path = f"{folder}/closed:{folder}/open"
    assert found(folder, "#!/usr/bin/env tool", path=path, uid=OTHER).executables[-1] == f"{folder}/open/tool"
    assert found(folder, "#!/usr/bin/env tool", path=path).executables[-1] == f"{folder}/closed/tool"


def test_python_that_runs_a_script_has_its_library_but_no_packages_of_an_environment(folder: Path) -> None:
    real = program(folder / "python" / "bin" / "python3.11")
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python3").symlink_to(real)
    libraries = found(folder, "#!/usr/bin/env python3", path=f"{folder}/venv/bin").libraries
    assert libraries == (f"{folder}/venv/pyvenv.cfg", f"{folder}/python/lib")


def test_node_is_looked_up_for_the_plugins_own_user(folder: Path) -> None:
    program(folder / "closed" / "node")
    real = program(folder / "open" / "node-22")
    (folder / "open" / "node").symlink_to(real)
    (folder / "closed").chmod(0o700)
    request = request_for(folder, kind="node", entry="main.js", path=f"{folder}/closed:{folder}/open")
    node = program_of(request, folder / "plugin", uid=OTHER)
    assert node == Program(argv=(str(real), str(folder / "plugin" / "main.js")), executables=(str(real),))


@pytest.mark.parametrize("kind", ["node", "wasm"])
def test_kind_that_cannot_be_run_here_is_refused(folder: Path, kind: str) -> None:
    with pytest.raises(LaunchError) as caught:
        program_of(request_for(folder, kind=kind, path=os.fspath(folder)), folder, uid=None)
    assert caught.value.plugin == "p"
