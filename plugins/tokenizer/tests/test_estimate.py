"""About how many tokens a text has."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tokenizer.estimate import count_messages, count_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param(" ", 0, id="a blank"),
        pytest.param("Hello", 1, id="word"),
        pytest.param("Hello, world!", 4, id="words and signs"),
        pytest.param("internationalization", 4, id="long word"),
        pytest.param("Über Straße", 2, id="accents"),
        pytest.param("2026", 2, id="number"),
        pytest.param("привет", 3, id="Cyrillic"),
        pytest.param("你好世界", 4, id="Chinese"),
        pytest.param("=" * 10, 3, id="same sign"),
        pytest.param("snake_case", 3, id="underscore"),
        pytest.param("a\nb", 3, id="line"),
        pytest.param("a\n        b", 3, id="indent"),
        pytest.param("a b", 2, id="blank between words"),
        pytest.param("\U0001f600", 1, id="emoji"),
    ],
)
def test_count_of_a_text_is_that_of_its_pieces(text: str, expected: int) -> None:
    assert count_text(text) == expected


def test_count_of_short_words_is_one_each() -> None:
    assert count_text("The quick brown fox jumps over the lazy dog.") == 10


def test_count_of_two_texts_is_no_less_than_that_of_either() -> None:
    assert count_text("one two") == count_text("one") + count_text("two")


@pytest.mark.parametrize("text", [" " * 1_000_000, "a" * 1_000_000, "_-" * 500_000, "\n \n" * 300_000, "é漢1" * 300_000])
def test_count_of_a_long_text_takes_no_long_time(text: str) -> None:
    began = time.process_time()
    assert count_text(text) > 0
    assert time.process_time() - began < 2.0


MESSAGES: list[Any] = [
    {"role": "user", "content": "one two"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "three"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
    },
    {"role": "assistant", "content": None, "extra": {"tool_calls": [{"id": "call", "function": {"name": "find", "arguments": "{}"}}]}},
]


def test_messages_count_what_a_model_reads_and_their_bounds() -> None:
    # one, two, three, find, { and }
    assert count_messages(MESSAGES, per_message=0) == 6
    assert count_messages(MESSAGES, per_message=4) == 18
    assert count_messages([], per_message=4) == 0


@pytest.mark.parametrize("messages", [[None], ["text"], [{"content": 5}], [[[]]], [{"content": {"content": ["x"]}}]])
def test_messages_of_no_known_form_do_no_harm(messages: list[Any]) -> None:
    assert count_messages(messages, per_message=1) in (1, 2)
