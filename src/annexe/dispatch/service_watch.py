"""Tell plugins how the services that they use are: there, degraded or gone.

* What is told is how it is now, not every step on the way: a plugin that is slow to hear misses steps and never the last word.
* At most one such call is under way for each instance and service, so nothing waits and nothing is unbounded.
* A plugin is told once when it is ready, and then of every change.

Source: feature SV4; docs/explanation/services.md; ADR-0090.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, final

from annexe.channel import Connection, RequestMeta
from annexe.errors import CallError

__all__ = ["ServiceStanding", "ServiceWatch"]

_ANSWER_S = 10.0
_AGAIN_S = 1.0  # after a plugin was too busy to hear


class ServiceStanding(NamedTuple):
    """How a service is, as one plugin sees it.

    Attributes:
        state: ``ready`` where a provider is, or would start at the first call; ``degraded`` where only such ones are left; ``gone``.
        providers: Ids of those plugins, best first.
    """

    state: str
    providers: tuple[str, ...]


@final
class ServiceWatch:
    """One instance of a plugin that wants to know how one service is.

    Args:
        service: Its name.
        connection: To the instance.
        standing: Says how it is now.
    """

    __slots__ = ("_connection", "_is_under_way", "_loop", "_service", "_standing", "_told")

    def __init__(self, service: str, connection: Connection, standing: Callable[[], ServiceStanding]) -> None:
        self._service = service
        self._connection = connection
        self._standing = standing
        self._loop = asyncio.get_running_loop()
        self._told: ServiceStanding | None = None
        self._is_under_way = False

    @property
    def is_over(self) -> bool:
        """Whether nobody listens any more."""
        return self._connection.closed

    def tell(self) -> None:
        """Tell how it is now, unless that was the last word."""
        standing = self._standing()
        if self._is_under_way or standing == self._told or self._connection.closed:
            return
        self._is_under_way = True
        change = {"service": self._service, "state": standing.state, "providers": list(standing.providers)}
        try:
            call = self._connection.begin(f"service.{self._service}", [change], RequestMeta(), deadline=monotonic() + _ANSWER_S, chain=())
        except CallError:
            self._loop.call_later(_AGAIN_S, self._again)
            return
        self._told = standing
        call.future.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[object]) -> None:
        if not future.cancelled():
            future.exception()  # what its handler made of it is in its own log
        self._again()

    def _again(self) -> None:
        self._is_under_way = False
        self.tell()
