"""The one thread that works on the key-value database.

It is given a batch of operations, does them in one transaction, and tells the event loop once. It never sees two batches at a time:
all queueing is on the loop's side, so there is nothing to lock.

* An operation's own error is its own: the rest of its batch is committed.
* A batch for which there was no room is tried again one operation at a time, so that a large one does not fail the small ones beside it.
* No exception ends the thread: whatever happens, every operation of a batch gets an outcome.

Source: ADR-0022.
"""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias, final

from msgspec import MsgspecError

from annexe.clock import Clock
from annexe.errors import AnnexeError, StorageError
from annexe.storage.failures import FULL, storage_error
from annexe.storage.kv import KvStore, KvTransaction

__all__ = ["KvOutcome", "KvWorker", "KvWork"]

KvWork: TypeAlias = Callable[[KvTransaction], Any]


class KvOutcome(NamedTuple):
    """What one operation gave: a result, or the error that took its place."""

    result: Any
    error: AnnexeError | None


@final
class KvWorker:
    """A thread and the store it owns from :meth:`start` to the end of :meth:`stop`.

    Args:
        store: An open store.
        clock: For the time that decides which keys have ended.
        on_done: Called on the event loop with one outcome for each operation of the batch, in its order.
    """

    def __init__(self, store: KvStore, clock: Clock, *, on_done: Callable[[list[KvOutcome]], None]) -> None:
        self._store = store
        self._clock = clock
        self._on_done = on_done
        self._batches: SimpleQueue[Sequence[KvWork] | None] = SimpleQueue()

    def start(self, loop: AbstractEventLoop) -> None:
        """Start the thread; outcomes go to ``loop``."""
        self._stopped: Future[None] = loop.create_future()
        # A daemon: a program that forgets to close its host must still be able to end.
        threading.Thread(target=self._run, args=(loop,), name="annexe-kv", daemon=True).start()

    def submit(self, batch: Sequence[KvWork]) -> None:
        """Give it the next batch; only after the outcomes of the one before have come."""
        self._batches.put(batch)

    def stop(self) -> Future[None]:
        """Let it finish the batch at hand and close the store; the future is done when both have happened."""
        self._batches.put(None)
        return self._stopped

    def _run(self, loop: AbstractEventLoop) -> None:
        try:
            while (batch := self._batches.get()) is not None:
                loop.call_soon_threadsafe(self._on_done, self._outcomes(batch))
            self._store.close()
            loop.call_soon_threadsafe(self._stopped.set_result, None)
        except RuntimeError:
            # The loop was closed without closing us: nobody is left to tell.
            self._store.close()

    def _outcomes(self, batch: Sequence[KvWork]) -> list[KvOutcome]:
        try:
            return self._together(batch)
        except StorageError as error:
            if len(batch) > 1 and error.data.get("reason") == FULL:
                return [outcome for work in batch for outcome in self._outcomes([work])]
            return [KvOutcome(None, error)] * len(batch)
        except Exception as error:  # noqa: BLE001  (a mistake of ours must not leave every later caller without an answer)
            return [KvOutcome(None, storage_error(self._store.path, error))] * len(batch)

    def _together(self, batch: Sequence[KvWork]) -> list[KvOutcome]:
        outcomes: list[KvOutcome] = []
        with self._store.begin(now_s=self._clock.now()) as transaction:
            for work in batch:
                try:
                    outcomes.append(KvOutcome(work(transaction), None))
                except AnnexeError as error:
                    outcomes.append(KvOutcome(None, error))
                except MsgspecError as error:
                    # One stored value is damaged; the others are not.
                    outcomes.append(KvOutcome(None, storage_error(self._store.path, error)))
        return outcomes
