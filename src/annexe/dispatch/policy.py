"""What the operator decides of hooks, extension points and services.

Source: docs/reference/hooks.md, "Order" and "Failure".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from annexe.dispatch.breaker import BreakerPolicy
from annexe.dispatch.service_offers import ServicePolicy
from annexe.errors import ContractError
from annexe.ids import is_plugin_id
from annexe.manifest.reader import nearest

__all__ = ["DispatchPolicy"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """What the operator decides.

    Attributes:
        order: By qualified hook name (or extension point): plugin ids that come first, in this order.
        on_failure: By qualified hook name, or by plugin id: a policy that can only make the others stricter.
        breaker: When a plugin is passed over at a hook.
        services: By service: which plugin answers where several offer it.
    """

    order: Mapping[str, Sequence[str]] = field(default_factory=dict)
    on_failure: Mapping[str, Literal["open", "closed"]] = field(default_factory=dict)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    services: Mapping[str, ServicePolicy] = field(default_factory=dict)

    def check(self, *, hooks: Collection[str], points: Collection[str], specs: Collection[str]) -> None:
        """Refuse what is decided about nothing that is here: a typing error must not make a strict policy a lax one.

        Args:
            hooks: Qualified names of the application's.
            points: Its extension points.
            specs: Its hook specs. Other hooks a plugin may define; ``undecided`` tells of those that none does.

        Raises:
            ContractError: Something is.
        """
        places = [*sorted(hooks), *sorted(points)]
        wrong = [("order", name, places) for name in self.order if name not in places]
        wrong += [("on_failure", name, sorted(hooks)) for name in self.on_failure if name not in hooks and not is_plugin_id(name)]
        for argument, name, known in wrong:
            close = nearest(name, known)
            if not close and "." in name and name.partition(".")[0] not in specs:
                continue
            expected = f"expected {close!r}" if close else f"expected one of {', '.join(known) or 'none: no contract is open'}"
            raise ContractError(f"{argument} names {name!r}, which the host does not open; {expected}", name=name)

    def undecided(self, known: Collection[str]) -> list[tuple[str, str]]:
        """Return what is decided about hooks that neither the application nor a plugin defines: argument and name.

        Args:
            known: Hooks and extension points of all of them.
        """
        asked = [("order", name) for name in self.order]
        asked += [("on_failure", name) for name in self.on_failure if not is_plugin_id(name)]
        return [(argument, name) for argument, name in asked if name not in known]
