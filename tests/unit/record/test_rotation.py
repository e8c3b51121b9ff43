from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from annexe.record import rotation
from annexe.record.rotation import RotatingFile, rotated_paths


def sizes_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def test_rotation_makes_a_private_folder_and_file_at_the_first_append(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "redactor"
    file = RotatingFile(folder, max_file_bytes=100, file_count=5)
    assert not folder.exists()
    file.append([b"one\n", b"two\n"])
    file.close()
    assert (folder / "log.jsonl").read_bytes() == b"one\ntwo\n"
    assert [stat.S_IMODE(made.stat().st_mode) for made in (folder.parent, folder)] == [0o700, 0o700]
    assert stat.S_IMODE((folder / "log.jsonl").stat().st_mode) == 0o600


def test_rotation_keeps_five_files_of_the_size_and_drops_the_oldest(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path, max_file_bytes=100, file_count=5)
    lines = [b"%09d\n" % number for number in range(100)]
    file.append(lines)
    file.close()
    assert sizes_of(tmp_path) == {"log.jsonl": 100, "log.jsonl.1": 100, "log.jsonl.2": 100, "log.jsonl.3": 100, "log.jsonl.4": 100}
    kept = b"".join(path.read_bytes() for path in reversed(rotated_paths(tmp_path, 5)))
    assert kept == b"".join(lines[50:])


def test_rotation_with_one_file_starts_it_anew(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path, max_file_bytes=10, file_count=1)
    file.append([b"123456789\n", b"abcdefghi\n"])
    file.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"log.jsonl": b"abcdefghi\n"}


def test_rotation_reopened_file_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(3):
        file = RotatingFile(tmp_path, max_file_bytes=10, file_count=3)
        file.append([b"%04d\n" % number])
        file.close()
    assert (tmp_path / "log.jsonl.1").read_bytes() == b"0000\n0001\n"
    assert (tmp_path / "log.jsonl").read_bytes() == b"0002\n"


def test_rotation_torn_last_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"whole": 1}\n{"torn": ')
    file = RotatingFile(tmp_path, max_file_bytes=1000, file_count=2)
    file.append([b"next\n"])
    file.close()
    assert (tmp_path / "log.jsonl").read_bytes() == b'{"whole": 1}\n{"torn": \nnext\n'


def test_rotation_gap_left_by_a_kill_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"new\n")
    (tmp_path / "log.jsonl.2").write_bytes(b"old\n")
    file = RotatingFile(tmp_path, max_file_bytes=4, file_count=4)
    file.append([b"abc\n"])
    file.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "log.jsonl": b"abc\n",
        "log.jsonl.1": b"new\n",
        "log.jsonl.3": b"old\n",
    }


def test_rotation_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious\n")
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "log.jsonl").symlink_to(victim)
    file = RotatingFile(folder, max_file_bytes=100, file_count=2)
    with pytest.raises(OSError, match=r"log\.jsonl"):
        file.append([b"line\n"])
    assert victim.read_bytes() == b"precious\n"


def test_rotation_named_pipe_in_the_folder_neither_hangs_nor_takes_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    file = RotatingFile(tmp_path, max_file_bytes=100, file_count=2)
    with pytest.raises(OSError, match=r"log\.jsonl"):  # nobody reads it
        file.append([b"line\n"])
    reader = os.open(tmp_path / "log.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="expected a regular file"):
            file.append([b"line\n"])
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def test_rotation_that_fails_refuses_to_grow_the_file_and_recovers(tmp_path: Path) -> None:
    obstacle = tmp_path / "log.jsonl.1"
    obstacle.mkdir()
    file = RotatingFile(tmp_path, max_file_bytes=10, file_count=2)
    file.append([b"123456789\n"])
    for _ in range(3):
        with pytest.raises(OSError, match=r"log\.jsonl"):
            file.append([b"abcdefghi\n"])
    assert (tmp_path / "log.jsonl").read_bytes() == b"123456789\n"
    obstacle.rmdir()
    file.append([b"abcdefghi\n"])
    file.close()
    assert (tmp_path / "log.jsonl").read_bytes() == b"abcdefghi\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_rotation_full_disk_is_an_error_leaks_no_descriptor_and_the_next_line_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RotatingFile(tmp_path, max_file_bytes=100, file_count=2)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as full_disk:
        full_disk.setattr(rotation, "open_regular", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                file.append([b"line\n"])
    assert len(os.listdir("/proc/self/fd")) == before
    file.append([b"next\n"])
    file.close()
    assert (tmp_path / "log.jsonl").read_bytes() == b"next\n"
