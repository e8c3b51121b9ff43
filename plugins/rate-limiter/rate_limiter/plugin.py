"""The plugin: counts requests and their tokens in the key-value store, so that all instances and restarts share one count."""

from __future__ import annotations

import time

from annexe_sdk import CallFailed, Context, Plugin, Reject

from .guess import guessed_tokens
from .tokenizer import Tokenizer
from .window import bucket_of, retry_after_s

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["plugin"]

plugin = Plugin()

_DEFAULT_REQUESTS = 60
_DEFAULT_WINDOW_S = 60
_MINUTE_S = 60
_MAX_KEY_BYTES = 400  # of the 512 that the store allows


@plugin.filter("chat.on_request")
def limit(request: dict[str, Any], ctx: Context) -> object:
    requests = ctx.config.get("requests", _DEFAULT_REQUESTS)
    window_s = ctx.config.get("window_s", _DEFAULT_WINDOW_S)
    # The window is part of the name: after a change of configuration counting starts afresh instead of mixing lengths.
    place, wait_s = _take(ctx, f"{window_s}/{_shortened(ctx.key or '')}", cost=1, limit=requests, window_s=window_s)
    if wait_s is not None:
        raise _refusal(ctx, f"More than {requests} requests in {window_s} s.", wait_s)
    per_minute = ctx.config.get("tokens_per_minute")
    if per_minute is not None:
        try:
            _limit_tokens(request, ctx, per_minute)
        except Reject:
            ctx.kv.increment(place, -1)
            raise
    return ctx.unchanged


def _limit_tokens(request: dict[str, Any], ctx: Context, per_minute: int) -> None:
    tokens = _tokens(request, ctx)
    if tokens > per_minute:
        ctx.metrics.count("refused")
        raise Reject("too-many-tokens", f"About {tokens} tokens; at most {per_minute} in a minute. Send less.", status=413)
    if tokens > 0:
        _, wait_s = _take(ctx, f"tokens/{_shortened(ctx.key or '')}", cost=tokens, limit=per_minute, window_s=_MINUTE_S)
        if wait_s is not None:
            raise _refusal(ctx, f"More than {per_minute} tokens in a minute.", wait_s)


def _tokens(request: dict[str, Any], ctx: Context) -> int:
    messages = request["messages"]
    try:
        return ctx.service(Tokenizer).count_messages(messages, request["model"])
    except CallFailed as error:
        # Or whoever sends what takes long to count would pass uncounted.
        ctx.log.warning("tokens guessed", code=error.code, reason=error.message)
        ctx.metrics.count("guessed")
        return guessed_tokens(messages)


def _take(ctx: Context, name: str, *, cost: int, limit: int, window_s: int) -> tuple[str, int | None]:
    """Count what a request costs; return under which name, and in how many seconds to try again if it may not pass and was taken back."""
    bucket, elapsed = bucket_of(time.time(), window_s)
    place = f"{name}/{bucket}"
    current = ctx.kv.increment(place, cost, ttl_s=2 * window_s)
    previous = ctx.kv.get(f"{name}/{bucket - 1}", 0)
    wait_s = retry_after_s(current=current, previous=previous, elapsed=elapsed, limit=limit, window_s=window_s, cost=cost)
    if wait_s is not None:
        ctx.kv.increment(place, -cost)
    return place, wait_s


def _refusal(ctx: Context, why: str, wait_s: int) -> Reject:
    ctx.metrics.count("refused")
    return Reject("rate-limited", f"{why} Try again in {wait_s} s.", status=429, retry_after_s=wait_s)


def _shortened(key: str) -> str:
    """Return a name for a key that fits into the store's, which are short and without control characters."""
    if len(key.encode()) <= _MAX_KEY_BYTES and key.isprintable():
        return key
    import hashlib  # rarely needed, and slow to import

    return "sha256-" + hashlib.sha256(key.encode()).hexdigest()


if __name__ == "__main__":
    plugin.run()
