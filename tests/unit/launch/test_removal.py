"""Removing what a plugin left."""

from __future__ import annotations

import os
import subprocess
import threading
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


def test_remove_tree_keeps_up_with_somebody_who_exchanges_names(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir(mode=0o500)
    (tmp_path / "precious" / "file").touch() if os.geteuid() == 0 else None
    before = (tmp_path / "precious").stat().st_mode
    stop = threading.Event()

    def exchange(at: int) -> None:
        while not stop.is_set():
            try:
                os.mkdir("x", dir_fd=at)
                os.mkdir("x/y", dir_fd=at)
                os.rename("x", "z", src_dir_fd=at, dst_dir_fd=at)
                os.symlink(tmp_path / "precious", "x", dir_fd=at)
                os.unlink("z", dir_fd=at)
            except OSError:
                continue

    for number in range(50):
        folder = tmp_path / str(number)
        (folder / "inner").mkdir(parents=True)
        at = os.open(folder, os.O_RDONLY)
        stop.clear()
        thread = threading.Thread(target=exchange, args=[at])
        thread.start()
        timer = threading.Timer(0.02, stop.set)
        timer.start()
        remove_tree(folder)
        stop.set()
        thread.join()
        timer.join()
        os.close(at)
        assert not folder.exists()
    assert (tmp_path / "precious").stat().st_mode == before


def test_remove_tree_removes_more_names_than_it_holds_at_once(folder: Path) -> None:
    for number in range(10_001):
        os.close(os.open(folder / str(number), os.O_CREAT | os.O_WRONLY))
    remove_tree(folder)
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_remove_tree_leaves_what_is_mounted_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (folder / "mounted").mkdir()
    if subprocess.run(["mount", "--bind", str(tmp_path / "precious"), str(folder / "mounted")], check=False).returncode != 0:
        pytest.skip("mounting is refused here")
    try:
        with pytest.raises(OSError, match="busy"):
            remove_tree(folder)
        assert (tmp_path / "precious" / "file").exists()
    finally:
        subprocess.run(["umount", str(folder / "mounted")], check=True)


def test_remove_tree_tells_what_cannot_be_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    asked = 0

    def refuse(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        remove_tree(folder)
    assert 1 < asked < 2000


def test_remove_tree_twice_at_once_removes_it_once(folder: Path) -> None:
    for number in range(200):
        (folder / str(number) / "inner").mkdir(parents=True)
        (folder / str(number) / "inner" / "file").touch()
    failures: list[BaseException] = []

    def remove() -> None:
        try:
            remove_tree(folder)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not folder.exists()
