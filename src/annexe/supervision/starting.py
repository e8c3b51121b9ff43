"""The starts of one plugin's instances: numbered, and called off where nobody wants them any more.

Source: features LC3 and LC10; ADR-0006, ADR-0092.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, final

from annexe.errors import AnnexeError, PluginUnavailableError
from annexe.launch import LaunchStrategy
from annexe.record import EventKind, Events, PluginLog
from annexe.supervision.ending import Ending
from annexe.supervision.gate import StartGate
from annexe.supervision.instance import Instance, InstancePlan
from annexe.supervision.standing import Standing
from annexe.supervision.wish import Wish

__all__ = ["PlanInstance", "Starts"]

_LOG = logging.getLogger("annexe.supervision")
V = TypeVar("V")

PlanInstance = Callable[[int], Awaitable[InstancePlan]]
"""Makes the plan of the next instance, as things stand then; given the instance's number, from 1."""


@final
class Starts:
    """Starts the instances of one plugin.

    Args:
        plugin: Its id.
        strategy: How it is launched.
        gate: The host's: how many start at once.
        ping_timeout_s: How long one that has just started may take to answer.
        ending: Clears away what was started for nothing.
        standing: How the plugin stands, for errors.
        log: The plugin's log.
        events: The host's events.

    Attributes:
        count: How many there were.
    """

    def __init__(
        self,
        plugin: str,
        *,
        strategy: LaunchStrategy,
        gate: StartGate,
        ping_timeout_s: float,
        ending: Ending,
        standing: Standing,
        log: PluginLog,
        events: Events,
    ) -> None:
        self.count = 0
        self._plugin = plugin
        self._strategy = strategy
        self._gate = gate
        self._ping_timeout_s = ping_timeout_s
        self._ending = ending
        self._standing = standing
        self._log = log
        self._events = events
        self._beside: set[asyncio.Task[Any]] = set()  # whoever wants the plugin stopped calls them off

    def _begin(self, plan: PlanInstance) -> asyncio.Task[Instance]:
        self.count += 1
        return asyncio.get_running_loop().create_task(self._launch(plan, self.count))

    async def _launch(self, plan: PlanInstance, number: int) -> Instance:
        made = await plan(number)
        if made.guest is not None:  # it runs already
            return await Instance.start(made, made.guest.strategy, self._log)
        return await self._gate.through(Instance.start(made, self._strategy, self._log), of=self)

    async def first(self, plan: PlanInstance, wish: Wish) -> Instance | None:
        """Start an instance while none runs; return None when it is not wanted any more.

        Raises:
            LaunchError: One of its family.
        """
        starting = self._begin(plan)
        while wish.is_wanted and not starting.done():
            await wish.wait(starting)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            if starting.cancelled() or starting.exception() is not None:
                return None
        return starting.result()

    async def beside(self, plan: PlanInstance, count: int) -> tuple[Instance, ...]:
        """Start instances beside those that run, all or none.

        Raises:
            LaunchError: One did not become ready, of its family.
            PluginUnavailableError: They were called off.
        """
        starts = [self._begin(plan) for _ in range(count)]
        try:
            instances = await self.unless_called_off(*starts)
            # A plugin tells that it is ready before the last imports are done: the first calls would wait for them.
            await asyncio.gather(*(instance.ping(self._ping_timeout_s) for instance in instances))
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            begun = [start.result() for start in starts if not start.cancelled() and start.exception() is None]
            await asyncio.gather(*map(self._ending.discard, begun))
            raise
        return tuple(instances)

    async def unless_called_off(self, *starts: asyncio.Task[V]) -> list[V]:
        """Wait for starts, all or none.

        Raises:
            PluginUnavailableError: They were called off.
        """
        self._beside.update(starts)
        try:
            return await asyncio.gather(*starts)
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if waiting is not None and waiting.cancelling():
                raise
            text = f"plugin {self._plugin!r} was not replaced: that was called off while the next instance was starting"
            raise PluginUnavailableError(text, plugin=self._plugin, state=str(self._standing.state)) from None
        finally:
            self._beside.difference_update(starts)

    def call_off(self) -> None:
        """End at once what is started beside others: a plugin may take minutes for that."""
        for start in self._beside:
            start.cancel()

    def note(self, error: Exception) -> str:
        """Tell that a start failed; return why, in words."""
        if isinstance(error, AnnexeError):
            self._events.add(EventKind.LAUNCH_FAILED, plugin=self._plugin, reason=error.message, code=error.code)
            return error.message
        _LOG.error("starting plugin %r failed inside the host", self._plugin, exc_info=error)
        return f"the host failed to start it: {error!r}"
