"""Who runs in a plugin and who waits for it.

Pure: it counts, and says what follows; sending and timers are the connection's.

* The oldest ``concurrency`` open calls hold the slots; a bounded number more is sent ahead, so that the plugin never waits for the next.
* A call's run time counts from the moment it has a slot.
* A call that was given up keeps its slot until the plugin answers it.

Source: docs/reference/protocol.md, "Concurrency, slots, stuck"; ADR-0004.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from annexe.channel.calls import HostCall
from annexe.channel.limits import ChannelLimits

__all__ = ["Slots"]


class Slots:
    """The slots of one connection.

    Attributes:
        taken: Calls sent and not answered, streamed and nested ones not counted.
        most: How many that may be.
        ahead: Calls that were sent and wait for a slot in the plugin, oldest first.
        given_up: Slot holders that were given up.
        streams: Streamed calls that are open.
        nested: Calls that serve one of the plugin's own and are open.
    """

    __slots__ = ("_concurrency", "_limits", "ahead", "given_up", "most", "nested", "streams", "taken")

    def __init__(self, limits: ChannelLimits) -> None:
        self._limits = limits
        self._concurrency = limits.concurrency
        self.most = limits.concurrency + limits.sent_ahead
        self.taken = 0
        self.ahead: deque[HostCall] = deque()
        self.given_up = 0
        self.streams = 0
        self.nested = 0

    def enter(self, call: HostCall, now: float) -> float:
        """Give a call that was counted its slot, or a place among those sent ahead; return how long it may take, in seconds."""
        left_s = call.deadline - now
        if self.taken > self._concurrency and not call.nested and call.meta.stream is None:
            self.ahead.append(call)
            return left_s if call.run_s is None or left_s < call.run_s else call.run_s
        self.start(call, now)
        return call.deadline - now

    def take_back(self, call: HostCall) -> None:
        """The call that entered last could not be sent after all; ``leave`` comes next."""
        if self.ahead and self.ahead[-1] is call:
            self.ahead.pop()

    def start(self, call: HostCall, now: float) -> None:
        """The plugin works on the call from now on."""
        call.holds_slot = not call.nested and call.meta.stream is None
        if call.given_up_at is not None:
            call.given_up_at = now  # it could not end before it had the slot
            self.given_up += call.holds_slot
        if call.run_s is not None and now + call.run_s < call.deadline:
            call.deadline = now + call.run_s

    def give_up(self, call: HostCall, now: float) -> None:
        """Nobody wants the answer any more."""
        call.given_up_at = now
        self.given_up += call.holds_slot

    def leave(self, call: HostCall) -> bool:
        """Give back what the call took; say whether a slot is free for one that was sent ahead."""
        if call.meta.stream is not None:
            self.streams -= 1
            return False
        if call.nested:
            self.nested -= 1
            return False
        self.taken -= 1
        if not call.holds_slot:
            return False
        if call.given_up_at is not None:
            self.given_up -= 1
        return bool(self.ahead)

    def are_given_up(self, calls: Iterable[HostCall], before: float) -> bool:
        """Say whether every slot is held by a call that was given up before that time."""
        return self.given_up >= self._concurrency and self._concurrency <= sum(
            call.holds_slot and call.given_up_at is not None and call.given_up_at <= before for call in calls
        )

    def is_stuck(self, calls: Iterable[HostCall], before: float) -> bool:
        """Say whether the plugin has room for one kind of call no more: all that there may be were given up before that time."""
        plain = streams = nested = 0
        for call in calls:
            if call.given_up_at is not None and call.given_up_at <= before:
                plain += call.holds_slot
                streams += call.meta.stream is not None
                nested += call.nested
        limits = self._limits
        return plain >= limits.concurrency or streams >= limits.streams or nested >= limits.nested
