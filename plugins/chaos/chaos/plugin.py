"""The plugin: looks for a command, and obeys if that is enabled."""

from __future__ import annotations

from collections.abc import Iterator

from annexe_sdk import Context, Plugin, Reject

from .command import commanded
from .faults import FAULTS
from .streams import STREAM_FAULTS

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["plugin"]

plugin = Plugin()

_STATE = "stream fault"


@plugin.filter("chat.on_request")
def obey(request: dict[str, Any], ctx: Context) -> object:
    kind = commanded(request) if ctx.config.get("enabled") else None
    if kind is None:
        return ctx.unchanged
    ctx.log.warning("obeying", command=kind)
    if kind in STREAM_FAULTS:
        ctx.state[_STATE] = kind
        return ctx.unchanged
    if kind not in FAULTS:
        known = ", ".join([*FAULTS, *STREAM_FAULTS])
        raise Reject("unknown-fault", f"Chaos knows no {kind!r}. It knows: {known}.", status=400)
    return FAULTS[kind](request, ctx)


@plugin.stream_filter("chat.on_stream")
def obey_in_stream(chunks: Iterator[dict[str, Any]], ctx: Context) -> Iterator[Any]:
    kind = ctx.state.get(_STATE) if ctx.config.get("enabled") else None
    yield from STREAM_FAULTS[kind](iter(chunks)) if kind else chunks


if __name__ == "__main__":
    plugin.run()
