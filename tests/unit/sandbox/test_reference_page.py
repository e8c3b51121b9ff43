"""The pages about permissions and the manifest say what the table of levels says."""

from __future__ import annotations

import re
from pathlib import Path

from annexe.manifest.rights import RIGHT_KINDS, right
from annexe.sandbox import Walls
from annexe.sandbox.enforcement import enforcement
from tests.unit.sandbox.walls import FULL, LANDLOCK, LIMITS

DOCS = Path(__file__).parents[3] / "docs" / "reference"
PERMISSIONS = (DOCS / "permissions.md").read_text()
MANIFEST = (DOCS / "manifest.md").read_text()


def states(walls: Walls) -> dict[str, str]:
    return {name: str(found.state) for name, found in enforcement(walls).items()}


COLUMNS = [states(walls) for walls in (FULL, LANDLOCK, LIMITS)]


def rows(heading: str) -> list[list[str]]:
    section = PERMISSIONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| `")]


def test_permissions_page_says_what_each_right_is_worth() -> None:
    told = {kind: [full, landlock, limits] for kind, _, _, full, landlock, limits in rows("Rights")}
    assert told == {kind: [column[kind] for column in COLUMNS] for kind in RIGHT_KINDS}


def test_permissions_page_gives_examples_that_are_rights() -> None:
    assert {kind: right(example).partition(":")[0] for kind, _, example, *_ in rows("Rights")} == {kind: kind for kind in RIGHT_KINDS}


def test_permissions_page_says_what_each_limit_is_worth() -> None:
    told = {name: [full, landlock, limits] for name, full, landlock, limits in rows("Limits")}
    assert told == {name: [column[name] for column in COLUMNS] for name in COLUMNS[0] if name not in RIGHT_KINDS}


def test_manifest_page_agrees_with_the_table_of_levels() -> None:
    today = {match[1]: match[2] for match in re.finditer(r"^\| `([^`]+)` \|.*\| ([a-z ]+) \|$", MANIFEST, re.MULTILINE)}
    for key, state in today.items():
        table, _, name = key.partition(".")
        if table in ("permissions", "resources") and key != "permissions.data.kept":  # another way to have the right, not a right
            kind = {"capabilities": "cap"}.get(name, name.removesuffix(".quota"))
            assert state == COLUMNS[0][kind], key
