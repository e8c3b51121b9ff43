"""Calls that were not sent yet: those that wait for a slot, and those that are too long for a frame and wait for room in shared memory.

None of them holds a slot. What waits for room comes before what waits for a slot, once it has some.

Source: docs/reference/protocol.md, "Slots and time" and "Shared memory".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import final

from annexe.channel.calls import HostCall
from annexe.channel.faults import busy
from annexe.channel.limits import ChannelLimits
from annexe.channel.slots import Slots
from annexe.errors import CallError, InvalidParamsError, PluginBusyError

__all__ = ["Backlog"]


@final
class Backlog:
    """Those of one connection.

    Args:
        plugin: Id.
        limits: Bounds.
        slots: What they wait for.
        send: Sends a call that was given its slot; one for which there is no room comes back by ``wait_for_room``.

    Attributes:
        queue: Calls that wait for a slot, oldest first.
        roomless: Calls that wait for room, oldest first.
    """

    __slots__ = ("_limits", "_plugin", "_send", "_slots", "queue", "roomless")

    def __init__(self, plugin: str, *, limits: ChannelLimits, slots: Slots, send: Callable[[HostCall], None]) -> None:
        self.queue: deque[HostCall] = deque()
        self.roomless: deque[HostCall] = deque()
        self._plugin = plugin
        self._limits = limits
        self._slots = slots
        self._send = send

    def pump(self) -> None:
        """Send what waits, now that a slot is free."""
        queue, slots = self.queue, self._slots
        while queue and slots.taken < slots.most:
            call = queue.popleft()
            if call.future.done():
                continue
            slots.taken += 1
            try:
                self._send(call)
            except (InvalidParamsError, PluginBusyError) as error:
                call.future.set_exception(error)

    def hand_out(self, most: int | None) -> list[HostCall]:
        """Give away what waits for a slot, the oldest first; None: all of it."""
        queue = self.queue
        calls = [queue.popleft() for _ in range(len(queue) if most is None else min(most, len(queue)))]
        return [call for call in calls if not call.future.done()]

    def wait_for_room(self, call: HostCall) -> None:
        """Keep a call that could not be sent until the plugin releases something; it has given its slot back.

        Raises:
            PluginBusyError: It cannot wait.
        """
        if call.meta.stream is not None:  # what feeds it does not wait
            raise busy(call.method, "no room in shared memory", plugin=self._plugin)
        if len(self.roomless) >= self._limits.queued:
            raise busy(call.method, f"{self._limits.queued} calls wait for room in shared memory", plugin=self._plugin)
        self.roomless.append(call)

    def send_roomless(self) -> None:
        """Send what waits for room, in order, now that there is some."""
        while self.roomless and self._has_been_sent(self.roomless.popleft()):
            pass

    def _has_been_sent(self, call: HostCall) -> bool:
        """Try again to send a call; False when it must go on waiting for room, first in order."""
        slots = self._slots
        if call.future.done():
            return True
        if call.nested:
            slots.nested += 1
        elif slots.taken >= slots.most:
            self.queue.appendleft(call)  # now it waits for a slot
            return True
        else:
            slots.taken += 1
        try:
            self._send(call)
        except CallError as error:
            call.future.set_exception(error)
        if call.id == 0 and self.roomless and self.roomless[-1] is call:
            self.roomless.appendleft(self.roomless.pop())
            return False
        return True

    def take_out(self, call: HostCall) -> None:
        """Let go of a call: what nobody wants shall neither keep its arguments nor take the place of others."""
        for waiting in (self.queue, self.roomless):
            with suppress(ValueError):
                waiting.remove(call)

    def clear(self) -> None:
        """Let go of all."""
        self.queue.clear()
        self.roomless.clear()
