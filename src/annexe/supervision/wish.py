"""Whether a plugin is to run, and word of what has changed for the task that lives its life.

Source: ADR-0006.
"""

from __future__ import annotations

import asyncio
from typing import Any, final

__all__ = ["Wish"]


@final
class Wish:
    """What is wanted of one plugin.

    Attributes:
        is_wanted: It is to run.
        reason: Why what runs of it is taken down.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self.reason = "stopped"
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Have it run; what was told before counts no more."""
        self.is_wanted = True
        self._changed.clear()

    def end(self, reason: str) -> None:
        """Have it run no more."""
        self.is_wanted, self.reason = False, reason
        self._changed.set()

    def tell(self) -> None:
        """Have the plugin's life look: something has changed."""
        self._changed.set()

    async def wait(self, *work: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Wait until something is done, anything has changed, or the time is over."""
        changed = asyncio.get_running_loop().create_task(self._changed.wait())
        either: list[asyncio.Future[Any]] = [*work, changed]
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self.is_wanted:  # who does not want it any more is heard however late
            self._changed.clear()

    async def wait_ended(self, within_s: float) -> None:
        """Wait until it is to run no more, or the time is over; whatever else is told."""
        try:
            async with asyncio.timeout(within_s):
                while self.is_wanted:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
