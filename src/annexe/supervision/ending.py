"""The end of an instance: cleared away, and what was noticed on the way told.

Source: features LC7 and LC8.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import final

from annexe.errors import LaunchError
from annexe.launch.strategy import TreeReport
from annexe.record import EventKind, Events, PluginLog
from annexe.supervision.instance import Instance, StopPolicy

__all__ = ["Ending"]

_LOG = logging.getLogger("annexe.supervision")


@final
class Ending:
    """Ends the instances of one plugin.

    Args:
        plugin: Its id.
        policy: How long each step may take.
        log: The plugin's log.
        events: The host's events.
    """

    def __init__(self, plugin: str, *, policy: StopPolicy, log: PluginLog, events: Events) -> None:
        self._plugin = plugin
        self._policy = policy
        self._log = log
        self._events = events

    def note(self, instance: Instance, reason: str, *, by_limit: bool) -> None:
        """Tell that an instance has ended, or is to be, as a failure.

        Args:
            instance: Which.
            reason: Why.
            by_limit: It used more than it may.
        """
        if instance.protocol_error is not None:
            rule = getattr(instance.protocol_error, "rule", "")
            self._events.add(EventKind.PROTOCOL_ERROR, plugin=self._plugin, reason=instance.protocol_error.message, rule=rule)
        elif instance.is_stuck:
            self._events.add(EventKind.STUCK, plugin=self._plugin, reason=reason)
        self._events.add(EventKind.PLUGIN_EXITED, plugin=self._plugin, reason=reason, cause="limit" if by_limit else instance.cause)

    async def stop(self, instance: Instance) -> None:
        """Take an instance down by the ladder: its calls end first."""
        await self._clear(instance.stop(self._policy))

    async def retire(self, instance: Instance) -> None:
        """Take an instance down that another one took over from: its streams may go on for a while."""
        await self._clear(instance.retire(self._policy))

    async def discard(self, instance: Instance) -> None:
        """Kill what is left of an instance."""
        await self._clear(instance.discard(kill_s=self._policy.kill_s))

    async def _clear(self, clearing: Awaitable[TreeReport]) -> None:
        try:
            report = await clearing
        except Exception as error:  # noqa: BLE001 - whatever it was, the life goes on: nothing would ever get it out of this state
            if not isinstance(error, LaunchError):
                _LOG.exception("clearing plugin %r away failed inside the host", self._plugin)
            reason = f"could not be cleared away: {error}"
            self._log.write("error", reason, source="host")
            self._events.add(EventKind.TREE_KILL_SOFT, plugin=self._plugin, reason=reason, stragglers=0, gone=False)
            return
        if report.stragglers or not report.gone:
            reason = f"{report.stragglers} processes had left its group" + ("" if report.gone else "; some are still there")
            self._events.add(EventKind.TREE_KILL_SOFT, plugin=self._plugin, reason=reason, stragglers=report.stragglers, gone=report.gone)
