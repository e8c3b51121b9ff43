"""Where a plugin is in its life, and who waits for it to be elsewhere.

Calls wait while the plugin is starting, while one instance is to end before the next one is started (a switch), and while state is handed
over (it is held). Everything else lasts: whoever waits is told at once.

Source: features LC3 to LC11; ADR-0006.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from annexe.clock import Clock
from annexe.record import EventKind, Events, PluginLog
from annexe.supervision.attachment import WaitingRoom
from annexe.supervision.state import Lifecycle, PluginState

__all__ = ["MAX_REASON_CHARS", "Standing"]

MAX_REASON_CHARS = 4096
"""Parts of a reason may be the plugin's words; it goes into the history, the store and every list of plugins."""


@final
class Standing:
    """How one plugin stands.

    Args:
        plugin: Its id.
        log: The plugin's log.
        events: The host's events.
        clock: For times that people read.
        on_moved: Told of every change of state, after it.

    Attributes:
        life: What it went through.
        room: Calls that a guest was not sent before it went.
        is_switching: The next instance is started once the one before has ended.
        is_held: State is handed over.
    """

    def __init__(self, plugin: str, *, log: PluginLog, events: Events, clock: Clock, on_moved: Callable[[PluginState], None]) -> None:
        self.life = Lifecycle.begin(reason="found", at=clock.now())
        self.room = WaitingRoom()
        self.is_switching = False
        self.is_held = False
        self._awaiting_count = 0  # how many have it down for a moment
        self._plugin = plugin
        self._log = log
        self._events = events
        self._clock = clock
        self._on_moved = on_moved
        self._settled = asyncio.Event()  # calls need not wait

    @property
    def state(self) -> PluginState:
        """The state."""
        return self.life.state

    @property
    def is_awaited(self) -> bool:
        """Whether it is down for a moment only: whoever has it so starts it again."""
        return self._awaiting_count > 0

    @property
    def lasts(self) -> bool:
        """Whether nothing is to be waited for."""
        return self.state is not PluginState.STARTING and not self.is_switching and not self.is_held and not self.is_awaited

    @property
    def told(self) -> str:
        """The state and why, for messages."""
        return f"{self.state} ({self.life.reason})"

    def resume(self, state: PluginState, reason: str) -> None:
        """Take up where it was in an earlier life of the host."""
        self.life = Lifecycle.begin(reason=reason, at=self._clock.now(), state=state)

    def move(self, state: PluginState, reason: str) -> None:
        """Take a step.

        Raises:
            ValueError: There is no such step.
        """
        before = self.life.state
        reason = reason[:MAX_REASON_CHARS]
        self.life = self.life.moved(state, reason=reason, at=self._clock.now())
        self._events.add(EventKind.STATE_CHANGED, plugin=self._plugin, reason=reason, before=str(before), after=str(state))
        self._log.write("info", f"{before} → {state}: {reason}", source="host")
        if not self.room.is_empty and not self.is_switching and state is not PluginState.STARTING:
            self.room.turn_away(reason)
        self._settle()
        self._on_moved(state)

    def start_again(self) -> None:
        """Begin the next start, by which a switch ends."""
        self.is_switching = self.is_held = False
        self.move(PluginState.STARTING, "starting again")

    def switch(self) -> None:
        """Have calls wait for the start that follows this instance's end."""
        self.is_switching = True
        self._settle()

    def switched(self) -> None:
        """Nothing of a switch is to come any more."""
        self.is_switching = self.is_held = False
        self._settle()

    def hold(self, *, is_held: bool) -> None:
        """Have calls wait, or wait no longer, for state to be handed over."""
        self.is_held = is_held
        self._settle()

    def expect(self, *, is_awaited: bool) -> None:
        """Have calls wait, or wait no longer, for a start that somebody else sees to; several may do so at once, each for itself."""
        self._awaiting_count += 1 if is_awaited else -1
        self._settle()

    def _settle(self) -> None:
        (self._settled.set if self.lasts else self._settled.clear)()

    async def wait(self) -> None:
        """Wait while it is not what lasts; it may be so no more afterwards."""
        await self._settled.wait()

    async def wait_started(self) -> None:
        """Wait while it is starting."""
        while self.state is PluginState.STARTING or self.is_switching:
            await self._settled.wait()
