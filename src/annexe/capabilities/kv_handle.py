"""One plugin's way to its part of the key-value store.

* A read that the cache can answer is answered at once; every other request becomes a future.
* Parameters are checked here, on the event loop, before anything waits for anything.
* Given only to plugins that were granted the right: holding a handle is the permission.

Source: feature HS1; docs/reference/kv.md.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, final

from annexe.capabilities import kv_params
from annexe.capabilities.kv_cache import KvCache
from annexe.capabilities.kv_limits import KvLimits, read_weight_of, weight_of
from annexe.capabilities.kv_params import read_params
from annexe.capabilities.kv_worker import KvWork
from annexe.capabilities.retry_bucket import RetryBucket
from annexe.clock import Clock
from annexe.errors import MethodNotFoundError, RateLimitedError
from annexe.storage.kv import KeyPage, KvEntry, KvSpace, KvTransaction
from annexe.storage.kv_values import decode_value, encode_value

__all__ = ["KvHandle", "Settle", "Submit"]

Settle: TypeAlias = Callable[[Any], Any]
"""Makes the result of some work the answer, on the loop, and keeps the cache true."""


class Submit(Protocol):
    """How work gets to the thread."""

    def __call__(self, lane: str, work: KvWork, *, settle: Settle, cache: KvCache, weight: int) -> Future[Any]:
        """Let work wait.

        Args:
            lane: Whose turn it waits for.
            work: Runs on the thread, inside a transaction.
            settle: Runs on the loop after the commit, in the order of commits.
            cache: Emptied when the work failed.
            weight: See :mod:`annexe.capabilities.kv_limits`.

        Raises:
            HostClosedError: The service is not open.
            PluginBusyError: Too much waits already.
        """


@final
class KvHandle:
    """One plugin's part; made by :meth:`annexe.capabilities.kv.KvService.handle`.

    Attributes:
        plugin: Whose.
        quota_bytes: How many bytes of keys and values it may keep.
        cache: What its hot keys hold.
    """

    def __init__(self, plugin: str, clock: Clock, *, limits: KvLimits, submit: Submit) -> None:
        self.plugin = plugin
        self.quota_bytes = 0
        self.cache = KvCache(0)
        self._submit_work = submit
        self._clock = clock
        self._bucket = RetryBucket(rate_per_s=limits.rate_per_s, burst=limits.burst, now_s=clock.monotonic())
        self._methods: dict[str, Callable[[Any], Any]] = {
            "kv.get": self._get,
            "kv.set": self._set,
            "kv.delete": self._delete,
            "kv.increment": self._increment,
            "kv.list": self._list,
            "kv.compare_and_set": self._compare_and_set,
        }

    def call(self, name: str, params: Any) -> Any:
        """Serve one wire method.

        Args:
            name: ``kv.get`` and so on.
            params: What came over the wire: a map of name to value.

        Returns:
            The answer itself where it is known at once, else an :class:`asyncio.Future` of it (which no stored value can be). The
            future may raise QuotaExceededError, StorageError, HostClosedError, and InvalidParamsError where it depends on
            what is stored.

        Raises:
            MethodNotFoundError: There is no such method.
            InvalidParamsError: The parameters do not fit it.
            PluginBusyError: Too many requests of this plugin wait.
            RateLimitedError: It asks too often; ``retry_after_s``.
            HostClosedError: The service is not open.
        """
        method = self._methods.get(name)
        if method is None:
            known = ", ".join(self._methods)
            raise MethodNotFoundError(f"no method {name!r}; expected one of {known}.", plugin=self.plugin, method=name)
        return method(params)

    def pay_for(self, size_bytes: int) -> None:
        """Take from the rate what it costs to decode so many bytes of parameters; before it is done.

        Raises:
            RateLimitedError: It asks too often; ``retry_after_s``.
        """
        if (weight := read_weight_of(size_bytes)) > 0:
            self._take(weight)

    def _get(self, params: Any) -> Any:
        # A key that the cache knows was checked when it came there.
        if type(params) is dict and len(params) == 1 and type(key := params.get("key")) is str:
            known, kept = self.cache.find(key, now_s=self._clock.now())
            if known:
                if kept is None:
                    return None
                if (weight := read_weight_of(len(kept))) > 0:
                    self._take(weight)
                return decode_value(kept)
        key = read_params(params, kv_params.OneKey, method="kv.get").key

        def work(transaction: KvTransaction) -> tuple[Any, KvEntry | None]:
            entry = self._space(transaction).get(key)
            return (None if entry is None else decode_value(entry.value)), entry

        def settle(result: tuple[Any, KvEntry | None]) -> Any:
            value, entry = result
            if entry is not None:
                self._bucket.charge(read_weight_of(len(entry.value)))
            self.cache.put(key, *(entry or (None, None)))
            return value

        return self._submit(work, settle=settle)

    def _set(self, params: Any) -> Future[None]:
        read = read_params(params, kv_params.Set, method="kv.set")
        key, value, expires_at = read.key, encode_value(read.value, method="kv.set"), self._end(read.ttl_s)

        def work(transaction: KvTransaction) -> None:
            self._space(transaction).set(key, value, expires_at=expires_at)

        return self._submit(work, settle=lambda _: self.cache.put(key, value, expires_at), weight=weight_of(size_bytes=len(value)))

    def _delete(self, params: Any) -> Future[bool]:
        key = read_params(params, kv_params.OneKey, method="kv.delete").key

        def work(transaction: KvTransaction) -> bool:
            return self._space(transaction).delete(key)

        def settle(was_there: bool) -> bool:
            self.cache.put(key, None, None)
            return was_there

        return self._submit(work, settle=settle)

    def _increment(self, params: Any) -> Future[int]:
        read = read_params(params, kv_params.Increment, method="kv.increment")
        key, by, expires_at = read.key, read.by, self._end(read.ttl_s)

        def work(transaction: KvTransaction) -> KvEntry:
            return self._space(transaction).increment(key, by=by, expires_at=expires_at)

        def settle(entry: KvEntry) -> Any:
            self.cache.put(key, entry.value, entry.expires_at)
            return decode_value(entry.value)

        return self._submit(work, settle=settle)

    def _list(self, params: Any) -> Future[dict[str, Any]]:
        read = read_params(params, kv_params.List, method="kv.list")

        def work(transaction: KvTransaction) -> KeyPage:
            return self._space(transaction).list(prefix=read.prefix, limit=read.limit, after=read.after)

        return self._submit(work, settle=KeyPage._asdict, weight=weight_of(keys=read.limit))

    def _compare_and_set(self, params: Any) -> Future[bool]:
        method = "kv.compare_and_set"
        read = read_params(params, kv_params.CompareAndSet, method=method)
        key, expires_at = read.key, self._end(read.ttl_s)
        expected = None if read.expected is None else encode_value(read.expected, method=method, name="expected")
        value = None if read.value is None else encode_value(read.value, method=method)

        def work(transaction: KvTransaction) -> bool:
            return self._space(transaction).compare_and_set(key, expected=expected, value=value, expires_at=expires_at)

        def settle(changed: bool) -> bool:
            if changed:
                self.cache.put(key, value, expires_at)
            return changed

        return self._submit(work, settle=settle, weight=weight_of(size_bytes=len(expected or b"") + len(value or b"")))

    def _end(self, ttl_s: float | None) -> float | None:
        return None if ttl_s is None else self._clock.now() + ttl_s

    def _space(self, transaction: KvTransaction) -> KvSpace:
        return transaction.space(self.plugin, quota_bytes=self.quota_bytes)

    def _submit(self, work: KvWork, *, settle: Settle, weight: int = 1) -> Future[Any]:
        self._take(weight)
        return self._submit_work(self.plugin, work, settle=settle, cache=self.cache, weight=weight)

    def _take(self, weight: int) -> None:
        wait_s = self._bucket.take(weight, now_s=self._clock.monotonic())
        if wait_s > 0.0:
            raise RateLimitedError(
                f"plugin {self.plugin!r} uses its key-value store too often; try again in {wait_s:.3f} s.",
                plugin=self.plugin,
                retry_after_s=wait_s,
            )
