"""How a command is made to run as a plugin's user."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annexe.errors import PluginBlockedError
from annexe.launch.become import as_user
from annexe.launch.bytecode import Bytecode
from annexe.launch.processes import kill_user, uids_in_use
from annexe.launch.python_env import PythonFinder
from annexe.launch.removal import remove_tree

USER, GROUP = 61290, 61291  # nobody's
TELLS = r"printf 'Uid:\t65534\t65534\t65534\t65534\n'"
BECOMES = f"cat /proc/self/attr/current 2>/dev/null; {TELLS}"


def test_host_user_needs_nothing() -> None:
    assert as_user(None) == ([], {})


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        pytest.param(("unshare", "setpriv"), ["unshare", "--setuid=64100", "--setgid=64101", "--"], id="the faster one"),
        pytest.param(("setpriv",), ["setpriv", "--reuid=64100", "--regid=64101", "--clear-groups", "--"], id="what there is"),
        pytest.param((), [], id="neither"),
    ],
)
def test_first_program_that_changes_users_does_so_outside_the_host(tmp_path: Path, programs: tuple[str, ...], expected: list[str]) -> None:
    for name in programs:
        make_program(tmp_path / name, BECOMES)
    command, options = as_user(64100, gid=64101, folder=tmp_path)
    assert command == [str(tmp_path / expected[0]), *expected[1:]] if expected else command == []
    assert options == ({} if expected else {"user": 64100, "group": 64101, "extra_groups": []})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("echo unshare: unrecognized option >&2; exit 1", id="too old, or refused"),
        pytest.param('while [ $1 != -- ]; do shift; done; shift; exec "$@"', id="it does nothing"),
        pytest.param(f"echo 'unpriv_unshare (enforce)'; {TELLS}", id="it brings a profile of its own"),
    ],
)
def test_program_that_does_not_change_users_is_not_used(tmp_path: Path, text: str) -> None:
    make_program(tmp_path / "unshare", text)
    make_program(tmp_path / "setpriv", BECOMES)
    assert as_user(64100, folder=tmp_path)[0][0] == str(tmp_path / "setpriv")


@pytest.mark.skipif(os.geteuid() != 0, reason="about a root host")
@pytest.mark.parametrize("name", ["unshare", "setpriv"])
def test_command_runs_as_the_user_and_in_its_group_alone(open_folder: Path, name: str) -> None:
    (open_folder / name).symlink_to(f"/usr/bin/{name}")
    command, options = as_user(USER, gid=GROUP, folder=open_folder)
    assert command[0] == str(open_folder / name)
    told = subprocess.run([*command, "/bin/cat", "/proc/self/status"], capture_output=True, text=True, check=True, **options).stdout
    status = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Gid"].split() == [str(GROUP)] * 4
    assert status["Groups"].split() == []
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == int(status["CapInh"], 16) == 0


def test_program_whose_trial_comes_to_nothing_is_tried_again(tmp_path: Path) -> None:
    make_program(tmp_path / "unshare", "kill -9 $$")
    assert as_user(64100, folder=tmp_path)[0] == []
    make_program(tmp_path / "unshare", BECOMES)
    assert as_user(64100, folder=tmp_path)[0] != []


def make_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that other users can reach; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    remove_tree(folder)


@pytest.mark.skipif(os.geteuid() != 0 or not as_user(USER)[0], reason="about a root host with util-linux")
def test_code_is_compiled_and_users_are_killed_without_a_fork_of_the_host(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    class Recording(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append({"command": command} | options)
            super().__init__(command, **options)

    (open_folder / "plugin").mkdir()
    (open_folder / "plugin" / "main.py").write_text("x = 1\n")
    for path in (open_folder / "plugin", open_folder / "plugin" / "main.py"):
        os.chown(path, USER, GROUP)
    squatter = subprocess.Popen(["/bin/sleep", "60"], user=USER)
    python = PythonFinder().find(plugin="p", folder=None, requires_python="", uid=USER).interpreter
    monkeypatch.setattr(subprocess, "Popen", Recording)
    assert Bytecode(open_folder / "stamps").ensure(open_folder / "plugin", python)
    assert kill_user(USER, deadline_s=5.0) == (1, True)
    assert squatter.wait() == -9
    assert USER not in uids_in_use()
    (cache,) = (open_folder / "plugin" / "__pycache__").iterdir()
    assert (cache.stat().st_uid, cache.stat().st_gid, cache.stat().st_mode & 0o777) == (USER, GROUP, 0o644)
    assert len(started) == 2
    assert all(options.get(name) is None for options in started for name in ("user", "group", "extra_groups", "preexec_fn"))


@pytest.mark.skipif(os.geteuid() != 0, reason="about a root host")
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_interpreter_that_another_user_may_not_run_is_told_as_such(open_folder: Path, closed: str) -> None:
    folder = open_folder / "inner"
    folder.mkdir(mode=0o700 if closed == "folder" else 0o755)
    shutil.copy("/bin/sh", folder / "python")
    (folder / "python").chmod(0o755 if closed == "folder" else 0o644)
    with pytest.raises(PluginBlockedError) as caught:
        PythonFinder(host=folder / "python", system=[]).find(plugin="p", folder=None, requires_python="", uid=USER)
    reason = "it may not be executed" if closed == "file" else f"a plugin's user cannot reach it ({folder} is closed to others)"
    assert caught.value.data["tried"] == [f"{folder / 'python'}: {reason}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="about a root host")
def test_byte_code_in_a_folder_that_its_owner_cannot_list_is_not_relied_upon(open_folder: Path) -> None:
    """Others can list it: a plugin's user would run what was forged there."""
    hidden = open_folder / "plugin" / "hidden"
    (hidden / "__pycache__").mkdir(parents=True)
    (hidden / "mod.py").write_text("x = 1\n")
    forged = hidden / "__pycache__" / "mod.cpython-311.pyc"
    forged.write_bytes(b"forged")
    for path in (hidden.parent, hidden, *hidden.rglob("*")):
        os.chown(path, USER, GROUP)
    hidden.chmod(0o055)
    python = PythonFinder().find(plugin="p", folder=None, requires_python="", uid=USER).interpreter
    assert not Bytecode(open_folder / "stamps").ensure(hidden.parent, python)
    assert forged.exists()
