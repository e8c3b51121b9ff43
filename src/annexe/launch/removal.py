"""Remove a folder that a plugin could write to.

Its content is hostile: symbolic links to elsewhere, folders nested deeper than paths or Python's recursion can go, folders without any
permission. Nothing is followed, and depth costs neither recursion nor path length: each folder's children are moved up to the top
before it is removed.

Blocking, and only for folders whose plugin is gone.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["remove_tree"]


def remove_tree(folder: Path) -> None:
    """Remove ``folder`` and all in it; a folder that is not there is fine.

    Raises:
        OSError: Something in it cannot be removed; the rest may be gone.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.fchmod(top, 0o700)
        prefix = f".annexe-{secrets.token_hex(8)}-"  # what is in there cannot have this name
        moved = 0
        while entries := list(os.scandir(top)):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    moved = _lift_children(top, entry.name, prefix=prefix, moved=moved)
                else:
                    os.unlink(entry.name, dir_fd=top)
    finally:
        os.close(top)
    folder.rmdir()


def _lift_children(top: int, name: str, *, prefix: str, moved: int) -> int:
    """Empty one child of ``top``: files are removed, folders renamed into ``top``; then remove it."""
    os.chmod(name, 0o700, dir_fd=top)
    child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for entry in list(os.scandir(child)):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.name, 0o700, dir_fd=child)  # a folder that is moved must itself be writable
                moved += 1
                os.rename(entry.name, f"{prefix}{moved}", src_dir_fd=child, dst_dir_fd=top)
            else:
                os.unlink(entry.name, dir_fd=child)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=top)
    return moved
