"""Which answers are kept, and under which name."""

from __future__ import annotations

from typing import Any

import pytest
from answer_cache.rules import cache_key, is_cacheable, is_complete


def request(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False, "temperature": 0.0, "extra": {}, **changes}


@pytest.mark.parametrize(
    ("changes", "max_temperature", "expected"),
    [
        pytest.param({}, 0, True, id="temperature-0"),
        pytest.param({"temperature": 0.1}, 0, False, id="temperature-above"),
        pytest.param({"temperature": None}, 0, False, id="no-temperature-is-the-default-of-1"),
        pytest.param({"temperature": None}, 1, True, id="no-temperature-when-configured"),
        pytest.param({"stream": True}, 2, False, id="stream"),
    ],
)
def test_is_cacheable_by_stream_and_temperature(changes: dict[str, Any], max_temperature: float, expected: bool) -> None:
    assert is_cacheable(request(**changes), max_temperature=max_temperature) is expected


@pytest.mark.parametrize(
    ("reasons", "expected"), [(["stop"], True), (["stop", "tool_calls"], True), (["stop", "length"], False), ([None], False), ([], False)]
)
def test_is_complete_by_finish_reasons(reasons: list[str | None], expected: bool) -> None:
    assert is_complete({"choices": [{"finish_reason": reason} for reason in reasons]}) is expected


def test_cache_key_of_reordered_request_is_the_same() -> None:
    assert cache_key(request(), owner="a") == cache_key(dict(reversed(request().items())), owner="a")


@pytest.mark.parametrize(
    "changes",
    [{"model": "n"}, {"messages": []}, {"temperature": 0.5}, {"extra": {"seed": 1}}, {"extra": {"max_tokens": 5}}],
    ids=lambda changes: next(iter(changes)),
)
def test_cache_key_of_anything_that_could_change_the_answer_differs(changes: dict[str, Any]) -> None:
    assert cache_key(request(**changes), owner="a") != cache_key(request(), owner="a")


def test_cache_key_of_another_owner_differs() -> None:
    assert cache_key(request(), owner="a") != cache_key(request(), owner="b")


def test_cache_key_of_a_stream_is_that_of_the_whole_answer() -> None:
    assert cache_key(request(stream=True), owner="a") == cache_key(request(), owner="a")
