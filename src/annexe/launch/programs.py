"""What a plugin that is not Python runs: its own program, or Node.js with its script.

Blocking, and small: the head of one file is read.

* Behind a wall a plugin may execute its program, what that program's first line names, and the loader of shared libraries; nothing else.
* A first line may name programs of the plugin's own, those on the path, and the system's. It comes from the plugin: naming somebody's
  program must not make that readable.
* The way to its file is looked at without following links: nobody can exchange one for a link while the host reads.
* What is looked up on a path is what the plugin's own user can reach: what it would find by itself.

Source: feature IS12; docs/how-to/write-a-plugin-without-the-sdk.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.errors import LaunchError, SandboxError
from annexe.launch.beneath import open_beneath
from annexe.launch.folders import unreachable_at
from annexe.launch.strategy import LaunchRequest

__all__ = ["Program", "program_of"]

_MAX_LINE_BYTES = 256  # as the kernel reads it


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to execute.

    Attributes:
        argv: With its arguments; empty for a Python plugin, which the stub itself becomes.
        executables: Everything that must be executable for it, besides the loader.
        libraries: What it must be able to read: of a Python that runs a script.
    """

    argv: tuple[str, ...] = ()
    executables: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


def program_of(request: LaunchRequest, folder: Path, *, uid: int | None) -> Program:
    """Return what the stub is to execute.

    Args:
        request: The launch.
        folder: Where the plugin's code is run from.
        uid: The user that it will run as; None: the host's.

    Raises:
        LaunchError: Its kind has no program, or Node.js is missing.
    """
    if request.kind == "python":
        return Program()
    path, search = folder / request.entry, request.environment.get("PATH", "")
    if request.kind == "binary":
        interpreters = _interpreters(path, folder, search, uid)
        systems = [one for one in interpreters if not _is_within(one, folder)]
        libraries = tuple(dict.fromkeys(library for one in systems for library in _libraries_of(one)))
        return Program(argv=(str(path),), executables=(str(path), *interpreters), libraries=libraries)
    if request.kind == "node":
        node = _looked_up("node", search, uid)
        if node is None:
            raise LaunchError(
                f"plugin {request.plugin!r} needs Node.js, and there is no `node` that it can reach on {search}; install it "
                "(`apt install nodejs`).",
                plugin=request.plugin,
            )
        return Program(argv=(os.path.realpath(node), str(path)), executables=(os.path.realpath(node),))
    raise LaunchError(
        f"plugin {request.plugin!r} is of kind {request.kind!r}; expected python, binary or node.", plugin=request.plugin, kind=request.kind
    )


def _interpreters(path: Path, folder: Path, search: str, uid: int | None) -> tuple[str, ...]:
    """Return what a script's first line has executed: the interpreter, and with ``env`` the one that it looks up, by its names."""
    try:
        line = _head(path, folder).split(b"\n")[0]
    except (OSError, SandboxError):  # it shows itself when it is executed
        return ()
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    if not words or not (_is_within(words[0], path.parent) or _is_on(words[0], search)):
        return ()  # it may name no program of somebody's: it fails when it is executed
    is_env = Path(words[0]).name == "env" and not _is_within(words[0], path.parent)
    wanted = [word for word in words[1:3] if word != "-S"][:1] if is_env else []
    if wanted and "/" in wanted[0]:
        wanted = []
    looked_up = _looked_up(wanted[0], search, uid) if wanted else None
    # Each also by the name under which it is wanted: behind a wall nothing else of that folder is there.
    names = [*words[:1], *((looked_up,) if looked_up else ())]
    return tuple(dict.fromkeys(path for name in names for path in (name, os.path.realpath(name))))


def _head(path: Path, folder: Path) -> bytes:
    """Return the first bytes of what lies in the plugin's folder; its links are resolved before, and none is followed after."""
    real = Path(os.path.realpath(folder))
    file = open_beneath(real, os.path.relpath(os.path.realpath(path), real))
    try:
        return os.read(file, _MAX_LINE_BYTES)
    finally:
        os.close(file)


def _is_within(program: str, folder: Path) -> bool:
    """Return whether a program is the plugin's own."""
    return Path(os.path.realpath(program)).is_relative_to(os.path.realpath(folder))


def _is_on(program: str, search: str) -> bool:
    """Return whether a program is one that the operator put where programs are looked up, or the system's."""
    return str(Path(program).parent) in search.split(os.pathsep) or os.path.realpath(program).startswith("/usr/")


def _looked_up(name: str, search: str, uid: int | None) -> str | None:
    """Return the first program of this name that the plugin's user can reach."""
    for folder in search.split(os.pathsep):
        found = shutil.which(name, path=folder)
        if found is not None and (uid is None or not (unreachable_at(Path(found), uid) or unreachable_at(Path(found).parent, uid))):
            return found
    return None


def _libraries_of(interpreter: str) -> Iterator[str]:
    """Yield where a Python has its library, or finds it; nothing for the system's, whose library everybody has."""
    folder = Path(interpreter).parent
    if Path(interpreter).name.startswith("python") and folder.name == "bin" and str(folder) not in ("/bin", "/usr/bin"):
        is_link = os.path.realpath(interpreter) != interpreter  # of a virtual environment, whose packages are none of the plugin's
        yield str(folder.parent / ("pyvenv.cfg" if is_link else "lib"))
