"""Events written behind: one failure is one failure, and what waits is bounded."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from annexe.errors import StorageError
from annexe.host import store_thread
from annexe.host.store_thread import StoreThread
from annexe.record import Event, EventKind
from annexe.storage.events import EventsTable, StoredEvent


def event(number: int) -> Event:
    return Event(
        sequence=number, at=1_700_000_000.0, kind=EventKind.PLUGIN_ADDED, plugin=f"p{number}", reason="found", facts={}, suppressed_count=0
    )


def test_failed_batch_of_events_is_lost_and_logged_and_the_rest_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = EventsTable.add
    attempts = 0

    def add_but_not_at_first(table: EventsTable, batch: Sequence[StoredEvent]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise StorageError("the disk is full", file="x", reason="full")
        real(table, batch)

    monkeypatch.setattr(EventsTable, "add", add_but_not_at_first)

    async def scenario() -> list[StoredEvent]:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1_700_000_000.0)
        is_busy = threading.Event()
        thread.run_behind(lambda: is_busy.wait(10))
        for number in range(600):
            thread.add_event(event(number))
        is_busy.set()
        await thread.run(int)
        await thread.run(int)  # the failed write asked for another
        thread.add_event(event(600))
        await thread.run(int)
        stored = await thread.run(lambda: thread.store.events.newest(1000))
        await thread.close()
        return stored

    stored = asyncio.run(scenario())
    assert [row.plugin for row in reversed(stored)] == [f"p{number}" for number in range(500, 601)]
    assert [record.getMessage() for record in caplog.records] == ["the host's store failed: the disk is full"]


def test_events_beyond_the_bound_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_thread, "_MAX_WAITING_EVENTS", 3)

    async def scenario() -> list[StoredEvent]:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1_700_000_000.0)
        is_busy = threading.Event()
        thread.run_behind(lambda: is_busy.wait(10))
        for number in range(5):
            thread.add_event(event(number))
        is_busy.set()
        await thread.run(int)
        thread.add_event(event(5))
        stored = await thread.run(lambda: thread.store.events.newest(1000))
        await thread.close()
        return stored

    with caplog.at_level(logging.ERROR, "annexe.host"):
        stored = asyncio.run(scenario())
    assert [row.plugin for row in reversed(stored)] == ["p0", "p1", "p2", "p5"]
    assert [record.getMessage() for record in caplog.records] == ["2 events were not stored: too many waited"]
