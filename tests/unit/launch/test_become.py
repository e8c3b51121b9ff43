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


def test_host_user_needs_nothing() -> None:
    assert as_user(None) == ([], {})


def test_setpriv_changes_user_and_groups_outside_the_host(tmp_path: Path) -> None:
    setpriv = tmp_path / "setpriv"
    setpriv.touch()
    assert as_user(64100, setpriv=setpriv) == ([str(setpriv), "--reuid=64100", "--regid=64100", "--clear-groups", "--"], {})


def test_group_of_another_number_can_be_had(tmp_path: Path) -> None:
    setpriv = tmp_path / "setpriv"
    setpriv.touch()
    assert "--regid=0" in as_user(64100, gid=0, setpriv=setpriv)[0]
    assert as_user(64100, gid=0, setpriv=tmp_path / "none")[1]["group"] == 0


def test_without_setpriv_the_host_is_forked(tmp_path: Path) -> None:
    assert as_user(64100, setpriv=tmp_path / "setpriv") == ([], {"user": 64100, "group": 64100, "extra_groups": []})


def test_setpriv_of_busybox_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "busybox").touch()
    (tmp_path / "setpriv").symlink_to(tmp_path / "busybox")
    assert as_user(64100, setpriv=tmp_path / "setpriv")[0] == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that other users can reach; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    remove_tree(folder)


@pytest.mark.skipif(os.geteuid() != 0 or not as_user(USER)[0], reason="about a root host with setpriv")
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
