"""What a request commands.

Pure. Only the last message counts, and only when a user wrote it: ``chaos: crash``, alone or as the first line.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["commanded"]

_COMMAND = re.compile(r"\s{0,100}chaos:[ \t]{0,100}([a-z][a-z-]{0,40})(?![\w-])")


def commanded(request: dict[str, Any]) -> str | None:
    """Return the kind of fault a request asks for, known or not; None when it asks for none."""
    last = request["messages"][-1] if request["messages"] else {"role": "", "content": ""}
    if last["role"] != "user" or not isinstance(last["content"], str):
        return None
    match = _COMMAND.match(last["content"])
    return match[1] if match else None
