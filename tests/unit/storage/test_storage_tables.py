"""One class for each table of the host's database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from annexe.errors import ConflictError
from annexe.storage.config import StoredConfig
from annexe.storage.events import StoredEvent
from annexe.storage.grants import StoredGrant
from annexe.storage.plugin_state import StoredPluginState
from annexe.storage.store import Store


def test_plugin_state_of_unknown_plugin_is_the_default(store: Store) -> None:
    assert store.plugin_state.get("a") == StoredPluginState(plugin="a")
    assert store.plugin_state.all() == []


def test_plugin_state_counts_failures_until_cleared(store: Store) -> None:
    table = store.plugin_state

    counts = [table.add_failure("a", reason=reason, now_s=at) for reason, at in (("crash", 1.0), ("hang", 2.5))]
    failed = table.get("a")
    table.clear_failures("a")

    assert counts == [1, 2]
    assert failed == StoredPluginState(plugin="a", failures=2, last_failure_reason="hang", last_failure_at=2.5)
    assert table.get("a") == StoredPluginState(plugin="a", failures=0, last_failure_reason="hang", last_failure_at=2.5)


def test_plugin_state_quarantine_ends_with_release_and_keeps_the_choice(store: Store) -> None:
    table = store.plugin_state
    table.set_enabled("a", False)
    table.add_failure("a", reason="crash", now_s=1.0)
    table.quarantine("a", reason="10 failures in a row", now_s=3.0)
    held = table.get("a")
    table.release("a")
    free = table.get("a")

    assert (held.quarantined_at, held.quarantine_reason, held.failures, held.enabled) == (3.0, "10 failures in a row", 1, False)
    assert (free.quarantined_at, free.quarantine_reason, free.failures, free.enabled) == (None, None, 0, False)


def test_plugin_state_outlives_the_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.plugin_state.set_enabled("b", False)
    store.plugin_state.set_enabled("a", True)
    store.close()

    store = Store.open(tmp_path)
    found = [(state.plugin, state.enabled) for state in store.plugin_state.all()]
    store.plugin_state.delete("b")
    left = [state.plugin for state in store.plugin_state.all()]
    store.close()

    assert found == [("a", True), ("b", False)]
    assert left == ["a"]


def grant(plugin: str = "a", *, rights: frozenset[str] = frozenset({"kv"}), digest: str | None = None, at: float = 1.0) -> StoredGrant:
    return StoredGrant(plugin=plugin, rights=rights, digest=digest, granted_by="ann", granted_at=at)


def test_grant_is_read_as_it_was_put(store: Store) -> None:
    whole = StoredGrant(
        plugin="a",
        rights=frozenset({"kv", "cap:orders"}),
        digest="sha256:00",
        folder="/srv/a",
        version_range=">=1,<2",
        note="reviewed",
        granted_by="ann",
        granted_at=2.5,
    )
    store.grants.put(whole)

    assert store.grants.of("a") == [whole]
    assert store.grants.of("b") == []


def test_grant_put_again_replaces_the_one_bound_alike(store: Store) -> None:
    store.grants.put(grant())
    store.grants.put(grant(digest="sha256:00"))
    store.grants.put(grant(rights=frozenset({"kv", "data"}), at=2.0))
    store.grants.put(grant("b"))

    assert store.grants.of("a") == [grant(digest="sha256:00"), grant(rights=frozenset({"kv", "data"}), at=2.0)]
    assert store.grants.of("b") == [grant("b")]


def test_grant_for_other_versions_replaces_the_one_bound_alike(store: Store) -> None:
    wide = StoredGrant(plugin="a", rights=frozenset({"kv"}), folder="/srv/a", granted_by="ann", granted_at=1.0)
    narrow = replace(wide, version_range="<2")
    store.grants.put(wide)
    store.grants.put(narrow)

    assert store.grants.of("a") == [narrow]


def test_right_uses_keep_the_last_time_of_each(store: Store) -> None:
    store.right_uses.put([("a", "kv"), ("a", "cap:orders"), ("b", "kv")], now_s=1.0)
    store.right_uses.put([("a", "kv")], now_s=2.5)
    store.right_uses.put([], now_s=3.0)

    assert store.right_uses.of("a") == {"kv": 2.5, "cap:orders": 1.0}
    assert store.right_uses.of("b") == {"kv": 1.0}
    assert store.right_uses.of("c") == {}


def test_grants_deleted_are_counted(store: Store) -> None:
    store.grants.put(grant())
    store.grants.put(grant(digest="sha256:00"))
    store.grants.put(grant("b"))

    assert store.grants.delete("a") == 2
    assert store.grants.delete("a") == 0
    assert store.grants.of("b") == [grant("b")]


def test_config_revision_rises_with_each_write(store: Store) -> None:
    table = store.config

    first = table.put("a", {"x": [1, 2.5, None]}, expected_revision=0, now_s=1.0)
    second = table.put("a", {"x": "é"}, expected_revision=1, now_s=2.0)
    third = table.put("a", {}, expected_revision=None, now_s=3.0)

    assert first == StoredConfig(plugin="a", value={"x": [1, 2.5, None]}, revision=1, updated_at=1.0)
    assert second == StoredConfig(plugin="a", value={"x": "é"}, revision=2, updated_at=2.0)
    assert table.get("a") == third == StoredConfig(plugin="a", value={}, revision=3, updated_at=3.0)


@pytest.mark.parametrize("expected", [0, 2])
def test_config_written_meanwhile_is_a_conflict(store: Store, expected: int) -> None:
    store.config.put("a", {"x": 1}, expected_revision=0, now_s=1.0)

    with pytest.raises(ConflictError) as caught:
        store.config.put("a", {"x": 2}, expected_revision=expected, now_s=2.0)

    assert caught.value.plugin == "a"
    assert caught.value.data == {"expected_revision": expected, "actual_revision": 1}
    stored = store.config.get("a")
    assert stored is not None
    assert stored.value == {"x": 1}


def event(index: int, *, plugin: str | None = "a") -> StoredEvent:
    return StoredEvent(time=float(index), kind="restarted", plugin=plugin, reason=f"number {index}", facts={"index": index, "more": [None]})


def test_events_are_read_from_the_newest(store: Store) -> None:
    store.events.add([event(1), event(2, plugin=None), event(3)])
    store.events.add([event(4)])
    store.events.add([])

    found = store.events.newest(3)

    assert [(event.reason, event.plugin) for event in found] == [
        ("number 4", "a"),
        ("number 3", "a"),
        ("number 2", None),
    ]
    assert found[0].facts == {"index": 4, "more": [None]}
    assert [found.time for found in store.events.newest(9, plugin="a")] == [4.0, 3.0, 1.0]


def test_events_are_trimmed_by_number_and_by_age(store: Store) -> None:
    store.events.add([event(index) for index in range(10)])

    by_number = store.events.trim(keep_count=6, oldest_s=0.0)
    by_age = store.events.trim(keep_count=6, oldest_s=7.0)
    nothing = store.events.trim(keep_count=6, oldest_s=7.0)

    assert (by_number, by_age, nothing) == (4, 3, 0)
    assert [found.time for found in store.events.newest(99)] == [9.0, 8.0, 7.0]


def test_event_ids_are_never_used_again(store: Store) -> None:
    store.events.add([event(1)])
    last = store.events.newest(1)[0].id
    store.events.trim(keep_count=0, oldest_s=0.0)
    store.events.add([event(2)])

    assert store.events.newest(1)[0].id == last + 1
