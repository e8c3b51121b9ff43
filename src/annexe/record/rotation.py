"""A log file that is closed at a size and keeps a few predecessors: ``log.jsonl``, ``log.jsonl.1`` (newer) … ``log.jsonl.4``.

* The files together never hold more than ``max_file_bytes`` times ``file_count``. Where rotating fails, appending fails.
* A kill at any moment leaves whole files; at most the last line of the newest is torn, and the next append starts a line of its own.

Not safe for several threads: the log writer's thread is the only one that appends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import final

__all__ = ["LOG_NAME", "RotatingFile", "open_regular", "rotated_paths"]

LOG_NAME = "log.jsonl"
_WRITE_BYTES = 256 * 1024
# Missing on Windows. Not following links and not waiting: see open_regular.
_CAREFUL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def rotated_paths(folder: Path, file_count: int) -> list[Path]:
    """Return the paths of a log's files, newest first, whether they exist or not."""
    return [folder / LOG_NAME, *(folder / f"{LOG_NAME}.{number}" for number in range(1, file_count))]


def open_regular(path: Path, flags: int) -> int:
    """Open a file, and nothing but a file.

    The folder is the host's alone, but a plugin that runs as the same user could still put a link there, which would lead a write
    elsewhere, or a named pipe, which would stop the thread that opens it.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, flags | _CAREFUL, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file", str(path))
    return descriptor


@final
class RotatingFile:
    """Appends lines to the newest file of a folder; opened at the first append.

    Args:
        folder: Made, with mode 0700, if it is missing.
        max_file_bytes: At which size a file is closed for the next.
        file_count: How many files there are at most, the newest included.
    """

    def __init__(self, folder: Path, *, max_file_bytes: int, file_count: int) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._file_count = file_count
        self._descriptor: int | None = None
        self._size_bytes = 0
        self._is_torn = False

    @cached_property
    def _paths(self) -> list[Path]:
        """Made with the first line, by the thread that writes it, and not on the loop of a host that opens with a thousand of these."""
        return rotated_paths(self._folder, self._file_count)

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines, each ending in a line feed.

        Raises:
            OSError: Some of them could not be written. A later append tries again from a fresh state.
        """
        try:
            batch = bytearray()
            for line in lines:
                if len(batch) + len(line) > min(_WRITE_BYTES, self._max_file_bytes):
                    self._write(batch)
                    batch = bytearray()
                batch += line
            self._write(batch)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # the lines are with the system already, or their loss was told
                os.close(descriptor)

    def _write(self, batch: bytearray) -> None:
        if not batch:
            return
        descriptor = self._opened()
        if self._size_bytes and self._size_bytes + len(batch) > self._max_file_bytes:
            self._rotate()
            descriptor = self._opened()
        rest = memoryview(b"\n" + batch if self._is_torn else batch)
        while rest:
            self._is_torn = True  # until all of it is out
            written = os.write(descriptor, rest)
            self._size_bytes += written
            rest = rest[written:]
        self._is_torn = False

    def _opened(self) -> int:
        if self._descriptor is None:
            for folder in (self._folder.parent, self._folder):  # ``parents`` would make the upper ones with the umask's mode
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = open_regular(self._paths[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            self._size_bytes = os.fstat(self._descriptor).st_size
            self._is_torn = self._size_bytes > 0 and self._last_byte() != b"\n"
        return self._descriptor

    def _last_byte(self) -> bytes:
        with self._paths[0].open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1)

    def _rotate(self) -> None:
        self.close()
        for newer, older in reversed(list(zip(self._paths, self._paths[1:], strict=False))):
            with contextlib.suppress(FileNotFoundError):  # a kill between two renames leaves a gap
                newer.replace(older)
        if len(self._paths) == 1:
            self._paths[0].unlink()
