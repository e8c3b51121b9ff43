"""The last records of a log, read backwards from the end of its newest file.

Needs no running host. Reads what the wanted records take and little more, whatever the files hold; lines that are torn, too long or no
JSON object are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from annexe.record.entry import MAX_RECORD_BYTES
from annexe.record.rotation import open_regular, rotated_paths

__all__ = ["MAX_TAIL_COUNT", "read_tail", "read_tail_lines"]

MAX_TAIL_COUNT = 10_000
_MAX_TAIL_BYTES = 32 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024


def read_tail(folder: Path, count: int, *, file_count: int = 5) -> list[dict[str, Any]]:
    """Return the last records of the log in a folder, oldest first.

    Args:
        folder: One plugin's log folder; a missing one is an empty log.
        count: How many, at most ``MAX_TAIL_COUNT``.
        file_count: How many rotated files are looked for.

    Returns:
        Fewer than ``count`` if there are no more, or if they take over 32 MiB.

    Raises:
        OSError: A file cannot be read, or is something else than a file.
    """
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in read_tail_lines(folder, count, file_count=file_count)]


def read_tail_lines(folder: Path, count: int, *, file_count: int = 5) -> list[bytes]:
    """Return what ``read_tail`` returns as lines of JSON, without line feeds."""
    newest_first: list[bytes] = []
    left_bytes = _MAX_TAIL_BYTES
    wanted = min(count, MAX_TAIL_COUNT)
    if wanted <= 0:
        return []
    for line in _all_lines_backwards(folder, file_count):
        left_bytes -= len(line)
        if left_bytes < 0:
            break
        if _is_record(line):
            newest_first.append(line)
            if len(newest_first) == wanted:
                break
    newest_first.reverse()
    return newest_first


def _is_record(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _all_lines_backwards(folder: Path, file_count: int) -> Iterator[bytes]:
    seen: set[tuple[int, int]] = set()
    for path in rotated_paths(folder, file_count):
        try:
            descriptor = open_regular(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) in seen:  # rotated between opening its newer name and its older
                continue
            seen.add((status.st_dev, status.st_ino))
            yield from _lines_backwards(file)


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file that could be records, last first. Holds one block and one line."""
    position = file.seek(0, os.SEEK_END)
    rest = b""  # the beginning of a line whose beginning is not read yet
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        first, *lines = (file.read(size) + rest).split(b"\n")
        yield from (line for line in reversed(lines) if 0 < len(line) < MAX_RECORD_BYTES)
        # One byte over the limit is as good as all of them: the line will be passed over either way.
        rest = first[-MAX_RECORD_BYTES:]
    if 0 < len(rest) < MAX_RECORD_BYTES:
        yield rest
