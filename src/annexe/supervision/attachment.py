"""A process that came by itself and takes the place of a plugin's instances for as long as it stays.

* It is nobody's failure when it goes, for whatever reason: the installed one is started at once, and calls wait meanwhile.
* It is never pinged, measured, or waited for long: it may be held in a debugger.

Source: feature LC15; docs/how-to/attach-a-debugger.md; ADR-0095.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, final

from annexe.channel import Connection, HostCall
from annexe.errors import PluginUnavailableError
from annexe.launch.attach import AttachStrategy

if TYPE_CHECKING:
    from annexe.supervision.instance import InstancePlan

__all__ = ["HELLO_S", "Coming", "Guest", "WaitingRoom"]

HELLO_S = 10.0
"""How long one that was let in may take to say hello, before any code of the plugin's is run."""

_ANEW_S = 30.0  # what a call has that waited for a guest, once it is sent to the installed one


@final
@dataclass(slots=True, kw_only=True)
class Guest:
    """One such process.

    Attributes:
        strategy: Gives it as a launched plugin.
        pid: Its number, where the kernel tells it.
        reason: Why it goes, once somebody has said so.
    """

    strategy: AttachStrategy
    pid: int | None
    reason: str = ""

    def let_go(self, reason: str) -> None:
        """Hang up on one that is not ready yet."""
        self.reason = self.reason or reason
        self.strategy.hang_up()


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
        if self.arrived.done():
            return
        if error is None:
            self.arrived.set_result(None)
        else:
            self.arrived.set_exception(error)
            self.arrived.exception()  # whoever waited may have gone: then nobody looks


@final
class WaitingRoom:
    """Calls that a guest was not sent yet when it went: they wait for the installed one. Stands in for its connection's siblings."""

    def __init__(self) -> None:
        self._calls: list[HostCall] = []

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._calls

    def feed(self, connection: Connection) -> None:
        """There is nobody who could give it anything."""

    def rescue(self, connection: Connection) -> None:
        """Take over what waits at one that goes."""
        connection.siblings = None
        self._calls += connection.hand_out()

    def let_in(self, connection: Connection) -> None:
        """Send them on; their time has stood still, so they have some anew."""
        calls, self._calls = self._calls, []
        anew = monotonic() + _ANEW_S
        for call in calls:
            call.deadline = max(call.deadline, anew)
        connection.take_in(call for call in calls if not call.future.done())

    def turn_away(self, why: str) -> None:
        """Nobody comes whom they could wait for."""
        calls, self._calls = self._calls, []
        for call in calls:
            if not call.future.done():
                plugin = call.connection.plugin
                text = f"plugin {plugin!r} went away before {call.method} was sent: {why}"
                call.future.set_exception(PluginUnavailableError(text, plugin=plugin, method=call.method))
