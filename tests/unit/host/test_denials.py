"""Refusals are gathered from events: the host's own, and what plugins tell of the sandbox's."""

from __future__ import annotations

from typing import Any

from annexe.host.permissions import denials
from annexe.storage.events import StoredEvent


def event(at: float, kind: str, reason: str = "", **facts: Any) -> StoredEvent:
    return StoredEvent(time=at, kind=kind, plugin="alpha", reason=reason, facts=facts)


def test_the_same_refusal_is_one_row_with_its_last_time_and_how_often() -> None:
    line = 'kv = { quota = "1MiB" }'
    kv = {"permission": "kv", "manifest_line": line, "method": "kv.get"}
    rows = denials([event(10, "permission-denied", "first", **kv), event(30, "permission-denied", "last", **kv, suppressed_count=5)])
    assert rows == [{"time": "1970-01-01T00:00:30.000Z", "by": "host", "right": "kv", "manifest_line": line, "reason": "last", "count": 7}]


def test_what_a_plugin_tells_of_the_sandbox_is_told_as_such_and_other_failures_are_not() -> None:
    told = "PermissionError (at main.py:3); the sandbox …; add to plugin.toml under [permissions]: subprocess = true"
    passed_on = (
        'PermissionDenied: …; add to plugin.toml under [permissions]: kv = { quota = "1MiB" }; then grant it with: annexe grant alpha'
    )
    failures = [event(at, "hook-skipped", text) for at, text in ((10, told), (20, "ValueError"), (25, passed_on))]
    rows = denials([*failures, event(30, "launch-failed", told)])
    assert [(row["by"], row["right"], row["manifest_line"], row["count"]) for row in rows] == [("sandbox", "", "subprocess = true", 2)]


def test_where_an_error_was_raised_is_no_part_of_the_line() -> None:
    text = "PermissionDenied: permission-denied: …; add to plugin.toml under [permissions]: data = {} (at main.py:3)"
    assert [row["manifest_line"] for row in denials([event(1, "hook-skipped", text)])] == ["data = {}"]


def test_the_latest_come_first_and_not_all_of_them() -> None:
    events = [event(at, "permission-denied", permission=f"cap:a{at}", manifest_line="") for at in range(30)]
    rows = denials(events)
    assert [row["right"] for row in rows] == [f"cap:a{at}" for at in range(29, 9, -1)]
