"""Canonical digest of a plugin's folder: equal digests, equal content.

SHA3-512 over one record for each file, in the byte order of the relative paths (``/`` between parts): a letter (``f`` file, ``x``
executable file, ``l`` link), the path's length as u32 big-endian, the path, and the SHA3-512 of the content (of a link: of the text
it holds). Names of owners, times and empty folders do not count.

* ``__pycache__`` and ``.venv`` are left out, at any depth. Whoever runs the plugin must not take bytecode from that ``__pycache__``,
  and must hold the environment to account in another way.
* A link that leads out of the folder, nowhere, or into what is left out is refused; so is everything that is neither file nor folder.
* Files are read in pieces; the number of entries, their size in all and how deep they lie are bounded, and nothing is read of a folder that
  is too large.

Source: feature TR1; ADR-0016.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from annexe.errors import ManifestError
from annexe.manifest.files import open_file, resolve_inside

__all__ = ["LEFT_OUT", "folder_digest"]

LEFT_OUT = frozenset({"__pycache__", ".venv"})

_DOMAIN = b"annexe folder digest 1\n"
_MAX_ENTRIES = 100_000
_MAX_DEPTH = 100  # what walks the folder later may be recursive
_MAX_BYTES = 512 * 1024 * 1024
_PIECE_BYTES = 256 * 1024


def folder_digest(folder: Path) -> str:
    """Return the digest of a plugin's folder as ``sha3-512:`` and 128 hex digits.

    Raises:
        ManifestError: When something in the folder is refused or cannot be read.
    """
    root = folder.resolve()
    total = hashlib.sha3_512(_DOMAIN)
    left_bytes = _MAX_BYTES
    try:
        for name, path, is_link in sorted(_entries(root)):
            kind, content, size_bytes = _link(Path(path), root) if is_link else _file(path, root, left_bytes=left_bytes)
            left_bytes -= size_bytes
            total.update(kind + len(name).to_bytes(4, "big") + name + content)
    except OSError as error:
        raise _refusal(root, f"cannot be read: {error.strerror}", error.filename or root) from error
    return f"sha3-512:{total.hexdigest()}"


def _entries(root: Path) -> Iterator[tuple[bytes, str, bool]]:
    """Yield everything in the folder but folders, what is left out apart: its name in the digest, its path, and whether it is a link."""
    count = size_bytes = 0
    largest = (0, "")
    waiting = [(str(root), "", 0)]  # texts: a host with a thousand plugins would spend most of its time on path objects
    while waiting:
        folder, prefix, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise _refusal(root, f"expected folders at most {_MAX_DEPTH} deep, got more", folder)
        with os.scandir(folder) as found:
            for entry in found:
                count += 1
                if count > _MAX_ENTRIES:
                    raise _refusal(root, f"expected at most {_MAX_ENTRIES} entries, got more", root)
                if entry.name in LEFT_OUT:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/", depth + 1))
                else:
                    found_bytes = entry.stat(follow_symlinks=False).st_size
                    size_bytes += found_bytes
                    largest = max(largest, (found_bytes, entry.path))
                    if size_bytes > _MAX_BYTES:
                        raise _too_large(root, largest[1])
                    yield os.fsencode(prefix + entry.name), entry.path, entry.is_symlink()


def _link(path: Path, root: Path) -> tuple[bytes, bytes, int]:
    """Return a link's letter, the digest of the text it holds, and that nothing was read of a file."""
    target = resolve_inside(path, root)
    if target is None or LEFT_OUT & set(target.relative_to(root).parts):
        raise _refusal(root, "expected a link to something of the plugin's own, got one that leads elsewhere", path)
    return b"l", hashlib.sha3_512(os.fsencode(path.readlink())).digest(), 0


def _file(path: str, root: Path, *, left_bytes: int) -> tuple[bytes, bytes, int]:
    """Return a file's letter, the digest of its content, and how much was read; a link that took its place is not opened."""
    size_bytes = 0
    content = hashlib.sha3_512()
    with open_file(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        while piece := file.read(_PIECE_BYTES):
            size_bytes += len(piece)
            if size_bytes > left_bytes:  # it has grown since the folder was looked through
                raise _too_large(root, path)
            content.update(piece)
    return (b"x" if mode & stat.S_IXUSR else b"f"), content.digest(), size_bytes


def _too_large(root: Path, path: Path | str) -> ManifestError:
    limit = f"{_MAX_BYTES // 1024**2} MiB"
    return _refusal(
        root, f"expected at most {limit} in the plugin's folder, got more; this file is large and could be kept elsewhere", path
    )


def _refusal(root: Path, problem: str, path: Path | str | bytes) -> ManifestError:
    return ManifestError(source=str(root), problems=[f"{os.fsdecode(path)!r}: {problem}"])
