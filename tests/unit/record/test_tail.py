from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annexe.record.entry import MAX_RECORD_BYTES
from annexe.record.rotation import RotatingFile
from annexe.record.tail import read_tail


def numbered(first: int, last: int, padding: str = "") -> list[dict[str, Any]]:
    return [{"n": number, "padding": padding} for number in range(first, last)]


def write(folder: Path, records: list[dict[str, Any]], **limits: int) -> None:
    file = RotatingFile(folder, **({"max_file_bytes": 10_000_000, "file_count": 5} | limits))
    file.append(msgspec.json.encode(record) + b"\n" for record in records)
    file.close()


def test_tail_of_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "nothing", 10) == []


@pytest.mark.parametrize("count", [0, -1])
def test_tail_of_none_is_empty(tmp_path: Path, count: int) -> None:
    write(tmp_path, numbered(0, 3))
    assert read_tail(tmp_path, count) == []


def test_tail_gives_the_last_records_oldest_first(tmp_path: Path) -> None:
    write(tmp_path, numbered(0, 1000))
    assert read_tail(tmp_path, 3) == numbered(997, 1000)
    assert read_tail(tmp_path, 5000) == numbered(0, 1000)


def test_tail_reaches_back_over_rotated_files(tmp_path: Path) -> None:
    write(tmp_path, numbered(0, 100), max_file_bytes=500)
    assert len(list(tmp_path.iterdir())) == 5
    assert read_tail(tmp_path, 60) == numbered(40, 100)


def test_tail_of_lines_over_block_borders_is_whole(tmp_path: Path) -> None:
    records = numbered(0, 200, "x" * 4000)
    write(tmp_path, records)
    assert read_tail(tmp_path, 150) == records[50:]


def test_tail_passes_over_what_is_no_record(tmp_path: Path) -> None:
    huge = b'{"x": "' + b"x" * 3 * MAX_RECORD_BYTES + b'"}'
    (tmp_path / "log.jsonl").write_bytes(b'orn": 1}\n{"n": 1}\n[1]\n\n\xff\n' + huge + b"\n" + b"[" * 2000 + b'\n{"n": 2}\n{"torn')
    assert read_tail(tmp_path, 10) == [{"n": 1}, {"n": 2}]


def test_tail_of_a_large_file_without_any_line_feed_is_empty(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"x" * 3_000_000)
    assert read_tail(tmp_path, 10) == []


def test_tail_file_seen_under_two_names_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, numbered(0, 3))
    (tmp_path / "log.jsonl.1").hardlink_to(tmp_path / "log.jsonl")
    assert read_tail(tmp_path, 10) == numbered(0, 3)


def test_tail_takes_no_more_than_32_mib(tmp_path: Path) -> None:
    records = numbered(0, 3000, "x" * 15_000)
    write(tmp_path, records, max_file_bytes=60_000_000)
    found = read_tail(tmp_path, 3000)
    assert 2000 < len(found) < 3000
    assert found[-1]["n"] == 2999


def test_tail_link_or_pipe_in_the_folder_is_an_error_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text('{"secret": 1}\n')
    (tmp_path / "log.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match=r"log\.jsonl"):
        read_tail(tmp_path, 1)
    (tmp_path / "log.jsonl").unlink()
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match="expected a regular file"):
        read_tail(tmp_path, 1)
