"""What a granted path leads to, and what nobody is given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.errors import PluginBlockedError
from annexe.launch.granted_paths import GrantedPath, granted_paths

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "models"
    made.mkdir()
    yield made


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


def test_granted_path_out_of_the_plugins_users_reach_names_what_is_closed(folder: Path) -> None:
    folder.chmod(0o700)
    with pytest.raises(PluginBlockedError, match=r"is closed to the plugin's own user; let others pass: chmod o\+rx"):
        ask(folder, uid=61234)
