# mypy: disable-error-code="empty-body"
"""What an application would open to this plugin; for `annexe dev`."""

from collections.abc import AsyncIterator

from annexe import HookSpec, hook


class Chat(HookSpec, name="chat", revision=1):
    @hook.filter
    async def on_text(self, text: str) -> str: ...

    @hook.stream_filter
    def on_chunks(self, chunks: AsyncIterator[str]) -> AsyncIterator[str]: ...
