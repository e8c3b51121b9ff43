"""Format versions and migration."""

from __future__ import annotations

import pytest

from annexe.manifest.format import CURRENT_FORMAT, VERSION_KEY, migrate
from annexe.manifest.reader import Problems


def rename_id(document: dict[str, object]) -> dict[str, object]:
    plugin = document["plugin"]
    assert isinstance(plugin, dict)
    plugin["id"] = plugin.pop("name")
    return document


def add_runtime(document: dict[str, object]) -> dict[str, object]:
    return {**document, "runtime": {"kind": "python"}}


def test_migrate_current_format_is_left_as_it_is() -> None:
    document: dict[str, object] = {VERSION_KEY: CURRENT_FORMAT}
    problems = Problems("")
    assert migrate(document, problems) is document
    assert not problems


def test_migrate_older_format_takes_every_step_in_order() -> None:
    document: dict[str, object] = {VERSION_KEY: 1, "plugin": {"name": "x"}}
    problems = Problems("")
    migrated = migrate(document, problems, current=3, steps={2: add_runtime, 1: rename_id})
    assert migrated == {VERSION_KEY: 3, "plugin": {"id": "x"}, "runtime": {"kind": "python"}}
    assert not problems


def test_migrate_newer_format_names_both_and_who_must_upgrade() -> None:
    problems = Problems("manifest-version = 7")
    assert migrate({VERSION_KEY: 7}, problems) is None
    assert problems.texts() == [
        "line 1: manifest-version: expected a format version up to 1, which is what this host reads, got 7; the host must be upgraded"
    ]


@pytest.mark.parametrize(
    ("document", "got"),
    [({}, "nothing: the key is required"), ({VERSION_KEY: "1"}, "'1'"), ({VERSION_KEY: True}, "true"), ({VERSION_KEY: 0}, "0")],
)
def test_migrate_no_format_version_is_refused(document: dict[str, object], got: str) -> None:
    problems = Problems("")
    assert migrate(document, problems) is None
    assert problems.texts() == [f"line 1: manifest-version: expected a format version from 1 to 1, got {got}"]
