"""The plugin: hides on the way in, restores on the way out.

The placeholders live in the state of the request, which the host keeps; this process remembers nothing between calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from annexe_sdk import Context, Plugin

from .chat import hide_request, restore_answer, restored_chunks
from .detect import KINDS

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["plugin"]

plugin = Plugin()

_STATE = "values"


@plugin.filter("chat.on_request")
def redact(request: dict[str, Any], ctx: Context) -> Any:
    hider = hide_request(request, ctx.config.get("kinds", KINDS))
    if not hider.count:
        return ctx.unchanged
    ctx.state[_STATE] = hider.values
    # Never the values themselves: logs are read by people.
    ctx.log.info("personal data hidden", count=hider.count)
    if hider.forgotten:
        ctx.log.warning("too much personal data to restore all of it", forgotten=hider.forgotten)
    return request


@plugin.filter("chat.on_response")
def restore(answer: dict[str, Any], ctx: Context) -> Any:
    values = ctx.state.get(_STATE)
    if values and restore_answer(answer, values):
        return answer
    return ctx.unchanged


@plugin.stream_filter("chat.on_stream")
def restore_stream(chunks: Iterable[dict[str, Any]], ctx: Context) -> Iterator[dict[str, Any]]:
    values = ctx.state.get(_STATE)
    yield from restored_chunks(chunks, values) if values else chunks


if __name__ == "__main__":
    plugin.run()
