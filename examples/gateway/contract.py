"""What the gateway opens to plugins: the hooks of one chat, and the report of what was used.

The types are those of OpenAI's chat completions, as far as the gateway and its plugins need names for them. Whatever else a client or a
model's service sends is in ``extra`` at its place, and is passed on unharmed.

One request goes through ``on_request``, then ``answer`` (a plugin may know the answer already), else the model; ``on_answered`` tells what
was asked and answered; the answer goes back through ``on_response``, or as a stream through ``on_stream``.
"""

# Methods of a contract have no body: mypy does not know that nobody calls them.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from annexe import ExtensionPoint, HookSpec, hook

__all__ = [
    "Chat",
    "ChatAnswer",
    "ChatChoice",
    "ChatChunk",
    "ChatDelta",
    "ChatExchange",
    "ChatFailure",
    "ChatMessage",
    "ChatRequest",
    "ChunkChoice",
    "Source",
    "UsageReport",
    "UsageTotal",
]

Extra = dict[str, Any]
Source = Literal["upstream", "plugin"]


@dataclass(slots=True, kw_only=True)
class ChatMessage:
    """One message: text, parts (text, images, ...), or neither (a call of tools, in ``extra``)."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatRequest:
    """What a client asks."""

    model: str
    messages: list[ChatMessage]
    stream: bool = False
    temperature: float | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatChoice:
    """One of the answers, complete."""

    index: int
    message: ChatMessage
    finish_reason: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatAnswer:
    """What comes back, in one piece."""

    model: str
    choices: list[ChatChoice]
    usage: dict[str, Any] | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatDelta:
    """What a chunk adds to a message."""

    content: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChunkChoice:
    """What a chunk adds to one of the answers; ``finish_reason`` comes with its last chunk."""

    index: int
    delta: ChatDelta
    finish_reason: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatChunk:
    """One piece of a streamed answer; without choices when it carries the usage alone."""

    choices: list[ChunkChoice]
    extra: Extra = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatExchange:
    """A request as the model got it, and the answer as the model gave it: placeholders are still in both.

    Attributes:
        source: Who answered: the model's service, or a plugin.
        complete: Whether the answer came to its end; a stream may be cut short by either side.
    """

    request: ChatRequest
    answer: ChatAnswer
    source: Source
    complete: bool = True


@dataclass(slots=True, kw_only=True)
class ChatFailure:
    """Why a request got no answer."""

    code: str
    message: str
    status: int


class Chat(HookSpec, name="chat", revision=1):
    """The hooks of one chat."""

    @hook.filter(budget_ms=1000, responds=ChatAnswer)
    async def on_request(self, request: ChatRequest) -> ChatRequest:
        """Change the request, refuse it, or answer it."""

    @hook.first_result(budget_ms=1000)
    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """Answer in the model's place."""

    @hook.filter(budget_ms=1000)
    async def on_response(self, answer: ChatAnswer) -> ChatAnswer:
        """Change the answer."""

    @hook.stream_filter(budget_ms=1000)
    async def on_stream(self, chunks: AsyncIterator[ChatChunk]) -> AsyncIterator[ChatChunk]:
        """Change the answer while it comes."""

    @hook.observer
    async def on_answered(self, exchange: ChatExchange) -> None:
        """See what was asked and answered."""

    @hook.observer
    async def on_error(self, failure: ChatFailure) -> None:
        """See what could not be answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """What one key used of one model so far."""

    key: str
    model: str
    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


class UsageReport(ExtensionPoint, name="usage-report", revision=1):
    """Who used how much."""

    async def totals(self, key: str) -> list[UsageTotal]:
        """Return the totals of one key, or of all when it is empty."""
