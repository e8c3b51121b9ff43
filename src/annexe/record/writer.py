"""The one thread that writes logs, and the bounded queue before it.

``put`` takes a lock for the length of an append, so whoever logs never waits for a disk. Each batch is handed over whole, which
turns a thousand lines into a few writes.

Invariants:

* At most ``max_lines`` lines and ``max_bytes`` bytes wait, and as much again is being written; the last quarter is kept for ``urgent``
  lines, the host's own, so that plugins cannot crowd them out.
* Only this thread touches files and followers.
* The thread does no work on the interpreter's time beyond joining bytes: records are encoded before they come here, because a
  busy second thread would make the event loop wait for the interpreter lock.

Source: ADR-0025.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import final

__all__ = ["LineSink", "LogWriter"]


class LineSink(ABC):
    """Where lines end up. Every method is called on the writer's thread."""

    @abstractmethod
    def write_lines(self, lines: list[bytes]) -> None:
        """Write lines in order. Handles its own errors of the disk."""

    @abstractmethod
    def report_drops(self) -> None:
        """Write how many lines were dropped since the last time. Called a second after ``LogWriter.request_report``."""


@final
class LogWriter:
    """A queue of lines and the thread that empties it. The thread starts with the first line.

    Args:
        max_lines: How many lines may wait.
        max_bytes: How many bytes of lines may wait.
        report_after_s: How long drops are gathered before they are reported.
    """

    def __init__(self, *, max_lines: int, max_bytes: int, report_after_s: float = 1.0) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._report_after_s = report_after_s
        self._ready = threading.Condition()
        self._queue: deque[tuple[LineSink, bytes] | Callable[[], None]] = deque()  # one, so that jobs keep their place among lines
        self._queued_lines = 0
        self._queued_bytes = 0
        self._reports: deque[tuple[float, LineSink]] = deque()  # by when they are due
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def put(self, sink: LineSink, line: bytes, *, is_urgent: bool = False) -> bool:
        """Queue one line; False, at once, if there is no room or the writer is closed."""
        with self._ready:
            share = 1.0 if is_urgent else 0.75
            if self._is_closed or self._queued_lines >= self._max_lines * share or self._queued_bytes + len(line) > self._max_bytes * share:
                return False
            self._queue.append((sink, line))
            self._queued_lines += 1
            self._queued_bytes += len(line)
            self._wake()
            return True

    def request_report(self, sink: LineSink) -> None:
        """Have ``sink.report_drops`` called in a while. At most one request per sink may be open."""
        with self._ready:
            self._reports.append((time.monotonic() + self._report_after_s, sink))
            self._wake()

    def run_soon(self, job: Callable[[], None]) -> bool:
        """Run something short on the writer's thread, between the lines queued before and those queued after; False if it is closed."""
        with self._ready:
            if self._is_closed:
                return False
            self._queue.append(job)
            self._wake()
            return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until what is queued now is written; say whether it was within the time."""
        done = threading.Event()
        if self._thread is None:  # nothing was ever queued
            return True
        return done.wait(timeout_s) if self.run_soon(done.set) else True

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, report every drop, end the thread; say whether it ended. A disk that hangs longer is left behind."""
        with self._ready:
            self._is_closed = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def _wake(self) -> None:
        if self._thread is None:
            # A daemon: an application that forgets to close its host still ends.
            self._thread = threading.Thread(target=self._run, name="annexe-log-writer", daemon=True)
            self._thread.start()
        self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                due = self._wait_for_work()
                queue, self._queue = self._queue, deque()
                self._queued_lines = self._queued_bytes = 0
                is_last = self._is_closed
            self._work_off(queue)
            for sink in due:
                self._guarded(sink.report_drops)
            if is_last:
                return

    def _wait_for_work(self) -> list[LineSink]:
        """Wait, holding the lock, until there is something to do; return the sinks whose drops are to be reported now."""
        while True:
            now_s = time.monotonic()
            due: list[LineSink] = []
            while self._reports and (self._is_closed or self._reports[0][0] <= now_s):
                due.append(self._reports.popleft()[1])
            if due or self._queue or self._is_closed:
                return due
            self._ready.wait(self._reports[0][0] - now_s if self._reports else None)

    def _work_off(self, queue: deque[tuple[LineSink, bytes] | Callable[[], None]]) -> None:
        gathered: dict[LineSink, list[bytes]] = {}
        for item in queue:
            if isinstance(item, tuple):
                gathered.setdefault(item[0], []).append(item[1])
            else:
                self._write(gathered)
                self._guarded(item)
        self._write(gathered)

    def _write(self, gathered: dict[LineSink, list[bytes]]) -> None:
        for sink, lines in gathered.items():
            self._guarded(partial(sink.write_lines, lines))
        gathered.clear()

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # noqa: BLE001 - a fault in one log must not end every other log
            traceback.print_exc(file=sys.stderr)
