"""What lets a plugin take its time: one that is attached may be held in a debugger for hours.

* Nothing that a connection of this kind waits for is over by time; callers, and the end of the connection, end calls as ever.
* What waits for such a call on another plugin's behalf has its own time stand still meanwhile, however deep it is.
* Which connections these are is decided once, when one is made: the others do nothing for it.

Source: docs/how-to/attach-a-debugger.md; ADR-0095.
"""

from __future__ import annotations

from time import monotonic
from typing import final

from annexe.channel.alarm import Alarm
from annexe.channel.calls import HostCall, PluginCall
from annexe.channel.limits import ChannelLimits
from annexe.channel.slots import Slots

__all__ = ["PATIENCE_S", "NoAlarm", "PatientSlots", "is_paused"]

PATIENCE_S = 20 * 24 * 3600.0
"""What stands for no deadline, in seconds: far away, and a number all the same for whoever reckons with it.

In milliseconds it fits into 31 bits: what a plugin waits with may have no room for more.
"""


@final
class NoAlarm(Alarm):
    """Never goes off."""

    __slots__ = ()

    def wake_at(self, at: float) -> None:
        pass


@final
class PatientSlots(Slots):
    """Slots of a plugin whose calls have no time limit."""

    __slots__ = ("_paused",)

    def __init__(self, limits: ChannelLimits) -> None:
        super().__init__(limits)
        self._paused: dict[HostCall, float] = {}  # since when what waits for it stands still

    def enter(self, call: HostCall, now: float) -> float:
        call.run_s, call.deadline = None, now + PATIENCE_S
        if call.chain:
            for outer in call.chain:
                outer.deadline += PATIENCE_S
            self._paused[call] = now
            call.future.add_done_callback(lambda _: self._resume(call))
        return super().enter(call, now)

    def give_up(self, call: HostCall, now: float) -> None:
        self._resume(call)
        super().give_up(call, now)

    def _resume(self, call: HostCall) -> None:
        """Have the time go on of what waited for a call."""
        since = self._paused.pop(call, None)
        if since is None:
            return
        took_s = monotonic() - since
        for outer in call.chain:
            outer.deadline += took_s - PATIENCE_S
            outer.connection.wake_at(outer.deadline)


def is_paused(call: PluginCall, now: float) -> bool:
    """Say whether what a plugin asked waits for one that may take its time."""
    return call.parent is not None and call.parent.deadline - now > PATIENCE_S / 2
