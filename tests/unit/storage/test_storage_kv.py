"""The key-value store's operations, one at a time."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from annexe.errors import InvalidParamsError, QuotaExceededError, StorageError
from annexe.storage import kv as kv_module
from annexe.storage.kv import KeyPage, KvEntry, KvSpace, KvStore, KvUsage
from annexe.storage.kv_values import encode_value

ONE, TWO, TEXT = (encode_value(value, method="test") for value in (1, 2, "text"))


class At:
    """One operation on plugin ``a``'s part, in a transaction of its own."""

    def __init__(self, store: KvStore, *, now_s: float = 0.0, quota_bytes: int = 10**9, plugin: str = "a") -> None:
        self._store = store
        self._now_s = now_s
        self._quota_bytes = quota_bytes
        self._plugin = plugin

    def __enter__(self) -> KvSpace:
        self._transaction = self._store.begin(now_s=self._now_s)
        return self._transaction.__enter__().space(self._plugin, quota_bytes=self._quota_bytes)

    def __exit__(self, *error: object) -> None:
        self._transaction.__exit__(*error)  # type: ignore[arg-type]


def usage(store: KvStore, plugin: str = "a") -> tuple[int, int]:
    with store.begin(now_s=0.0) as transaction:
        held = transaction.usage(plugin)
    return held.bytes, held.keys


def counted(path: Path, plugin: str = "a") -> tuple[int, int]:
    with sqlite3.connect(path) as driver:
        row = driver.execute(
            "SELECT COALESCE(SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)), 0), COUNT(*) FROM kv WHERE plugin = ?", (plugin,)
        )
        found: tuple[int, int] = row.fetchone()
    driver.close()
    return found


def test_key_set_is_read_until_deleted(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("x", ONE)
        space.set("é", TEXT)
    with At(kv) as space:
        assert space.get("x") == KvEntry(ONE, None)
        assert space.delete("x") is True
        assert space.delete("x") is False
        assert space.get("x") is None
    assert usage(kv) == (2 + len(TEXT), 1)


def test_keys_of_one_plugin_are_not_the_others(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("x", ONE)
    with At(kv, plugin="b") as space:
        assert space.get("x") is None
        assert space.list(prefix="", limit=9, after=None) == KeyPage([], None)
        assert space.delete("x") is False
        space.set("x", TWO)
    with At(kv) as space:
        assert space.get("x") == KvEntry(ONE, None)


def test_key_past_its_time_is_gone_at_that_very_second(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("x", ONE, expires_at=10.0)
    with At(kv, now_s=9.9) as space:
        assert space.get("x") == KvEntry(ONE, 10.0)
    with At(kv, now_s=10.0) as space:
        assert space.list(prefix="", limit=9, after=None) == KeyPage([], None)
        assert space.delete("x") is False
    # Deleted when it was met, so that even a clock that goes back does not bring it up again.
    with At(kv) as space:
        assert space.get("x") is None
    assert usage(kv) == (0, 0)


def test_key_set_again_has_only_its_new_time(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("x", ONE, expires_at=10.0)
        space.set("x", TWO)
    with At(kv, now_s=99.0) as space:
        assert space.get("x") == KvEntry(TWO, None)


def test_increment_counts_from_nothing_and_keeps_the_first_time(kv: KvStore) -> None:
    with At(kv) as space:
        assert space.increment("n", by=5, expires_at=10.0) == KvEntry(encode_value(5, method="test"), 10.0)
        assert space.increment("n", by=-7, expires_at=99.0) == KvEntry(encode_value(-2, method="test"), 10.0)
    with At(kv, now_s=10.0) as space:
        assert space.increment("n", by=1) == KvEntry(ONE, None)


@pytest.mark.parametrize("value", ["text", 1.5, True, [1]])
def test_increment_of_what_is_no_integer_is_refused(kv: KvStore, value: object) -> None:
    with At(kv) as space:
        space.set("n", encode_value(value, method="test"))
        with pytest.raises(InvalidParamsError) as caught:
            space.increment("n", by=1)
        assert space.get("n") == KvEntry(encode_value(value, method="test"), None)

    assert caught.value.plugin == "a"
    assert caught.value.data == {"method": "kv.increment", "param": "key"}
    assert type(value).__name__ in str(caught.value)


@pytest.mark.parametrize(("held", "by"), [(2**63 - 1, 1), (-(2**63), -1)])
def test_increment_beyond_64_bits_is_refused(kv: KvStore, held: int, by: int) -> None:
    with At(kv) as space:
        space.set("n", encode_value(held, method="test"))
        with pytest.raises(InvalidParamsError, match="64 bits"):
            space.increment("n", by=by)
        assert space.get("n") == KvEntry(encode_value(held, method="test"), None)


def test_compare_and_set_changes_only_what_is_as_expected(kv: KvStore) -> None:
    with At(kv) as space:
        assert space.compare_and_set("x", expected=ONE, value=TWO) is False
        assert space.compare_and_set("x", expected=None, value=ONE, expires_at=10.0) is True
        assert space.compare_and_set("x", expected=None, value=TWO) is False
        assert space.get("x") == KvEntry(ONE, 10.0)
        assert space.compare_and_set("x", expected=ONE, value=TWO) is True
        assert space.get("x") == KvEntry(TWO, None)
        assert space.compare_and_set("x", expected=ONE, value=None) is False
        assert space.compare_and_set("x", expected=TWO, value=None) is True
        assert space.compare_and_set("x", expected=None, value=None) is True
        assert space.get("x") is None


def test_compare_and_set_takes_a_key_past_its_time_for_none(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("lock", ONE, expires_at=10.0)
    with At(kv, now_s=10.0) as space:
        assert space.compare_and_set("lock", expected=ONE, value=TWO) is False
        assert space.compare_and_set("lock", expected=None, value=TWO) is True


def test_list_gives_every_key_once_in_order_over_its_pages(kv: KvStore) -> None:
    keys = sorted(["a", "a/", "a/1", "a/\U0010ffff", "a/é", "a/\ue000", "a0", "b", "z"])
    with At(kv) as space:
        for key in reversed(keys):
            space.set(key, ONE)
        pages = [space.list(prefix="a/", limit=2, after=None)]
        while pages[-1].next is not None:
            pages.append(space.list(prefix="a/", limit=2, after=pages[-1].next))

        assert [key for page in pages for key in page.keys] == ["a/", "a/1", "a/é", "a/\ue000", "a/\U0010ffff"]
        assert [len(page.keys) for page in pages] == [2, 2, 1]
        assert space.list(prefix="", limit=9, after=None) == KeyPage(keys, None)
        assert space.list(prefix="a/", limit=9, after="zzz") == KeyPage([], None)
        assert space.list(prefix="b", limit=9, after="a") == KeyPage(["b"], None)


def test_list_does_not_take_marks_of_like_for_more_than_themselves(kv: KvStore) -> None:
    with At(kv) as space:
        for key in ("a%b", "a_b", "axb", "A%b"):
            space.set(key, ONE)
        assert space.list(prefix="a%", limit=9, after=None).keys == ["a%b"]
        assert space.list(prefix="a_", limit=9, after=None).keys == ["a_b"]


def test_quota_counts_keys_and_values(kv: KvStore, kv_path: Path) -> None:
    with At(kv, quota_bytes=10) as space:
        space.set("key", b"1234567")
        with pytest.raises(QuotaExceededError) as caught:
            space.set("k", b"")
        space.set("key", b"123456")
        space.set("k", b"")

    assert caught.value.plugin == "a"
    assert {name: caught.value.data[name] for name in ("limit_bytes", "used_bytes", "wanted_bytes")} == {
        "limit_bytes": 10,
        "used_bytes": 10,
        "wanted_bytes": 1,
    }
    assert usage(kv) == counted(kv_path) == (10, 2)


@pytest.mark.parametrize("operation", ["increment", "compare_and_set"])
def test_quota_holds_for_every_way_to_write(kv: KvStore, operation: str) -> None:
    with At(kv, quota_bytes=3) as space:
        space.set("x", b"12")
        with pytest.raises(QuotaExceededError):
            space.increment("n", by=1) if operation == "increment" else space.compare_and_set("n", expected=None, value=ONE)
        assert space.get("n") is None


def test_quota_lowered_lets_a_plugin_shrink_but_not_grow(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("x", b"1" * 100)
    with At(kv, quota_bytes=10) as space:
        space.set("x", b"1" * 99)
        with pytest.raises(QuotaExceededError):
            space.set("x", b"1" * 100)


def test_quota_is_made_room_in_by_keys_past_their_time(kv: KvStore, kv_path: Path) -> None:
    with At(kv, quota_bytes=8) as space:
        space.set("x", b"123", expires_at=10.0)
        space.set("y", b"123", expires_at=20.0)
    with At(kv, quota_bytes=8, now_s=10.0) as space:
        space.set("z", b"123")
        assert space.list(prefix="", limit=9, after=None).keys == ["y", "z"]
    assert usage(kv) == counted(kv_path) == (8, 2)


def test_quota_on_the_number_of_keys(kv: KvStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_module, "MAX_KEYS", 2)
    with At(kv) as space:
        space.set("x", ONE)
        space.set("y", ONE)
        space.set("x", TWO)
        with pytest.raises(QuotaExceededError) as caught:
            space.set("z", ONE)

    assert caught.value.data["limit_keys"] == 2
    assert caught.value.data["used_keys"] == 2


def test_sweep_deletes_the_oldest_first_and_no_more_than_asked(kv: KvStore, kv_path: Path) -> None:
    with At(kv) as space:
        for at in (5.0, 3.0, 4.0, 90.0):
            space.set(f"k{at}", ONE, expires_at=at)
        space.set("always", ONE)
    with At(kv, plugin="b") as space:
        space.set("x", ONE, expires_at=1.0)
    with kv.begin(now_s=10.0) as transaction:
        assert transaction.sweep(2) == 2
    with At(kv) as space:
        assert space.list(prefix="", limit=9, after=None).keys == ["always", "k4.0", "k5.0", "k90.0"]
    with kv.begin(now_s=10.0) as transaction:
        assert transaction.sweep(9) == 2
        assert transaction.sweep(9) == 0
        assert transaction.usage("b") == KvUsage(0, 0)
    assert usage(kv) == counted(kv_path)


def test_transaction_that_raises_changes_nothing(kv: KvStore) -> None:
    with At(kv) as space:
        space.set("x", ONE)
    with pytest.raises(ZeroDivisionError), At(kv) as space:
        space.set("x", TWO)
        space.set("y", TWO)
        raise ZeroDivisionError
    with At(kv) as space:
        assert space.get("x") == KvEntry(ONE, None)
        assert space.get("y") is None
    assert usage(kv) == (1 + len(ONE), 1)


def test_usage_of_two_plugins_changed_at_once_is_kept_for_each(kv: KvStore, kv_path: Path) -> None:
    with kv.begin(now_s=0.0) as transaction:
        for plugin in ("a", "b"):
            space = transaction.space(plugin, quota_bytes=100)
            space.set("x", ONE)
            space.set("y", TEXT)
    with kv.begin(now_s=0.0) as transaction:
        transaction.space("a", quota_bytes=100).delete("y")
    assert usage(kv, "a") == counted(kv_path, "a") == (1 + len(ONE), 1)
    assert usage(kv, "b") == counted(kv_path, "b") == (2 + len(ONE) + len(TEXT), 2)


def test_store_full_refuses_and_goes_on(kv_path: Path) -> None:
    store = KvStore.open(kv_path, max_bytes=100_000)
    with At(store) as space:
        space.set("small", ONE)
    with pytest.raises(StorageError) as caught, At(store) as space:
        space.set("large", b"x" * 200_000)
    with At(store) as space:
        assert space.get("large") is None
        space.set("small", TWO)
    assert usage(store) == counted(kv_path) == (5 + len(TWO), 1)
    store.close()

    assert type(caught.value) is StorageError
    assert caught.value.data == {"file": str(kv_path), "reason": "full"}


def test_store_damaged_while_open_is_a_storage_error(kv_path: Path) -> None:
    store = KvStore.open(kv_path)
    with At(store) as space:
        for index in range(200):
            space.set(f"key-{index}", b"v" * 500)
    store.close()
    with kv_path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (kv_path.stat().st_size - 4096))

    with pytest.raises(StorageError) as caught:
        store = KvStore.open(kv_path)
        with At(store) as space:
            space.get("key-1")

    assert caught.value.data["reason"] == "damaged"
    assert caught.value.data["file"] == str(kv_path)
    assert "annexe.storage.mend" in caught.value.data["command"]
