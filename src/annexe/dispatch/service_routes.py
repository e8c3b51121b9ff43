"""The way of each call from one plugin to another that offers a service.

* A call goes to a plugin that is ready, a healthy one before a degraded one; where none is, it waits for one that starts, within its
  deadline.
* A call that was not sent is tried with the next plugin that offers the service. One that may have happened is tried again only where the
  method is declared idempotent; else the caller is told ``outcome-unknown``.
* Nothing of a payload is decoded here, but for what is held against a schema on the way between two codecs.

Source: features SV1, SV3, SV4; docs/explanation/services.md; ADR-0090.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from time import monotonic
from typing import Any, final

from annexe.channel import Connection, HostCall, PluginCall, PluginStream, RequestMeta, Response, passed_on
from annexe.dispatch.faults import tell_whose_limit
from annexe.dispatch.service_offers import Offer, OfferedService
from annexe.dispatch.service_schema import ServiceSchema
from annexe.dispatch.service_streams import item_decoder, relay
from annexe.dispatch.service_watch import ServiceStanding
from annexe.errors import (
    AnnexeError,
    CallCancelledError,
    CallError,
    InvalidParamsError,
    OutcomeUnknownError,
    PluginBusyError,
    PluginUnavailableError,
)
from annexe.manifest.versions import is_in_range
from annexe.record import EventKind, Events, MethodFigures
from annexe.supervision.state import PluginState

__all__ = ["Route"]

_MAX_LOST = 3
_NOT_SENT = (PluginUnavailableError, PluginBusyError)


@final
class Route:
    """One plugin's way to one service.

    Args:
        service: The service.
        caller: Id of the plugin.
        version: Range that the caller wants; empty: any.
        events: Is told of calls that gave no result.
        like: Finds what else a misspelt name may have meant.
    """

    __slots__ = ("_events", "_generation", "_like", "_offers", "_service", "_version", "caller")

    def __init__(self, service: OfferedService, caller: str, version: str, events: Events, like: Callable[[str], str | None]) -> None:
        self._service = service
        self._version = version
        self._events = events
        self._like = like
        self._generation = -1
        self._offers: tuple[Offer, ...] = ()
        self.caller = caller

    @property
    def name(self) -> str:
        """Name of the service."""
        return self._service.name

    def begin(self, call: PluginCall) -> Awaitable[Response]:
        """Send a call on its way; what comes of it is the other plugin's response.

        Raises:
            CallError: It cannot be sent to anybody.
        """
        passage = call.onward = _Passage(self, call)
        return passage.send()

    def fitting(self) -> tuple[Offer, ...]:
        """Return who offers it to this caller, in order."""
        service = self._service
        if self._generation != service.generation:
            fitting = [
                offer for plugin, offer in service.offers.items() if plugin != self.caller and is_in_range(offer.version, self._version)
            ]
            self._offers = tuple(sorted(fitting, key=lambda offer: service.place_of(offer.plugin)))
            self._generation = service.generation
        return self._offers

    def standing(self) -> ServiceStanding:
        """Return how the service is for this caller."""
        there = [offer for offer in self.fitting() if offer.provider.is_there]
        well = [offer.plugin for offer in there if offer.provider.state is not PluginState.DEGRADED]
        unwell = [offer.plugin for offer in there if offer.plugin not in well]
        return ServiceStanding("ready" if well else "degraded" if unwell else "gone", (*well, *unwell))

    def in_turn(self, call: PluginCall, tried: Collection[str]) -> list[Offer]:
        """Return whom to ask, best first: those that are ready, a healthy one before others, and then those that may become so."""
        offers = [offer for offer in self.fitting() if offer.plugin not in tried]
        if len(offers) < 2:
            return offers
        ready = [offer for offer in offers if offer.provider.connection is not None]
        healthy = [offer for offer in ready if offer.provider.state is PluginState.READY]
        chosen = self._selected(healthy or ready or offers, call)
        return list(dict.fromkeys((chosen, *healthy, *ready, *offers)))

    def _selected(self, offers: list[Offer], call: PluginCall) -> Offer:
        service = self._service
        match service.policy.select:
            case "round-robin":
                service.turn += 1
                return offers[service.turn % len(offers)]
            case "least-loaded":
                return min(offers, key=_load)
            case "sticky":
                key = call.key if call.key is not None else call.parent.meta.key if call.parent is not None else None
                if key is not None:
                    return max(offers, key=lambda offer: _affinity(key, offer.plugin))
        return offers[0]

    def nobody(self, method: str) -> PluginUnavailableError:
        """Make the error for a service that nobody offers to this caller."""
        offers = [offer for plugin, offer in self._service.offers.items() if plugin != self.caller]
        others = ", ".join(f"{offer.plugin} offers {offer.version}" for offer in offers)
        wanted = f" {self._version}" if self._version else ""
        install = f'install a plugin that has [provides.services] "{self.name}" in its plugin.toml'
        like = self._like(self.name) if not others else None
        there = others or (f"did you mean {like!r}? Else {install}" if like is not None else install)
        text = f"no plugin offers service {self.name!r}{wanted} to plugin {self.caller!r}; {there}"
        return PluginUnavailableError(text, method=method, service=self.name)

    def failed(self, call: PluginCall, plugin: str, error: BaseException) -> None:
        """Add the event of a call that gave no result; a refusal is an answer."""
        if isinstance(error, CallError) and not isinstance(error, CallCancelledError):
            facts = {"method": call.method, "code": error.code, "caller": self.caller, "request": call.request_id}
            self._events.add(EventKind.CALL_FAILED, plugin=plugin, reason=error.message, **facts)


def _was_not_sent(error: BaseException | None) -> bool:
    """Say whether the host knows that a call reached nobody; that a plugin answers so proves nothing."""
    return isinstance(error, _NOT_SENT) and "reported" not in error.data


def _load(offer: Offer) -> int:
    connection = offer.provider.connection
    return connection.in_flight if connection is not None else 0


def _affinity(key: str, plugin: str) -> bytes:
    """Return what orders plugins for a key, so that the others' keys stay where they are when one comes or goes."""
    return hashlib.blake2b(f"{plugin}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


@final
class _Passage:
    """One call on its way; see ``channel.Onward``. Each plugin is asked once at most, but for other instances of it."""

    __slots__ = ("_call", "_figures", "_host_call", "_idempotent", "_lost", "_route", "_started", "_tried", "plugin")

    def __init__(self, route: Route, call: PluginCall) -> None:
        self._route = route
        self._call = call
        self._tried: list[str] = []
        self._figures: MethodFigures | None = None
        self._host_call: HostCall | None = None
        self._idempotent = False
        self._lost = 0  # instances that went away with it
        self._started = 0.0
        self.plugin = ""

    def send(self) -> Awaitable[Response]:
        """Send it to the best that was not asked yet.

        Raises:
            CallError: It cannot be sent to anybody.
        """
        refused: CallError | None = None
        for offer in self._route.in_turn(self._call, self._tried):
            self.plugin = offer.plugin
            self._tried.append(offer.plugin)
            connection = offer.provider.connection
            if connection is None:
                return self._when_ready(offer)
            try:
                return self._begin(offer, connection)
            except _NOT_SENT as error:
                refused = error
        raise refused or self._route.nobody(self._call.method)

    async def _when_ready(self, offer: Offer) -> Response:
        connection = await offer.provider.wait_ready(self._call.deadline, method=self._call.method)
        return await self._begin(offer, connection)

    def _begin(self, offer: Offer, connection: Connection) -> Awaitable[Response]:
        call, parent = self._call, self._call.parent
        offer.check_method(call.method)
        try:
            params = passed_on(call.params, call.codec, to=connection.codec.name)
        except ValueError as error:
            text = f"the arguments of {call.method} for plugin {offer.plugin!r} cannot be passed on: {error}"
            raise InvalidParamsError(text, plugin=offer.plugin, method=call.method) from error
        if offer.schema is not None and (call.codec == "json") is not (connection.codec.name == "json"):
            offer.schema.check_params(call.method, call.params if call.codec == "json" else params, plugin=offer.plugin)
        meta = RequestMeta(caller=self._route.caller)
        if parent is not None:
            meta.request, meta.traceparent, meta.key = parent.meta.request, parent.meta.traceparent, parent.meta.key
        self._started = offer.provider.last_used = monotonic()
        self._figures, self._idempotent = offer.figures(call.method), call.method in offer.idempotent and call.stream is None
        if call.stream is not None:
            return self._begin_stream(call.stream, offer, connection, params, meta)
        host_call = self._host_call = connection.begin(
            call.method, params, meta, deadline=call.deadline, run_s=offer.call_timeout_s, chain=call.chain
        )
        future: asyncio.Future[Response] = host_call.future
        if offer.schema is None or "json" not in (connection.codec.name, call.connection.codec.name):
            return future
        return self._checked(future, offer.schema, offer.plugin)

    async def _checked(self, future: asyncio.Future[Response], schema: ServiceSchema, plugin: str) -> Response:
        """Hold an answer that is decoded on its way to the caller against what its plugin declares."""
        response = await future
        if response.error is None and (response.codec == "json") is not (self._call.connection.codec.name == "json"):
            with suppress(ValueError):  # what cannot be passed on is told by whoever does
                schema.check_result(self._call.method, passed_on(response.result, response.codec, to="json"), plugin=plugin)
        return response

    def _begin_stream(
        self, asked: PluginStream, offer: Offer, connection: Connection, params: Any, meta: RequestMeta
    ) -> Awaitable[Response]:
        call = self._call
        meta.stream = asked.direction
        stream = connection.open_stream(
            call.method,
            params,
            meta,
            deadline=call.deadline,
            decode=item_decoder(offer.plugin, call.method, to=call.connection.codec.name),
            item_s=offer.call_timeout_s,
            chain=call.chain,
        )
        self._host_call = stream.call
        return relay(asked, stream, to=connection.codec.name)

    def ended(self, error: BaseException | None) -> Awaitable[Response] | None:
        """Count the last attempt; return another one where it may be tried again."""
        if self._figures is not None:
            self._note(self._figures, error)
        if _was_not_sent(error) or (self._idempotent and isinstance(error, OutcomeUnknownError)):
            if self._has_other_instance():
                self._lost += 1
                self._tried.remove(self.plugin)
            self._figures, self._host_call = None, None
            try:
                return self.send()
            except CallError:
                return None  # the first error says more
        return None

    def _has_other_instance(self) -> bool:
        """Say whether the plugin may be asked again: another instance of it is there, and not too many have gone away already."""
        offer = next((offer for offer in self._route.fitting() if offer.plugin == self.plugin), None)
        if offer is None or self._host_call is None or self._lost >= _MAX_LOST:
            return False
        connection = offer.provider.connection
        return connection is not None and connection is not self._host_call.connection and not connection.closed

    def _note(self, figures: MethodFigures, error: BaseException | None) -> None:
        took_s = monotonic() - self._started
        if error is None:
            figures.add(took_s)
            return
        tell_whose_limit(error)
        figures.add_failure(took_s, error.code if isinstance(error, AnnexeError) else "internal")
        self._route.failed(self._call, self.plugin, error)

    def give_up(self) -> None:
        """Nobody wants the answer any more."""
        host_call, figures = self._host_call, self._figures
        if host_call is not None and host_call.stream is not None:
            host_call.stream.abandon()  # it may hold shared memory of what nobody has taken
        elif host_call is not None:
            host_call.connection.give_up(host_call)
        if figures is not None:
            figures.add_failure(monotonic() - self._started, CallCancelledError.code)
