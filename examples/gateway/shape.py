"""Between OpenAI's JSON and the types of the contract. Pure.

What has no name in the contract moves into ``extra`` on the way in, and out of it on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from examples.gateway.contract import ChatAnswer, ChatChoice, ChatChunk, ChatDelta, ChatMessage, ChatRequest, ChunkChoice

__all__ = ["Assembly", "answer_from", "answer_to", "chunk_from", "chunk_to", "chunks_of", "request_from", "request_to"]


def request_from(body: Any) -> ChatRequest:
    """Read a client's request.

    Raises:
        msgspec.ValidationError: It is none; the text names the place.
    """
    shaped = _split(body, "model", "messages", "stream", "temperature")
    shaped["messages"] = _each(shaped.get("messages"), _message_from)
    # Absent and null mean the same to OpenAI's API.
    return msgspec.convert({name: value for name, value in shaped.items() if value is not None}, ChatRequest)


def request_to(request: ChatRequest) -> dict[str, Any]:
    """Write a request for a model's service."""
    known: dict[str, Any] = {"model": request.model, "messages": [_message_to(message) for message in request.messages]}
    if request.stream:
        known["stream"] = True
    if request.temperature is not None:
        known["temperature"] = request.temperature
    return {**request.extra, **known}


def answer_from(body: Any) -> ChatAnswer:
    """Read the answer of a model's service.

    Raises:
        msgspec.ValidationError: It is none.
    """
    shaped = _split(body, "model", "choices", "usage")
    shaped["choices"] = _each(shaped.get("choices"), _choice_from)
    return msgspec.convert(shaped, ChatAnswer)


def answer_to(answer: ChatAnswer) -> dict[str, Any]:
    """Write an answer for the client."""
    choices = [{**c.extra, "index": c.index, "message": _message_to(c.message), "finish_reason": c.finish_reason} for c in answer.choices]
    usage = {"usage": answer.usage} if answer.usage is not None else {}
    return {**answer.extra, "model": answer.model, "choices": choices, **usage}


def chunk_from(body: Any) -> ChatChunk:
    """Read one chunk of a streamed answer.

    Raises:
        msgspec.ValidationError: It is none.
    """
    shaped = _split(body, "choices")
    shaped["choices"] = _each(shaped.get("choices"), _chunk_choice_from)
    return msgspec.convert(shaped, ChatChunk)


def chunk_to(chunk: ChatChunk) -> dict[str, Any]:
    """Write one chunk for the client."""
    choices = [{**c.extra, "index": c.index, "delta": _delta_to(c.delta), "finish_reason": c.finish_reason} for c in chunk.choices]
    return {**chunk.extra, "choices": choices}


def chunks_of(answer: ChatAnswer) -> Iterator[ChatChunk]:
    """Cut a complete answer into chunks, for a client that wants a stream."""
    extra = {**answer.extra, "object": "chat.completion.chunk", "model": answer.model}
    for choice in answer.choices:
        delta = ChatDelta(content=_text(choice.message), extra={"role": choice.message.role, **choice.message.extra})
        yield ChatChunk(choices=[ChunkChoice(index=choice.index, delta=delta)], extra=dict(extra))
        end = ChunkChoice(index=choice.index, delta=ChatDelta(), finish_reason=choice.finish_reason)
        yield ChatChunk(choices=[end], extra=dict(extra))


class Assembly:
    """Puts a streamed answer together again, for those who want to see it whole."""

    def __init__(self, model: str) -> None:
        self._answer = ChatAnswer(model=model, choices=[])
        self._choices: dict[int, ChatChoice] = {}

    def add(self, chunk: ChatChunk) -> None:
        """Take in the next chunk."""
        self._answer.model = chunk.extra.get("model") or self._answer.model
        self._answer.usage = chunk.extra.get("usage") or self._answer.usage
        for part in chunk.choices:
            choice = self._choices.get(part.index)
            if choice is None:
                choice = self._choices[part.index] = ChatChoice(index=part.index, message=ChatMessage(role="assistant", content=""))
            choice.message.content = _text(choice.message) + (part.delta.content or "")
            choice.finish_reason = part.finish_reason or choice.finish_reason

    def answer(self) -> ChatAnswer:
        """Return what there is so far."""
        self._answer.choices = [self._choices[index] for index in sorted(self._choices)]
        return self._answer


def _split(value: Any, *known: str) -> dict[str, Any]:
    """Keep the known names; everything else goes under ``extra``."""
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"Expected an object, got {type(value).__name__}")
    shaped = {name: value[name] for name in known if name in value}
    shaped["extra"] = {name: item for name, item in value.items() if name not in known}
    return shaped


def _each(value: Any, read: Any) -> Any:
    # What is no list is left to the conversion, which says so.
    return [read(item) for item in value] if isinstance(value, list) else value


def _message_from(value: Any) -> dict[str, Any]:
    return _split(value, "role", "content")


def _choice_from(value: Any) -> dict[str, Any]:
    shaped = _split(value, "index", "message", "finish_reason")
    return {**shaped, "message": _message_from(shaped.get("message"))}


def _chunk_choice_from(value: Any) -> dict[str, Any]:
    shaped = _split(value, "index", "delta", "finish_reason")
    return {**shaped, "delta": _split(shaped.get("delta") or {}, "content")}


def _message_to(message: ChatMessage) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, **message.extra}


def _delta_to(delta: ChatDelta) -> dict[str, Any]:
    return delta.extra if delta.content is None else {**delta.extra, "content": delta.content}


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts: Iterable[dict[str, Any]] = message.content or ()
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
