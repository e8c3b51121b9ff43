"""Opening files that strangers wrote, and telling where a path really leads.

* A link, pipe, socket or device that took a file's place is refused, and never makes the opening wait.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_file", "resolve_inside"]

# Without NONBLOCK, opening a pipe would wait for ever. Windows has none of these.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: When it cannot be opened or is anything but a regular file.
    """
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "expected a regular file, got something else", str(path))
    return file


def resolve_inside(path: Path, folder: Path) -> Path | None:
    """Return where a path really leads, None when that is nowhere or outside the folder.

    Args:
        path: Any path.
        folder: A folder, itself resolved.
    """
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, on Python before 3.13
        return None
    return resolved if resolved.is_relative_to(folder) else None
