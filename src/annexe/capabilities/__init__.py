"""The host services a plugin can be granted.

* What a plugin sends is checked here before it reaches anything else.
* What a plugin can pile up here is bounded: memory, disk, requests waiting, requests per second.
"""

from __future__ import annotations

__all__: list[str] = []
