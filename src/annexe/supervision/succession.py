"""Some instances taking over from others.

Source: feature LC10; docs/how-to/reload-a-plugin.md; ADR-0092.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from annexe.errors import LaunchError, PluginUnavailableError
from annexe.supervision.crew import Crew
from annexe.supervision.ending import Ending
from annexe.supervision.handover import hand_over, hands_over
from annexe.supervision.instance import Instance
from annexe.supervision.pool import Pool
from annexe.supervision.standing import Standing
from annexe.supervision.starting import PlanInstance, Starts
from annexe.supervision.wish import Wish

__all__ = ["Succession", "Successions"]


@final
@dataclass(frozen=True, slots=True)
class Succession:
    """What is to take over, and what came of it.

    Attributes:
        instances: Ready; none: the next one is started once those before have ended.
        commit: Called at the moment of the switch; what it raises calls it off.
        decided: Done once it was carried through or called off.
        versions: Of the old ones and of these.
    """

    instances: Sequence[Instance]
    commit: Callable[[], None]
    decided: asyncio.Future[None]
    versions: tuple[str, str]

    def carry_through(self) -> bool:
        """Commit; say whether it is to be."""
        if self.decided.cancelled():  # whoever asked for it has gone
            return False
        try:
            self.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told and what runs goes on
            self.call_off(error)
            return False
        self.decided.set_result(None)
        return True

    @property
    def told(self) -> str:
        """What takes over from what, for people."""
        old, new = self.versions
        return f"version {new} takes over from {old}" if new != old else "another instance takes over"

    def call_off(self, error: Exception) -> None:
        """Tell whoever asked that nothing comes of it."""
        if not self.decided.done():
            self.decided.set_exception(error)


@final
class Successions:
    """Those of one plugin: one at a time.

    Args:
        plugin: Its id.
        crew: Its instances.
        starts: Starts others.
        ending: Ends those for which nothing came of it.
        standing: How the plugin stands.
        wish: Told of what is to take over; the plugin's life carries it through.
    """

    def __init__(self, plugin: str, *, crew: Crew, starts: Starts, ending: Ending, standing: Standing, wish: Wish) -> None:
        self._plugin = plugin
        self._crew = crew
        self._starts = starts
        self._ending = ending
        self._standing = standing
        self._wish = wish
        self._due: Succession | None = None

    async def replace(
        self, plan: PlanInstance, *, commit: Callable[[], None], overlap: bool, count: int | None = None, version: str = ""
    ) -> None:
        """Have as many other instances take over from those that run, without losing a call.

        What is under way there goes on to its end, for as long as draining may take.

        Args:
            plan: Makes the plan of a new instance.
            commit: Called at the moment of the switch, between two calls; what it raises calls the switch off.
            overlap: The new ones become ready beside the old ones; else they are started once those have ended, and calls wait meanwhile.
            count: How many new ones; None: as many as there are.
            version: Of the new ones; empty: that of the old ones.

        Raises:
            LaunchError: It did not become ready, of its family. With ``overlap`` the old one goes on.
            PluginUnavailableError: The plugin does not run, or was stopped meanwhile; nothing was changed.
        """
        crew = self._crew
        await crew.wait_retired()  # never more than two at once
        self._check_serves()
        instances = await self._starts.beside(plan, count or len(crew.instances)) if overlap else ()
        try:
            old = self._check_serves().members[0].instance
            if len(instances) == 1 and hands_over(old, instances[0]):
                crew.hold()
                await hand_over(old, instances[0])
                self._check_serves()
            versions = (old.plan.version, version or old.plan.version)
            succession = self._due = Succession(instances, commit, asyncio.get_running_loop().create_future(), versions)
            self._wish.tell()
            await succession.decided
        except BaseException:
            if instances and crew.first not in instances:
                await asyncio.gather(*map(self._ending.discard, instances))
            raise
        finally:
            crew.let_go()
        if not overlap:
            await self._starts.unless_called_off(asyncio.create_task(self._standing.wait_started()))
            if crew.pool is None:
                raise LaunchError(
                    f"plugin {self._plugin!r} was replaced and is {self._standing.state}: {self._standing.life.reason}", plugin=self._plugin
                )

    def _check_serves(self) -> Pool:
        if self._crew.pool is None or self._due is not None:
            raise self._unavailable("cannot be replaced")
        return self._crew.pool

    def _unavailable(self, why: str) -> PluginUnavailableError:
        standing = self._standing
        return PluginUnavailableError(
            f"plugin {self._plugin!r} {why}: it is {standing.told}", plugin=self._plugin, state=str(standing.state)
        )

    def due(self) -> Succession | None:
        """Return what is to be carried through now, once; None: nothing."""
        due, self._due = self._due, None
        return due

    def call_off(self) -> None:
        """Tell whoever waits for one that nothing comes of it."""
        due = self.due()
        if due is not None:
            due.call_off(self._unavailable("was not replaced"))
