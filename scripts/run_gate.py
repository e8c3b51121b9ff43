"""Run everything that decides whether a change may go in: ``make test`` and ``.ci/run``. Run by the Python of ``.venv``.

First the checks that run nothing of ours (``--lint-only`` ends here), two at a time. Then three rows of tests beside each other, as most of
them wait more than they compute; every layer runs, whatever became of the others, and any failure makes the exit code 1:

* the unit tests, and by them branch coverage of every module whose docstring says it is pure: all of it; then those that start whole
  programs, and the plugins' own; then the attacks;
* the tests of real processes;
* the tests marked ``both_users``, as ``nobody``, when started as root.

What the second and third row print comes when the first one has ended. With ``--slow`` the long tests are run as well.

The last lines name each layer with its outcome, and why a layer was left out. pytest itself says why single tests were.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MYPY = [str(BIN / "mypy"), "--config-file", str(ROOT / "pyproject.toml")]
PYTEST = [sys.executable, "-m", "pytest"]
CANNOT = 77  # as_nobody.py: not possible here
NO_TESTS = 5  # pytest: nothing was selected
PROCESSES, ATTACKS = "tests/process", "tests/security"
QUIETLY = ["-q", "-p", "no:cacheprovider"]


@dataclass
class Outcomes:
    """What became of each layer so far."""

    lines: list[str] = field(default_factory=list)
    failed: bool = False

    def add(self, layer: str, *, ok: bool, note: str = "") -> None:
        self.failed |= not ok
        state = "FAILED" if not ok else "-" if note.startswith("left out") else "ok"
        self.lines.append(f"  {state:<6}  {layer}{': ' + note if note else ''}")

    def take(self, others: Outcomes) -> None:
        self.failed |= others.failed
        self.lines += others.lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lint-only", action="store_true", help="run the checks, no tests")
    parser.add_argument("--slow", action="store_true", help="run the long tests too")
    options = parser.parse_args()
    started_s = time.monotonic()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background; whoever inherits that cannot be interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)
    outcomes = Outcomes()
    run_checks(outcomes)
    if not options.lint_only:
        with ThreadPoolExecutor(max_workers=2) as beside:
            quiet = [beside.submit(run_processes, slow=options.slow), beside.submit(run_as_nobody)]
            run_first_row(outcomes, slow=options.slow)
            for said, others in (row.result() for row in quiet):
                print(said, flush=True)
                outcomes.take(others)
    print(f"\nlayers, after {time.monotonic() - started_s:.0f} s:", *outcomes.lines, sep="\n", flush=True)
    return 1 if outcomes.failed else 0


# -- 1. checks


def checks() -> list[tuple[str, list[str], Path]]:
    """Return name, command and folder of every check."""
    own = [name for name in ("src", "sdk/python/src", "tests", "scripts", "examples", "benchmarks") if any((ROOT / name).rglob("*.py"))]
    own += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*.py"))
    # A plugin is checked from its own folder: it is a project of its own, and its folder's name is no Python package.
    plugins = sorted(manifest.parent for manifest in ROOT.glob("plugins/*/plugin.toml"))
    return [
        ("mypy", [*MYPY, *own], ROOT),
        ("ruff check", [str(BIN / "ruff"), "check", "--quiet", "."], ROOT),
        ("ruff format", [str(BIN / "ruff"), "format", "--check", "--quiet", "."], ROOT),
        ("import layers", [str(BIN / "lint-imports"), "--no-cache"], ROOT),
        ("dependencies of annexe", [str(BIN / "deptry"), "src"], ROOT),
        ("dependencies of annexe-sdk", [str(BIN / "deptry"), "src"], ROOT / "sdk" / "python"),
        ("generated pages and links", [sys.executable, "scripts/generate_docs.py", "--check"], ROOT),
        *((f"mypy {plugin.name}", [*MYPY, "."], plugin) for plugin in plugins),
    ]


def run_checks(outcomes: Outcomes) -> None:
    def run(check: tuple[str, list[str], Path]) -> tuple[str, subprocess.CompletedProcess[str]]:
        name, command, folder = check
        return name, subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, result in pool.map(run, checks()):
            if result.returncode:
                print(f"-- {name}\n{result.stdout}{result.stderr}", flush=True)
            outcomes.add(name, ok=result.returncode == 0)


# -- 2. tests


def run_first_row(outcomes: Outcomes, *, slow: bool) -> None:
    measure_pure_modules(outcomes, slow=slow)
    elsewhere = [f"--ignore={folder}" for folder in ("tests/unit", PROCESSES, ATTACKS)]
    for layer, selection in (("programs and plugins", elsewhere), ("attacks", [ATTACKS])):
        print(f"-- {layer}", flush=True)
        code = subprocess.run(
            [*PYTEST, *_pace(slow=slow), *QUIETLY, *selection], cwd=ROOT, stdin=subprocess.DEVNULL, check=False
        ).returncode
        outcomes.add(layer, ok=code == 0)
    if not slow:
        outcomes.add("long tests", ok=True, note="left out; make test-all runs them")
    if os.geteuid() != 0:
        outcomes.add("tests as root", ok=True, note="left out, not started as root; a plugin's own uid is not tried")


def pure_modules() -> list[Path]:
    """Return the modules that say they are pure: nothing in them needs more than arguments to be tried."""
    sources = [path for source in ("src", "sdk/python/src") for path in sorted((ROOT / source).rglob("*.py"))]
    return [path for path in sources if re.search(r"^Pure\b", ast.get_docstring(ast.parse(path.read_text())) or "", re.MULTILINE)]


def measure_pure_modules(outcomes: Outcomes, *, slow: bool) -> None:
    """Run the unit tests, and look at the coverage that they leave."""
    print("-- unit tests, with the branch coverage of pure modules", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COVERAGE_FILE": str(Path(folder) / "coverage")}
        selection = ["tests/unit", *_pace(slow=slow), *QUIETLY, "--cov", "--cov-report="]
        tested = subprocess.run([*PYTEST, *selection], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
        only = ",".join(str(path) for path in pure_modules())
        report = [sys.executable, "-m", "coverage", "report", "--include", only, "--skip-covered", "--show-missing", "--fail-under=100"]
        covered = subprocess.run(report, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    outcomes.add("unit tests", ok=tested.returncode == 0)
    outcomes.add("branch coverage of pure modules", ok=covered.returncode == 0)


def run_processes(*, slow: bool) -> tuple[str, Outcomes]:
    """Return what was printed, and the outcome."""
    tested = _run_quietly([*PYTEST, *_pace(slow=slow), *QUIETLY, PROCESSES])
    outcomes = Outcomes()
    outcomes.add("processes", ok=tested.returncode == 0)
    return f"-- processes\n{tested.stdout}", outcomes


def run_as_nobody() -> tuple[str, Outcomes]:
    """Return what was printed, and the outcome."""
    layer, outcomes = "tests as nobody", Outcomes()
    if os.geteuid() != 0:
        outcomes.add(layer, ok=True, note="left out, not started as root; all tests run as an unprivileged user already")
        return "", outcomes
    tested = _run_quietly([sys.executable, "scripts/as_nobody.py", *PYTEST, "-m", "both_users and not slow", *QUIETLY])
    if tested.returncode == CANNOT:
        # Under CI this is a hole in the gate; at somebody's desk it is their choice.
        outcomes.add(layer, ok=not os.environ.get("CI"), note="left out, see 'as_nobody' above")
    elif tested.returncode == NO_TESTS:
        outcomes.add(layer, ok=False, note="no test is marked both_users")
    else:
        outcomes.add(layer, ok=tested.returncode == 0)
    return f"-- tests that depend on the user, as nobody\n{tested.stdout}", outcomes


def _pace(*, slow: bool) -> list[str]:
    return [] if slow else ["-m", "not slow"]


def _run_quietly(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
