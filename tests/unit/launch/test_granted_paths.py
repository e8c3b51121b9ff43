"""What a granted path leads to, and what nobody is given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.errors import PluginBlockedError
from annexe.launch.granted_paths import GrantedPath, granted_paths, why_not_given

OTHER = 61234
"""A user who owns nothing here."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "models"
    made.mkdir()
    yield made


def open_on_the_way(path: Path) -> None:
    """Let others pass the test's own folder and those above it."""
    for folder in (path, *path.parents[:-2]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o755)


def ask(path: Path | str, *, write: bool = False, uid: int | None = None, own: tuple[Path, ...] = ()) -> GrantedPath:
    (found,) = granted_paths("p", [str(path)], for_writing=write, uid=uid, hosts_own=own)
    return found


def test_granted_folder_is_given_with_what_is_there(folder: Path) -> None:
    found = folder.stat()
    assert ask(folder) == GrantedPath(os.path.realpath(folder), found.st_dev, found.st_ino)


def test_granted_link_is_followed_to_its_real_path(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert ask(link).path == os.path.realpath(folder)


@pytest.mark.parametrize(
    ("path", "write", "said"),
    [
        ("/etc", False, "whole folder of the system"),
        ("/usr", False, "whole folder of the system"),
        ("/proc/self", False, "belongs to the kernel"),
        ("/run", False, "belongs to the kernel"),
        ("/usr/lib", True, "programs or settings"),
        ("/nonexistent/models", False, "cannot be found"),
    ],
)
def test_granted_path_that_would_give_too_much_is_refused(path: str, write: bool, said: str) -> None:
    with pytest.raises(PluginBlockedError, match=said) as caught:
        ask(path, write=write)
    assert caught.value.data["path"] == path


def test_granted_path_of_the_system_may_be_read() -> None:
    assert ask("/usr/lib").path == "/usr/lib"


@pytest.mark.parametrize("link_to", ["/", "/etc", "/proc/1"])
def test_granted_link_to_what_nobody_is_given_is_refused_with_what_it_leads_to(folder: Path, link_to: str) -> None:
    link = folder / "link"
    link.symlink_to(link_to)
    with pytest.raises(PluginBlockedError, match=f"leads to {link_to}"):
        ask(link)


def test_hosts_own_folders_are_given_to_nobody_in_part_or_whole(folder: Path) -> None:
    (folder / "state" / "control").mkdir(parents=True)
    own = (Path(os.path.realpath(folder / "state")),)
    for path in (folder, folder / "state", folder / "state" / "control"):
        with pytest.raises(PluginBlockedError, match="the host's own files"):
            ask(path, own=own)


def test_hidden_files_of_a_home_and_homes_are_given_to_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / ".ssh").mkdir()
    (folder / "music" / ".cache").mkdir(parents=True)
    for path in (folder / ".ssh", folder / "music" / ".cache"):
        with pytest.raises(PluginBlockedError, match="hidden in a home"):
            ask(path)
    for path in (folder, folder.parent):
        with pytest.raises(PluginBlockedError, match="is a home, or has one in it"):
            ask(path)
    assert ask(folder / "music").path.endswith("/music")


@pytest.mark.parametrize(
    ("is_folder", "write", "mode", "advice"),
    [
        pytest.param(True, False, 0o700, "let others read: chmod o+rx", id="read-a-folder"),
        pytest.param(True, True, 0o755, "let others write: chmod o+rwx", id="write-in-a-folder"),
        pytest.param(False, False, 0o600, "let others read: chmod o+r ", id="read-a-file"),
        pytest.param(False, True, 0o644, "let others write: chmod o+rw ", id="write-a-file"),
    ],
)
def test_granted_path_that_is_closed_to_the_plugins_user_names_the_modes_that_open_it(
    tmp_path: Path, is_folder: bool, write: bool, mode: int, advice: str
) -> None:
    open_on_the_way(tmp_path)
    path = tmp_path / "granted"
    path.mkdir() if is_folder else path.touch()
    path.chmod(mode)
    with pytest.raises(PluginBlockedError) as caught:
        ask(path, write=write, uid=OTHER)
    assert f"{path.resolve()} is closed to the plugin's own user; {advice}" in caught.value.message
    path.chmod(0o777 if is_folder else 0o666)
    assert ask(path, write=write, uid=OTHER).path == str(path.resolve())


def test_granted_path_behind_a_closed_folder_asks_for_no_more_than_to_pass_it(tmp_path: Path) -> None:
    open_on_the_way(tmp_path)
    (tmp_path / "shut in" / "models").mkdir(parents=True)
    (tmp_path / "shut in").chmod(0o700)
    with pytest.raises(PluginBlockedError, match=r"let others pass: chmod o\+x '.*/shut in'"):
        ask(tmp_path / "shut in" / "models", uid=OTHER)


def test_granted_path_that_the_hosts_user_cannot_write_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, wants: not wants & os.W_OK)
    assert ask(folder).path == os.path.realpath(folder)
    with pytest.raises(PluginBlockedError, match="is closed to the host's own user"):
        ask(folder, write=True)


def test_why_not_given_tells_every_path_that_would_block_a_start(folder: Path) -> None:
    problems = why_not_given("p", read=["/etc", str(folder)], write=["/nonexistent"], uid=None, hosts_own=())
    assert [problem.partition(", and ")[0] for problem in problems] == [
        "plugin 'p' asks to read /etc",
        "plugin 'p' asks to write /nonexistent",
    ]
