"""The pure pieces of the key-value service: bucket, queue, cache, weights, parameters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.capabilities import kv_params
from annexe.capabilities.fair_queue import FairQueue
from annexe.capabilities.kv_cache import KvCache
from annexe.capabilities.kv_limits import weight_of
from annexe.capabilities.kv_params import read_params
from annexe.capabilities.retry_bucket import RetryBucket
from annexe.errors import InvalidParamsError, PluginBusyError
from annexe.storage.kv_values import encode_value

ONE = encode_value(1, method="test")


def test_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = RetryBucket(rate_per_s=2.0, burst=3.0, now_s=100.0)

    assert [bucket.take(1, now_s=100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(1, now_s=100.5) == 0.0
    assert bucket.take(3, now_s=100.5) == 1.5


def test_bucket_never_holds_more_than_its_burst() -> None:
    bucket = RetryBucket(rate_per_s=2.0, burst=3.0, now_s=0.0)

    assert bucket.take(3, now_s=1e9) == 0.0
    assert bucket.take(1, now_s=1e9) == 0.5


def queue(*, lane: int = 100, batch: int = 4, share: int = 2) -> FairQueue[str]:
    return FairQueue(lane_weight=lane, batch_weight=batch, share_weight=share)


def fill(waiting: FairQueue[str], lane: str, *, count: int, weight: int = 1) -> None:
    for number in range(count):
        waiting.add(lane, f"{lane}{number}", weight=weight)


def test_queue_takes_from_each_lane_in_turn() -> None:
    waiting = queue()
    fill(waiting, "a", count=5)
    fill(waiting, "b", count=1)
    fill(waiting, "c", count=2)

    assert waiting.take() == ["a0", "b0", "c0", "a1"]
    assert waiting.take() == ["c1", "a2", "a3"]
    assert waiting.take() == ["a4"]
    assert waiting.take() == []
    assert not waiting


def test_queue_gives_one_lane_its_share_alone() -> None:
    waiting = queue(batch=10, share=3)
    fill(waiting, "a", count=7)

    assert [len(waiting.take()) for _ in range(3)] == [3, 3, 1]


def test_queue_puts_who_comes_late_before_who_has_had_a_share() -> None:
    waiting = queue(batch=2, share=2)
    fill(waiting, "flood", count=50)
    waiting.take()
    fill(waiting, "polite", count=1)

    assert "polite0" in waiting.take()


def test_queue_lets_a_heavy_item_fill_a_batch_alone() -> None:
    waiting = queue(batch=4, share=2)
    fill(waiting, "a", count=2, weight=50)

    assert [waiting.take(), waiting.take()] == [["a0"], ["a1"]]


def test_queue_bounds_each_lane_by_weight() -> None:
    waiting = queue(lane=10)
    fill(waiting, "a", count=2, weight=5)

    with pytest.raises(PluginBusyError) as caught:
        waiting.add("a", "more", weight=1)

    assert caught.value.plugin == "a"
    assert {name: caught.value.data[name] for name in ("waiting", "limit")} == {"waiting": 10, "limit": 10}
    waiting.add("b", "b0", weight=99)
    waiting.take()
    waiting.add("a", "more", weight=1)


def test_queue_cleared_gives_all_back() -> None:
    waiting = queue()
    fill(waiting, "a", count=2)
    fill(waiting, "b", count=1)

    assert sorted(waiting.clear()) == ["a0", "a1", "b0"]
    assert not waiting
    assert waiting.take() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=60))
def test_queue_gives_everything_once_in_the_order_of_its_lane(items: list[tuple[str, int]]) -> None:
    waiting: FairQueue[tuple[str, int]] = FairQueue(lane_weight=10**6, batch_weight=8, share_weight=3)
    for number, (lane, weight) in enumerate(items):
        waiting.add(lane, (lane, number), weight=weight)
    taken: list[tuple[str, int]] = []
    while waiting:
        batch = waiting.take()
        assert batch
        taken += batch

    assert sorted(number for _, number in taken) == list(range(len(items)))
    for lane in "abc":
        numbers = [number for name, number in taken if name == lane]
        assert numbers == sorted(numbers)


def test_cache_knows_values_and_absences_and_nothing_else() -> None:
    cache = KvCache(10_000)
    cache.put("x", ONE, None)
    cache.put("gone", None, None)

    assert cache.find("x", now_s=0.0) == (True, ONE)
    assert cache.find("gone", now_s=0.0) == (True, None)
    assert cache.find("other", now_s=0.0) == (False, None)


def test_cache_lets_nothing_live_beyond_its_time() -> None:
    cache = KvCache(10_000)
    cache.put("x", ONE, 10.0)

    assert cache.find("x", now_s=9.9) == (True, ONE)
    assert cache.find("x", now_s=10.0) == (True, None)


def test_cache_drops_the_least_recently_used() -> None:
    cache = KvCache(8 * 270)
    for number in range(8):
        cache.put(f"k{number}", ONE, None)
    cache.find("k0", now_s=0.0)
    cache.put("new", ONE, None)

    assert cache.find("k0", now_s=0.0) == (True, ONE)
    assert cache.find("k1", now_s=0.0) == (False, None)


def test_cache_holds_no_entry_that_would_push_out_the_rest() -> None:
    cache = KvCache(8 * 300)
    cache.put("x", ONE, None)
    cache.put("x", b"v" * 300, None)

    # Nor may it keep the old value.
    assert cache.find("x", now_s=0.0) == (False, None)


def test_cache_made_smaller_shrinks_and_cleared_forgets() -> None:
    cache = KvCache(8 * 300)
    for number in range(8):
        cache.put(f"k{number}", ONE, None)
    cache.resize(300)
    left = [number for number in range(8) if cache.find(f"k{number}", now_s=0.0)[0]]
    cache.clear()

    assert left == [7]
    assert cache.find("k7", now_s=0.0) == (False, None)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.binary(max_size=400)), st.integers(0, 4)), max_size=80))
def test_cache_never_uses_more_than_it_may(puts: list[tuple[str, bytes | None, int]]) -> None:
    cache = KvCache(4000)
    for key, value, choice in puts:
        cache.put(key, value, None)
        if choice == 0:
            cache.drop(key)
        used = sum(entry[2] for entry in cache._entries.values())
        assert used == cache._used_bytes <= 4000


def test_weight_rises_with_size_and_keys() -> None:
    assert weight_of() == 1
    assert weight_of(size_bytes=16 * 1024 - 1, keys=49) == 1
    assert weight_of(size_bytes=1024 * 1024) == 65
    assert weight_of(keys=1000) == 21


@pytest.mark.parametrize(
    ("kind", "params", "said"),
    [
        pytest.param(kv_params.OneKey, {}, "`key`", id="missing"),
        pytest.param(kv_params.OneKey, {"key": "x", "ttl": 1}, "`ttl`", id="unknown"),
        pytest.param(kv_params.OneKey, {"key": 1}, "Expected `str`, got `int` - at `$.key`", id="type"),
        pytest.param(kv_params.OneKey, ["x"], "Expected `object`, got `array`", id="list"),
        pytest.param(kv_params.OneKey, None, "Expected `object`, got `null`", id="nothing"),
        pytest.param(kv_params.OneKey, {"key": ""}, "key: expected 1 to 512 bytes", id="empty key"),
        pytest.param(kv_params.Set, {"key": "x"}, "`value`", id="no value"),
        pytest.param(kv_params.Set, {"key": "x", "value": 1, "ttl_s": 0}, "$.ttl_s", id="no time"),
        pytest.param(kv_params.Set, {"key": "x", "value": 1, "ttl_s": -1.5}, "$.ttl_s", id="past"),
        pytest.param(kv_params.Set, {"key": "x", "value": 1, "ttl_s": float("nan")}, "ttl_s", id="nan"),
        pytest.param(kv_params.Set, {"key": "x", "value": 1, "ttl_s": float("inf")}, "$.ttl_s", id="for ever"),
        pytest.param(kv_params.Set, {"key": "x", "value": 1, "ttl_s": 4e8}, "$.ttl_s", id="too long"),
        pytest.param(kv_params.Increment, {"key": "x", "by": 1.5}, "$.by", id="fraction"),
        pytest.param(kv_params.Increment, {"key": "x", "by": True}, "$.by", id="bool"),
        pytest.param(kv_params.Increment, {"key": "x", "by": 2**63}, "$.by", id="65 bits"),
        pytest.param(kv_params.CompareAndSet, {"key": "x", "value": 1}, "`expected`", id="expected missing"),
        pytest.param(kv_params.List, {"limit": 0}, "$.limit", id="no keys"),
        pytest.param(kv_params.List, {"limit": 1001}, "$.limit", id="too many keys"),
        pytest.param(kv_params.List, {"prefix": "a\n"}, "prefix: expected 0 to 512", id="prefix"),
        pytest.param(kv_params.List, {"after": ""}, "after: expected 1 to 512", id="after"),
    ],
)
def test_params_that_do_not_fit_are_refused(kind: Any, params: Any, said: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        read_params(params, kind, method="kv.test")

    assert caught.value.data["method"] == "kv.test"
    assert str(caught.value).startswith("kv.test: ")
    assert said in str(caught.value)


def test_params_that_fit_have_their_defaults() -> None:
    assert read_params({}, kv_params.List, method="m") == kv_params.List(prefix="", limit=100, after=None)
    assert read_params({"after": "k"}, kv_params.List, method="m").after == "k"
    assert read_params({"key": "n"}, kv_params.Increment, method="m") == kv_params.Increment(key="n", by=1, ttl_s=None)
    assert read_params({"key": "x", "value": [1], "ttl_s": 1}, kv_params.Set, method="m").ttl_s == 1.0
