"""The plugin: counts requests in the key-value store, so that all instances and restarts share one count."""

from __future__ import annotations

import time

from annexe_sdk import Context, Plugin, Reject

from .window import bucket_of, retry_after_s

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["plugin"]

plugin = Plugin()

_DEFAULT_REQUESTS = 60
_DEFAULT_WINDOW_S = 60
_MAX_KEY_BYTES = 400  # of the 512 that the store allows


@plugin.filter("chat.on_request")
def limit(request: dict[str, Any], ctx: Context) -> object:  # noqa: ARG001 - the key alone counts
    requests = ctx.config.get("requests", _DEFAULT_REQUESTS)
    window_s = ctx.config.get("window_s", _DEFAULT_WINDOW_S)
    bucket, elapsed = bucket_of(time.time(), window_s)
    # The window is part of the name: after a change of configuration counting starts afresh instead of mixing lengths.
    name = f"{window_s}/{_shortened(ctx.key or '')}"
    current = ctx.kv.increment(f"{name}/{bucket}", ttl_s=2 * window_s)
    previous = ctx.kv.get(f"{name}/{bucket - 1}", 0)
    wait_s = retry_after_s(current=current, previous=previous, elapsed=elapsed, requests=requests, window_s=window_s)
    if wait_s is None:
        return ctx.unchanged
    ctx.kv.increment(f"{name}/{bucket}", -1)
    ctx.metrics.count("refused")
    raise Reject(
        "rate-limited", f"More than {requests} requests in {window_s} s. Try again in {wait_s} s.", status=429, retry_after_s=wait_s
    )


def _shortened(key: str) -> str:
    """Return a name for a key that fits into the store's, which are short and without control characters."""
    if len(key.encode()) <= _MAX_KEY_BYTES and key.isprintable():
        return key
    import hashlib  # rarely needed, and slow to import

    return "sha256-" + hashlib.sha256(key.encode()).hexdigest()


if __name__ == "__main__":
    plugin.run()
