"""The real machine, as far as it needs no control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from annexe.sandbox.cgroup_machine import LinuxMachine


def test_files_are_read_whole_and_written_only_where_they_are(tmp_path: Path) -> None:
    machine = LinuxMachine()
    path = tmp_path / "procs"
    with pytest.raises(FileNotFoundError):
        machine.write(path, "1")
    path.write_text("7\n" * 1_000_000)
    assert machine.read(path) == "7\n" * 1_000_000
    machine.write(path, "8")
    assert machine.read(path)[:2] == "8\n"


def test_folders_are_made_listed_and_removed(tmp_path: Path) -> None:
    machine = LinuxMachine()
    machine.make(tmp_path / "a")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert machine.folders(tmp_path) == [tmp_path / "a"]
    assert machine.folders(tmp_path / "none") == []
    assert machine.exists(tmp_path / "a")
    machine.remove(tmp_path / "a")
    assert not machine.exists(tmp_path / "a")


def test_a_folder_that_systemd_did_not_mark_is_not_delegated(tmp_path: Path) -> None:
    assert not LinuxMachine().is_delegated(tmp_path)


def test_a_folder_that_systemd_marked_is_delegated(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this file system keeps no such marks: {error}")
    assert LinuxMachine().is_delegated(tmp_path)
    os.setxattr(tmp_path, "user.delegate", b"0")
    assert not LinuxMachine().is_delegated(tmp_path)


GIVEN = "Delegate=yes"


@pytest.mark.parametrize(
    ("manager", "unit", "answer", "expected"),
    [
        pytest.param("user@{uid}.service", "host.service", f"ControlGroup={{folder}}\n{GIVEN}", True, id="given"),
        pytest.param("user@{uid}.service", "host.scope", f"ControlGroup={{folder}}\n{GIVEN}", True, id="scope"),
        pytest.param("user@{uid}.service", "host.service", "ControlGroup={folder}\nDelegate=no", False, id="not-given"),
        pytest.param("user@{uid}.service", "host.service", f"ControlGroup=/elsewhere/host.service\n{GIVEN}", False, id="namesake"),
        pytest.param("user@{uid}.service", "host.service", f"ControlGroup=\n{GIVEN}", False, id="not-running"),
        pytest.param("user@{uid}.service", "host.service", "", False, id="no-answer"),
        pytest.param("user@{uid}.service", "app.slice", f"ControlGroup={{folder}}\n{GIVEN}", False, id="no-such-unit-can-be-given"),
        pytest.param("user@1{uid}.service", "host.service", f"ControlGroup={{folder}}\n{GIVEN}", False, id="somebody-else's"),
        pytest.param("system.slice", "host.service", f"ControlGroup={{folder}}\n{GIVEN}", False, id="the-machine's"),
    ],
)
def test_a_users_systemd_which_marks_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, unit: str, answer: str, expected: bool
) -> None:
    """Its systemctl is played as that of systemd 252 answered; ``getfattr`` showed no mark on the group."""
    folder = tmp_path / manager.format(uid=os.geteuid()) / "app.slice" / unit
    folder.mkdir(parents=True)
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    asked = f"/run/user/{os.geteuid()} --user show --property=Delegate --property=ControlGroup -- {unit}"
    said = answer.format(folder=folder)
    program.write_text(f'#!/bin/sh\n[ "$XDG_RUNTIME_DIR $*" = "{asked}" ] && echo "{said}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert LinuxMachine().is_delegated(folder) is expected


@pytest.mark.parametrize("text", [None, "", "not a program"])
def test_a_users_systemd_that_cannot_be_asked_gave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    folder = tmp_path / f"user@{os.geteuid()}.service" / "host.service"
    folder.mkdir(parents=True)
    if text is not None:
        (tmp_path / "systemctl").write_text(text)
        (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not LinuxMachine().is_delegated(folder)


def test_a_process_is_killed_only_while_it_is_a_member() -> None:
    machine = LinuxMachine()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    machine.end(child.pid, lambda pid: False)
    assert child.poll() is None
    machine.end(child.pid, lambda pid: pid == child.pid)
    assert child.wait() == -9
    child.stdin.close()
    machine.end(child.pid, lambda pid: True)  # gone: no error


def test_a_trial_waits_until_it_is_ended() -> None:
    machine = LinuxMachine()
    program = machine.find_program("cat")
    assert program is not None
    trial = machine.start([program])
    os.kill(trial.pid, 0)
    trial.end()
    with pytest.raises(ProcessLookupError):
        os.kill(trial.pid, 0)


def test_the_machine_tells_time_and_who_we_are() -> None:
    machine = LinuxMachine()
    before = machine.now()
    machine.pause(0.0)
    assert machine.now() >= before
    assert (machine.own_pid(), machine.uid) == (os.getpid(), os.geteuid())
