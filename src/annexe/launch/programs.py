"""What a plugin that is not Python runs: its own program, or Node.js with its script.

Blocking, and small: the head of one file is read.

* Behind a wall a plugin may execute its program, what that program's first line names, and the loader of shared libraries; nothing else.

Source: feature IS12; docs/how-to/write-a-plugin-without-the-sdk.md.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.errors import LaunchError
from annexe.launch.strategy import LaunchRequest
from annexe.manifest.files import open_file

__all__ = ["Program", "program_of"]

_MAX_LINE_BYTES = 256  # as the kernel reads it


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to execute.

    Attributes:
        argv: With its arguments; empty for a Python plugin, which the stub itself becomes.
        executables: Everything that must be executable for it, besides the loader.
    """

    argv: tuple[str, ...] = ()
    executables: tuple[str, ...] = ()


def program_of(request: LaunchRequest, folder: Path) -> Program:
    """Return what the stub is to execute.

    Args:
        request: The launch.
        folder: Where the plugin's code is run from.

    Raises:
        LaunchError: Its kind has no program, or Node.js is missing.
    """
    if request.kind == "python":
        return Program()
    path, search = folder / request.entry, request.environment.get("PATH")
    if request.kind == "binary":
        return Program(argv=(str(path),), executables=(str(path), *_interpreters(path, search)))
    if request.kind == "node":
        node = shutil.which("node", path=search)
        if node is None:
            raise LaunchError(
                f"plugin {request.plugin!r} needs Node.js, and there is no `node` on {search}; install it (`apt install nodejs`).",
                plugin=request.plugin,
            )
        return Program(argv=(os.path.realpath(node), str(path)), executables=(os.path.realpath(node),))
    raise LaunchError(
        f"plugin {request.plugin!r} is of kind {request.kind!r}; expected python, binary or node.", plugin=request.plugin, kind=request.kind
    )


def _interpreters(path: Path, search: str | None) -> tuple[str, ...]:
    """Return what a script's first line has executed: the interpreter, and with ``env`` the one that it looks up."""
    try:
        with open_file(path) as file:
            line = file.read(_MAX_LINE_BYTES).split(b"\n")[0]
    except OSError:  # it shows itself when it is executed
        return ()
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    looked_up = shutil.which(words[1], path=search) if len(words) > 1 and Path(words[0]).name == "env" else None
    return tuple(os.path.realpath(word) for word in (*words[:1], looked_up) if word)
