"""What the gate makes of tests that failed."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from scripts import run_gate

_FLAKY = """
import pathlib
def test_of_time():
    runs = pathlib.Path(__file__).with_name("runs")
    runs.write_text((runs.read_text() if runs.exists() else "") + "x")
    assert len(runs.read_text()) in {passes}
def test_fine(): pass
"""
_BROKEN_FIXTURE = "import pytest\n@pytest.fixture\ndef broken(): raise OSError\ndef test_one(broken): pass\n"


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the gate run its commands in a folder; return that."""
    quietly = partial(subprocess.run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    monkeypatch.setattr(run_gate, "_run_quietly", quietly)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # half of its start
    monkeypatch.setattr(run_gate, "PYTEST", [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), "-c", "/dev/null"])
    return tmp_path


def outcome(gate: Path, code: str) -> run_gate.Outcomes:
    (gate / "test_it.py").write_text(code)
    return run_gate.run_beside([partial(run_gate.run_tests, "some", "test_it.py", slow=True)])


def test_test_that_fails_in_company_and_passes_twice_alone_counts_as_passed_and_is_named(gate: Path) -> None:
    outcomes = outcome(gate, _FLAKY.replace("{passes}", "(2, 3)"))
    assert not outcomes.failed and (gate / "runs").read_text() == "xxx"
    assert [line.split(": ")[-1] for line in outcomes.lines] == ["but for 1, see below", "test_it.py::test_of_time"]


@pytest.mark.parametrize("passes", ["()", "(2,)"])
def test_test_that_fails_once_more_alone_closes_the_gate(gate: Path, passes: str) -> None:
    outcomes = outcome(gate, _FLAKY.replace("{passes}", passes))
    assert outcomes.failed and outcomes.lines[-1].split() == ["FAILED", "some,", "again", "and", "alone"]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("".join(f"def test_{number}(): assert 0\n" for number in range(4)), id="four failed"),
        pytest.param(_BROKEN_FIXTURE + "def test_two(): assert 0\n", id="a fixture is broken"),
        pytest.param("import nothing_of_that_name\n", id="cannot be imported"),
        pytest.param("def helper(): pass\n", id="no tests"),
    ],
)
def test_what_is_more_than_a_few_failed_tests_is_never_run_again(gate: Path, code: str) -> None:
    outcomes = outcome(gate, code)
    assert outcomes.failed and not outcomes.again


def test_unit_test_is_never_run_again(gate: Path) -> None:
    (gate / "test_it.py").write_text("def test_one(): assert 0\n")
    outcomes = run_gate.run_beside([partial(run_gate.run_tests, "units", "test_it.py", slow=True, again=False)])
    assert outcomes.failed and not outcomes.again


def test_test_that_is_skipped_alone_has_not_passed(gate: Path) -> None:
    skips = _FLAKY.replace("assert len", "import pytest\n    len(runs.read_text()) == 1 or pytest.skip('not here')\n    assert len")
    outcomes = outcome(gate, skips.replace("{passes}", "()"))
    assert outcomes.failed and outcomes.lines[-1].startswith("  FAILED")


@pytest.mark.parametrize("end", ["21 failed in 1s", "11 failed, 3 passed in 1s", "no tests ran in 1s"])
def test_what_the_last_line_does_not_count_is_not_run_again(end: str) -> None:
    tested = subprocess.CompletedProcess([], run_gate.FAILED_TESTS, f"FAILED tests/x.py::test_one - E\n{end}\n")
    outcomes = run_gate.outcomes_of("some", tested, ["pytest"])
    assert outcomes.failed and not outcomes.again
