"""The runtime folder: what annexe adds to a Python plugin's path, last.

It holds the SDK, msgspec where the plugin's interpreter can load the host's build of it, the stub and the fork server, all compiled by
the plugin's interpreter; and once more, in one file, the code of those modules of the SDK that every start needs. It is built once per
content and interpreter, whole or not at all, and is read-only afterwards. Blocking.

Invariants:

* Its name is a digest of everything in it and how it is made, so that a changed SDK, another msgspec or another interpreter is another
  folder.
* It is held while its strategy lives, so that no other host removes it as unused.
* Byte code is marked unchecked: nothing in the folder ever changes, and the plugin need not look at the sources at all.

Source: docs/adr/0036-runtime-folder-and-copies.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import final

from annexe.errors import LaunchError
from annexe.launch.folders import hold, let_go, owned_folder, publish
from annexe.launch.python_env import Interpreter

__all__ = ["Runtime", "RuntimeFolders"]

_TIMEOUT_S = 120.0
_STUB, _FORK_SERVER = "annexe_stub", "annexe_fork_server"
_BUNDLE = "annexe_sdk.bundle"
_BUILD = """
import compileall, marshal, py_compile, sys
draft, home, stub, bundle = sys.argv[1:]
unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
done = compileall.compile_dir(draft, quiet=2, workers=1, invalidation_mode=unchecked)
# The stub is run by path, so the name in tracebacks is the one given here: where it will lie. Likewise what is in the bundle.
source = f"/{stub}.py"
py_compile.compile(draft + source, cfile=f"{draft}/{stub}.pyc", dfile=home + source, doraise=True, invalidation_mode=unchecked)
sys.path.append(draft)
import annexe_sdk.runner
# Without site: an SDK that is installed for this interpreter is not the one that is built here.
files = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "annexe_sdk"}
codes = {name: compile(open(file, "rb").read(), home + file[len(draft):], "exec", dont_inherit=True) for name, file in files.items()}
with open(f"{draft}/{bundle}", "wb") as file:
    marshal.dump(codes, file)
sys.exit(not done)
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime folder that is ready for use.

    Attributes:
        folder: For the end of ``sys.path``.
        stub: Compiled stub, to be run by path.
    """

    folder: Path
    stub: Path


@final
class RuntimeFolders:
    """Builds runtime folders and remembers where they are.

    Args:
        parent: Folder that holds them; made if missing, refused unless it is the host's alone.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._made: dict[Interpreter, Runtime] = {}
        self._held: dict[Path, int] = {}

    def for_interpreter(self, interpreter: Interpreter) -> Runtime:
        """Return the runtime folder for an interpreter, built if need be (once: about a quarter of a second).

        Raises:
            LaunchError: It cannot be built, or lies where others can write.
        """
        made = self._made.get(interpreter)
        if made is None or not made.stub.exists():
            made = self._made[interpreter] = self._make(interpreter)
        return made

    def close(self) -> None:
        """Hold nothing any more; every plugin is gone."""
        self._made.clear()
        while self._held:
            let_go(self._held.popitem()[1])

    def _make(self, interpreter: Interpreter) -> Runtime:
        fits = interpreter.suffix == EXTENSION_SUFFIXES[0]
        packages = [_package("annexe_sdk"), *([_package("msgspec")] if fits and _is_compiled("msgspec") else [])]
        contents = {f"{package.name}/{name}": package / name for package in packages for name in _files(package)}
        contents[f"{_STUB}.py"] = _source_of("annexe.sandbox.stub")
        contents[f"{_FORK_SERVER}.py"] = _source_of("annexe.sandbox.fork_server")
        digest = hashlib.sha256(f"{_BUILD}{interpreter.path}\0{interpreter.version}\0{interpreter.suffix}\0".encode())
        blobs = {name: path.read_bytes() for name, path in sorted(contents.items())}
        for name, blob in blobs.items():
            digest.update(f"{name}\0{len(blob)}\0".encode() + blob)

        home = owned_folder(self._parent) / f"{interpreter.cache_tag}-{digest.hexdigest()[:32]}"

        def build(draft: Path) -> None:
            for name, blob in blobs.items():
                target = draft / name
                target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                target.write_bytes(blob)
            _compile(draft, interpreter, home=home)
            for path in draft.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)

        while (held := hold(publish(home, build))) is None:
            pass  # removed as unused by another host, at this very moment
        if home in self._held:
            let_go(self._held[home])
        self._held[home] = held
        return Runtime(folder=home, stub=home / f"{_STUB}.pyc")


def _compile(draft: Path, interpreter: Interpreter, *, home: Path) -> None:
    command = [str(interpreter.path), "-I", "-S", "-c", _BUILD, str(draft), str(home), _STUB, _BUNDLE]
    try:
        subprocess.run(  # noqa: S603 - an interpreter that was probed, and our own program
            command, cwd="/", env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        raise LaunchError(
            f"{interpreter.path} cannot compile the runtime folder: {error} {said.decode(errors='replace').strip()}",
            python=str(interpreter.path),
        ) from error


def _source_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise LaunchError(f"the files of {module} cannot be found; install annexe as a folder, not as a zip file.", module=module)
    return Path(spec.origin)


def _package(name: str) -> Path:
    return _source_of(name).parent


def _is_compiled(name: str) -> bool:
    return importlib.util.find_spec(name) is not None and any(_package(name).glob(f"*{EXTENSION_SUFFIXES[0]}"))


def _files(package: Path) -> Iterator[str]:
    """Yield what a plugin may import, relative to the package."""
    for path in sorted(package.rglob("*")):
        if path.suffix == ".py" or path.name.endswith(EXTENSION_SUFFIXES[0]):
            yield path.relative_to(package).as_posix()
