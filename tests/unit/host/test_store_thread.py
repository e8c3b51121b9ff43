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


def test_events_that_come_one_after_the_other_are_one_write_and_whoever_reads_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_thread, "_WRITE_AFTER_S", 3600.0)
    real, writes = EventsTable.add, list[int]()

    def add(table: EventsTable, batch: Sequence[StoredEvent]) -> None:
        writes.append(len(batch))
        real(table, batch)

    monkeypatch.setattr(EventsTable, "add", add)

    async def scenario() -> list[StoredEvent]:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1_700_000_000.0)
        for number in range(5):
            thread.add_event(event(number))
            await asyncio.sleep(0.01)
        stored = await thread.run(lambda: thread.store.events.newest(1000))
        thread.add_event(event(5))
        await thread.close()
        return stored

    assert [row.plugin for row in reversed(asyncio.run(scenario()))] == [f"p{number}" for number in range(5)]
    assert writes == [5, 1]


def test_events_are_written_when_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_written = threading.Event()
    monkeypatch.setattr(EventsTable, "add", lambda _table, _batch: is_written.set())

    async def scenario() -> bool:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1_700_000_000.0)
        thread.add_event(event(0))
        was_written = await asyncio.to_thread(is_written.wait, 10)
        await thread.close()
        return was_written

    assert asyncio.run(scenario())
