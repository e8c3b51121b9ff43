"""Refusals are gathered from events: the host's own, and what plugins tell of the sandbox's."""

from __future__ import annotations

from typing import Any

import pytest

from annexe.host.denials import denials
from annexe.manifest.model import Permissions
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
    told += "; then have it granted with: annexe grant ID"
    passed_on = (
        'PermissionDenied: …; add to plugin.toml under [permissions]: kv = { quota = "1MiB" }; then grant it with: annexe grant alpha'
    )
    failures = [event(at, "hook-skipped", text) for at, text in ((10, told), (20, "ValueError"), (25, passed_on))]
    rows = denials([*failures, event(30, "launch-failed", told)])
    assert [(row["by"], row["right"], row["manifest_line"], row["count"]) for row in rows] == [
        ("sandbox", "subprocess", "subprocess = true", 2)
    ]


def test_where_an_error_was_raised_is_no_part_of_the_line() -> None:
    text = "PermissionDenied: …; add to plugin.toml under [permissions]: data = {} (at main.py:3)"
    assert [row["manifest_line"] for row in denials([event(1, "hook-skipped", text)])] == ["data = {}"]


def test_the_latest_come_first_and_not_all_of_them() -> None:
    events = [event(at, "permission-denied", permission=f"cap:a{at}", manifest_line="") for at in range(30)]
    rows = denials(events)
    assert [row["right"] for row in rows] == [f"cap:a{at}" for at in range(29, 9, -1)]


TOLD = "FileNotFoundError; …; add to plugin.toml under [permissions]: "


def refused(at: float, right: str, line: str = "asked for by no line") -> StoredEvent:
    return event(at, "permission-denied", permission=right, manifest_line=line)


def test_refusals_under_one_key_share_the_line_that_asks_for_all_of_them() -> None:
    asked = Permissions(filesystem_read=("/srv/r",), env=("A",))
    events = [
        event(1, "hook-skipped", TOLD + 'filesystem = { read = ["/srv/r", "/srv/x"] }'),
        event(2, "hook-skipped", TOLD + 'filesystem = { read = ["/srv/r"], write = ["/srv/out"] }'),
        event(3, "call-failed", TOLD + 'filesystem = { read = ["/srv/r", "/srv/x"] }'),
        refused(4, "network:a.example:1"),
        refused(5, "network:b.example:1"),
    ]
    files = 'filesystem = { read = ["/srv/r", "/srv/x"], write = ["/srv/out"] }'
    hosts = 'network = ["a.example:1", "b.example:1"]'
    assert [(row["right"], row["manifest_line"], row["count"]) for row in denials(events, asked=asked)] == [
        ("network:b.example:1", hosts, 1),
        ("network:a.example:1", hosts, 1),
        ("filesystem.read:/srv/x", files, 2),
        ("filesystem.write:/srv/out", files, 1),
    ]


def test_what_was_granted_since_is_left_out() -> None:
    asked = Permissions(filesystem_read=("/srv/r",), env=("A",))
    events = [event(1, "hook-skipped", TOLD + 'filesystem = { read = ["/srv/r"] }'), refused(2, "env:A"), refused(3, "env:B")]
    rows = denials(events, asked=asked, granted=asked.as_set())
    assert [(row["right"], row["manifest_line"]) for row in rows] == [("env:B", 'env = ["A", "B"]')]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        pytest.param('filesystem = { read = ["/srv/r/deep/file"] }', 0, id="in-a-folder"),
        pytest.param('filesystem = { read = ["/srv/w/file"] }', 0, id="read-where-it-may-write"),
        pytest.param('filesystem = { read = ["/srv/w"] }', 0, id="read-the-folder-where-it-may-write"),
        pytest.param('filesystem = { write = ["/srv/r"] }', 1, id="write-where-it-may-read"),
        pytest.param('filesystem = { read = ["/srv/rest"] }', 1, id="beside-a-folder"),
    ],
)
def test_what_a_granted_folder_gives_since_is_left_out(line: str, left: int) -> None:
    asked = Permissions(filesystem_read=("/srv/r",), filesystem_write=("/srv/w",))
    assert len(denials([event(1, "hook-skipped", TOLD + line)], asked=asked, granted=asked.as_set())) == left


def test_what_was_asked_for_and_refused_all_the_same_is_told_unless_it_was_granted_later() -> None:
    asked = Permissions(network=("localhost:1",))
    events = [refused(at, "network:localhost:1", "") for at in (10, 30)]
    rows = denials(events, asked=asked, granted=asked.as_set(), since={"network:localhost:1": 20})
    assert [(row["right"], row["manifest_line"], row["count"]) for row in rows] == [("network:localhost:1", "", 1)]
    assert denials(events, asked=asked, granted=asked.as_set(), since={"network:localhost:1": 40}) == []


def test_what_is_asked_for_but_not_granted_yet_needs_no_line() -> None:
    rows = denials([refused(1, "env:A")], asked=Permissions(env=("A",)))
    assert [(row["right"], row["manifest_line"]) for row in rows] == [("env:A", "")]


def test_a_line_that_a_plugin_made_up_is_told_as_it_is() -> None:
    rows = denials([event(1, "hook-skipped", TOLD + "[[[")], asked=Permissions())
    assert [(row["by"], row["right"], row["manifest_line"]) for row in rows] == [("sandbox", "", "[[[")]
