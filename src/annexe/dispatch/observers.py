"""Tell observers: beside the request, bounded, never in its way.

What waits is kept per plugin, the oldest dropped and counted; see ``side_queue``.

Source: docs/reference/hooks.md, "Observer".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, final

import msgspec

from annexe.channel import Connection, HostCall
from annexe.channel.faults import fault_of
from annexe.channel.messages import ENCODE_FAULTS, MSGPACK
from annexe.contract import HookDefinition, wire_params
from annexe.dispatch.faults import tell_whose_limit, unsendable
from annexe.dispatch.members import HookMember, Provider
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.request import Request
from annexe.dispatch.side_queue import TOO_SLOW, Fifo, SideQueue, Waiting
from annexe.errors import CallError, InvalidParamsError, RejectedError
from annexe.record import EventKind, Events, Outcome

__all__ = ["MAX_WAITING", "Observation", "ObserverQueue", "encoded_params", "observer_queue"]

MAX_WAITING = 1000


def encoded_params(definition: HookDefinition, values: tuple[Any, ...]) -> bytes:
    """Encode the parameters once for all observers, so that the application may change its objects afterwards.

    Raises:
        InvalidParamsError: They cannot be sent.
    """
    try:
        return MSGPACK.encode(wire_params(definition.params, values, method=definition.method))
    except ENCODE_FAULTS as error:
        raise unsendable(definition.qualified, error, method=definition.method) from error


@final
class Observation:
    """Something that one plugin is to observe.

    Args:
        pipeline: Of the hook.
        member: The plugin there.
        request: On whose behalf.
        params: Encoded as MessagePack.
    """

    __slots__ = ("_member", "_params", "_pipeline", "_request", "_started")

    def __init__(self, pipeline: Pipeline, member: HookMember, request: Request, params: bytes) -> None:
        self._pipeline = pipeline
        self._member = member
        self._request = request
        self._params = params
        self._started = 0.0

    @property
    def lane(self) -> str | None:
        """The plugin at whose hook it is; None for those of the application."""
        return self._request.caller

    @property
    def size_bytes(self) -> int:
        return len(self._params)

    def begin(self, connection: Connection) -> HostCall | None:
        """Send it, if it may be and can be."""
        member, pipeline = self._member, self._pipeline
        started = self._started = monotonic()
        if not member.breaker.admit(started):
            pipeline.note(self._request, member, started, started, Outcome.SKIPPED, "breaker open")
            return None
        meta = self._request.meta_for(member.provider.id)
        ready = msgspec.Raw(self._params) if connection.codec.name == "msgpack" else msgspec.msgpack.decode(self._params)
        try:
            return connection.begin(pipeline.definition.method, ready, meta, deadline=started + member.run_s, run_s=member.run_s)
        except CallError as error:
            self._missed(error)
            return None

    def ended(self, call: HostCall) -> None:
        """Note what came of it."""
        fault = fault_of(call)
        if isinstance(fault, CallError):
            self._missed(fault)
        elif isinstance(fault, RejectedError):
            self._note(Outcome.FAILED, "an observer cannot reject")
        else:
            self._pipeline.answered(self._request, self._member, self._started, Outcome.OBSERVED)

    def dropped(self, why: str) -> None:
        """Note that the plugin will never see it."""
        self._started = monotonic()
        self._note(Outcome.SKIPPED, why)

    def _missed(self, error: CallError) -> None:
        if isinstance(error, InvalidParamsError) and "reported" not in error.data:
            # Too large for a frame: the application's own doing, but nobody is there any more to be told otherwise.
            self._note(Outcome.FAILED, f"{error.code}: {error.message}")
            return
        tell_whose_limit(error, budget_s=self._pipeline.definition.budget_s)
        # An observer is always open: it cannot fail the request, which may be over.
        self._pipeline.failed(self._request, self._member, self._started, error)

    def _note(self, outcome: Outcome, why: str) -> None:
        self._pipeline.note(self._request, self._member, self._started, monotonic(), outcome, why)


ObserverQueue = SideQueue[Observation]
"""What one plugin has yet to observe."""


def observer_queue(
    provider: Provider, *, events: Events, loop: asyncio.AbstractEventLoop, waiting: Waiting[Observation] | None = None
) -> ObserverQueue:
    """Make the queue of a plugin.

    Args:
        provider: The plugin.
        events: Is told of drops.
        loop: The host's.
        waiting: What waits; by default in order, whoever it comes from.
    """

    def tell(dropped: Sequence[Observation], why: str) -> None:
        if why != TOO_SLOW:
            for observation in dropped:
                observation.dropped(why)
        events.add(EventKind.OBSERVER_DROPPED, plugin=provider.id, reason=why, dropped_count=queue.dropped_count)

    queue: ObserverQueue = SideQueue(
        provider, waiting=Fifo(MAX_WAITING) if waiting is None else waiting, what="observer", on_dropped=tell, loop=loop
    )
    return queue
