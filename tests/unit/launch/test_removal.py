"""Removing what a plugin left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from annexe.launch.removal import remove_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.mkdir()
    return path


def test_remove_tree_removes_everything(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a" / "file").write_text("x")
    os.mkfifo(folder / "a" / "pipe")
    remove_tree(folder)
    assert not folder.exists()


def test_remove_tree_of_nothing_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none")


def test_remove_tree_follows_no_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (folder / "to-folder").symlink_to(tmp_path / "precious")
    (folder / "inner").mkdir()
    (folder / "inner" / "to-file").symlink_to(tmp_path / "precious" / "file")
    remove_tree(folder)
    assert not folder.exists()
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_remove_tree_that_is_itself_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="link"):
        remove_tree(tmp_path / "link")
    assert (tmp_path / "precious").is_dir()


def test_remove_tree_goes_deeper_than_paths_and_recursion_can(folder: Path) -> None:
    at = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    remove_tree(folder)
    assert not folder.exists()


def test_remove_tree_opens_folders_without_permission(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").touch()
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0)
    folder.chmod(0o500)
    remove_tree(folder)
    assert not folder.exists()
