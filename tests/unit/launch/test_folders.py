"""Folders of our own, and what is published there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch.folders import owned_folder, publish, unreachable_at

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
