"""Requests are limited by their tokens, as a service counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rate_limiter.guess import guessed_tokens
from rate_limiter.window import bucket_of

from annexe.errors import PluginUnavailableError
from annexe.testing import PluginRunner
from annexe_sdk import Reject

FOLDER = Path(__file__).parents[1]


class Words:
    """Plays the tokenizer: a word is a token."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def count_messages(self, messages: list[dict[str, Any]], model: str) -> Any:
        self.asked.append(model)
        text = " ".join(message["content"] for message in messages)
        if text == "gone":
            raise PluginUnavailableError("plugin 'tokenizer' is backing off", method="svc.tokenizer.count_messages")
        return "many" if text == "odd" else len(text.split())


def request_of(text: str) -> dict[str, Any]:
    return {"model": "m-1", "messages": [{"role": "user", "content": text}]}


@pytest.fixture(autouse=True)
def _early_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rate_limiter.plugin.bucket_of", lambda _now_s, window_s: bucket_of(6_000_000.0, window_s))


def runner_with(words: Words, **config: Any) -> PluginRunner:
    return PluginRunner(FOLDER, config={"requests": 5, **config}, services={"tokenizer": words})


def test_tokens_of_a_minute_are_limited_for_each_key() -> None:
    words = Words()
    with runner_with(words, tokens_per_minute=5) as runner:
        ann = runner.request(key="ann")
        assert ann.call("chat.on_request", request_of("one two three")) == request_of("one two three")
        with pytest.raises(Reject, match=r"More than 5 tokens in a minute\. Try again in 120 s\.") as refused:
            ann.call("chat.on_request", request_of("one two three four five"))
        assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == ("rate-limited", 429, 120)
        ann.call("chat.on_request", request_of("four five"))  # what was refused was taken back
        with pytest.raises(Reject):
            ann.call("chat.on_request", request_of("six"))
        runner.request(key="bob").call("chat.on_request", request_of("six"))
    assert words.asked == ["m-1"] * 5


def test_request_refused_for_its_tokens_takes_no_place() -> None:
    with runner_with(Words(), requests=1, tokens_per_minute=2) as runner:
        with pytest.raises(Reject) as refused:
            runner.call("chat.on_request", request_of("one two three"))
        assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == ("too-many-tokens", 413, None)
        runner.call("chat.on_request", request_of("one"))
        with pytest.raises(Reject, match="More than 1 requests"):
            runner.call("chat.on_request", request_of("one"))
        assert [metric.name for metric in runner.metrics] == ["refused", "refused"]


@pytest.mark.parametrize(("text", "code"), [("gone", "unavailable"), ("odd", "invalid-result")])
def test_tokens_are_guessed_when_they_cannot_be_counted(text: str, code: str) -> None:
    with runner_with(Words(), tokens_per_minute=2) as runner:
        for _ in range(2):
            runner.call("chat.on_request", request_of(text))
        with pytest.raises(Reject, match="More than 2 tokens in a minute"):
            runner.call("chat.on_request", request_of(text))
        assert [(line.message, line.fields["code"]) for line in runner.logs] == [("tokens guessed", code)] * 3


def test_guess_is_by_the_length_of_what_a_model_reads() -> None:
    parts = [{"type": "text", "text": "x" * 7}, {"type": "image_url", "image_url": {"url": "x" * 100}}]
    tools = [{"id": "x" * 100, "function": {"name": "find", "arguments": "{}"}}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": None, "extra": {"tool_calls": tools}}]
    assert guessed_tokens(messages) == 4  # of 13 characters
    assert guessed_tokens([]) == 0


def test_tokens_are_not_counted_unless_they_are_limited() -> None:
    words = Words()
    with runner_with(words) as runner:
        runner.call("chat.on_request", request_of("one two"))
    assert words.asked == []
