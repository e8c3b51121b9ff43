"""Services: what plugins offer each other.

* Who offers what changes with the set of plugins, never with a call. What is resolved for a call is the caller's, made when it starts.
* The way of each call is its ``Route``'s.

Source: features SV1, SV3, SV4; docs/explanation/services.md; ADR-0090.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import final

from annexe.channel import Connection, Provided
from annexe.dispatch.members import Provider
from annexe.dispatch.service_offers import Offer, OfferedService, ServicePolicy
from annexe.dispatch.service_routes import Route
from annexe.dispatch.service_schema import ServiceSchema
from annexe.dispatch.service_watch import ServiceWatch
from annexe.manifest import Manifest
from annexe.manifest.reader import nearest
from annexe.record import Events, Metrics

__all__ = ["Services"]


@final
class Services:
    """The services of one host.

    Args:
        policies: The operator's, by service.
        metrics: Gets counts.
        events: Is told of calls that gave no result.
    """

    def __init__(self, policies: Mapping[str, ServicePolicy], *, metrics: Metrics, events: Events) -> None:
        self._policies = policies
        self._metrics = metrics
        self._events = events
        self._services: dict[str, OfferedService] = {}
        self._watches: dict[str, list[ServiceWatch]] = {}

    def add(self, manifest: Manifest, provider: Provider) -> None:
        """Take over what a plugin offers, instead of what it offered before."""
        self.remove(manifest.id, keep=manifest.provides.services.keys())
        for name in manifest.provides.services:
            service = self._service(name)
            offer, before = Offer(name, manifest, provider, self._metrics), service.offers.get(manifest.id)
            offer.methods = before.methods if before is not None else frozenset()
            service.offers[manifest.id] = offer
            service.generation += 1
            self._tell(name)

    def remove(self, plugin: str, *, keep: Collection[str] = ()) -> None:
        """Let go of what a plugin offers, apart from some services."""
        for service in self._services.values():
            if service.name not in keep and service.offers.pop(plugin, None) is not None:
                service.generation += 1
                self._tell(service.name)

    def learn(self, manifest: Manifest, provided: Provided, connection: Connection) -> None:
        """Take over which methods the code of an instance has, and of which services it wants to be told."""
        plugin = manifest.id
        for name, extension in provided.services.items():
            offer = self._service(name).offers.get(plugin)
            if offer is not None:
                offer.methods = frozenset(f"svc.{name}.{method}" for method in extension.methods)
        for name in provided.watches:
            route = self.route(manifest, name)
            watch = ServiceWatch(name, connection, route.standing)
            self._watches[name] = [one for one in self._watches.get(name, ()) if not one.is_over] + [watch]
            watch.tell()
        self.moved(plugin)

    def moved(self, plugin: str) -> None:
        """Tell those who want to know that a plugin is not in the state any more in which it was."""
        for name, service in self._services.items():
            if plugin in service.offers:
                self._tell(name)

    def _tell(self, name: str) -> None:
        for watch in self._watches.get(name, ()):
            watch.tell()

    def _service(self, name: str) -> OfferedService:
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = OfferedService(name, self._policies.get(name, ServicePolicy()))
        return service

    def route(self, caller: Manifest, service: str) -> Route:
        """Return a plugin's way to a service; the plugin was granted it."""
        need = caller.requires.services.get(service)
        return Route(self._service(service), caller.id, need.version if need is not None else "", self._events, self._like)

    def offering(self, service: str) -> dict[str, Provider]:
        """Return who offers a service, by id, in the operator's order; nobody where there is none such."""
        known = self._services.get(service)
        order = sorted(known.offers, key=known.place_of) if known is not None else ()
        return {plugin: known.offers[plugin].provider for plugin in order} if known is not None else {}

    def schemas(self, service: str) -> dict[str, ServiceSchema | None]:
        """Return what those who offer a service declare of it, by id; None: nothing."""
        return {plugin: self._services[service].offers[plugin].schema for plugin in self.offering(service)}

    def check_method(self, plugin: str, service: str, method: str) -> None:
        """Refuse a method, by its name on the wire, that a plugin which offers a service and runs does not have.

        Raises:
            MethodNotFoundError: It has not.
        """
        self._services[service].offers[plugin].check_method(method)

    def offered(self) -> list[str]:
        """Return the names of all services that somebody offers."""
        return sorted(service.name for service in self._services.values() if service.offers)

    def _like(self, name: str) -> str | None:
        """Return the service that is offered and has the name most like this one."""
        return nearest(name, self.offered())
