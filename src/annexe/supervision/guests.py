"""How a guest takes the place of a plugin's instances, and how the installed one takes it back.

Source: feature LC15; docs/how-to/attach-a-debugger.md; ADR-0095.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import final

from annexe.errors import PluginUnavailableError
from annexe.supervision.attachment import Coming
from annexe.supervision.crew import Crew
from annexe.supervision.instance import Instance
from annexe.supervision.standing import Standing
from annexe.supervision.starting import PlanInstance, Starts
from annexe.supervision.state import PluginState
from annexe.supervision.succession import Successions
from annexe.supervision.wish import Wish

__all__ = ["Guests"]

_S = PluginState
_ATTACHES = "another process takes its place"


@final
class Guests:
    """Those of one plugin: one at a time.

    Args:
        plugin: Its id.
        crew: Its instances.
        starts: Starts them.
        successions: Has a guest take over from what runs.
        standing: How the plugin stands.
        wish: Whether it is wanted.
        begin: Starts the plugin that does not run, given why.
        stop: Takes it down, given why.
    """

    def __init__(
        self,
        plugin: str,
        *,
        crew: Crew,
        starts: Starts,
        successions: Successions,
        standing: Standing,
        wish: Wish,
        begin: Callable[[str], None],
        stop: Callable[[str], Awaitable[None]],
    ) -> None:
        self._plugin = plugin
        self._crew = crew
        self._starts = starts
        self._successions = successions
        self._standing = standing
        self._wish = wish
        self._begin = begin
        self._stop = stop
        self._coming: Coming | None = None  # what is started next, in place of the installed one

    async def attach(self, plan: PlanInstance, *, commit: Callable[[], None], overlap: bool) -> None:
        """Have a guest take the place of what runs, or of what would; once it goes, the installed one is started.

        Args:
            plan: Makes its plan.
            commit: As for ``Successions.replace``.
            overlap: It becomes ready beside what runs.

        Raises:
            LaunchError: It did not become ready; what was there is there again.
            PluginUnavailableError: The plugin was stopped meanwhile, or may not run.
        """
        crew = self._crew
        await self._standing.wait_started()
        if crew.pool is not None and overlap:
            await self._successions.replace(plan, commit=commit, overlap=True, count=1)
            return
        if self._standing.state not in (_S.READY, _S.DEGRADED, _S.STOPPED, _S.BACKING_OFF, _S.QUARANTINED):
            raise self._unavailable("nothing can attach to")
        if crew.pool is None:
            await self._stop(_ATTACHES)
            commit()
        coming = self._coming = Coming(plan, asyncio.get_running_loop().create_future())
        try:
            if crew.pool is not None:
                await self._successions.replace(plan, commit=commit, overlap=False)
            else:
                self._begin(_ATTACHES)
            await coming.arrived
        finally:
            if self._coming is coming:
                self._coming = None

    def detach(self, reason: str) -> None:
        """Have the installed one take the place of a guest again; calls wait until it is ready."""
        instance = self._crew.first
        guest = instance.plan.guest if instance is not None else None
        if instance is not None and guest is not None and self._wish.is_wanted and not self._standing.is_switching:
            guest.reason = self._wish.reason = reason
            self._standing.room.rescue(instance.connection)
            self._standing.switch()
            self._crew.hold()
            self._wish.tell()

    async def start(self) -> Instance | None:
        """Start the guest that comes; None where none does, or it did not become ready: then whoever brought it is told."""
        coming, self._coming = self._coming, None
        if coming is None:
            return None
        try:
            instance = await self._starts.first(coming.plan, self._wish)
        except Exception as error:  # noqa: BLE001 - whoever came is told, and the installed one is started
            coming.settle(error)
            return None
        text = f"plugin {self._plugin!r} was stopped"
        coming.settle(None if instance is not None else PluginUnavailableError(text, plugin=self._plugin))
        return instance

    def take_over(self, instance: Instance) -> None:
        """Let the calls in that wait for whoever comes, now that calls are sent to an instance; it may be a guest."""
        room = self._standing.room
        if not room.is_empty:
            room.let_in(instance.connection)
        if instance.plan.guest is not None:
            instance.connection.siblings = room
            instance.on_gone = self.detach
            if instance.connection.closed:
                self.detach("its process has ended, or closed the connection")

    def rescue(self) -> None:
        """Take over what waits at a guest that another instance takes over from."""
        instance = self._crew.first
        if instance is not None and instance.plan.guest is not None:
            self._standing.room.rescue(instance.connection)

    def turn_away(self) -> None:
        """Tell who comes that the plugin's life is over, and let nobody wait for what does not come."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.settle(self._unavailable("nothing attached to"))
        if self._standing.is_switching:  # stopped meanwhile
            self._standing.room.turn_away(self._standing.life.reason)
            self._standing.switched()

    def _unavailable(self, what: str) -> PluginUnavailableError:
        text = f"{what} plugin {self._plugin!r}: it is {self._standing.told}"
        return PluginUnavailableError(text, plugin=self._plugin, state=str(self._standing.state))
