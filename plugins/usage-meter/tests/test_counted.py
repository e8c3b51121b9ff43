"""What the model's service does not report is counted by another plugin's service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annexe.errors import OutcomeUnknownError
from annexe.testing import PluginRunner
from annexe_sdk import Context, Reject

FOLDER = Path(__file__).parents[1]


class Words:
    """Plays the tokenizer: a word is a token, a message is 100."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def count(self, text: str, model: str, ctx: Context) -> int:
        self.asked.append((ctx.caller, ctx.key, model, text))
        return len(text.split())

    def count_messages(self, messages: list[dict[str, Any]], model: str, ctx: Context) -> int:
        self.asked.append((ctx.caller, ctx.key, model, len(messages)))
        return 100 * len(messages)


class Unwell:
    """Plays a tokenizer that fails."""

    def count(self, *_: Any) -> int:
        raise Reject("not-now", "too much to do", status=503)

    def count_messages(self, *_: Any) -> int:
        raise OutcomeUnknownError("plugin 'tokenizer' went away", plugin="tokenizer", method="svc.tokenizer.count_messages")


def exchange_with(usage: dict[str, Any] | None, source: str = "upstream") -> dict[str, Any]:
    return {
        "request": {"model": "m", "messages": [{"role": "user", "content": "x" * 9}]},
        "answer": {"model": "m-1", "usage": usage, "choices": [{"message": {"role": "assistant", "content": "one two three"}}]},
        "source": source,
    }


def counted(words: object, usage: dict[str, Any] | None, source: str = "upstream") -> tuple[PluginRunner, tuple[int, int]]:
    """Have an exchange of the key ``ann`` counted; return its tokens."""
    runner = PluginRunner(FOLDER, services={} if words is None else {"tokenizer": words})
    with runner:
        runner.request(key="ann").call("chat.on_answered", exchange_with(usage, source))
        [row] = runner.extension("usage-report").totals("ann")
    return runner, (row["prompt_tokens"], row["completion_tokens"])


def test_tokens_that_nobody_reports_are_counted_by_the_service() -> None:
    words = Words()
    runner, tokens = counted(words, None)
    assert tokens == (100, 3)
    assert words.asked == [("usage-meter", "ann", "m-1", 1), ("usage-meter", "ann", "m-1", "one two three")]
    assert runner.logs == []


@pytest.mark.parametrize(
    ("usage", "source"), [({"prompt_tokens": 7, "completion_tokens": 9}, "upstream"), (None, "plugin")], ids=["reported", "cached"]
)
def test_service_is_not_asked_for_what_is_known(usage: dict[str, Any] | None, source: str) -> None:
    words = Words()
    _, tokens = counted(words, usage, source)
    assert tokens == ((7, 9) if usage else (0, 0))
    assert words.asked == []


@pytest.mark.parametrize(
    ("words", "usage", "expected", "code"),
    [
        pytest.param(None, None, (7, 4), "unavailable", id="nobody offers it"),
        pytest.param(Unwell(), None, (7, 4), "outcome-unknown", id="it went away"),
        pytest.param(Unwell(), {"prompt_tokens": 5}, (5, 4), "rejected", id="it refused"),
    ],
)
def test_tokens_are_guessed_when_the_service_does_not_count(
    words: object, usage: dict[str, Any] | None, expected: tuple[int, int], code: str
) -> None:
    runner, tokens = counted(words, usage)
    assert tokens == expected
    assert [(line.message, line.fields["code"]) for line in runner.logs] == [("tokens guessed", code)]
    assert [metric.name for metric in runner.metrics] == ["guessed"]
