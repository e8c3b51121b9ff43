"""What a key and a value may be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.errors import InvalidParamsError
from annexe.storage.kv_values import MAX_VALUE_BYTES, check_key, decode_value, encode_value, prefix_end

JSON = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner | st.none()) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner | st.none()),
)


@given(JSON)
def test_value_that_json_can_say_is_kept_as_it_is(value: Any) -> None:
    back = decode_value(encode_value(value, method="kv.set"))

    assert back == value
    assert type(back) is type(value)


def test_values_equal_but_for_the_order_of_names_have_equal_bytes() -> None:
    assert encode_value({"b": 1, "a": [{"d": 2, "c": 3}]}, method="m") == encode_value({"a": [{"c": 3, "d": 2}], "b": 1}, method="m")


@pytest.mark.parametrize("other", [1.0, True, "1"])
def test_values_of_other_types_have_other_bytes(other: Any) -> None:
    assert encode_value(1, method="m") != encode_value(other, method="m")


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"bytes", id="bytes"),
        pytest.param({"x": b"bytes"}, id="bytes within"),
        pytest.param(float("nan"), id="nan"),
        pytest.param([float("inf")], id="infinity within"),
        pytest.param({1: "a"}, id="number as key"),
        pytest.param(2**64, id="too large a number"),
        pytest.param(dt.datetime(2020, 1, 1, tzinfo=dt.UTC), id="time"),
        pytest.param("\ud800", id="half a character"),
        pytest.param(object(), id="object"),
        pytest.param(DEEP, id="too deep"),
    ],
)
def test_value_that_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        encode_value(value, method="kv.set")

    assert caught.value.data["method"] == "kv.set"
    assert caught.value.data["param"] == "value"
    assert caught.value.data["expected"].startswith("what JSON can say")


def test_value_null_is_refused_with_the_method_to_use_instead() -> None:
    with pytest.raises(InvalidParamsError) as caught:
        encode_value(None, method="kv.set", name="value")

    assert "kv.delete" in caught.value.data["expected"]


def test_value_of_one_mebibyte_is_the_largest() -> None:
    # Five bytes say that it is a text, and how long.
    assert len(encode_value("x" * (MAX_VALUE_BYTES - 5), method="m")) == MAX_VALUE_BYTES
    with pytest.raises(InvalidParamsError) as caught:
        encode_value("x" * (MAX_VALUE_BYTES - 4), method="m")
    assert caught.value.data["expected"] == "at most 1048576 bytes"


@pytest.mark.parametrize("key", ["a", " ", "a/b:c", "é" * 256, "😀" * 128, "\u2028"])
def test_key_within_bounds_is_accepted(key: str) -> None:
    check_key(key, method="kv.get")


@pytest.mark.parametrize("key", ["", "a" * 513, "é" * 257, "😀" * 129, "a\nb", "\x00", "\x7f", "\x85", "\udfff"])
def test_key_out_of_bounds_is_refused(key: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        check_key(key, method="kv.get")

    assert caught.value.data == {"method": "kv.get", "param": "key", "expected": "1 to 512 bytes of UTF-8 without control characters"}


def test_prefix_may_be_empty() -> None:
    check_key("", method="kv.list", name="prefix", may_be_empty=True)


LAST = "\U0010ffff"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("a", "b"), ("ab", "ac"), ("\ud7ff", "\ue000"), (f"a{LAST}", "b"), ("", LAST * 129), (LAST, LAST * 129)],
)
def test_prefix_end_is_the_least_text_behind(prefix: str, end: str) -> None:
    assert prefix_end(prefix) == end


@given(st.text(st.characters(codec="utf-8"), max_size=8), st.text(st.characters(codec="utf-8"), min_size=1, max_size=120))
def test_prefix_end_divides_what_begins_with_it_from_what_is_behind(prefix: str, key: str) -> None:
    assert (prefix <= key < prefix_end(prefix)) == key.startswith(prefix)
