"""The key-value service, with a real thread and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from annexe.capabilities.kv import KvHandle, KvLimits, KvService
from annexe.errors import (
    HostClosedError,
    InvalidParamsError,
    MethodNotFoundError,
    PluginBusyError,
    QuotaExceededError,
    RateLimitedError,
    StorageError,
)
from annexe.storage.kv import KvStore, KvTransaction, KvUsage
from annexe.storage.kv_values import decode_value
from tests.unit.record.clocks import StillClock

QUOTA = 1024 * 1024


class Bench:
    """An open service on a clock that stands still."""

    def __init__(self, service: KvService, clock: StillClock) -> None:
        self.service = service
        self.clock = clock
        self.a = service.handle("a", QUOTA)

    async def call(self, name: str, *, plugin: str = "a", **params: Any) -> Any:
        return await answer(self.service.handle(plugin, QUOTA), name, **params)

    async def stop_thread(self) -> threading.Event:
        """Keep the thread busy until the event is set."""
        started, go_on = threading.Event(), threading.Event()

        def work(transaction: KvTransaction) -> None:
            started.set()
            assert go_on.wait(10)

        self.service._submit("stopper", work, settle=lambda _: None, cache=self.a.cache, weight=1)
        await asyncio.to_thread(started.wait, 10)
        return go_on


async def answer(handle: KvHandle, name: str, **params: Any) -> Any:
    outcome = handle.call(f"kv.{name}", params)
    return await outcome if isinstance(outcome, asyncio.Future) else outcome


def known(bench: Bench, key: str) -> tuple[bool, Any]:
    """Return what the cache knows of a key."""
    hit, kept = bench.a.cache.find(key, now_s=bench.clock.now())
    return hit, None if kept is None else decode_value(kept)


async def usage(bench: Bench) -> KvUsage:
    """Return what plugin ``a`` holds in the store."""
    held: KvUsage = await bench.a._submit(lambda transaction: transaction.usage("a"), settle=lambda found: found)
    return held


@contextlib.asynccontextmanager
async def opened(path: Path, *, limits: KvLimits | None = None, max_bytes: int | None = None) -> AsyncIterator[Bench]:
    clock = StillClock()
    service = KvService(KvStore.open(path, max_bytes=max_bytes), clock, limits=limits)
    await service.open()
    try:
        yield Bench(service, clock)
    finally:
        await service.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.sqlite3"


def run(path: Path, scenario: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with opened(path, **options) as bench:
            await scenario(bench)

    asyncio.run(main())


def test_every_method_does_what_its_page_says(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        assert await bench.call("get", key="x") is None
        assert await bench.call("set", key="x", value={"n": [1, 2.5, None, "é"]}) is None
        assert await bench.call("get", key="x") == {"n": [1, 2.5, None, "é"]}
        assert await bench.call("increment", key="n") == 1
        assert await bench.call("increment", key="n", by=-3) == -2
        assert await bench.call("get", key="n") == -2
        assert await bench.call("compare_and_set", key="n", expected=5, value=6) is False
        assert await bench.call("get", key="n") == -2
        assert await bench.call("compare_and_set", key="n", expected=-2, value="done") is True
        assert await bench.call("get", key="n") == "done"
        assert await bench.call("list", limit=1) == {"keys": ["n"], "next": "n"}
        assert await bench.call("list", after="n") == {"keys": ["x"], "next": None}
        assert await bench.call("compare_and_set", key="n", expected="done", value=None) is True
        assert await bench.call("get", key="n") is None
        assert await bench.call("delete", key="x") is True
        assert await bench.call("delete", key="x") is False
        assert await bench.call("get", key="x") is None
        assert await usage(bench) == KvUsage(bytes=0, keys=0)

    run(path, scenario)


def test_value_written_outlives_the_service(path: Path) -> None:
    async def write(bench: Bench) -> None:
        await bench.call("set", key="x", value="kept")

    async def read(bench: Bench) -> None:
        assert known(bench, "x") == (False, None)
        assert await bench.call("get", key="x") == "kept"

    run(path, write)
    run(path, read)


def test_get_of_a_hot_key_needs_neither_thread_nor_future(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value=[1])
        await bench.call("get", key="absent")
        go_on = await bench.stop_thread()

        bench.a.call("kv.get", {"key": "x"}).append(2)
        assert bench.a.call("kv.get", {"key": "x"}) == [1]  # each reader gets a value of its own
        assert bench.a.call("kv.get", {"key": "absent"}) is None
        assert known(bench, "x") == (True, [1])
        assert known(bench, "absent") == (True, None)
        assert known(bench, "unknown") == (False, None)
        go_on.set()

    run(path, scenario)


def test_get_of_a_hot_key_costs_no_tokens(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value=1)
        for _ in range(100):
            assert bench.a.call("kv.get", {"key": "x"}) == 1

    run(path, scenario, limits=KvLimits(rate_per_s=1, burst=10))


def test_key_lives_as_long_as_said_in_cache_and_in_store(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value=1, ttl_s=10)
        await bench.call("increment", key="n", ttl_s=10)
        await bench.call("increment", key="n", ttl_s=99)
        await bench.call("compare_and_set", key="c", expected=None, value=3, ttl_s=10)
        bench.clock.passed_s = 9.9
        assert [await bench.call("get", key=key) for key in "xnc"] == [1, 2, 3]
        bench.clock.passed_s = 10.0
        assert [bench.a.call("kv.get", {"key": key}) for key in "xnc"] == [None, None, None]
        bench.a.cache.clear()
        assert [await bench.call("get", key=key) for key in "xnc"] == [None, None, None]

    run(path, scenario)


def test_key_read_from_the_store_lives_no_longer_in_the_cache(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value=1, ttl_s=10)
        bench.a.cache.clear()
        assert await bench.call("get", key="x") == 1
        bench.clock.passed_s = 10.0
        assert known(bench, "x") == (True, None)

    run(path, scenario)


def test_cache_and_store_agree_after_any_mixture(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        chance = random.Random(7)
        params: dict[str, Callable[[], dict[str, Any]]] = {
            "get": dict,
            "set": lambda: {"value": chance.randrange(5), "ttl_s": chance.choice([None, 5])},
            "delete": dict,
            "increment": lambda: {"by": chance.randrange(5)},
            "compare_and_set": lambda: {"expected": chance.choice([None, 1, 2]), "value": chance.choice([None, 3])},
        }

        async def caller() -> None:
            for _ in range(100):
                name = chance.choice(list(params))
                await bench.call(name, key=chance.choice("xyz"), **params[name]())
                bench.clock.passed_s += 0.01

        await asyncio.gather(*(caller() for _ in range(8)))
        hot = {key: known(bench, key) for key in "xyz"}
        bench.a.cache.clear()
        stored = {key: await bench.call("get", key=key) for key in "xyz"}
        assert {key: value for key, (hit, value) in hot.items() if hit} == {key: stored[key] for key, (hit, _) in hot.items() if hit}
        assert any(hit for hit, _ in hot.values())

    run(path, scenario)


def test_eight_callers_incrementing_lose_no_update(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        async def caller() -> list[int]:
            return [await bench.call("increment", key="n") for _ in range(100)]

        seen = [number for numbers in await asyncio.gather(*(caller() for _ in range(8))) for number in numbers]
        assert sorted(seen) == list(range(1, 801))
        assert await bench.call("get", key="n") == 800

    run(path, scenario)


def test_write_is_on_disk_when_it_is_acknowledged(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        reader = sqlite3.connect(path)
        for number in range(20):
            await bench.call("set", key=f"k{number}", value=number)
            assert reader.execute("SELECT COUNT(*) FROM kv").fetchone() == (number + 1,)
        reader.close()

    run(path, scenario)


def test_operations_waiting_share_one_transaction_and_fail_alone(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="text", value="text")
        go_on = await bench.stop_thread()
        calls = [
            bench.a.call("kv.set", {"key": "x", "value": 1}),
            bench.a.call("kv.increment", {"key": "text"}),
            bench.service.handle("tiny", 3).call("kv.set", {"key": "x", "value": "long"}),
            bench.a.call("kv.increment", {"key": "x"}),
        ]
        go_on.set()
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [type(None), InvalidParamsError, QuotaExceededError, int]
        assert outcomes[2].plugin == "tiny"
        assert outcomes[2].data["limit_bytes"] == 3
        assert outcomes[3] == 2
        assert await bench.call("get", key="x", plugin="tiny") is None

    run(path, scenario)


def test_large_value_without_room_does_not_fail_the_small_ones_beside_it(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        go_on = await bench.stop_thread()
        calls = [
            bench.a.call("kv.set", {"key": "small", "value": 1}),
            bench.service.handle("b", QUOTA).call("kv.set", {"key": "large", "value": "x" * 300_000}),
            bench.service.handle("c", QUOTA).call("kv.set", {"key": "small", "value": 2}),
        ]
        go_on.set()
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [type(None), StorageError, type(None)]
        assert outcomes[1].data == {"file": str(path), "reason": "full"}
        assert await bench.call("get", key="small", plugin="c") == 2
        assert await bench.call("get", key="large", plugin="b") is None

    run(path, scenario, max_bytes=200_000)


def test_plugin_with_too_much_waiting_is_told_it_is_busy(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        go_on = await bench.stop_thread()
        waiting = [bench.a.call("kv.increment", {"key": "n"}) for _ in range(5)]
        with pytest.raises(PluginBusyError) as caught:
            bench.a.call("kv.increment", {"key": "n"})
        polite = bench.service.handle("polite", QUOTA).call("kv.increment", {"key": "n"})
        go_on.set()

        assert caught.value.plugin == "a"
        assert {name: caught.value.data[name] for name in ("waiting", "limit")} == {"waiting": 5, "limit": 5}
        assert await polite == 1
        assert await asyncio.gather(*waiting) == [1, 2, 3, 4, 5]

    run(path, scenario, limits=KvLimits(lane_weight=5))


def test_plugin_asking_too_often_is_told_when_to_try_again(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        assert [await bench.call("increment", key="n") for _ in range(3)] == [1, 2, 3]
        with pytest.raises(RateLimitedError) as caught:
            await bench.call("increment", key="n")
        assert await bench.call("increment", key="n", plugin="polite") == 1
        bench.clock.passed_s = caught.value.data["retry_after_s"]

        assert await bench.call("increment", key="n") == 4
        assert caught.value.plugin == "a"
        assert caught.value.data == {"retry_after_s": 0.25}

    run(path, scenario, limits=KvLimits(rate_per_s=4, burst=3))


def test_get_of_a_hot_key_with_a_large_value_costs_its_size(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value="v" * 10_000)
        go_on = await bench.stop_thread()
        for _ in range(4):
            assert bench.a.call("kv.get", {"key": "x"}) == "v" * 10_000
        with pytest.raises(RateLimitedError) as caught:
            bench.a.call("kv.get", {"key": "x"})
        assert caught.value.data == {"retry_after_s": 6.0}
        go_on.set()

    run(path, scenario, limits=KvLimits(rate_per_s=1, burst=40))


def test_value_too_large_for_the_cache_is_read_by_the_thread_and_costs_its_size(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value="v" * 20_000)
        assert known(bench, "x") == (False, None)
        assert await bench.call("get", key="x") == "v" * 20_000
        assert known(bench, "x") == (False, None)
        with pytest.raises(RateLimitedError) as caught:
            await bench.call("get", key="x")
        assert caught.value.plugin == "a"

    run(path, scenario, limits=KvLimits(rate_per_s=1, burst=10))


def test_large_values_and_long_lists_cost_more_of_the_rate(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value="v" * 100_000)
        await bench.call("list", limit=1000)
        with pytest.raises(RateLimitedError):
            await bench.call("list", limit=1000)

    run(path, scenario, limits=KvLimits(rate_per_s=1, burst=40))


def test_polite_plugin_is_served_in_the_next_batch_of_a_flood(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        order: list[str] = []
        go_on = await bench.stop_thread()
        flood = [bench.a.call("kv.increment", {"key": "n"}) for _ in range(400)]
        polite = bench.service.handle("polite", QUOTA).call("kv.increment", {"key": "n"})
        for call in flood:
            call.add_done_callback(lambda _: order.append("flood"))
        polite.add_done_callback(lambda _: order.append("polite"))
        go_on.set()
        await asyncio.gather(*flood, polite)

        assert order.index("polite") <= KvLimits().share_weight

    run(path, scenario)


def test_call_given_up_while_waiting_is_not_done(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        go_on = await bench.stop_thread()
        given_up = [bench.a.call("kv.increment", {"key": "n"}) for _ in range(3)]
        wanted = bench.a.call("kv.increment", {"key": "n"})
        for call in given_up:
            call.cancel()
        go_on.set()

        assert await wanted == 1

    run(path, scenario)


def test_call_given_up_while_it_runs_is_known_to_the_cache(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value=1)
        running = bench.a.call("kv.set", {"key": "x", "value": 2})
        running.cancel()
        await bench.call("list")

        hot = known(bench, "x")
        bench.a.cache.clear()
        assert hot == (True, await bench.call("get", key="x")) == (True, 2)

    run(path, scenario)


def test_expired_keys_are_swept_and_sweeping_goes_on(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(300):
            await bench.call("set", key=f"k{number}", value=1, ttl_s=10)
        bench.clock.passed_s = 10.0
        # More than one sweep deletes at once.
        while (held := await usage(bench)).keys:
            await asyncio.sleep(0.01)
        assert held == KvUsage(bytes=0, keys=0)

    run(path, scenario, limits=KvLimits(sweep_every_s=0.01))


def test_closing_fails_what_waits_and_what_comes_later(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as bench:
            go_on = await bench.stop_thread()
            waiting = bench.a.call("kv.increment", {"key": "n"})
            closing = asyncio.create_task(bench.service.close())
            with pytest.raises(HostClosedError):
                await waiting
            with pytest.raises(HostClosedError):
                bench.a.call("kv.increment", {"key": "n"})
            go_on.set()
            await closing
            await bench.service.close()

    asyncio.run(main())

    reader = sqlite3.connect(path)
    assert reader.execute("SELECT COUNT(*) FROM kv").fetchone() == (0,)
    reader.close()
    assert the_thread_ends()


def the_thread_ends() -> bool:
    threads = [thread for thread in threading.enumerate() if thread.name == "annexe-kv"]
    for thread in threads:
        thread.join(5)
    return not any(thread.is_alive() for thread in threads)


def test_closing_does_not_wait_for_ever(path: Path) -> None:
    async def main() -> None:
        async with opened(path, limits=KvLimits(close_timeout_s=0.05)) as bench:
            go_on = await bench.stop_thread()
            with pytest.raises(StorageError) as caught:
                await bench.service.close()
            go_on.set()
            assert caught.value.data == {"file": str(path), "reason": "locked"}
            # The thread still ends.
            await bench.service._worker._stopped

    asyncio.run(main())


def test_service_not_open_refuses(path: Path) -> None:
    store = KvStore.open(path)
    service = KvService(store, StillClock())

    with pytest.raises(HostClosedError):
        service.handle("a", QUOTA).call("kv.delete", {"key": "x"})
    store.close()


def test_loop_closed_under_a_running_transaction_ends_the_thread(path: Path) -> None:
    async def main() -> threading.Event:
        clock = StillClock()
        service = KvService(KvStore.open(path), clock)
        await service.open()
        return await Bench(service, clock).stop_thread()

    go_on = asyncio.run(main())
    go_on.set()

    assert the_thread_ends()


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("get", {}, "`key`"),
        ("get", {"key": "a\x00"}, "control characters"),
        ("get", {"key": 7}, "`str`"),
        ("get", {"key": "a", "default": 1}, "`default`"),
        ("set", {"key": "a", "value": None}, "null"),
        ("set", {"key": "a", "value": b"x"}, "JSON"),
        ("set", {"key": "a", "value": "x" * 1024 * 1024}, "1048576 bytes"),
        ("compare_and_set", {"key": "a", "expected": b"x", "value": 1}, "expected: expected what JSON"),
        ("list", {"limit": 5000}, "1000"),
    ],
)
def test_params_that_do_not_fit_are_refused_at_once(path: Path, name: str, params: dict[str, Any], said: str) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(InvalidParamsError) as caught:
            bench.a.call(f"kv.{name}", params)
        assert caught.value.data["method"] == f"kv.{name}"
        assert said in str(caught.value)

    run(path, scenario)


def test_unknown_method_is_refused(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(MethodNotFoundError) as caught:
            bench.a.call("kv.drop", {})
        assert (caught.value.plugin, caught.value.data["method"]) == ("a", "kv.drop")

    run(path, scenario)


def test_handle_is_one_for_each_plugin_until_released(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.service.handle("a", 5) is bench.a
        assert bench.a.quota_bytes == 5
        bench.service.release("a")
        bench.service.release("a")
        assert bench.service.handle("a", 5) is not bench.a

    run(path, scenario)


def test_caches_share_what_there_is(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value="v" * 1000)
        assert known(bench, "x")[0]
        for number in range(20):
            bench.service.handle(f"p{number}", QUOTA)
        assert not known(bench, "x")[0]

    run(path, scenario, limits=KvLimits(cache_bytes=20_000))


def test_value_damaged_in_the_store_fails_its_reader_alone(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value="text")
        with sqlite3.connect(path) as other:
            other.execute("UPDATE kv SET value = ?", (b"\xc1",))
        other.close()
        bench.a.cache.clear()
        go_on = await bench.stop_thread()
        calls = [bench.a.call("kv.get", {"key": "x"}), bench.a.call("kv.increment", {"key": "n"})]
        go_on.set()
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

        assert outcomes[1] == 1
        assert type(outcomes[0]) is StorageError
        assert outcomes[0].data["reason"] == "damaged"

    run(path, scenario)


def test_mistake_in_an_operation_leaves_nobody_without_an_answer(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        def mistaken(transaction: KvTransaction) -> None:
            raise ZeroDivisionError

        go_on = await bench.stop_thread()
        calls = [
            bench.service._submit("b", mistaken, settle=lambda _: None, cache=bench.a.cache, weight=1),
            bench.a.call("kv.increment", {"key": "n"}),
        ]
        go_on.set()
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

        # Those in the same transaction fail with it; what comes later does not.
        assert [(type(outcome), outcome.data["reason"]) for outcome in outcomes] == [(StorageError, "failed")] * 2
        assert "ZeroDivisionError" in str(outcomes[0])
        assert await bench.call("increment", key="n") == 1

    run(path, scenario)


def test_database_locked_by_another_fails_the_call_and_nothing_else(path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.call("set", key="x", value=1)
        bench.service._worker._store._driver.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError) as caught:
            await bench.call("set", key="x", value=2)
        other.execute("COMMIT")
        other.close()

        assert caught.value.data["reason"] == "locked"
        # The cache did not take the value that was not written.
        assert await bench.call("get", key="x") == 1

    run(path, scenario)
