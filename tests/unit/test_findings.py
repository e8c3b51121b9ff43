"""The page of findings has a row for each, and names tests and attacks that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from annexe.attack.catalogue import attacks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "findings.md"
SYSTEMS = {"T": 48, "O": 26, "C": 49, "V": 46, "P": 42}
SHOWN = (
    "Isolation",
    "Environment and secrets",
    "Paths and files",
    "Limits",
    "Monitoring",
    "Life and restart",
    "Stopping and cleaning up",
    "Dependencies and services",
    "Caching and speed",
    "Logs, metrics and traces",
)
LATER = "What later means"

_ROW = re.compile(r"\| ([TOCVP])-(\d\d) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|")
_CODE = re.compile(r"`([^`]+)`")
_FEATURE = re.compile(r"\b[A-Z]{2}\d{1,2}\b")


@dataclass(frozen=True, slots=True)
class Row:
    """One finding: its number, its theme, what annexe does, and what shows it."""

    system: str
    number: int
    theme: str
    annexe: str
    shown_by: str

    @property
    def id(self) -> str:
        return f"{self.system}-{self.number:02}"

    @property
    def tests(self) -> list[str]:
        return [name for name in _CODE.findall(self.shown_by) if "::" in name]

    @property
    def attacks(self) -> list[str]:
        return [name for name in _CODE.findall(self.shown_by) if "::" not in name]


def sections() -> Iterator[tuple[str, list[str]]]:
    """Give each section's title and its rows, without the two that are the head of the table."""
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, *lines = section.split("\n")
        yield title, [line for line in lines if line.startswith("| ")][1:]


@cache
def rows() -> list[Row]:
    found = []
    for theme, lines in sections():
        for line in lines if theme != LATER else ():
            match = _ROW.fullmatch(line)
            assert match, f"no row of a finding: {line[:80]}"
            found.append(Row(match[1], int(match[2]), theme, match[4], match[5]))
    return found


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def by_id(row: Row) -> str:
    return row.id


@pytest.mark.parametrize(("system", "count"), SYSTEMS.items())
def test_every_finding_of_a_system_has_one_row(system: str, count: int) -> None:
    assert sorted(row.number for row in rows() if row.system == system) == list(range(1, count + 1))


@pytest.mark.parametrize("row", rows(), ids=by_id)
def test_row_names_tests_and_attacks_that_are_there(row: Row) -> None:
    for name in row.tests:
        path, _, test = name.partition("::")
        assert path.startswith("tests/") and (ROOT / path).is_file(), name
        assert test.startswith("test_") and test in functions_of(path), name
    counted = {attack.name for attack in attacks() if not attack.unix}
    assert set(row.attacks) <= counted, f"no attack, or one that plain Unix stops: {set(row.attacks) - counted}"


@pytest.mark.parametrize("row", [row for row in rows() if row.theme in SHOWN], ids=by_id)
def test_row_of_a_theme_that_is_done_is_shown_by_a_test(row: Row) -> None:
    assert row.tests or row.attacks


@pytest.mark.parametrize("row", rows(), ids=by_id)
def test_row_without_a_test_says_what_brings_it(row: Row) -> None:
    if row.shown_by == "not yet":
        assert _FEATURE.search(row.annexe)
    elif row.shown_by != "not planned":
        assert row.tests or row.attacks or "](" in row.shown_by


def test_features_that_come_later_are_explained_and_no_others() -> None:
    explained = [line.split(" ")[1] for line in dict(sections())[LATER]]
    assert len(explained) == len(set(explained))
    assert set(explained) == {feature for row in rows() for feature in _FEATURE.findall(row.annexe)}
