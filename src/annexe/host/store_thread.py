"""The host's own database, on a thread of its own.

The store is synchronous; everything that touches it runs here, one thing after the other. What nobody waits for (failures, events) is
written behind, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar, final

from annexe.clock import Clock
from annexe.record import Event
from annexe.storage.events import StoredEvent
from annexe.storage.store import Store
from annexe.supervision.memory import FailureMemory

__all__ = ["StoreThread", "StoredFailures"]

P = ParamSpec("P")
T = TypeVar("T")

_LOG = logging.getLogger("annexe.host")
_EVENTS_KEPT = 100_000
_EVENTS_KEPT_S = 90 * 86400.0
_EVENT_BATCH = 500
_WRITE_AFTER_S = 0.05  # events that come within are one transaction
_MAX_WAITING_EVENTS = 20_000  # what comes while the store is stuck, and more than that, is dropped
_TRIM_EVERY = 5000


@final
class StoreThread:
    """Runs work on the store; at most one piece at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="annexe-store")
        self._store: Store | None = None
        self._events: list[StoredEvent] = []
        self._is_writing_soon = False  # a write that has not looked at the waiting events yet
        self._dropped = 0  # events, ever; counted up by who adds alone
        self._dropped_told = 0  # of these; by the thread alone
        self._added = 0  # events since the last trim

    @property
    def store(self) -> Store:
        """The open store; only for work that runs on the thread."""
        assert self._store is not None
        return self._store

    async def open(self, folder: Path, *, now_s: float) -> None:
        """Open the store, and let go of old events.

        Raises:
            StorageError: It cannot be opened.
        """

        def work() -> None:
            self._store = Store.open(folder)
            self._store.events.trim(keep_count=_EVENTS_KEPT, oldest_s=now_s - _EVENTS_KEPT_S)

        await self.run(work)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work on the thread, after what waits to be written, and wait for its result."""
        if self._is_writing_soon:
            self.run_behind(self._write_events)
        return await asyncio.wrap_future(self._executor.submit(work, *args, **kwargs))

    def run_behind(self, work: Callable[[], object]) -> None:
        """Run work on the thread; nobody waits, a failure is logged."""
        try:
            self._executor.submit(work).add_done_callback(_log_failure)
        except RuntimeError:
            return  # closed already

    def add_event(self, event: Event) -> None:
        """Store an event, behind, together with those that come soon after it; dropped, and said so, when too many wait."""
        if len(self._events) >= _MAX_WAITING_EVENTS:
            self._dropped += 1
        else:
            facts = dict(event.facts)
            if event.suppressed_count:
                facts["suppressed_count"] = event.suppressed_count
            self._events.append(StoredEvent(time=event.at, kind=str(event.kind), plugin=event.plugin, reason=event.reason, facts=facts))
        if not self._is_writing_soon:
            self._is_writing_soon = True
            asyncio.get_running_loop().call_later(_WRITE_AFTER_S, self.run_behind, self._write_events)

    def _write_events(self) -> None:
        self._is_writing_soon = False  # before looking: an event that comes meanwhile asks for another write
        if self._dropped > self._dropped_told:
            _LOG.error("%d events were not stored: too many waited", self._dropped - self._dropped_told)
            self._dropped_told = self._dropped
        try:
            while self._events:
                self._write_batch()
        finally:
            if self._events:  # one batch failed and is lost; the others are not
                self.run_behind(self._write_events)

    def _write_batch(self) -> None:
        batch = self._events[:_EVENT_BATCH]
        del self._events[: len(batch)]
        self.store.events.add(batch)
        self._added += len(batch)
        if self._added >= _TRIM_EVERY:
            self._added = 0
            self.store.events.trim(keep_count=_EVENTS_KEPT, oldest_s=batch[-1].time - _EVENTS_KEPT_S)

    async def close(self) -> None:
        """Finish what waits and close the store."""
        if self._store is not None:
            await self.run(self._store.close)
        await asyncio.to_thread(self._executor.shutdown)


def _log_failure(done: Future[object]) -> None:
    error = done.exception()
    if error is not None:
        _LOG.error("the host's store failed: %s", error)


@final
class StoredFailures(FailureMemory):
    """Failures in the host's store, written behind."""

    def __init__(self, thread: StoreThread, clock: Clock) -> None:
        self._thread = thread
        self._clock = clock

    def failed(self, plugin: str, *, reason: str, count: int) -> None:
        now_s = self._clock.now()

        def work() -> None:
            table = self._thread.store.plugin_state
            if count == 1:
                table.clear_failures(plugin)
            table.add_failure(plugin, reason=reason, now_s=now_s)

        self._thread.run_behind(work)

    def recovered(self, plugin: str) -> None:
        self._thread.run_behind(lambda: self._thread.store.plugin_state.clear_failures(plugin))

    def quarantined(self, plugin: str, *, reason: str) -> None:
        now_s = self._clock.now()
        self._thread.run_behind(lambda: self._thread.store.plugin_state.quarantine(plugin, reason=reason, now_s=now_s))

    def released(self, plugin: str) -> None:
        self._thread.run_behind(lambda: self._thread.store.plugin_state.release(plugin))
