"""What this application opens to plugins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from annexe import HookSpec, hook

__all__ = ["Note", "Notes"]


@dataclass
class Note:
    author: str
    text: str


class Notes(HookSpec, name="notes", revision=1):
    """Notes that people leave."""

    @hook.filter(budget_ms=1000)
    async def on_note(self, note: Note) -> Note:
        """Change a note before it is kept, or refuse it."""
        return note

    @hook.stream_filter
    def on_lines(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        """Change the lines of a list as it is shown."""
        return lines
