"""What may be a name, and that new ones are new."""

from __future__ import annotations

import re

import pytest

from annexe.ids import MAX_REQUEST_ID_CHARS, RequestIds, is_plugin_id, is_request_id, new_request_id


@pytest.mark.parametrize("text", ["a", "pii-redactor", "a1", "a-1", "a" * 64])
def test_plugin_id_of_words_and_hyphens_is_one(text: str) -> None:
    assert is_plugin_id(text)


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "a--b", "1a", "A", "a_b", "a.b", "a/b", "..", "a b", "a\n", "ä", "a" * 65], ids=lambda text: repr(text)[:12]
)
def test_plugin_id_of_anything_else_is_none(text: str) -> None:
    assert not is_plugin_id(text)


@pytest.mark.parametrize("text", ["r", "!", "~", "x" * MAX_REQUEST_ID_CHARS])
def test_request_id_of_printable_ascii_is_one(text: str) -> None:
    assert is_request_id(text)


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "a\n", "\x1b[0m", "\x7f", "é", "x" * (MAX_REQUEST_ID_CHARS + 1)], ids=lambda text: repr(text)[:12]
)
def test_request_id_of_anything_else_is_none(text: str) -> None:
    assert not is_request_id(text)


def test_new_request_ids_are_request_ids_and_differ() -> None:
    drawn = {new_request_id() for _ in range(100)}
    assert len(drawn) == 100
    assert all(is_request_id(text) for text in drawn)


def test_request_ids_of_a_host_differ_and_begin_traces_as_w3c_says() -> None:
    ids = RequestIds()
    drawn = [ids.new() for _ in range(100)]
    assert len({request for request, _ in drawn}) == len({trace for _, trace in drawn}) == 100
    assert all(is_request_id(request) for request, _ in drawn)
    assert all(re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", trace) for _, trace in drawn)
