"""Folders of our own, and what is published there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch.folders import hold, let_go, owned_folder, publish, remove_unused, unreachable_at

OTHER = os.geteuid() + 1  # a user that owns nothing here


def test_owned_folder_is_made_with_its_parents_and_readable_by_all(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = owned_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_owned_folder_is_used_again(tmp_path: Path) -> None:
    assert owned_folder(tmp_path / "a") == owned_folder(tmp_path / "a")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_owned_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    with pytest.raises(LaunchError) as caught:
        owned_folder(tmp_path / "a")
    assert caught.value.data == {"path": str(tmp_path / "a"), "owner": os.geteuid(), "mode": mode}


def test_owned_folder_below_one_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(LaunchError) as caught:
        owned_folder(tmp_path / "a" / "b")
    assert caught.value.data["path"] == str(tmp_path / "a")


def test_owned_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "real")
    with pytest.raises(LaunchError) as caught:
        owned_folder(tmp_path / "a")
    assert caught.value.data["path"] == str(tmp_path / "a")


def test_owned_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(LaunchError):
        owned_folder(tmp_path / "a")


def test_owned_folder_that_cannot_be_made_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="cache_dir") as caught:
        owned_folder(tmp_path / "file" / "a")
    assert caught.value.data == {"path": str(tmp_path / "file" / "a")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that belongs to somebody else")
def test_owned_folder_made_by_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", OTHER, OTHER)
    with pytest.raises(LaunchError) as caught:
        owned_folder(tmp_path / "a")
    assert caught.value.data["owner"] == OTHER


def test_publish_builds_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(draft: Path) -> None:
        built.append(draft)
        (draft / "file").write_text("x")

    assert publish(tmp_path / "a", build) == publish(tmp_path / "a", build) == tmp_path / "a"
    assert len(built) == 1
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_publish_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def build(draft: Path) -> None:
        (draft / "half").touch()
        raise KeyError("no more")

    with pytest.raises(KeyError):
        publish(tmp_path / "a", build)
    assert os.listdir(tmp_path) == []


def test_publish_keeps_what_another_host_published_meanwhile(tmp_path: Path) -> None:
    def build(draft: Path) -> None:
        (draft / "mine").touch()
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()

    assert os.listdir(publish(tmp_path / "a", build)) == ["theirs"]
    assert os.listdir(tmp_path) == ["a"]


def test_publish_into_nowhere_is_a_named_error(tmp_path: Path) -> None:
    def build(draft: Path) -> None:
        (tmp_path / "a").touch()  # a file in the way

    with pytest.raises(LaunchError) as caught:
        publish(tmp_path / "a", build)
    assert caught.value.data == {"path": str(tmp_path / "a")}


def old(path: Path) -> Path:
    os.utime(path, (1000.0, 1000.0))
    return path


def test_what_nobody_has_used_for_long_is_removed_and_the_rest_kept(tmp_path: Path) -> None:
    owned_folder(tmp_path / "unused" / "inner")
    (tmp_path / "victim").touch()
    (tmp_path / "unused" / "inner" / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "file").touch()
    recent, held = owned_folder(tmp_path / "recent"), owned_folder(tmp_path / "held")
    fd = hold(held)
    assert fd is not None
    for path in (tmp_path / "unused", tmp_path / "file", held):
        old(path)
    remove_unused(tmp_path, before=2000.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "recent", "victim"]
    let_go(fd)
    remove_unused(tmp_path, before=2000.0)
    assert held.is_dir()  # used until just now
    os.utime(held, (1000.0, 1000.0))
    remove_unused(tmp_path, before=2000.0)
    assert not held.exists()
    assert recent.is_dir()
    remove_unused(tmp_path / "nowhere", before=2000.0)


def test_folder_that_is_removed_while_somebody_waits_for_it_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    folder = owned_folder(tmp_path / "a")
    assert hold(tmp_path / "b") is None
    flock = fcntl.flock

    def be_slow(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        remove_unused(tmp_path, before=2000.0)
        flock(fd, how)

    old(folder)
    monkeypatch.setattr(fcntl, "flock", be_slow)
    before = os.listdir("/proc/self/fd")
    assert hold(folder) is None
    assert os.listdir("/proc/self/fd") == before
    owned_folder(folder)

    def replace(fd: int, how: int) -> None:
        folder.rename(tmp_path / "gone")
        owned_folder(folder)

    monkeypatch.setattr(fcntl, "flock", replace)
    assert hold(folder) is None


def test_unused_things_in_a_folder_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a").chmod(0o777)
    old(tmp_path / "a" / "b")
    with pytest.raises(LaunchError):
        remove_unused(tmp_path / "a", before=2000.0)
    assert (tmp_path / "a" / "b").is_dir()


def test_unreachable_at_names_the_first_closed_folder(tmp_path: Path) -> None:
    inner = tmp_path / "open" / "closed" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    for folder in (tmp_path, *tmp_path.parents[:-2], tmp_path / "open", inner):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o755)
    (inner / "file").chmod(0o644)
    assert unreachable_at(inner / "file", OTHER) is None
    (tmp_path / "open" / "closed").chmod(0o700)
    assert unreachable_at(inner / "file", OTHER) == (tmp_path / "open" / "closed").resolve()
    (tmp_path / "open" / "closed").chmod(0o711)
    (inner / "file").chmod(0o600)
    assert unreachable_at(inner / "file", OTHER) == (inner / "file").resolve()
    assert unreachable_at(inner / "file", (inner / "file").stat().st_uid) is None
    (inner / "file").chmod(0o640)
    assert unreachable_at(inner / "file", OTHER) == (inner / "file").resolve()


def test_unreachable_at_wants_to_list_a_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    found = unreachable_at(tmp_path, OTHER)
    assert found is not None
    assert found in (tmp_path.resolve(), *tmp_path.resolve().parents)
