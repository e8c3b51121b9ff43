"""The plugin: adds up what each exchange used, and reports the totals."""

from __future__ import annotations

from annexe_sdk import Context, Plugin

from .totals import entry_name, keys_under, prefix_of, totals_of
from .usage import cost_nanos, tokens_used

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["UsageReport", "plugin"]

plugin = Plugin()


@plugin.observer("chat.on_answered")
def count(exchange: dict[str, Any], ctx: Context) -> None:
    request, answer = exchange["request"], exchange["answer"]
    model = answer.get("model") or request["model"]
    if exchange["source"] == "upstream":
        asked, answered = tokens_used(request, answer)
        cost = cost_nanos(ctx.config.get("prices", {}), model, asked, answered)
        counted = {"requests": 1, "prompt_tokens": asked, "completion_tokens": answered, "cost_nanos": cost}
    else:
        # Answered by a plugin: no model was asked, nothing was used.
        counted = {"requests": 1, "cached": 1}
    for counter, by in counted.items():
        if by:
            ctx.kv.increment(entry_name(ctx.key or "", counter, model), by)


@plugin.extension("usage-report")
class UsageReport:
    def totals(self, key: str, ctx: Context) -> list[dict[str, Any]]:
        """Return the totals of one key, or of all when it is empty."""
        names = keys_under(prefix_of(key), lambda prefix, limit, after: ctx.kv.list(prefix, limit=limit, after=after))
        return totals_of({name: ctx.kv.get(name, 0) for name in list(names)})


if __name__ == "__main__":
    plugin.run()
