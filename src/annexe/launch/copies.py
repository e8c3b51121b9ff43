"""Copies of plugins that cannot be run where they lie.

A root host runs a plugin as a user of its own; a plugin that lies in a closed home cannot be read by that user. And what lies in a folder
that the host cannot write to has byte code that nobody answers for. Both get a copy in the host's cache, named by its content, owned by
the host, readable by all, without byte code. Blocking.

Invariants:

* No symbolic link is followed, and none that leads out of the plugin is in the copy: a link to a file that only root can read would
  otherwise publish it, at the latest as byte code.
* The shelf of a plugin is held while the strategy that published a copy lives, so that no other host removes it as unused.
* The copy is digested, not the original, so that what runs is what was digested.

Source: docs/adr/0036-runtime-folder-and-copies.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path, PurePosixPath
from typing import final

from annexe.errors import LaunchError
from annexe.launch.folders import hold, let_go, owned_folder

__all__ = ["PluginCopies"]

_LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".env"})
_MAX_BYTES = 512 * 1024 * 1024
_KEPT = 8


@final
class PluginCopies:
    """The copies of one host.

    Args:
        parent: Folder that holds them; made if missing, refused unless it is the host's alone.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._held: dict[Path, int] = {}
        self._holding = threading.Lock()

    def close(self) -> None:
        """Hold nothing any more; every plugin is gone."""
        with self._holding:
            while self._held:
                let_go(self._held.popitem()[1])

    def publish(self, folder: Path, *, plugin: str) -> Path:
        """Return a copy of ``folder`` as it is now, made unless there is one; the oldest beyond a few are removed.

        Raises:
            LaunchError: It is too big, or cannot be read.
        """
        shelf = self._shelf(plugin)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=shelf))
        try:
            target = shelf / _Copier(draft, plugin=plugin).copy(folder)
            if target.is_dir():
                os.utime(target)
            else:
                draft.rename(target)
        except OSError as error:
            raise LaunchError(
                f"plugin {plugin!r} cannot be copied from {folder}: {error}; move it to a folder that all users can read.", plugin=plugin
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _prune(shelf, keep=target)
        return target

    def _shelf(self, plugin: str) -> Path:
        """Return the folder for a plugin's copies, held."""
        shelf = owned_folder(self._parent) / plugin
        while (held := hold(owned_folder(shelf))) is None:
            pass  # removed as unused by another host, at this very moment
        with self._holding:
            before = self._held.pop(shelf, None)
            self._held[shelf] = held
        if before is not None:
            let_go(before)
        return shelf


@final
class _Copier:
    """Copies one folder into another and digests what it wrote."""

    def __init__(self, target: Path, *, plugin: str) -> None:
        self._target = target
        self._plugin = plugin
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._links: list[Path] = []

    def copy(self, source: Path) -> str:
        for parent, folders, files, parent_fd in os.fwalk(source, follow_symlinks=False):
            folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
            inner = PurePosixPath(Path(parent).relative_to(source).as_posix())
            for name in [*folders, *sorted(files)]:
                if name not in _LEFT_OUT:
                    self._copy_one(inner / name, parent_fd)
        # Only now can links be judged: one may lead through others, and nobody else can change them here.
        top = os.path.realpath(self._target)
        for link in self._links:
            if not Path(os.path.realpath(link)).is_relative_to(top):
                link.unlink()
        self._target.chmod(0o755)
        return self._digest.hexdigest()[:32]

    def _copy_one(self, inner: PurePosixPath, parent_fd: int) -> None:
        mode = os.stat(inner.name, dir_fd=parent_fd, follow_symlinks=False).st_mode
        target = self._target / inner
        if stat.S_ISDIR(mode):
            target.mkdir(mode=0o755)
            target.chmod(0o755)
            self._note("d", inner, b"")
        elif stat.S_ISLNK(mode):
            link = os.readlink(inner.name, dir_fd=parent_fd)
            target.symlink_to(link)
            self._links.append(target)
            self._note("l", inner, link.encode(errors="surrogateescape"))
        elif stat.S_ISREG(mode):
            self._copy_file(inner, parent_fd)

    def _copy_file(self, inner: PurePosixPath, parent_fd: int) -> None:
        # O_NONBLOCK: the file may have become a pipe since it was looked at.
        source = os.open(inner.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent_fd)
        target = self._target / inner
        with os.fdopen(source, "rb") as reader:
            found = os.fstat(source)
            self._bytes += found.st_size
            if not stat.S_ISREG(found.st_mode) or self._bytes > _MAX_BYTES:
                raise LaunchError(
                    f"plugin {self._plugin!r} is over {_MAX_BYTES // 1024**2} MiB, too big to be copied; "
                    "move it to a folder that all users can read and the host can write to.",
                    plugin=self._plugin,
                    limit_bytes=_MAX_BYTES,
                )
            content = reader.read(found.st_size)
        target.write_bytes(content)
        target.chmod(0o755 if found.st_mode & stat.S_IXUSR else 0o644)
        os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
        self._note("x" if found.st_mode & stat.S_IXUSR else "f", inner, content)

    def _note(self, kind: str, inner: PurePosixPath, content: bytes) -> None:
        self._digest.update(f"{kind}\0{inner}\0{len(content)}\0".encode(errors="surrogateescape") + content)


def _prune(shelf: Path, *, keep: Path) -> None:
    """Remove the oldest copies; a plugin still running from one has loaded its code."""
    copies = sorted((path for path in shelf.iterdir() if not path.name.startswith(".")), key=_used_at, reverse=True)
    for path in copies[_KEPT:]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # whoever published another one at this moment has removed it
        return 0.0
