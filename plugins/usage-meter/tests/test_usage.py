"""Tokens and cost of one exchange."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from usage_meter.usage import Guess, cost_nanos, texts_of, tokens_used

REQUEST: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "x" * 9},
        {"role": "user", "content": [{"type": "text", "text": "y"}], "extra": {"id": "no"}},
    ]
}
ANSWER: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": "z" * 8}}]}


class Places:
    """Counts nothing, but says what it was asked for."""

    def request(self, request: dict[str, Any]) -> int:
        assert request is REQUEST
        return 1000

    def answer(self, texts: Iterable[str]) -> int:
        return 2000 + len(list(texts))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 70, "completion_tokens": 0}, (70, 0)),
        ({"prompt_tokens": 70}, (70, 2001)),
        ({"completion_tokens": 9}, (1000, 9)),
        (None, (1000, 2001)),
    ],
)
def test_tokens_used_as_reported_are_taken_and_others_are_counted(usage: Any, expected: tuple[int, int]) -> None:
    assert tokens_used(REQUEST, {**ANSWER, "usage": usage}, Places()) == expected


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": -1}, {"prompt_tokens": "9"}])
def test_tokens_used_without_a_usable_report_are_guessed_where_nobody_counts(usage: Any) -> None:
    # 10 characters are 3 tokens, and 4 for each of 2 messages; 8 characters are 2.
    assert tokens_used(REQUEST, {**ANSWER, "usage": usage}, Guess()) == (11, 2)


def test_tokens_used_counts_tool_arguments_and_no_content() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "extra": {"tool_calls": [{"id": "call_1", "function": {"name": "find", "arguments": "{}"}}]},
    }
    assert tokens_used({"messages": []}, {"choices": [{"message": message}]}, Guess()) == (0, 2)
    assert list(texts_of([message])) == ["find", "{}"]


PRICES: dict[str, dict[str, float]] = {
    "gpt-4o": {"input": 2.5, "output": 10},
    "gpt-4o-mini": {"input": 0.15, "output": 0.6},
    "*": {"input": 1, "output": 1},
}


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gpt-4o", 12_500), ("gpt-4o-2024-08-06", 12_500), ("gpt-4o-mini", 750), ("gpt-4o-mini-x", 750), ("other", 2_000), ("gpt-4", 2_000)],
)
def test_cost_by_model_takes_the_longest_name_that_fits(model: str, expected: int) -> None:
    assert cost_nanos(PRICES, model, 1, 1) == expected


def test_cost_of_a_model_without_price_is_nothing() -> None:
    assert cost_nanos({}, "gpt-4o", 1_000, 1_000) == 0


def test_cost_of_many_small_amounts_is_exact() -> None:
    assert sum(cost_nanos(PRICES, "gpt-4o-mini", 1, 0) for _ in range(1_000_000)) == 150_000_000  # 0.15
