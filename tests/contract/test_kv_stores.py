"""What every key-value store promises (docs/reference/kv.md), asked of the host's and of the fake that plugins are tested with."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annexe.capabilities.kv import KvService
from annexe.clock import Clock
from annexe.errors import InvalidParamsError, MethodNotFoundError
from annexe.storage.kv import KvStore
from annexe.testing import FakeClock
from annexe.testing.kv import FakeKv

QUOTA = 16 * 1024 * 1024
MOST, LEAST = 2**63 - 1, -(2**63)


class Store(ABC):
    """A store to ask, on a clock of the test's."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    @abstractmethod
    def call(self, method: str, **params: Any) -> Any:
        """Ask it, as a plugin would; ``method`` is without ``kv.``."""

    def refusal(self, method: str, **params: Any) -> InvalidParamsError:
        with pytest.raises(InvalidParamsError) as caught:
            self.call(method, **params)
        assert caught.value.data["method"] == f"kv.{method}"
        return caught.value


class RealStore(Store):
    def __init__(self, clock: FakeClock, path: Path) -> None:
        super().__init__(clock)
        self.loop = asyncio.Runner()
        time: Clock = clock
        self.service = KvService(KvStore.open(path), time)
        self.loop.run(self.service.open())

    def call(self, method: str, **params: Any) -> Any:
        async def ask() -> Any:
            outcome = self.service.handle("p", QUOTA).call(f"kv.{method}", params)
            return await outcome if isinstance(outcome, asyncio.Future) else outcome

        return self.loop.run(ask())

    def close(self) -> None:
        self.loop.run(self.service.close())
        self.loop.close()


class FakeStore(Store):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.kv = FakeKv(clock)

    def call(self, method: str, **params: Any) -> Any:
        return self.kv.answer(f"kv.{method}", params)


@pytest.fixture(params=["real", "fake"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "fake":
        yield FakeStore(FakeClock())
        return
    real = RealStore(FakeClock(), tmp_path / "kv.sqlite3")
    yield real
    real.close()


@pytest.mark.parametrize("value", [{"n": [1, 2.5, None, "é"]}, "", 0, False, [], {}, MOST, 2**64 - 1, LEAST, 1.0])
def test_value_comes_back_as_it_was(store: Store, value: Any) -> None:
    assert store.call("get", key="k") is None
    assert store.call("set", key="k", value=value) is None
    got = store.call("get", key="k")
    assert (got, type(got)) == (value, type(value))


def test_value_that_was_read_or_given_is_no_part_of_the_store(store: Store) -> None:
    given = {"n": 1, "deep": [1]}
    store.call("set", key="k", value=given)
    given["n"] = 2
    got = store.call("get", key="k")
    got["n"] += 1
    got["deep"].append(2)
    assert store.call("get", key="k") == {"n": 1, "deep": [1]}


@pytest.mark.parametrize("key", ["", "k" * 513, "é" * 257, "a\n", "a\x00", "\x7f", "\x9f", "\ud800"])
@pytest.mark.parametrize(
    ("method", "more"),
    [("get", {}), ("set", {"value": 1}), ("delete", {}), ("increment", {}), ("compare_and_set", {"expected": 1, "value": 1})],
)
def test_key_that_breaks_the_rules_is_refused(store: Store, method: str, more: dict[str, Any], key: str) -> None:
    assert store.refusal(method, key=key, **more).data["param"] == "key"


@pytest.mark.parametrize("key", ["k" * 512, "é" * 256, "/", " ", "%"])
def test_key_within_the_rules_is_taken(store: Store, key: str) -> None:
    store.call("set", key=key, value=1)
    assert store.call("list") == {"keys": [key], "next": None}


@pytest.mark.parametrize("value", [None, b"bytes", float("nan"), float("inf"), {1: 2}, {"a": {b"b": 1}}, 2**64, -(2**63) - 1, "x" * 2**20])
def test_value_that_json_cannot_say_or_too_large_is_refused(store: Store, value: Any) -> None:
    assert store.refusal("set", key="k", value=value).data["param"] == "value"
    if value is not None:
        assert store.refusal("compare_and_set", key="k", expected=None, value=value).data["param"] == "value"
        assert store.refusal("compare_and_set", key="k", expected=value, value=1).data["param"] == "expected"
    assert store.call("list") == {"keys": [], "next": None}


@pytest.mark.parametrize("ttl_s", [0, -1, 10 * 365 * 86400 + 1, float("inf"), float("nan"), "5", True])
def test_time_to_live_out_of_bounds_is_refused(store: Store, ttl_s: Any) -> None:
    store.refusal("set", key="k", value=1, ttl_s=ttl_s)
    store.refusal("increment", key="k", ttl_s=ttl_s)
    store.refusal("compare_and_set", key="k", expected=None, value=1, ttl_s=ttl_s)


def test_key_past_its_time_is_gone_from_that_moment_on(store: Store) -> None:
    store.call("set", key="k", value=1, ttl_s=10)
    store.clock.advance(9.5)
    assert store.call("get", key="k") == 1
    store.clock.advance(0.5)
    assert store.call("get", key="k") is None
    assert store.call("delete", key="k") is False
    assert store.call("list") == {"keys": [], "next": None}
    assert store.call("compare_and_set", key="k", expected=None, value=2, ttl_s=5) is True
    store.call("set", key="k", value=3)
    store.clock.advance(100)
    assert store.call("get", key="k") == 3, "set replaces the time the key had"


def test_counter_keeps_the_time_of_its_first_count(store: Store) -> None:
    assert store.call("increment", key="n", ttl_s=10) == 1
    store.clock.advance(6)
    assert store.call("increment", key="n", by=5, ttl_s=10) == 6
    store.clock.advance(4)
    assert store.call("increment", key="n", by=-2) == -2


def test_counter_stays_within_64_bits_and_is_left_as_it_was(store: Store) -> None:
    assert store.call("increment", key="n", by=MOST) == MOST
    assert "64 bits" in store.refusal("increment", key="n").message
    assert store.call("get", key="n") == MOST
    assert store.call("increment", key="n", by=-MOST) == 0
    assert store.call("increment", key="n", by=LEAST) == LEAST
    store.refusal("increment", key="n", by=-1)
    for by in (2**63, LEAST - 1, 1.5, "1", True, None):
        store.refusal("increment", key="n", by=by)
    assert store.call("get", key="n") == LEAST


@pytest.mark.parametrize("value", ["1", 1.0, True, [1], {"n": 1}])
def test_counting_what_is_no_integer_is_refused_and_leaves_it(store: Store, value: Any) -> None:
    store.call("set", key="k", value=value)
    error = store.refusal("increment", key="k")
    assert f"expected an integer under the key, got a {type(value).__name__}" in error.message
    assert error.data["param"] == "key"
    assert store.call("get", key="k") == value


@pytest.mark.parametrize(("kept", "other"), [(1, 1.0), (1, True), (0, False), (1.0, 1), ("1", 1), ([1], [1.0]), ({"a": 1}, {"a": 1.0})])
def test_compare_and_set_compares_types_too(store: Store, kept: Any, other: Any) -> None:
    store.call("set", key="k", value=kept)
    assert store.call("compare_and_set", key="k", expected=other, value="new") is False
    assert store.call("get", key="k") == kept
    assert store.call("compare_and_set", key="k", expected=kept, value="new") is True


def test_compare_and_set_takes_a_lock_and_gives_it_back(store: Store) -> None:
    assert store.call("compare_and_set", key="lock", expected=None, value={"a": 1, "b": 2}) is True
    assert store.call("compare_and_set", key="lock", expected=None, value="other") is False
    assert store.call("compare_and_set", key="lock", expected={"b": 2, "a": 1}, value=None) is True
    assert store.call("get", key="lock") is None
    assert store.call("compare_and_set", key="lock", expected=None, value=None) is True


def test_list_gives_pages_in_the_order_of_code_points(store: Store) -> None:
    names = ["a", "a/1", "a/2", "a/\uffff", "a/\U00010000", "b"]
    for name in reversed(names):
        store.call("set", key=name, value=1)
    assert store.call("list", prefix="a/", limit=3) == {"keys": ["a/1", "a/2", "a/\uffff"], "next": "a/\uffff"}
    assert store.call("list", prefix="a/", limit=3, after="a/\uffff") == {"keys": ["a/\U00010000"], "next": None}
    assert store.call("list", limit=6) == {"keys": names, "next": None}
    assert store.call("delete", key="a") is True
    assert store.call("list", after="a/2", limit=1) == {"keys": ["a/\uffff"], "next": "a/\uffff"}


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 1001}, {"limit": "1"}, {"after": ""}, {"prefix": "\n"}, {"prefix": "k" * 513}, {"prefix": None}, {"x": 1}],
)
def test_list_with_wrong_params_is_refused(store: Store, params: dict[str, Any]) -> None:
    store.refusal("list", **params)


@pytest.mark.parametrize(
    ("method", "params"),
    [("get", {}), ("get", {"key": 1}), ("set", {"key": "k"}), ("set", {"key": "k", "value": 1, "ttl": 5}), ("increment", {})],
)
def test_params_that_are_missing_unknown_or_of_another_type_are_refused(store: Store, method: str, params: dict[str, Any]) -> None:
    store.refusal(method, **params)


def test_method_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(MethodNotFoundError, match=r"kv\.clear.*kv\.get") as caught:
        store.call("clear")
    assert caught.value.data["method"] == "kv.clear"
