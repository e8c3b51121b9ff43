"""Run everything that decides whether a change may go in: ``make test`` and ``.ci/run``. Run by the Python of ``.venv``.

With ``--lint-only`` these are the checks that run nothing of ours. Otherwise the checks and the layers of tests go on beside each other, as
most tests wait more than they compute: ``ROWS`` at a time, the longest first, so that all rows end at about the same time. The layers:

* the tests that start whole programs, the plugins' own, and all others that have no layer of their own;
* the tests of real processes, in two halves;
* the attacks;
* of the last two those marked ``both_users``, as ``nobody``, when started as root;
* the unit tests: those that import a module whose docstring says it is pure, and by them branch coverage of these modules, all of it; and
  the others.

Every layer runs, whatever became of the others, and any failure makes the exit code 1. What a layer prints comes whole, when it has ended.
With ``--slow`` the long tests are run as well.

Many tests of processes are about time, and here they share two cores with three other layers. So a few that failed are run again when
all else has ended, ``AGAIN`` times and alone; only if they pass each time, they count as passed, and the last lines name them: ADR-0099.

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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT / "src", ROOT / "sdk" / "python" / "src")
BIN = Path(sys.executable).parent
# One store for all: most of what a plugin's check reads is what the first one has read.
MYPY = [str(BIN / "mypy"), "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
PYTEST = [sys.executable, "-m", "pytest"]
CANNOT = 77  # as_nobody.py: not possible here
NO_TESTS = 5  # pytest: nothing was selected
FAILED_TESTS = 1  # pytest: some tests failed, and nothing else went wrong
FEW, AGAIN = 3, 2
PROCESSES, ATTACKS, UNIT = "tests/process", "tests/security", "tests/unit"
ROWS = 4
WITH_BOTH = (PROCESSES, ATTACKS)  # no test outside of these is marked both_users: tests/conftest.py
QUIETLY = ["-q", "-p", "no:cacheprovider"]


@dataclass
class Outcomes:
    """What became of each layer so far.

    Attributes:
        lines: For the end.
        failed: Whether the gate is closed.
        again: By layer that failed, the command that runs alone what failed there.
    """

    lines: list[str] = field(default_factory=list)
    failed: bool = False
    again: dict[str, list[str]] = field(default_factory=dict)

    def add(self, layer: str, *, ok: bool, note: str = "") -> None:
        self.failed |= not ok
        state = "FAILED" if not ok else "-" if note.startswith("left out") else "ok"
        self.lines.append(f"  {state:<6}  {layer}{': ' + note if note else ''}")

    def take(self, others: Outcomes) -> None:
        self.failed |= others.failed
        self.lines += others.lines
        self.again |= others.again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lint-only", action="store_true", help="run the checks, no tests")
    parser.add_argument("--slow", action="store_true", help="run the long tests too")
    options = parser.parse_args()
    started_s = time.monotonic()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background; whoever inherits that cannot be interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.lint_only:
        said, outcomes = run_checks()
        print(said, end="", flush=True)
    else:
        outcomes = run_beside(layers(slow=options.slow))
        add_left_out(outcomes, slow=options.slow)
    print(f"\nlayers, after {time.monotonic() - started_s:.0f} s:", *outcomes.lines, sep="\n", flush=True)
    return 1 if outcomes.failed else 0


Layer = Callable[[], tuple[str, Outcomes]]
"""Runs, and returns what was printed, and the outcome."""


def layers(*, slow: bool) -> list[Layer]:
    """Return all layers, the longest first; no two of them may disturb each other.

    What plugins are limited by and hunted down by is their user. As nobody all have the same one, so that layer is not divided; as root
    each gets one that no other has.
    """
    processes = [str(path.relative_to(ROOT)) for path in sorted((ROOT / PROCESSES).rglob("test_*.py"))]
    elsewhere = [f"--ignore={folder}" for folder in (UNIT, PROCESSES, ATTACKS)]
    return [
        run_as_nobody,
        partial(run_tests, "processes, one half", *processes[::2], slow=slow),
        partial(run_tests, "processes, the other half", *processes[1::2], slow=slow),
        partial(run_tests, "attacks", ATTACKS, slow=slow),
        partial(run_tests, "programs and plugins", *elsewhere, slow=slow),
        partial(measure_pure_modules, slow=slow),
        run_checks,
        partial(run_tests, "other unit tests", UNIT, *(f"--ignore={path}" for path in tests_of_pure_modules()), slow=slow, again=False),
    ]


def run_beside(layers: Iterable[Layer]) -> Outcomes:
    """Run layers, so many at a time, and print what each has said when it has ended."""
    outcomes = Outcomes()
    with ThreadPoolExecutor(max_workers=ROWS) as rows:
        running = [rows.submit(layer) for layer in layers]
        try:
            for layer in as_completed(running):
                print(layer.result()[0], end="", flush=True)
        except BaseException:  # interrupted: none that waits is to begin
            rows.shutdown(wait=False, cancel_futures=True)
            raise
    for layer in running:
        outcomes.take(layer.result()[1])
    for name, command in outcomes.again.items():
        run_again(name, command, outcomes)
    return outcomes


def run_again(layer: str, command: list[str], outcomes: Outcomes) -> None:
    """Run alone what failed beside other layers, and say what became of it."""
    tests = [word for word in command if "::" in word]
    for _ in range(AGAIN):
        tested = _run_quietly(command)
        print(f"-- {layer}: failed beside other layers, run again alone\n{tested.stdout}", end="", flush=True)
        passed = re.fullmatch(rf"{len(tests)} passed(, \d+ warnings?)? in .*", _last_line(tested))  # one that is skipped has not passed
        if tested.returncode or not passed:
            outcomes.add(f"{layer}, again and alone", ok=False)
            return
    outcomes.add(f"{layer}, again and alone", ok=True, note=f"failed beside other layers, passed {AGAIN} times alone: {' '.join(tests)}")


def add_left_out(outcomes: Outcomes, *, slow: bool) -> None:
    """Say what this run cannot tell."""
    if not slow:
        outcomes.add("long tests", ok=True, note="left out; make test-all runs them")
    if os.geteuid() != 0:
        outcomes.add("tests as root", ok=True, note="left out, not started as root; a plugin's own uid is not tried")


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


def run_checks() -> tuple[str, Outcomes]:
    """Run the checks one after the other."""
    said, outcomes = "", Outcomes()
    for name, command, folder in checks():
        result = _run_quietly(command, folder=folder)
        if result.returncode:
            said += f"-- {name}\n{result.stdout}"
        outcomes.add(name, ok=result.returncode == 0)
    return said, outcomes


# -- 2. tests


def run_tests(layer: str, *selection: str, slow: bool, again: bool = True) -> tuple[str, Outcomes]:
    """Run the tests of a layer, and a few that failed again."""
    tested = _run_quietly([*PYTEST, *_pace(slow=slow), *QUIETLY, *selection])
    return f"-- {layer}\n{tested.stdout}", outcomes_of(layer, tested, PYTEST if again else [])


def outcomes_of(layer: str, tested: subprocess.CompletedProcess[str], runner: list[str]) -> Outcomes:
    """Return what became of a layer's tests, and have a few that failed run again where there is what runs them."""
    outcomes = Outcomes()
    failed = [
        line.removeprefix("FAILED ").split(" - ")[0] for line in tested.stdout.splitlines() if line.startswith("FAILED ") and "::" in line
    ]
    end = _last_line(tested)
    is_few = 0 < len(failed) <= FEW and re.match(rf"{len(failed)} failed\b", end) is not None and " error" not in end
    if runner and tested.returncode == FAILED_TESTS and is_few:
        outcomes.again[layer] = [*runner, *QUIETLY, *failed]
        outcomes.add(layer, ok=True, note=f"but for {len(failed)}, see below")
    else:
        outcomes.add(layer, ok=tested.returncode == 0)
    return outcomes


def pure_modules() -> list[Path]:
    """Return the modules that say they are pure: nothing in them needs more than arguments to be tried."""
    sources = [path for source in SOURCES for path in sorted(source.rglob("*.py"))]
    return [path for path in sources if re.search(r"^Pure\b", ast.get_docstring(ast.parse(path.read_text())) or "", re.MULTILINE)]


def tests_of_pure_modules() -> list[str]:
    """Return the unit tests that import something of a pure module, from it or from a package that hands it on."""
    pure = {_module_of(path) for path in pure_modules()}
    handed_on = {
        f"{_module_of(init)}.{alias.asname or alias.name}": node.module
        for source in SOURCES
        for init in source.rglob("__init__.py")
        for node in ast.walk(ast.parse(init.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = []
    for path in sorted((ROOT / UNIT).rglob("test_*.py")):
        imported = _imported_by(path)
        if pure & (imported | {handed_on.get(name) for name in imported}):
            found.append(str(path.relative_to(ROOT)))
    return found


def _module_of(path: Path) -> str:
    """Return the dotted name of a source."""
    source = next(source for source in SOURCES if path.is_relative_to(source))
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def _imported_by(path: Path) -> set[str]:
    """Return the names of all that a file imports: of modules, and of what is in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def measure_pure_modules(*, slow: bool) -> tuple[str, Outcomes]:
    """Run the unit tests of pure modules, and look at the coverage that they leave: measuring takes as long again as the tests."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COVERAGE_FILE": str(Path(folder) / "coverage")}
        selection = [*tests_of_pure_modules(), *_pace(slow=slow), *QUIETLY, "--cov", "--cov-report="]
        tested = _run_quietly([*PYTEST, *selection], environment=environment)
        only = ",".join(str(path) for path in pure_modules())
        report = [sys.executable, "-m", "coverage", "report", "--include", only, "--skip-covered", "--show-missing", "--fail-under=100"]
        covered = _run_quietly(report, environment=environment)
    outcomes = Outcomes()
    outcomes.add("unit tests of pure modules", ok=tested.returncode == 0)
    whole = covered.returncode == 0
    outcomes.add("branch coverage of pure modules", ok=whole, note="" if whole else "a test counts that imports something of the module")
    return f"-- unit tests of pure modules, with their branch coverage\n{tested.stdout}{covered.stdout}", outcomes


def run_as_nobody() -> tuple[str, Outcomes]:
    """Run the tests that depend on the user."""
    layer, outcomes = "tests as nobody", Outcomes()
    if os.geteuid() != 0:
        outcomes.add(layer, ok=True, note="left out, not started as root; all tests run as an unprivileged user already")
        return "", outcomes
    runner = [sys.executable, "scripts/as_nobody.py", *PYTEST]
    tested = _run_quietly([*runner, "-m", "both_users and not slow", *QUIETLY, *WITH_BOTH])
    if tested.returncode == CANNOT:
        # Under CI this is a hole in the gate; at somebody's desk it is their choice.
        outcomes.add(layer, ok=not os.environ.get("CI"), note="left out, see 'as_nobody' above")
    elif tested.returncode == NO_TESTS:
        outcomes.add(layer, ok=False, note="no test is marked both_users")
    else:
        outcomes = outcomes_of(layer, tested, runner)
    return f"-- tests that depend on the user, as nobody\n{tested.stdout}", outcomes


def _last_line(tested: subprocess.CompletedProcess[str]) -> str:
    return tested.stdout.splitlines()[-1] if tested.stdout else ""


def _pace(*, slow: bool) -> list[str]:
    return [] if slow else ["-m", "not slow"]


def _run_quietly(command: list[str], *, folder: Path = ROOT, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
