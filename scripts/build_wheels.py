"""Build both packages into ``dist/`` and try them as a user would: installed from the wheels, without the repository.

1. Each source archive is built from a copy of what git would hand out (tracked files and new ones, nothing ignored), so that a file that
   only lies around here cannot slip in.
2. Each wheel is built from its source archive, so that the archive is known to be complete.
3. Both wheels go into a fresh environment in a temporary folder, and the smoke tests run there with a bare environment.

Run by the Python of ``.venv``, whose build backend is locked. ``--out DIR`` builds elsewhere than ``dist/``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "lock.txt"
PROJECTS = ("sdk/python", ".")
# Before the first release, builds must not differ by when they were made.
ENVIRONMENT = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the four files go")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        wheels = build(Path(folder) / "source", out)
        try_wheels(wheels, Path(folder) / "fresh")
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size / 1000:8.0f} kB  {path.name}")
    return 0


def build(source: Path, out: Path) -> list[Path]:
    """Build source archives and wheels; return the wheels."""
    copy_checkout(source)
    shutil.rmtree(out, ignore_errors=True)
    for project in PROJECTS:
        run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(out)], cwd=source / project, about=f" in {project}")
    archives = sorted(map(str, out.glob("*.tar.gz")))
    run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), *archives],
        cwd=source,
    )
    return sorted(out.glob("*.whl"))


def copy_checkout(target: Path) -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def try_wheels(wheels: list[Path], fresh: Path) -> None:
    """Install wheels into a new environment and use them there."""
    venv.EnvBuilder(symlinks=True).create(fresh)
    python = str(fresh / "bin" / "python")
    # The pip of .venv works on the fresh environment, which needs none (and Python may have no ensurepip to give it one).
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "-c", str(LOCK), *map(str, wheels)], cwd=fresh)
    bare = {"PATH": f"{fresh / 'bin'}:/usr/bin:/bin", "HOME": str(fresh / "home"), "LC_ALL": "C.UTF-8"}
    Path(bare["HOME"]).mkdir()
    for command in smoke_tests(fresh, python):
        run(command, cwd=fresh, env=bare)


def smoke_tests(fresh: Path, python: str) -> list[list[str]]:
    tests = [
        [python, "-W", "error", "-c", "import annexe, annexe_sdk"],
        [str(fresh / "bin" / "annexe"), "--version"],
    ]
    minimal = ROOT / "examples" / "minimal"
    if minimal.is_dir():
        shutil.copytree(minimal, fresh / "minimal", ignore=shutil.ignore_patterns("__pycache__", ".annexe"))
        tests += [[python, str(script)] for script in sorted((fresh / "minimal").glob("*.py"))]
    return tests


def run(command: list[str], *, cwd: Path, env: dict[str, str] | None = None, about: str = "") -> None:
    """Run a command quietly; on failure show all of its output and stop.

    Args:
        command: Program and arguments.
        cwd: Where it runs.
        env: Of it; by default ours.
        about: What tells it from others, for its line: that is cut where it gets long.

    Raises:
        SystemExit: It failed.
    """
    result = subprocess.run(
        command, cwd=cwd, env=env or ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240
    )
    shown = " ".join([Path(command[0]).name, *command[1:]])
    print(f"{'ok    ' if result.returncode == 0 else 'FAILED'}  {shown[: 110 - len(about)]}{about}", flush=True)
    if result.returncode:
        print(result.stdout + result.stderr, file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
