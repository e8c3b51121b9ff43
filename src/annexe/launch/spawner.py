"""The one thread that starts processes.

Linux sends the parent-death signal when the *thread* that forked ends, not the process (prctl(2), PR_SET_PDEATHSIG). A plugin spawned
from a pool thread would be killed some idle seconds later. So one thread spawns everything and lives as long as its strategy.

Invariants:

* Ending the thread kills what it started; ``close`` comes after every plugin is gone.
* A forked child of the host has no such thread, and is told so.

Source: docs/adr/0032-one-spawner-thread.md.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar, final

from annexe.errors import HostClosedError, WrongContextError

__all__ = ["Spawner"]

_T = TypeVar("_T")


@final
class Spawner:
    """Runs functions one after the other on one long-lived thread, started with the first."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Queue ``work`` and return its future. Once begun it cannot be cancelled.

        Raises:
            HostClosedError: After ``close``.
            WrongContextError: In a forked child.
        """
        if os.getpid() != self._pid:
            raise WrongContextError("a forked child cannot launch plugins; open a Host of its own in it, with another state directory.")
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
                future.set_exception(error)

        with self._lock:
            if self._closed:
                raise HostClosedError("the host is closed; no plugin can be launched any more.")
            if self._thread is None:
                # Daemon: a host that forgot to close must still be able to exit; its plugins then die with this thread.
                self._thread = threading.Thread(target=self._run, name="annexe-spawner", daemon=True)
                self._thread.start()
            self._work.put(run)
        return future

    def close(self) -> None:
        """End the thread after what is queued, and wait for it. Kills every process still alive that it started."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and os.getpid() == self._pid:
            self._work.put(None)
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
