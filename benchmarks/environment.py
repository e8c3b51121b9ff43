"""Make or renew ``.venv-bench``, where annexe and the peers it is measured against are installed; `python -m benchmarks` does this first.

A separate environment, so that what users install stays small and a peer's requirements never meet annexe's tests. Run with the interpreter
of the development environment; its pip does the installing. A peer that cannot be had is said here and in the tables, and is no failure.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

__all__ = ["PYTHON", "main"]

_ROOT = Path(__file__).resolve().parent.parent
_VENV = _ROOT / ".venv-bench"
PYTHON = _VENV / "bin" / "python"


def main() -> int:
    """Return 0 when annexe's own requirements are there; needs nothing from the network when they already were."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    own = [need for need in project["project"]["dependencies"] if not need.startswith("annexe-sdk")] + extras["uvloop"] + extras["pydantic"]
    peers = project["dependency-groups"]["bench"]
    stamp, wanted = _VENV / "installed.txt", "\n".join([sys.version, *own, *peers])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return 0
    print("setting up .venv-bench: annexe beside the systems it is measured against", flush=True)
    venv.create(_VENV, with_pip=False, clear=True, symlinks=True)
    if not install(["-c", str(_ROOT / "requirements" / "lock.txt"), *own]) and not install(own):
        print("could not install what annexe itself needs; see pip's message above", file=sys.stderr)
        return 1
    if not install(peers):  # one by one then, so that a missing one costs one row
        for peer in [peer for peer in peers if not install([peer])]:
            print(f"could not install {peer}: its rows will say 'not measured'", file=sys.stderr)
    packages = next(_VENV.glob("lib/python*/site-packages"))
    packages.joinpath("annexe-bench.pth").write_text(f"{_ROOT / 'src'}\n{_ROOT / 'sdk/python/src'}\n", encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")
    return 0


def install(requirements: list[str]) -> bool:
    """Install into the environment and return whether that worked."""
    command = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", *requirements]
    return subprocess.run(command, check=False).returncode == 0
