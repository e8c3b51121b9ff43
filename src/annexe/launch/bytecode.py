"""Compile a plugin's code once, so that no start pays for it, and so that no byte code runs but the host's.

Compiling a small plugin costs as much as starting it, and under a user of its own a plugin cannot keep the result. So the host has it
done, beside the sources, where Python looks. What lies in ``__pycache__`` is not part of a plugin's digest: forged byte code there would
run instead of the sources that were granted. So whatever is there is removed first, unless it is exactly what the host left. Blocking.

Invariants:

* After ``ensure`` has returned True, ``__pycache__`` holds only what was compiled from the sources beside it. A stamp in the host's own
  cache remembers inodes and change times, which cannot be set back, of all of them.
* Nothing of the plugin is executed; its sources are only compiled, in a process of its own by the interpreter that will run them.
* That process has limits of memory, processor time and file size: a source that goes beyond them, or that does not compile, is left as it
  is, and costs the plugin's own start, not the host.
* A root host never writes into a folder of another user with root's rights: that folder may be full of symbolic links.

Source: docs/adr/0036-runtime-folder-and-copies.md; ADR-0016.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import final

from annexe.launch.become import as_user
from annexe.launch.folders import owned_folder
from annexe.launch.python_env import Interpreter

__all__ = ["Bytecode"]

_TIMEOUT_S = 30.0
_CPU_S = 20
_MEMORY_BYTES = 512 * 1024 * 1024
_SOURCE_BYTES = 2 * 1024 * 1024
_WRITTEN_BYTES = 64 * 1024 * 1024
_CLEAN = b"clean\n"
_ENVIRONMENT = ".venv"  # left to its installer, and to its own account
# All caches are removed before anything is compiled, and that is told: what ends the compiler later leaves no forged byte code behind.
# A folder that its owner cannot list, but others can, is a fault: forged byte code would stay in it.
_COMPILE = """
import os, resource, stat, sys
from importlib.machinery import SourceFileLoader
top, skipped = sys.argv[1:3]
cpu, memory, source, written = map(int, sys.argv[3:])
for name, limit in (
    ("CPU", cpu), ("AS", memory), ("DATA", memory), ("FSIZE", written), ("CORE", 0), ("NPROC", 0)
):
    kind = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(hard, limit)
    try:
        resource.setrlimit(kind, (limit, limit))
    except (OSError, ValueError):
        if sys.platform == "linux":  # macOS takes no limit of memory
            raise
paths = []
def fail(error):
    raise error
for parent, folders, files in os.walk(top, onerror=fail):
    cache = os.path.join(parent, "__pycache__")
    if os.path.islink(cache):
        os.unlink(cache)
    elif os.path.isdir(cache):
        for inner, dirs, others, opened in os.fwalk(cache, topdown=False, onerror=fail):
            for name in dirs + others:
                is_folder = stat.S_ISDIR(os.lstat(name, dir_fd=opened).st_mode)
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=opened)
        os.rmdir(cache)
    folders[:] = [name for name in folders if name not in ("__pycache__", skipped)]
    paths += [(parent, name) for name in files if name.endswith(".py")]
os.write(1, b"clean\\n")
for parent in {parent for parent, name in paths}:
    os.mkdir(os.path.join(parent, "__pycache__"))
for parent, name in paths:
    path = os.path.join(parent, name)
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode) and found.st_size <= source:
            SourceFileLoader(name[:-3], path).get_code(name[:-3])  # and leaves it where an import would
    except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
        pass  # shows itself when it is imported
"""


@final
class Bytecode:
    """The byte code of all plugins of one host.

    Args:
        stamps: Folder for what is remembered; made if missing, refused unless it is the host's alone.
    """

    def __init__(self, stamps: Path) -> None:
        self._stamps = stamps

    def ensure(self, folder: Path, interpreter: Interpreter, *, is_copy: bool = False) -> bool:
        """Compile a plugin, unless nothing changed since that was done.

        Args:
            folder: The plugin's.
            interpreter: What will run it.
            is_copy: It is a copy of the host's own: nobody else changes it, and its ``.venv`` is compiled too.

        Returns:
            False when the folder cannot be written to: then nothing in it may be relied upon, and a copy must be run instead.
        """
        name = hashlib.sha256(f"{folder}\0{interpreter.path}\0{interpreter.cache_tag}".encode(errors="surrogateescape")).hexdigest()
        stamp = self._stamps / name
        known = None
        with contextlib.suppress(FileNotFoundError):
            known = stamp.read_text()
            os.utime(stamp)  # what nobody uses for long is forgotten
        if known is not None and (is_copy or known == _signature(folder)):
            return True
        if not _compile(folder, interpreter, skipped="" if is_copy else _ENVIRONMENT):
            return False
        owned_folder(self._stamps, mode=0o700)
        draft = stamp.with_suffix(f".{os.getpid()}")
        draft.write_text(_signature(folder))
        draft.replace(stamp)
        return True


def _compile(folder: Path, interpreter: Interpreter, *, skipped: str) -> bool:
    found = folder.stat()
    as_owner = found.st_uid if os.geteuid() == 0 and found.st_uid != 0 else None
    limits = map(str, (_CPU_S, _MEMORY_BYTES, _SOURCE_BYTES, _WRITTEN_BYTES))
    become, user = as_user(as_owner, gid=found.st_gid)
    command = [*become, str(interpreter.path), "-I", "-S", "-c", _COMPILE, str(folder), skipped, *limits]
    try:
        done = subprocess.run(  # noqa: S603 - an interpreter that was probed, and our own program
            command, umask=0o022, cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S, check=False, **user,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return error.stdout == _CLEAN
    except OSError:
        return False
    # Ended by a signal: at a limit, or by a fault of the compiler.
    return done.returncode == 0 or (done.returncode < 0 and done.stdout == _CLEAN)


def _signature(folder: Path) -> str:
    """Return a digest of all sources and all byte code as the file system knows them; no file is read."""
    digest = hashlib.sha256()
    top = str(folder)
    for path in _code(top):
        found = os.lstat(path)
        facts = (path[len(top) :], found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(facts).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _code(top: str) -> Iterator[str]:
    # Paths as text: this runs at each start.
    for parent, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name != _ENVIRONMENT)
        in_cache = "__pycache__" in parent[len(top) :].split("/")
        # A cache that is a link is in ``folders`` and not entered: named itself, it spoils the signature.
        yield from (f"{parent}/{name}" for name in folders if name == "__pycache__")
        yield from (f"{parent}/{name}" for name in sorted(files) if in_cache or name.endswith(".py"))
