"""A plugin in one file: what may be written here, and how lists are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from annexe_sdk import Context, Plugin, Reject

plugin = Plugin()


@plugin.filter("notes.on_note")
def check(note: dict[str, str], ctx: Context) -> Any:
    if note["text"].isupper():
        raise Reject("shouting", f"please do not shout, {ctx.key}", status=422)
    return {**note, "text": note["text"].strip() + " Thank you!"}


@plugin.stream_filter("notes.on_lines")
def number(lines: Iterator[str]) -> Iterator[str]:
    for count, line in enumerate(lines, 1):
        yield f"{count}. {line}"


if __name__ == "__main__":
    plugin.run()
