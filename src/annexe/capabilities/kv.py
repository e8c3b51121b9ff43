"""The key-value service: what a plugin's ``kv.*`` calls reach.

* Reading a hot key is answered on the event loop, from a write-through cache, without a task, a future or the thread.
* All else goes to one thread, in batches that take turns between the plugins; a change is acknowledged after its commit.
* Whatever a plugin can pile up is bounded: requests waiting (:class:`PluginBusyError`), requests per second
  (:class:`RateLimitedError`), bytes stored (:class:`QuotaExceededError`), bytes cached.
* Only this service may write to the file while it is open; else its caches would not be true.

Whether a plugin may use the store at all is decided before it gets its :class:`KvHandle`.

Source: feature HS1; ADR-0022; docs/reference/kv.md.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future, TimerHandle
from typing import Any, NamedTuple, final

from annexe.capabilities.fair_queue import FairQueue
from annexe.capabilities.kv_cache import KvCache
from annexe.capabilities.kv_handle import KvHandle, Settle
from annexe.capabilities.kv_limits import KvLimits
from annexe.capabilities.kv_worker import KvOutcome, KvWork, KvWorker
from annexe.clock import Clock
from annexe.errors import AnnexeError, HostClosedError, StorageError
from annexe.storage.failures import LOCKED
from annexe.storage.kv import KvStore, KvTransaction

__all__ = ["KvHandle", "KvLimits", "KvService"]

_SWEPT_AT_ONCE = 256
_SWEEP_WEIGHT = 8
# No plugin has an empty id.
_SWEEP_LANE = ""


class _Request(NamedTuple):
    """One waiting operation: ``work`` runs on the thread; ``settle`` makes its result the answer, on the loop, and keeps the cache true."""

    work: KvWork
    settle: Settle
    future: Future[Any]
    cache: KvCache


@final
class KvService:
    """The service; used on one event loop. It owns the store from the start, and closes it.

    Args:
        store: An open store.
        clock: Monotonic time for rates, Unix time for keys that end.
        limits: Bounds.
    """

    def __init__(self, store: KvStore, clock: Clock, *, limits: KvLimits | None = None) -> None:
        self._path = store.path
        self._clock = clock
        self._limits = limits = limits or KvLimits()
        self._worker = KvWorker(store, clock, on_done=self._settle)
        self._queue: FairQueue[_Request] = FairQueue(
            lane_weight=limits.lane_weight, batch_weight=limits.batch_weight, share_weight=limits.share_weight
        )
        self._handles: dict[str, KvHandle] = {}
        self._batch: list[_Request] = []
        self._loop: AbstractEventLoop | None = None
        self._sweep_timer: TimerHandle | None = None

    async def open(self) -> None:
        """Start the thread, and sweeping."""
        self._loop = asyncio.get_running_loop()
        self._worker.start(self._loop)
        self._sweep()

    async def close(self) -> None:
        """Finish the transaction at hand, fail what waits, close the store.

        Raises:
            StorageError: The transaction at hand did not end within ``close_timeout_s``.
        """
        if self._loop is None:
            return
        self._loop = None
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        closed = HostClosedError("the key-value store was closed before this request was done; nothing was changed.")
        for request in self._queue.clear():
            _answer(request, error=closed)
        ended, _ = await asyncio.wait([self._worker.stop()], timeout=self._limits.close_timeout_s)
        if not ended:
            raise StorageError(
                f"the database {self._path} is still busy after {self._limits.close_timeout_s} s; the transaction at hand may yet be done.",
                file=str(self._path),
                reason=LOCKED,
            )

    def handle(self, plugin: str, quota_bytes: int) -> KvHandle:
        """Return the plugin's handle: the same one at every call, with the quota of the latest."""
        handle = self._handles.get(plugin)
        if handle is None:
            handle = self._handles[plugin] = KvHandle(plugin, self._clock, limits=self._limits, submit=self._submit)
            self._share_cache()
        handle.quota_bytes = quota_bytes
        return handle

    def release(self, plugin: str) -> None:
        """Forget a plugin's handle and its cache; what it stored stays."""
        if self._handles.pop(plugin, None) is not None:
            self._share_cache()

    def _submit(self, lane: str, work: KvWork, *, settle: Settle, cache: KvCache, weight: int) -> Future[Any]:
        if self._loop is None:
            raise HostClosedError("the key-value store is not open.")
        request = _Request(work, settle, self._loop.create_future(), cache)
        self._queue.add(lane, request, weight=weight)
        if not self._batch:
            self._dispatch()
        return request.future

    def _dispatch(self) -> None:
        """Give the thread the next batch; the one before is done."""
        while self._queue and not self._batch:
            # Whoever called off while waiting gets nothing done.
            self._batch = [request for request in self._queue.take() if not request.future.done()]
        if self._batch:
            self._worker.submit([request.work for request in self._batch])

    def _settle(self, outcomes: list[KvOutcome]) -> None:
        batch, self._batch = self._batch, []
        self._dispatch()
        for request, (result, error) in zip(batch, outcomes, strict=True):
            if error is None:
                # Also for one that was called off meanwhile: it has happened, and the cache must know.
                _answer(request, result=request.settle(result))
            else:
                # It may have failed half-way in the store; the next read asks there.
                request.cache.clear()
                _answer(request, error=error)

    def _share_cache(self) -> None:
        share = self._limits.cache_bytes // max(1, len(self._handles))
        for handle in self._handles.values():
            handle.cache.resize(share)

    def _sweep(self) -> None:
        """Delete some expired keys, in turn with the plugins' requests."""
        swept = self._submit(_SWEEP_LANE, _sweep_some, settle=_as_it_is, cache=KvCache(0), weight=_SWEEP_WEIGHT)
        swept.add_done_callback(self._plan_sweep)

    def _plan_sweep(self, swept: Future[int]) -> None:
        """Sweep again: at once when there may be more to delete."""
        failed = swept.exception()  # asked for even when closing, or asyncio would report it as never seen
        if self._loop is not None:
            more = failed is None and swept.result() == _SWEPT_AT_ONCE
            self._sweep_timer = self._loop.call_later(0.0 if more else self._limits.sweep_every_s, self._sweep)


def _sweep_some(transaction: KvTransaction) -> int:
    return transaction.sweep(_SWEPT_AT_ONCE)


def _as_it_is(result: Any) -> Any:
    return result


def _answer(request: _Request, *, result: Any = None, error: AnnexeError | None = None) -> None:
    """Give a request its outcome, unless its caller has called it off."""
    if request.future.done():
        return
    if error is None:
        request.future.set_result(result)
    else:
        request.future.set_exception(error)
