"""Who offers a service: one plugin's offer, all offers of one service, and the operator's choice between them.

Source: features SV1 and SV3; docs/explanation/services.md; ADR-0090.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from annexe.dispatch.members import Provider
from annexe.dispatch.service_schema import declared_schema
from annexe.errors import MethodNotFoundError
from annexe.manifest import Manifest
from annexe.record import MethodFigures, Metrics

__all__ = ["SELECTIONS", "Offer", "OfferedService", "Selection", "ServicePolicy"]

Selection = Literal["first", "round-robin", "least-loaded", "sticky"]
SELECTIONS: tuple[Selection, ...] = ("first", "round-robin", "least-loaded", "sticky")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePolicy:
    """Which plugin answers a call where several offer one service; the operator's choice.

    Attributes:
        select: ``first`` in order, each in turn (``round-robin``), the one with the fewest open calls (``least-loaded``), or always the
            same one for a key (``sticky``): the caller's, else that of the request.
        order: Plugin ids that come first; the others follow by id.
    """

    select: Selection = "first"
    order: Sequence[str] = ()


@final
class Offer:
    """One plugin's offer of one service."""

    __slots__ = ("_figures", "_metrics", "call_timeout_s", "idempotent", "methods", "plugin", "provider", "schema", "version")

    def __init__(self, service: str, manifest: Manifest, provider: Provider, metrics: Metrics) -> None:
        offer = manifest.provides.services[service]
        self.plugin = manifest.id
        self.provider = provider
        self.version = offer.version
        self.idempotent = frozenset(f"svc.{service}.{method}" for method in offer.idempotent)
        self.methods: frozenset[str] = frozenset()  # by their names on the wire, as its code says once it runs
        self.call_timeout_s = manifest.resources.call_timeout_s
        self.schema = declared_schema(offer)
        self._metrics = metrics
        self._figures: dict[str, MethodFigures] = {}

    def check_method(self, method: str) -> None:
        """Refuse a method that the plugin does not have.

        Raises:
            MethodNotFoundError: It has not.
        """
        if method not in self.methods:
            known = ", ".join(sorted(name.rpartition(".")[2] for name in self.methods)) or "none"
            text = f"plugin {self.plugin!r} has no {method!r}; methods of that service there: {known}"
            raise MethodNotFoundError(text, plugin=self.plugin, method=method)

    def figures(self, method: str) -> MethodFigures:
        """Return the counters of a method that it has."""
        found = self._figures.get(method)
        if found is None:
            found = self._figures[method] = self._metrics.method(self.plugin, method)
        return found


@final
class OfferedService:
    """One service: who offers it."""

    __slots__ = ("generation", "name", "offers", "policy", "turn")

    def __init__(self, name: str, policy: ServicePolicy) -> None:
        self.name = name
        self.policy = policy
        self.offers: dict[str, Offer] = {}
        self.generation = 0  # changes with the offers
        self.turn = 0

    def place_of(self, plugin: str) -> tuple[int, str]:
        """Return where a plugin comes in order."""
        order = list(self.policy.order)
        return (order.index(plugin) if plugin in order else len(order), plugin)
