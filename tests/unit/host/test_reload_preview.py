"""What a reload would change, as the control socket tells it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from annexe.errors import PluginBlockedError
from annexe.host.reload_preview import ReloadPreview, preview_view
from annexe.manifest import Manifest
from annexe.manifest.parse import parse_manifest

HEAD = '[runtime]\nkind = "python"\nentry = "main"\n'
OLD = """
[provides.hooks]
"t.edit" = { revision = 1 }
"t.strict" = { revision = 1 }
[provides.services]
"words" = { version = "1.0.0" }
[permissions]
services = ["names"]
"""
NEW = """
[provides.hooks]
"t.strict" = { revision = 1 }
[provides.extensions]
"voice" = { revision = 1 }
[provides.services]
"words" = { version = "1.1.0" }
[provides.topics]
"words.counted" = {}
[requires.plugins]
"base" = ">=1"
[requires.services]
"names" = { version = ">=2" }
[permissions]
services = ["names"]
kv = { quota = "1MiB" }
"""


def manifest(version: str, text: str) -> Manifest:
    return parse_manifest(f'manifest-version = 1\n[plugin]\nid = "p"\nversion = "{version}"\n{HEAD}{text}'.encode(), source="test")


def preview(**changes: Any) -> ReloadPreview:
    usual = ReloadPreview(
        plugin="p", before=manifest("1.0.0", OLD), after=manifest("2.0.0", NEW), instances=2, overlap=True, users=("a", "b"), refusal=None
    )
    return replace(usual, **changes)


def test_view_tells_what_comes_and_what_goes() -> None:
    told = preview_view(preview())
    assert told == {
        "plugin": "p",
        "version": "1.0.0",
        "new_version": "2.0.0",
        "gains": [
            {"kind": "right", "name": "kv"},
            {"kind": "extension", "name": "voice"},
            {"kind": "service", "name": "words 1.1.0"},
            {"kind": "topic", "name": "words.counted"},
            {"kind": "requirement", "name": "plugin base >=1"},
            {"kind": "requirement", "name": "service names >=2"},
        ],
        "loses": [{"kind": "hook", "name": "t.edit"}, {"kind": "service", "name": "words 1.0.0"}],
        "instances": 2,
        "overlap": True,
        "users": ["a", "b"],
        "refusal": None,
    }


def test_view_of_what_is_the_same_tells_no_change() -> None:
    told = preview_view(preview(after=manifest("1.0.0", OLD)))
    assert (told["gains"], told["loses"]) == ([], [])


def test_view_of_a_manifest_that_cannot_be_read_takes_nothing_away() -> None:
    refusal = PluginBlockedError("no", plugin="p")
    told = preview_view(preview(after=None, refusal=refusal))
    assert (told["new_version"], told["gains"], told["loses"]) == ("", [], [])
    assert told["refusal"] == {"code": "blocked", "message": "no", "plugin": "p", "data": {}}


@pytest.mark.parametrize("key", ["version", "loses"])
def test_view_of_one_that_was_refused_until_now_has_nothing_before(key: str) -> None:
    assert not preview_view(preview(before=None))[key]
