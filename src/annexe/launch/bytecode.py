"""Compile a plugin's code once, so that no start pays for it.

Compiling a small plugin costs as much as starting it. The plugin itself often cannot keep the result: under a user of its own it may not
write to its folder. So the host has it done beforehand, beside the sources, where Python looks. Blocking.

Invariants:

* Nothing of the plugin is executed; its sources are only compiled, by the plugin's own interpreter, in a process of its own.
* A root host never writes into a folder of another user with root's rights: that folder may be full of symbolic links.

Source: docs/adr/0036-runtime-folder-and-copies.md.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from annexe.launch.python_env import Interpreter

__all__ = ["compile_folder", "has_bytecode"]

_TIMEOUT_S = 120.0


def has_bytecode(folder: Path, cache_tag: str) -> bool:
    """Return whether every module in ``folder`` has byte code that is up to date (a ``.venv`` in it is left to its installer)."""
    return all(_is_fresh(source, cache_tag) for source in _sources(folder))


def compile_folder(folder: Path, interpreter: Interpreter) -> str | None:
    """Compile what is out of date.

    Returns:
        None when all is well, otherwise why it could not be done. That costs time at each start but harms nothing: sources with a
        syntax error show it when they are imported.
    """
    if has_bytecode(folder, interpreter.cache_tag):
        return None
    found = folder.stat()
    as_owner = found.st_uid if os.geteuid() == 0 and found.st_uid != 0 else None
    if as_owner is None and not os.access(folder, os.W_OK):
        return f"byte code cannot be kept, {folder} is read-only: each start compiles anew"
    command = [str(interpreter.path), "-I", "-m", "compileall", "-f", "-qq", "-x", r"/\.venv/", str(folder)]
    try:
        subprocess.run(  # noqa: S603 - an interpreter that was probed
            command, user=as_owner, group=found.st_gid if as_owner else None, extra_groups=[] if as_owner else None, umask=0o022, cwd="/",
            env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"byte code could not be made ({error}): each start compiles anew"
    return None if has_bytecode(folder, interpreter.cache_tag) else f"some of {folder} could not be compiled beforehand"


def _sources(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("__pycache__", ".venv", ".git", "node_modules")]
        yield from (Path(parent, name) for name in files if name.endswith(".py"))


def _is_fresh(source: Path, cache_tag: str) -> bool:
    """Return whether byte code fits its source, judged as Python does: time and size in its header (PEP 552, flags 0)."""
    try:
        with (source.parent / "__pycache__" / f"{source.stem}.{cache_tag}.pyc").open("rb") as file:
            head = file.read(16)
        found = source.stat()
    except OSError:
        return False
    flags = int.from_bytes(head[4:8], "little")
    dated = (int(found.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (found.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    return bool(flags) or head[8:16] == dated
