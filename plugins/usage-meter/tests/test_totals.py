"""Totals in the store and out of it."""

from __future__ import annotations

import pytest
from usage_meter.totals import COUNTERS, entry_name, keys_under, prefix_of, totals_of


@pytest.mark.parametrize("key", ["tenant", "", "a/b", "100%", "%2F", "a%2Fb", "%", "%~", "line\nbreak", "\x7f\x9f", "é" * 120])
@pytest.mark.parametrize("model", ["gpt-4o", "org/model:tag", "", "%", "%~", "\x00", "m" * 240])
def test_totals_of_any_key_and_model_come_back_as_they_were(key: str, model: str) -> None:
    entries = {entry_name(key, "requests", model): 3, entry_name(key, "cost_nanos", model): 1_500_000_000}
    assert totals_of(entries) == [
        {"key": key, "model": model, "requests": 3, "cached": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 1.5}
    ]


def test_prefix_of_a_key_does_not_fit_longer_keys() -> None:
    assert not entry_name("tenant-1", "requests", "m").startswith(prefix_of("tenant"))
    assert entry_name("tenant", "requests", "m").startswith(prefix_of("tenant"))
    assert entry_name("", "requests", "m").startswith(prefix_of(""))


LONG = [
    pytest.param("k" * 1_000, id="letters"),
    pytest.param("/" * 1_000, id="escapes"),
    pytest.param("a" + "/" * 1_000, id="escapes, cut one byte later"),
    pytest.param("aa" + "/" * 1_000, id="escapes, cut two bytes later"),
    pytest.param("\x9f" * 1_000, id="control characters"),
    pytest.param("\U0001f600" * 1_000, id="four bytes each"),
    pytest.param("a\U0001f600" * 1_000, id="four bytes and one"),
    pytest.param("\U0001f600" * 100, id="a hundred"),
]


@pytest.mark.parametrize("key", LONG)
@pytest.mark.parametrize("model", LONG)
def test_entry_name_of_the_longest_parts_fits_the_store(key: str, model: str) -> None:
    name = entry_name(key, max(COUNTERS, key=len), model)
    assert len(name.encode()) <= 512
    assert name.startswith(prefix_of(key))
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in name)
    [row] = totals_of({name: 1})
    for shown, whole in ((row["key"], key), (row["model"], model)):
        beginning, _, digest = shown.partition("…")
        assert whole.startswith(beginning)
        assert len(beginning) >= 50
        assert len(digest) == 32


@pytest.mark.parametrize("text", LONG)
def test_long_parts_that_begin_alike_are_counted_apart(text: str) -> None:
    names = [entry_name(key, "requests", model) for key in (text, text + "x") for model in (text, text + "x")]
    assert len(set(names)) == 4
    rows = totals_of(dict.fromkeys(names, 1))
    assert len({(row["key"], row["model"]) for row in rows}) == 4
    assert not entry_name(text + "x", "requests", "m").startswith(prefix_of(text))


def test_text_that_looks_like_one_that_was_cut_is_counted_apart() -> None:
    long = "k" * 1_000
    part = prefix_of(long).removeprefix("total/").removesuffix("/")
    [row] = totals_of({entry_name(long, "requests", "m"): 1})
    for look_alike in (part, row["key"]):
        assert entry_name(look_alike, "requests", "m") != entry_name(long, "requests", "m")
    both = totals_of({entry_name(long, "requests", "m"): 1, entry_name(row["key"], "requests", "m"): 2})
    assert sorted(row["requests"] for row in both) == [1, 2]


def test_keys_under_a_prefix_asks_page_after_page() -> None:
    pages = {None: (["a", "b"], "b"), "b": (["c"], None)}
    assert list(keys_under("", lambda _prefix, _limit, after: pages[after])) == ["a", "b", "c"]
