"""The plugin: answers how many tokens a text has."""

from __future__ import annotations

from annexe_sdk import Context, Plugin

from .contract import Tokenizer
from .estimate import count_messages, count_text

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Estimates", "plugin"]

plugin = Plugin()

_DEFAULT_PER_MESSAGE = 4


@plugin.service(Tokenizer)
class Estimates:
    def count(self, text: str, _model: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"text: expected text, got {type(text).__name__}")
        return count_text(text)

    def count_messages(self, messages: list[dict[str, Any]], _model: str, ctx: Context) -> int:
        if not isinstance(messages, list):
            raise TypeError(f"messages: expected a list, got {type(messages).__name__}")
        return count_messages(messages, per_message=ctx.config.get("per_message", _DEFAULT_PER_MESSAGE))


if __name__ == "__main__":
    plugin.run()
