"""A process that came by itself and takes the place of a plugin's instances for as long as it stays.

* It is nobody's failure when it goes, for whatever reason: the installed one is started at once, and calls wait meanwhile.
* It is never pinged, measured, or waited for long: it may be held in a debugger.

Source: feature LC15; docs/how-to/attach-a-debugger.md; ADR-0095.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from annexe.launch import LaunchStrategy

if TYPE_CHECKING:
    from annexe.supervision.instance import InstancePlan

__all__ = ["HELLO_S", "Coming", "Guest"]

HELLO_S = 10.0
"""How long one that was let in may take to say hello, before any code of the plugin's is run."""


@final
@dataclass(slots=True, kw_only=True)
class Guest:
    """One such process.

    Attributes:
        strategy: Gives it as a launched plugin.
        pid: Its number, where the kernel tells it.
        reason: Why it goes, once somebody has said so.
    """

    strategy: LaunchStrategy
    pid: int | None
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Coming:
    """A guest whose start is the plugin's next one.

    Attributes:
        plan: Makes its plan.
        arrived: Done once it is about to take calls, or with the error that kept it from that.
    """

    plan: Callable[[int], Awaitable[InstancePlan]]
    arrived: asyncio.Future[None]

    def settle(self, error: BaseException | None) -> None:
        """Tell how it went; the first word counts."""
        if not self.arrived.done():
            self.arrived.set_exception(error) if error is not None else self.arrived.set_result(None)
