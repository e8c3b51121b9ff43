"""Who implements a hook or extension point, and on which terms.

Members are made when the set of plugins changes, never during a call: names, limits, policy and counters are resolved then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, final

from annexe.channel import Connection
from annexe.dispatch.breaker import Breaker
from annexe.record import MethodFigures
from annexe.supervision.state import PluginState

__all__ = ["HookMember", "Provider"]


class Provider(Protocol):
    """A plugin as dispatch sees it; the supervisor is one.

    Attributes:
        id: The plugin's id.
        last_used: Monotonic time of the last call, for idle stop.
    """

    id: str
    last_used: float

    @property
    def connection(self) -> Connection | None:
        """Whom to send the next call; asked once for each, for it may be another one each time. None when there is none."""
        ...

    @property
    def state(self) -> PluginState:
        """Where the plugin is in its life."""
        ...

    @property
    def is_there(self) -> bool:
        """Whether the plugin takes calls, or would start at the first one."""
        ...

    async def wait_ready(self, deadline: float, *, method: str) -> Connection:
        """Return the connection as soon as there is one; starts a lazy plugin.

        Raises:
            PluginUnavailableError: It cannot take calls, or did not become ready before ``deadline`` (monotonic time).
        """
        ...

    def where(self, hook: str) -> str | None:
        """Return ``file:line`` of the plugin's handler, as the plugin tells it; for messages alone."""
        ...


@final
@dataclass(slots=True, kw_only=True)
class HookMember:
    """One plugin's place in one hook.

    Attributes:
        provider: The plugin.
        priority: Lower comes first.
        closed: Whether its failure fails the request: the strictest of hook, manifest and operator.
        run_s: The most it may work on one call: the smaller of budget and call time-out.
        breaker: Its breaker at this hook.
        figures: Its counters at this hook.
    """

    provider: Provider
    priority: int
    closed: bool
    run_s: float
    breaker: Breaker
    figures: MethodFigures
    failing: bool = field(default=False)  # the breaker is open, and an event said so
