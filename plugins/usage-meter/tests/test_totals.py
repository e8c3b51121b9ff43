"""Totals in the store and out of it."""

from __future__ import annotations

import pytest
from usage_meter.totals import entry_name, keys_under, prefix_of, totals_of


@pytest.mark.parametrize("key", ["tenant", "", "a/b", "100%", "%2F", "a%2Fb"])
@pytest.mark.parametrize("model", ["gpt-4o", "org/model:tag", "", "%"])
def test_totals_of_any_key_and_model_come_back_as_they_were(key: str, model: str) -> None:
    entries = {entry_name(key, "requests", model): 3, entry_name(key, "cost_nanos", model): 1_500_000_000}
    assert totals_of(entries) == [
        {"key": key, "model": model, "requests": 3, "cached": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 1.5}
    ]


def test_prefix_of_a_key_does_not_fit_longer_keys() -> None:
    assert not entry_name("tenant-1", "requests", "m").startswith(prefix_of("tenant"))
    assert entry_name("tenant", "requests", "m").startswith(prefix_of("tenant"))
    assert entry_name("", "requests", "m").startswith(prefix_of(""))


def test_entry_name_of_the_longest_parts_fits_the_store() -> None:
    assert len(entry_name("/" * 1_000, "completion_tokens", "m").encode()) <= 512
    assert len(entry_name("k", "completion_tokens", "\U0001f600" * 1_000).encode()) <= 512


def test_keys_under_a_prefix_asks_page_after_page() -> None:
    pages = {None: (["a", "b"], "b"), "b": (["c"], None)}
    assert list(keys_under("", lambda _prefix, _limit, after: pages[after])) == ["a", "b", "c"]
