"""The plugin: looks answers up before a model is asked, and keeps what the model answered."""

from __future__ import annotations

import json

from annexe_sdk import Context, Plugin

from .rules import cache_key, is_cacheable, is_complete

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["plugin"]

plugin = Plugin()

_DEFAULT_TTL_S = 3600
_DEFAULT_MAX_TEMPERATURE = 0
_DEFAULT_MAX_ANSWER_BYTES = 256 * 1024


@plugin.first_result("chat.answer")
def look_up(request: dict[str, Any], ctx: Context) -> object:
    if not _is_cacheable(request, ctx):
        return None
    answer = ctx.kv.get(_key(request, ctx))
    ctx.metrics.count("misses" if answer is None else "hits")
    return answer


@plugin.observer("chat.on_answered")
def keep(exchange: dict[str, Any], ctx: Context) -> None:
    request, answer = exchange["request"], exchange["answer"]
    # What a plugin answered is not kept again: a cached answer must grow old.
    if exchange["source"] != "upstream" or not _is_cacheable(request, ctx) or not is_complete(answer):
        return
    if len(json.dumps(answer)) > ctx.config.get("max_answer_bytes", _DEFAULT_MAX_ANSWER_BYTES):
        return
    ctx.kv.set(_key(request, ctx), answer, ttl_s=ctx.config.get("ttl_s", _DEFAULT_TTL_S))


def _is_cacheable(request: dict[str, Any], ctx: Context) -> bool:
    return is_cacheable(request, max_temperature=ctx.config.get("max_temperature", _DEFAULT_MAX_TEMPERATURE))


def _key(request: dict[str, Any], ctx: Context) -> str:
    return cache_key(request, owner="" if ctx.config.get("shared") else ctx.key or "")


if __name__ == "__main__":
    plugin.run()
