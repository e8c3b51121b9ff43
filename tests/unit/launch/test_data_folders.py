"""Private folders: whose they are, what is in them, and what a plugin may have put there."""

from __future__ import annotations

import logging
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch.data_folders import MAX_DATA_ENTRIES, DataFolders, DataUsage
from annexe.launch.removal import remove_tree
from tests.unit.launch.test_project_quota import FakeKernel

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives folders away")
UIDS = range(61360, 61370)
OLD, NEW = UIDS[0], UIDS[1]
QUOTA = struct.Struct("=8QI4x")


@pytest.fixture
def parent() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="annexe-data-", dir="/tmp"))
    base.chmod(0o755)
    yield base / "data"
    remove_tree(base)


@pytest.fixture
def folders(parent: Path) -> DataFolders:
    return DataFolders(parent, plugin_uids=UIDS)


def owner_of(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def disk_bytes(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in paths)


def dig(folder: Path, depth: int) -> None:
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


# -- making


def test_folder_is_private_and_stays(folders: DataFolders, parent: Path) -> None:
    path = folders.ensure("sample")
    assert path == parent / "sample" == folders.folder_of("sample")
    (path / "kept").touch()
    path.chmod(0o777)
    assert stat.S_IMODE(folders.ensure("sample").stat().st_mode) == 0o700
    assert (path / "kept").exists()
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700


@needs_root
def test_kernel_is_asked_to_keep_the_quota_of_a_folder(parent: Path) -> None:
    kernel = FakeKernel()
    folders = DataFolders(parent, plugin_uids=UIDS, quotas=kernel)
    folders.ensure("sample", uid=NEW)
    assert folders.bound("sample", max_bytes=10 * 1024).is_enforced
    (folders.ensure("sample", uid=OLD) / "kept").touch()
    assert folders.bound("sample", max_bytes=20 * 1024).is_enforced
    ((blocks, entries),) = [(fields[0], fields[3]) for fields in map(QUOTA.unpack, kernel.quotas.values())]
    assert (blocks, entries) == (20, MAX_DATA_ENTRIES)


@pytest.mark.parametrize("plugin", ["", "..", "a/b", "/etc", "A", "a\0"])
def test_name_that_is_no_plugin_id_is_refused(folders: DataFolders, plugin: str) -> None:
    with pytest.raises(ValueError, match="plugin id"):
        folders.ensure(plugin)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_refused(folders: DataFolders, parent: Path, tmp_path: Path, kind: str) -> None:
    path = folders.ensure("sample")
    path.rmdir()
    path.symlink_to(tmp_path) if kind == "link" else path.touch()
    before = tmp_path.stat().st_mode
    with pytest.raises(LaunchError, match="cannot have its data folder") as caught:
        folders.ensure("sample")
    assert caught.value.data == {"path": str(path)}
    assert caught.value.plugin == "sample"
    assert tmp_path.stat().st_mode == before


def test_parent_that_others_may_write_to_is_refused(folders: DataFolders, parent: Path) -> None:
    folders.ensure("sample")
    parent.chmod(0o777)
    with pytest.raises(LaunchError, match="only uid"):
        folders.ensure("sample")


@pytest.mark.skipif(IS_ROOT, reason="root may give folders away")
def test_host_that_is_not_root_cannot_give_a_folder_away(folders: DataFolders) -> None:
    with pytest.raises(LaunchError, match="as root"):
        folders.ensure("sample", uid=NEW)


# -- giving


@needs_root
def test_folder_and_all_in_it_is_given_from_launch_to_launch(folders: DataFolders, parent: Path) -> None:
    path = folders.ensure("sample", uid=OLD)
    assert owner_of(path) == (OLD, OLD)
    assert stat.S_IMODE(parent.stat().st_mode) == 0o711  # its user can pass
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").touch()
    (path / "a" / "link").symlink_to("/etc/passwd")
    os.mkfifo(path / "pipe")
    made = [path, *path.rglob("*")]
    for each in made:
        os.chown(each, OLD, OLD, follow_symlinks=False)
    (path / "a").chmod(0)
    folders.ensure("sample", uid=NEW)
    assert {owner_of(each) for each in made} == {(NEW, NEW)}
    assert owner_of(Path("/etc/passwd")) == (0, 0)
    folders.ensure("sample", uid=NEW)
    assert {owner_of(each) for each in made} == {(NEW, NEW)}


@needs_root
def test_parent_of_a_host_that_was_not_root_is_opened_for_passing(folders: DataFolders, parent: Path) -> None:
    parent.mkdir(mode=0o700)
    folders.ensure("sample", uid=OLD)
    assert stat.S_IMODE(parent.stat().st_mode) == 0o711


@needs_root
def test_hard_link_to_a_file_of_roots_is_not_given_away(folders: DataFolders, parent: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folders.ensure("sample", uid=OLD)
    (parent / "shadow").write_text("secret")
    (parent / "shadow").chmod(0o600)
    os.link(parent / "shadow", path / "mine")
    with caplog.at_level(logging.WARNING):
        folders.ensure("sample", uid=NEW)
    assert owner_of(path) == (NEW, NEW)
    assert owner_of(path / "mine") == owner_of(parent / "shadow") == (0, 0)
    assert "1 things are somebody else's" in caplog.text


@needs_root
def test_folder_of_roots_in_it_is_not_given_away_nor_what_is_its_only_file(folders: DataFolders) -> None:
    path = folders.ensure("sample", uid=OLD)
    (path / "roots").mkdir()
    (path / "roots" / "file").touch()
    folders.ensure("sample", uid=NEW)
    assert owner_of(path / "roots") == owner_of(path / "roots" / "file") == (0, 0)


@needs_root
def test_hard_link_to_a_file_of_another_plugins_is_not_given_away(folders: DataFolders, parent: Path) -> None:
    path = folders.ensure("sample", uid=OLD)
    (parent / "other").touch()
    os.chown(parent / "other", UIDS[5], UIDS[5])
    os.link(parent / "other", path / "mine")
    folders.ensure("sample", uid=NEW)
    assert owner_of(path / "mine") == (UIDS[5], UIDS[5])


@needs_root
def test_hard_link_to_a_file_of_the_hosts_former_user_is_not_given_away(folders: DataFolders, parent: Path) -> None:
    path = folders.ensure("sample")
    (path / "file").touch()
    (parent / "key").touch()
    os.link(parent / "key", path / "mine")
    for each in (path, path / "file", path / "mine"):
        os.chown(each, 61399, 61399)  # no plugin's
    folders.ensure("sample", uid=NEW)
    assert owner_of(path / "file") == (NEW, NEW)
    assert owner_of(path / "mine") == (61399, 61399)


@needs_root
def test_plugins_own_hard_links_are_given(folders: DataFolders) -> None:
    path = folders.ensure("sample", uid=OLD)
    (path / "one").touch()
    os.chown(path / "one", OLD, OLD)
    os.link(path / "one", path / "two")
    folders.ensure("sample", uid=NEW)
    assert owner_of(path / "one") == owner_of(path / "two") == (NEW, NEW)


@needs_root
def test_folder_that_was_half_given_when_a_host_died_is_given_whole(folders: DataFolders) -> None:
    path = folders.ensure("sample", uid=OLD)
    for name, owner in (("given", NEW), ("not yet", OLD)):
        (path / name).touch()
        os.chown(path / name, owner, owner)
    folders.ensure("sample", uid=UIDS[2])
    assert owner_of(path / "given") == owner_of(path / "not yet") == (UIDS[2], UIDS[2])


@needs_root
def test_set_user_id_goes_with_the_owner(folders: DataFolders) -> None:
    path = folders.ensure("sample", uid=OLD)
    (path / "program").touch()
    os.chown(path / "program", OLD, OLD)
    (path / "program").chmod(0o6755)
    folders.ensure("sample", uid=NEW)
    assert stat.S_IMODE((path / "program").stat().st_mode) == 0o755


@needs_root
def test_folders_nested_3000_deep_are_given_and_counted_and_removed(folders: DataFolders) -> None:
    path = folders.ensure("sample", uid=OLD)
    dig(path, 3000)
    for here, _, _, fd in os.fwalk(path):
        os.fchown(fd, OLD, OLD)
        if here.count("/") > 100:
            break
    folders.ensure("sample", uid=NEW)
    assert owner_of(path / "/".join("d" * 50)) == (NEW, NEW)
    assert folders.usage("sample").entries == 3000
    folders.remove("sample")
    assert not path.exists()


@needs_root
def test_file_that_is_exchanged_while_it_is_given_away_stays_roots(folders: DataFolders, parent: Path) -> None:
    path = folders.ensure("sample", uid=OLD)
    (parent / "shadow").touch()
    (path / "mine").touch()
    os.link(parent / "shadow", path / "bait")
    (path / "link").symlink_to(parent / "shadow")
    stop = threading.Event()

    def exchange() -> None:
        at = os.open(path, os.O_RDONLY)
        while not stop.is_set():
            for one in ("bait", "link"):
                for source, target in (("mine", "aside"), (one, "mine"), ("mine", one), ("aside", "mine")):
                    os.rename(source, target, src_dir_fd=at, dst_dir_fd=at)
        os.close(at)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for number in range(500):
            os.chown(path, UIDS[number % 2], UIDS[number % 2])
            folders.ensure("sample", uid=UIDS[(number + 1) % 2])
    finally:
        stop.set()
        thread.join()
    assert owner_of(parent / "shadow") == (0, 0)


# -- counting


def test_usage_of_nothing_is_nothing(folders: DataFolders) -> None:
    assert folders.usage("sample") == DataUsage()
    folders.ensure("sample")
    assert folders.usage("sample") == DataUsage()


def test_usage_counts_what_is_on_the_disk(folders: DataFolders) -> None:
    path = folders.ensure("sample")
    (path / "a").mkdir()
    (path / "a" / "file").write_bytes(b"x" * 10_000)
    (path / "file").write_bytes(b"x" * 5)
    usage = folders.usage("sample")
    assert usage.allocated_bytes == disk_bytes(path / "a", path / "a" / "file", path / "file")
    assert usage.apparent_bytes == 10_005 + (path / "a").stat().st_size
    assert (usage.entries, usage.is_partial) == (3, False)


def test_usage_counts_a_file_with_two_names_once(folders: DataFolders) -> None:
    path = folders.ensure("sample")
    (path / "one").write_bytes(b"x" * 10_000)
    os.link(path / "one", path / "two")
    usage = folders.usage("sample")
    assert (usage.allocated_bytes, usage.apparent_bytes, usage.entries) == (disk_bytes(path / "one"), 10_000, 2)


def test_usage_tells_a_sparse_file_of_terabytes_from_a_full_one(folders: DataFolders) -> None:
    with (folders.ensure("sample") / "sparse").open("wb") as file:
        file.truncate(4 * 1024**4)
    usage = folders.usage("sample")
    assert usage.apparent_bytes == 4 * 1024**4
    assert usage.allocated_bytes < 1024**2


def test_usage_follows_no_link_and_waits_for_no_pipe(folders: DataFolders, tmp_path: Path) -> None:
    path = folders.ensure("sample")
    (tmp_path / "big").write_bytes(b"x" * 1_000_000)
    (path / "folder").symlink_to(tmp_path)
    (path / "file").symlink_to(tmp_path / "big")
    os.mkfifo(path / "pipe")
    usage = folders.usage("sample")
    assert (usage.entries, usage.is_partial) == (3, False)
    assert usage.allocated_bytes < 100_000


def test_usage_gives_up_after_so_many_entries(folders: DataFolders) -> None:
    path = folders.ensure("sample")
    for number in range(10):
        (path / f"folder{number}").mkdir()
        (path / f"folder{number}" / "file").touch()
    assert folders.usage("sample", max_entries=20) == folders.usage("sample")
    usage = folders.usage("sample", max_entries=15)
    assert (usage.entries, usage.is_partial) == (15, True)
    assert folders.usage("sample", max_entries=10).is_partial


def test_usage_sees_what_lies_in_closed_folders(folders: DataFolders) -> None:
    path = folders.ensure("sample")
    for name, mode in (("shut", 0), ("listed", 0o400), ("passed", 0o100)):
        (path / name).mkdir()
        (path / name / "file").write_bytes(b"x" * 10_000)
        (path / name).chmod(mode)
    path.chmod(0)
    usage = folders.usage("sample")
    assert (usage.entries, usage.is_partial) == (6, False)
    assert usage.apparent_bytes >= 30_000


def test_usage_ends_and_stays_inside_while_folders_are_moved_about(folders: DataFolders, tmp_path: Path) -> None:
    path = folders.ensure("sample")
    for number in range(2000):
        (tmp_path / f"host{number}").touch()
    for one in "ab":
        for two in "ab":
            (path / one / two / "deep").mkdir(parents=True)
            for number in range(10):
                (path / one / two / "deep" / str(number)).touch()
    stop = threading.Event()
    (path / "link").symlink_to(tmp_path)

    def exchange() -> None:
        at = os.open(path, os.O_RDONLY)
        while not stop.is_set():
            moves = (("a/a/deep", "out"), ("out", "b/out"), ("b/out", "a/a/deep"), ("a", "c"), ("link", "a"), ("a", "link"), ("c", "a"))
            for source, target in moves:
                os.rename(source, target, src_dir_fd=at, dst_dir_fd=at)
        os.close(at)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        found = [folders.usage("sample") for _ in range(500)]
    finally:
        stop.set()
        thread.join()
    assert max(usage.entries for usage in found) < 200
    assert any(usage.is_partial for usage in found)


# -- removing


def test_remove_removes_the_folder_and_nothing_else(folders: DataFolders) -> None:
    (folders.ensure("sample") / "file").touch()
    other = folders.ensure("other")
    folders.remove("sample")
    folders.remove("sample")
    assert not folders.folder_of("sample").exists()
    assert other.is_dir()
