"""An upstream that needs no network: it says what it was asked, so that one can see what plugins do.

Authorization counts for nothing here: anybody may ask. The same request has the same answer, always. Placeholders it was shown are named
without their brackets, so that they stay visible when the answer's own are restored.
"""

# ruff: noqa: ARG002 - see above

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, final

from examples.gateway.contract import ChatAnswer, ChatChoice, ChatChunk, ChatMessage, ChatRequest
from examples.gateway.shape import chunk_from
from examples.gateway.upstream import Upstream

__all__ = ["MODEL", "EchoUpstream"]

MODEL = "annexe-echo"

_PLACEHOLDER = re.compile(r"\[([A-Z]+_[0-9]+)\]")
_CREATED = 1_700_000_000  # always the same, like everything here


@final
class EchoUpstream(Upstream):
    """Answers from the conversation alone.

    Args:
        chunk_chars: Length of a chunk; short enough that placeholders are split.
        chunk_delay_s: Pause between two chunks, so that a stream looks like one.
    """

    def __init__(self, *, chunk_chars: int = 6, chunk_delay_s: float = 0.01) -> None:
        self._chunk_chars = chunk_chars
        self._chunk_delay_s = chunk_delay_s

    async def models(self, authorization: str | None) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": _CREATED, "owned_by": "annexe"}]}

    async def complete(self, request: ChatRequest, authorization: str | None) -> ChatAnswer:
        text = answer_text(request)
        choice = ChatChoice(index=0, message=ChatMessage(role="assistant", content=text), finish_reason="stop")
        extra = {"id": "chatcmpl-echo", "object": "chat.completion", "created": _CREATED}
        return ChatAnswer(model=request.model, choices=[choice], usage=_usage(request, text), extra=extra)

    async def stream(self, request: ChatRequest, authorization: str | None) -> AsyncIterator[ChatChunk]:
        text = answer_text(request)
        yield _chunk(request, {"role": "assistant", "content": ""})
        for start in range(0, len(text), self._chunk_chars):
            await asyncio.sleep(self._chunk_delay_s)
            yield _chunk(request, {"content": text[start : start + self._chunk_chars]})
        yield _chunk(request, {}, finish_reason="stop")
        if (request.extra.get("stream_options") or {}).get("include_usage"):
            yield chunk_from({**_head(request), "choices": [], "usage": _usage(request, text)})


def answer_text(request: ChatRequest) -> str:
    """Return what is answered to a request."""
    asked = next((text_of(message) for message in reversed(request.messages) if message.role == "user"), "")
    words = len(asked.split())
    seen = list(dict.fromkeys(_PLACEHOLDER.findall(asked)))
    shown = f" (Instead of personal data I saw {', '.join(seen)}.)" if seen else ""
    return f'You wrote {words} word{"" if words == 1 else "s"}: "{asked}"{shown}'


def text_of(message: ChatMessage) -> str:
    """Return a message's text, that of its parts joined."""
    if isinstance(message.content, list):
        return " ".join(part["text"] for part in message.content if isinstance(part.get("text"), str))
    return message.content or ""


def _usage(request: ChatRequest, text: str) -> dict[str, int]:
    """Count words as tokens."""
    asked = sum(len(text_of(message).split()) for message in request.messages)
    answered = len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _head(request: ChatRequest) -> dict[str, Any]:
    return {"id": "chatcmpl-echo", "object": "chat.completion.chunk", "created": _CREATED, "model": request.model}


def _chunk(request: ChatRequest, delta: dict[str, Any], *, finish_reason: str | None = None) -> ChatChunk:
    return chunk_from({**_head(request), "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})
