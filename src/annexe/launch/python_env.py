"""Which Python runs a Python plugin.

In order: the host's interpreter; those the operator names; the system's. Always the real path, never a shim (a shell script costs ten
times a bare start). Of a plugin's own ``.venv`` only the packages are used, and the minor version that they were installed for. Whether
a candidate can be run by the plugin's user is found out by running it as that user: no
reading of permission bits knows of access lists, ``noexec`` or a library that is out of reach. Blocking.

Invariants:

* A fallback is never silent: it is in ``PythonChoice.notes`` and so in the receipt.
* No program that a plugin names is ever run: the interpreter starts with the host's rights, and without limits, before the stub drops them.
* An interpreter of the system is used only if nobody but root, or the host's own user, could have put it there.
* A ``.venv`` is used only with an interpreter of its own minor version.
* A ``.venv`` is the plugin's own word: what lies outside the plugin's folder is not among its packages, however it is named there, unless
  the plugin was granted to read it.
* Nothing in a ``.venv`` can make the host wait: only regular files are read, so much of them and so many lines, and no more.

Source: the page on plugin.toml; docs/adr/0035-which-python.md.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import final

from packaging.specifiers import SpecifierSet

from annexe.errors import PluginBlockedError
from annexe.launch.folders import unreachable_at
from annexe.manifest.files import open_file

__all__ = ["SYSTEM_PYTHONS", "Interpreter", "PythonChoice", "PythonFinder", "replaceable_at"]

SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3", *(f"/usr/bin/python3.{minor}" for minor in range(15, 10, -1)))
_OLDEST = (3, 11)
_PROBE_TIMEOUT_S = 10.0
_OTHERS_WRITE = 0o022
_MAX_PTH_FILES = 256
_MAX_PTH_BYTES = 64 * 1024
_MAX_PTH_LINES = 256
_PROBE = (
    "import sys, _imp, posix, marshal, resource, _ctypes\n"
    "print(*sys.version_info[:3], sys.implementation.cache_tag, _imp.extension_suffixes()[0], sys.base_prefix, sep='\\n')"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """One Python that was run and answered.

    Attributes:
        path: Real path.
        version: Major, minor, micro.
        cache_tag: Names its byte code files: ``cpython-311``.
        suffix: Names its extension modules, so says which binary packages fit: ``.cpython-311-x86_64-linux-gnu.so``.
        prefix: Where its library is below, as ``sys.base_prefix``.
    """

    path: Path
    version: tuple[int, int, int]
    cache_tag: str
    suffix: str
    prefix: Path = Path("/usr")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PythonChoice:
    """What runs one plugin.

    Attributes:
        interpreter: Which.
        packages: Folders of installed packages, for ``sys.path`` after the standard library.
        notes: Why it is not the first choice; empty when it is.
    """

    interpreter: Interpreter
    packages: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@final
class PythonFinder:
    """Finds interpreters and remembers what it learned about each.

    Args:
        host: The host's own interpreter.
        given: Others that the operator answers for.
        system: Where to look when none of these can be used; what somebody else could have put there is not run.
    """

    def __init__(self, *, host: Path | None = None, given: Sequence[Path] = (), system: Sequence[str] = SYSTEM_PYTHONS) -> None:
        self._trusted = (host or Path(sys.executable), *given)
        self._system = tuple(Path(path) for path in system)
        self._known: dict[tuple[Path, bool], Interpreter | str] = {}
        self._asking = threading.Lock()  # ten plugins that start at once ask each interpreter once

    def find(
        self, *, plugin: str, folder: Path | None, requires_python: str, uid: int | None, readable: Sequence[Path] = ()
    ) -> PythonChoice:
        """Return the Python for a plugin.

        Args:
            plugin: Id, for messages.
            folder: Where the plugin's code is, and perhaps its ``.venv``; None for a plugin that is not Python.
            requires_python: Version range; empty for any.
            uid: User the plugin will run as; None for the host's.
            readable: Real paths that the plugin was granted to read.

        Raises:
            PluginBlockedError: None fits; ``tried`` says why, one line each.
        """
        venv = folder / ".venv" if folder is not None and (folder / ".venv" / "pyvenv.cfg").is_file() else None
        packages, minor, left_out = _venv_packages(venv, (folder, *readable)) if venv is not None and folder is not None else ((), None, ())
        tried: list[str] = []
        for candidate, is_trusted in self._candidates():
            found = self._probe(candidate, uid, is_trusted=is_trusted)
            reason = found if isinstance(found, str) else _misfit(found, requires_python, minor)
            if not isinstance(found, str) and reason is None:
                notes = (f"{found.path} is used, since: {'; '.join(tried)}",) if tried else ()
                return PythonChoice(interpreter=found, packages=packages, notes=(*notes, *map(_left_out, left_out)))
            line = f"{candidate}: {reason}"
            if line not in tried:
                tried.append(line)
        wanted = requires_python or f">={_OLDEST[0]}.{_OLDEST[1]}"
        raise PluginBlockedError(
            f"no Python {wanted} that plugin {plugin!r} could run with:\n  " + "\n  ".join(tried) + "\n"
            "Install one for all users (`apt install python3`), let others pass the folders on the way to one of these (chmod o+x), or "
            "make the plugin's .venv anew with one of these. The interpreter that a .venv names is never run by itself: name one that you "
            "trust with Host(pythons=[…]) or `annexe run --python PATH`.",
            plugin=plugin,
            tried=tried,
        )

    def _candidates(self) -> Iterator[tuple[Path, bool]]:
        """Yield real paths, and whether the host or its operator answers for each."""
        seen: set[Path] = set()
        for paths, is_trusted in ((self._trusted, True), (self._system, False)):
            for path in paths:  # one at a time: the first will mostly do, and this is done at each start
                if path.exists() and (real := path.resolve()) not in seen:
                    seen.add(real)
                    yield real, is_trusted

    def _probe(self, path: Path, uid: int | None, *, is_trusted: bool) -> Interpreter | str:
        if not is_trusted and (at := replaceable_at(path)) is not None:
            return f"others than root could have put it there (see owner and mode of {at})"
        # Permissions are the same for all plugin users: none of them owns or belongs to anything.
        key = (path, uid is not None)
        with self._asking:
            if key not in self._known:
                self._known[key] = _ask(path, uid)
            return self._known[key]


def replaceable_at(path: Path) -> Path | None:
    """Return what makes a real path one that somebody other than root and the host's own user can change; None if nothing does."""
    for part in (path, *path.parents):
        found = part.stat()
        # In a sticky folder (/tmp) others may add names, but not replace ours.
        others_may_write = found.st_mode & _OTHERS_WRITE and not (part != path and found.st_mode & stat.S_ISVTX)
        if found.st_uid not in (0, os.geteuid()) or others_may_write:
            return part
    return None


def _ask(path: Path, uid: int | None) -> Interpreter | str:
    """Return what an interpreter says of itself; a reason if it cannot be run."""
    try:
        # Not by a program (see become): setpriv looks the program up with root's rights still, and so answers another question.
        answer = subprocess.run(  # noqa: S603 - the host's, the operator's or the system's own, never one of a plugin's choice
            [str(path), "-I", "-S", "-c", _PROBE], user=uid, group=uid, extra_groups=None if uid is None else [], cwd="/", env={},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True,
        ).stdout.split("\n")  # fmt: skip
        version = (int(answer[0]), int(answer[1]), int(answer[2]))
        return Interpreter(path=path, version=version, cache_tag=answer[3], suffix=answer[4], prefix=Path(answer[5]))
    except PermissionError:
        at = unreachable_at(path, uid) if uid is not None else None
        return f"a plugin's user cannot reach it ({at} is closed to others)" if at else "it may not be executed"
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        return f"it does not start ({said[-1] if said else error})"
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return f"it does not start ({error})"


def _misfit(found: Interpreter, requires_python: str, minor: tuple[int, int] | None) -> str | None:
    version = ".".join(map(str, found.version))
    if found.version < _OLDEST:
        return f"it is {version}, expected 3.11 or newer"
    if minor is not None and found.version[:2] != minor:
        return f"it is {version}, expected {minor[0]}.{minor[1]} as in the plugin's .venv"
    if requires_python and not SpecifierSet(requires_python).contains(version, prereleases=True):
        return f"it is {version}, expected {requires_python}"
    return None


def _venv_packages(venv: Path, allowed: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[int, int] | None, tuple[str, ...]]:
    """Return the folders of packages of a virtual environment, the minor version they were installed for, and what was left out.

    Plain lines of ``.pth`` files count, so that packages under development are found; lines with code in them are never run.

    Args:
        venv: The environment.
        allowed: Where packages may be; all else is left out.
    """
    roots = [os.path.realpath(path) for path in allowed]
    for packages in sorted(venv.glob("lib/python3.*/site-packages")):
        minor = re.fullmatch(r"python3\.([0-9]{1,3})t?", packages.parent.name)  # "t": free-threaded
        if minor is not None:
            found = sorted(islice(packages.glob("*.pth"), _MAX_PTH_FILES))
            named = dict.fromkeys(os.path.normpath(packages / line) for path in found for line in _pth_lines(path))
            there = [packages, *(Path(path) for path in islice(named, _MAX_PTH_LINES) if os.path.isdir(path))]  # noqa: PTH112 - never raises
            inside = [path for path in there if any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots)]
            return tuple(inside), (3, int(minor[1])), tuple(str(path) for path in there if path not in inside)
    return (), None, ()


def _left_out(path: str) -> str:
    right = f'filesystem = {{ read = ["{os.path.realpath(path)}"] }}'
    return f"packages in {path} are left out, since that is outside the plugin's folder; to have them it would ask for {right}"


def _pth_lines(path: Path) -> list[str]:
    """Return the plain lines of a ``.pth`` file; none if it is anything but a small text file."""
    try:
        with open_file(path) as file:
            text = file.read(_MAX_PTH_BYTES).decode()
    except (OSError, ValueError):
        return []
    lines = (line.strip() for line in text.splitlines())
    return list(islice((line for line in lines if line and not line.startswith(("#", "import ", "import\t"))), _MAX_PTH_LINES))
