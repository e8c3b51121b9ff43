"""The plugin: adds up what each exchange used, and reports the totals."""

from __future__ import annotations

from annexe_sdk import CallFailed, Context, Plugin

from .tokenizer import Tokenizer
from .totals import entry_name, keys_under, prefix_of, totals_of
from .usage import Guess, cost_nanos, tokens_used

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["UsageReport", "plugin"]

plugin = Plugin()


@plugin.observer("chat.on_answered")
def count(exchange: dict[str, Any], ctx: Context) -> None:
    request, answer = exchange["request"], exchange["answer"]
    model = answer.get("model") or request["model"]
    if exchange["source"] == "upstream":
        asked, answered = _tokens(request, answer, model, ctx)
        cost = cost_nanos(ctx.config.get("prices", {}), model, asked, answered)
        counted = {"requests": 1, "prompt_tokens": asked, "completion_tokens": answered, "cost_nanos": cost}
    else:
        # Answered by a plugin: no model was asked, nothing was used.
        counted = {"requests": 1, "cached": 1}
    for counter, by in counted.items():
        if by:
            ctx.kv.increment(entry_name(ctx.key or "", counter, model), by)


def _tokens(request: dict[str, Any], answer: dict[str, Any], model: str, ctx: Context) -> tuple[int, int]:
    try:
        return tokens_used(request, answer, _Counted(ctx, model))
    except CallFailed as error:
        # Nobody asks again for what was used: a guess is better than nothing.
        ctx.log.warning("tokens guessed", code=error.code, reason=error.message)
        ctx.metrics.count("guessed")
        return tokens_used(request, answer, Guess())


class _Counted:
    """Has the service ``tokenizer`` count."""

    def __init__(self, ctx: Context, model: str) -> None:
        self._tokenizer = ctx.service(Tokenizer)
        self._model = model

    def request(self, request: dict[str, Any]) -> int:
        return self._tokenizer.count_messages(request.get("messages", []), self._model)

    def answer(self, texts: Iterable[str]) -> int:
        return self._tokenizer.count(" ".join(texts), self._model)


@plugin.extension("usage-report")
class UsageReport:
    def totals(self, key: str, ctx: Context) -> list[dict[str, Any]]:
        """Return the totals of one key, or of all when it is empty."""
        names = keys_under(prefix_of(key), lambda prefix, limit, after: ctx.kv.list(prefix, limit=limit, after=after))
        return totals_of({name: ctx.kv.get(name, 0) for name in list(names)})


if __name__ == "__main__":
    plugin.run()
