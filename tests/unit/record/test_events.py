from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from annexe.record.events import Event, EventKind, Events
from tests.unit.record.clocks import StillClock

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "events.md"


def test_events_added_are_kept_in_order_with_facts() -> None:
    events = Events(StillClock())
    events.add(EventKind.STATE_CHANGED, plugin="one", reason="started", before="stopped", after="starting")
    second = events.add(EventKind.CALL_FAILED, plugin="two", reason="deadline-exceeded")
    assert [event.sequence for event in events.latest()] == [1, 2]
    assert events.latest()[0].as_dict() == {
        "sequence": 1,
        "time": "2023-11-14T22:13:20.000Z",
        "kind": "state-changed",
        "plugin": "one",
        "reason": "started",
        "facts": {"before": "stopped", "after": "starting"},
        "suppressed_count": 0,
    }
    assert events.latest()[1] is second


def test_events_ring_forgets_the_oldest() -> None:
    events = Events(StillClock(), capacity=3)
    for number in range(10):
        events.add(EventKind.STATE_CHANGED, plugin=f"p{number}")
    assert [event.plugin for event in events.latest()] == ["p7", "p8", "p9"]


def test_events_latest_can_be_narrowed() -> None:
    events = Events(StillClock())
    for plugin in ("one", "two"):
        for kind in (EventKind.CALL_FAILED, EventKind.HOOK_SKIPPED):
            events.add(kind, plugin=plugin)
    assert [event.sequence for event in events.latest(plugin="two")] == [3, 4]
    assert [event.sequence for event in events.latest(kind=EventKind.HOOK_SKIPPED)] == [2, 4]
    assert [event.sequence for event in events.latest(1, plugin="one")] == [2]
    assert events.latest(0) == events.latest(-1) == []


def test_events_facts_and_reason_from_plugins_are_cut_and_safe() -> None:
    events = Events(StillClock())
    event = events.add(EventKind.CALL_FAILED, plugin="one", reason="\x1b[2J" * 100_000, text="\x1b" * 100_000, deep=object())
    assert event is not None
    assert len(event.reason) <= 1024
    encoded = msgspec.json.encode(event.as_dict())
    assert len(encoded) < 8192
    assert b"\\u001b" not in encoded
    assert event.facts["text"].startswith("\\x1b")


def test_events_flood_of_one_kind_is_counted_and_told_with_the_next() -> None:
    clock = StillClock()
    events = Events(clock)
    kept = [events.add(EventKind.PERMISSION_DENIED, plugin="greedy") for _ in range(1000)]
    assert sum(event is not None for event in kept) == 50
    assert events.add(EventKind.CALL_FAILED, plugin="greedy") is not None
    assert events.add(EventKind.PERMISSION_DENIED, plugin="polite") is not None
    clock.passed_s = 1.0
    event = events.add(EventKind.PERMISSION_DENIED, plugin="greedy")
    assert event is not None
    assert event.suppressed_count == 950
    assert events.latest()[-1].sequence == 53
    clock.passed_s = 2.0
    after = events.add(EventKind.PERMISSION_DENIED, plugin="greedy")
    assert after is not None
    assert after.suppressed_count == 0  # told once


def test_events_forgotten_plugin_keeps_its_events_and_gives_back_its_limits() -> None:
    events = Events(StillClock())
    for _ in range(60):
        events.add(EventKind.RATE_LIMITED, plugin="gone")
    events.add(EventKind.RATE_LIMITED, plugin="stays")
    events.forget("gone")
    assert len(events.latest(plugin="gone")) == 50
    assert events.add(EventKind.RATE_LIMITED, plugin="gone") is not None


def test_events_subscriber_gets_each_until_it_unsubscribes() -> None:
    events = Events(StillClock())
    seen: list[Event] = []
    unsubscribe = events.subscribe(seen.append)
    events.add(EventKind.HOST_STARTED)
    unsubscribe()
    unsubscribe()
    events.add(EventKind.HOST_STOPPED)
    assert [event.kind for event in seen] == [EventKind.HOST_STARTED]


def test_events_subscriber_that_raises_or_leaves_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    events = Events(StillClock())
    seen: list[Event] = []

    def broken(event: Event) -> None:
        leave()
        raise RuntimeError("no room in the store")

    leave = events.subscribe(broken)
    events.subscribe(seen.append)
    assert events.add(EventKind.HOST_STARTED) is not None
    assert events.add(EventKind.HOST_STOPPED) is not None
    assert len(seen) == 2
    assert "no room in the store" in caplog.text


def test_every_kind_has_a_name_and_a_meaning_of_its_own() -> None:
    kinds = list(EventKind)
    assert len({kind.meaning for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.value)
        assert kind.name == kind.value.upper().replace("-", "_")
        assert kind.meaning.endswith(".")
        assert kind.__doc__ == kind.meaning
        assert EventKind(kind.value) is kind  # type: ignore[call-arg]  # looking up needs no meaning


def test_documented_kinds_are_exactly_those_there_are() -> None:
    documented = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", PAGE.read_text().split("## Kinds")[1], flags=re.MULTILINE)
    assert [(name, meaning.strip()) for name, meaning in documented] == [(kind.value, kind.meaning) for kind in EventKind]


@pytest.mark.parametrize("name", ["sequence", "time", "kind", "plugin", "reason", "facts", "suppressed_count"])
def test_every_part_of_an_event_is_documented(name: str) -> None:
    event = Events(StillClock()).add(EventKind.HOST_STARTED)
    assert event is not None
    assert name in event.as_dict()
    assert f"`{name}`" in PAGE.read_text()
