"""Who reads the wall clock: it jumps, so nothing that waits may go by it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.clock import SystemClock

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "src" / "annexe", ROOT / "sdk" / "python" / "src" / "annexe_sdk")
READS = {
    "src/annexe/clock.py": "for records that people read, and for what must outlive the process",
    "src/annexe/cli/doctor_checks.py": "compares the clock with the times of files",
    "src/annexe/launch/preparation.py": "compares it with the times of files, in days",
}
WALL = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


def readers() -> Iterator[str]:
    for folder in FOLDERS:
        for path in folder.rglob("*.py"):
            if "attack" in path.parts:  # what it runs is the attacker's own code
                continue
            name, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text())
            if any(map(_reads, ast.walk(tree))):
                yield name


def _reads(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and any(("time", one.name) in WALL for one in node.names)
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in WALL


def test_wall_clock_is_read_only_where_there_is_a_reason() -> None:
    assert set(readers()) == READS.keys()


def test_system_clock_goes_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock.monotonic()
    monkeypatch.setattr("time.time", lambda: 7.0)
    assert clock.now() == 7.0
    assert clock.monotonic() >= before
