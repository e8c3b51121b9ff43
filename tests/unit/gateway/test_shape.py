"""Between OpenAI's JSON and the gateway's types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from examples.gateway.contract import ChatAnswer, ChatChoice, ChatMessage
from examples.gateway.shape import Assembly, answer_from, answer_to, chunk_from, chunk_to, chunks_of, request_from, request_to

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be brief", "name": "boss"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
    ],
    "stream": True,
    "temperature": 0.5,
    "tools": [{"type": "function"}],
    "extra": {"a field": "of that name"},
}
ANSWER: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi", "refusal": None}, "finish_reason": "stop", "logprobs": None}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "details": {"cached": 0}},
    "system_fingerprint": "fp",
}


def chunk(content: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"id": "x", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}


def test_request_with_unknown_fields_goes_through_unharmed() -> None:
    assert request_to(request_from(REQUEST)) == REQUEST


def test_request_with_null_settings_is_as_if_they_were_absent() -> None:
    chat = request_from({"model": "m", "messages": [], "stream": None, "temperature": None})
    assert (chat.stream, chat.temperature) == (False, None)
    assert request_to(chat) == {"model": "m", "messages": []}


def test_answer_with_unknown_fields_goes_through_unharmed() -> None:
    assert answer_to(answer_from(ANSWER)) == ANSWER


@pytest.mark.parametrize(
    "body", [chunk("hi", service_tier="x"), chunk(finish="stop"), {"id": "x", "choices": [], "usage": {"total_tokens": 3}}]
)
def test_chunk_with_unknown_fields_goes_through_unharmed(body: dict[str, Any]) -> None:
    assert chunk_to(chunk_from(body)) == body


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], "Expected an object"),
        ({"messages": []}, "missing required field `model`"),
        ({"model": "m"}, "missing required field `messages`"),
        ({"model": "m", "messages": "hi"}, "$.messages"),
        ({"model": "m", "messages": ["hi"]}, "Expected an object"),
        ({"model": "m", "messages": [{"content": "hi"}]}, "`role` - at `$.messages[0]`"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "$.messages[0].content"),
        ({"model": "m", "messages": [], "temperature": "hot"}, "$.temperature"),
    ],
)
def test_request_that_is_none_is_refused_with_its_place(body: Any, place: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        request_from(body)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    "body", [None, {"model": "m"}, {"model": "m", "choices": [{"index": 0}]}, {"model": "m", "choices": [{"index": "0"}]}]
)
def test_answer_that_is_none_is_refused(body: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        answer_from(body)


def test_assembly_of_chunks_gives_each_choice_whole() -> None:
    assembly = Assembly("asked")
    for body in [
        chunk("a"),
        chunk("x", index=1),
        chunk("b"),
        chunk(finish="stop"),
        chunk(index=1, finish="length"),
        {"choices": [], "usage": {"total_tokens": 3}},
    ]:
        assembly.add(chunk_from(body))
    answer = assembly.answer()
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.choices] == [
        (0, "ab", "stop"),
        (1, "x", "length"),
    ]
    assert (answer.model, answer.usage) == ("m", {"total_tokens": 3})


def test_chunks_of_an_answer_assemble_to_it() -> None:
    answer = answer_from(ANSWER)
    assembly = Assembly("m")
    for part in chunks_of(answer):
        assembly.add(part)
    assert assembly.answer().choices == [ChatChoice(index=0, message=ChatMessage(role="assistant", content="hi"), finish_reason="stop")]


def test_chunks_of_an_answer_in_parts_give_its_text() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    answer = ChatAnswer(model="m", choices=[ChatChoice(index=0, message=ChatMessage(role="assistant", content=parts))])
    assert next(chunks_of(answer)).choices[0].delta.content == "ab"
