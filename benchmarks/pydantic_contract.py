# mypy: disable-error-code="empty-body"
"""The same request and extension point, declared with pydantic."""

from __future__ import annotations

from pydantic import BaseModel

from annexe import ExtensionPoint

__all__ = ["ChatModel", "Editor"]


class MessageModel(BaseModel):
    """One message of a conversation."""

    role: str
    content: str
    tokens: int


class SamplingModel(BaseModel):
    """How an answer is drawn."""

    temperature: float
    top_p: float
    stop: list[str]


class ChatModel(BaseModel):
    """What the application hands to its plugins."""

    model: str
    user: str
    edits: int
    messages: list[MessageModel]
    sampling: SamplingModel
    labels: dict[str, str]


class Editor(ExtensionPoint, name="bench-editor", revision=1):
    """One typed call."""

    async def edit(self, request: ChatModel) -> ChatModel: ...
