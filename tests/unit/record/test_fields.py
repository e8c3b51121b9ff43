from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annexe.record.fields import MAX_PARTS, bounded


def test_bounded_ordinary_value_stays() -> None:
    value = {"user": 7, "tags": ["a", "b"], "ratio": 0.5, "ok": True, "none": None}
    assert bounded(value, 4096) == (value, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(math.nan, "nan", id="nan"),
        pytest.param(-math.inf, "-inf", id="inf"),
        pytest.param(2**63, "<int of 64 bits>", id="int-over-64-bits"),
        pytest.param(-(2**63), -(2**63), id="smallest-int"),
        pytest.param(10**100_000, "<int of 332193 bits>", id="int-of-100000-digits"),
        pytest.param(b"secret", "<6 bytes>", id="bytes"),
        pytest.param(memoryview(b"abc"), "<3 bytes>", id="view"),
        pytest.param(object(), "<object>", id="stranger"),
        pytest.param((1, 2), [1, 2], id="tuple"),
        pytest.param({1: "a", None: "b"}, {"1": "a", "None": "b"}, id="keys-that-are-no-text"),
        pytest.param({"a\x1b": "b\n"}, {"a\\x1b": "b\\n"}, id="escapes"),
    ],
)
def test_bounded_value_json_does_not_know_is_named(value: object, expected: object) -> None:
    assert bounded(value, 4096) == (expected, 0)


def test_bounded_deep_value_is_cut_with_a_mark_and_a_count() -> None:
    value: Any = "bottom"
    for _ in range(5000):
        value = [value]
    shown, cut_count = bounded(value, 4096)
    assert shown == [[[[[["<nested too deeply>"]]]]]]
    assert cut_count == 1


def test_bounded_many_parts_are_cut_and_counted() -> None:
    shown, cut_count = bounded(list(range(1_000_000)), 1_000_000)
    assert len(shown) == MAX_PARTS
    assert cut_count == 1_000_000 - MAX_PARTS


def test_bounded_long_text_is_cut_and_counted() -> None:
    shown, cut_count = bounded({"text": "x" * 10_000_000, "after": 1}, 6000)
    assert len(shown["text"]) == 4096
    assert shown["after"] == 1
    assert cut_count == 1


def test_bounded_text_that_grows_by_escaping_still_fits() -> None:
    shown, cut_count = bounded(["\x1b" * 3000, "\\" * 3000], 5000)
    assert len(msgspec.json.encode(shown)) <= 5000
    assert cut_count == 2


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=300) | st.integers(), inner),
    max_leaves=60,
)


@settings(deadline=None)
@given(_JSON, st.integers(64, 3000))
def test_bounded_value_never_takes_more_than_it_may(value: object, max_bytes: int) -> None:
    shown, _ = bounded(value, max_bytes)
    assert len(msgspec.json.encode(shown)) <= max_bytes
