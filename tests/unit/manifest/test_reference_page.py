"""docs/reference/manifest.md tells every key, and the truth about each."""

from __future__ import annotations

import re
from pathlib import Path

from annexe.manifest.lines import KeyPath, key_lines
from annexe.manifest.parse import parse_manifest

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "manifest.md").read_text()
ROWS = {match[1]: match[2] for match in re.finditer(r"^\| `([^`]+)` \|.*\| ([a-z ]+) \|$", PAGE, re.MULTILINE)}
# test_parse holds that this document fills every field of the model.
FULL = (Path(__file__).parent / "full.toml").read_text()
NAMED = {("provides", kind) for kind in ("hooks", "extensions", "services", "routes", "topics", "hook-specs")}
NAMED |= {("requires", "plugins"), ("requires", "services")}


def documented_name(path: KeyPath) -> str:
    return ".".join("NAME" if path[:2] in NAMED and index == 2 else str(part) for index, part in enumerate(path))


def test_page_tells_every_key_and_no_other() -> None:
    paths = [path for path in key_lines(FULL) if not isinstance(path[-1], int)]
    tables = {path[:-1] for path in key_lines(FULL)} - {path[:-1] for path in key_lines(FULL) if isinstance(path[-1], int)}
    assert {documented_name(path) for path in paths if path not in tables} == set(ROWS)


def test_page_says_of_each_key_what_becomes_of_it() -> None:
    assert set(ROWS.values()) == {"checked", "enforced", "soft", "not available"}


def test_page_shows_a_manifest_that_is_valid_but_for_its_files() -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    assert parse_manifest(example[1].encode(), source="example").permission_set() == {"kv"}
