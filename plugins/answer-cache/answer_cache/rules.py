"""Which answers are kept, and under which name.

Pure. The name is a hash of everything that could change the answer; an unknown parameter counts as one that could. Only how the answer is
delivered (``stream``) is left out, and streams are never looked up.
"""

from __future__ import annotations

import hashlib
import json

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["cache_key", "is_cacheable", "is_complete"]

_API_DEFAULT_TEMPERATURE = 1.0
_FINISHED = ("stop", "tool_calls")


def is_cacheable(request: dict[str, Any], *, max_temperature: float) -> bool:
    """Say whether a request's answer may be kept, and may be taken from what was kept."""
    temperature = request.get("temperature")
    return not request.get("stream") and (_API_DEFAULT_TEMPERATURE if temperature is None else temperature) <= max_temperature


def is_complete(answer: dict[str, Any]) -> bool:
    """Say whether an answer ended by itself; one that was cut off is worth another try."""
    choices = answer.get("choices") or []
    return bool(choices) and all(choice.get("finish_reason") in _FINISHED for choice in choices)


def cache_key(request: dict[str, Any], *, owner: str) -> str:
    """Return the name an answer is kept under.

    Args:
        request: A ``ChatRequest`` as a plain map.
        owner: Whose answer it is; empty for everybody's.
    """
    asked = {name: value for name, value in request.items() if name != "stream"}
    canonical = json.dumps([owner, asked], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "answer/" + hashlib.sha256(canonical.encode()).hexdigest()
