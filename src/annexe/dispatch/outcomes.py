"""Answers that are not results: a plugin that responds for the application.

Pure.

Source: docs/reference/hooks.md, "Filter".
"""

from __future__ import annotations

from functools import partial
from typing import Any, final

__all__ = ["Responded"]


@final
class Responded(Exception):  # noqa: N818 - an answer, not an error
    """A plugin answered in place of what the hook was for; raised by hooks that declare ``responds``.

    Attributes:
        value: Of the type the hook declares as ``responds``.
        plugin: Who answered.
        hook: Qualified name.
    """

    def __init__(self, value: Any, *, plugin: str, hook: str) -> None:
        super().__init__(f"plugin {plugin!r} responded at {hook}")
        self.value = value
        self.plugin = plugin
        self.hook = hook

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Responded, plugin=self.plugin, hook=self.hook), (self.value,)
