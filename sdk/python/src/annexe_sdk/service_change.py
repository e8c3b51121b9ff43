"""What a handler of ``Plugin.on_service`` is called with. Imported by plugins that have one.

Source: docs/explanation/services.md.
"""

from annexe_sdk.plugin import Misfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ServiceChange", "change_of"]


class ServiceChange:
    """How a service is now.

    Attributes:
        service: Its name.
        state: ``ready``, ``degraded`` or ``gone``.
        providers: Ids of the plugins that offer it now, the one that answers first.
    """

    __slots__ = ("providers", "service", "state")

    def __init__(self, *, service: str, state: str, providers: "tuple[str, ...]") -> None:
        self.service = service
        self.state = state
        self.providers = providers

    def __repr__(self) -> str:
        return f"ServiceChange(service={self.service!r}, state={self.state!r}, providers={self.providers!r})"


def change_of(params: "Any") -> "list[Any]":
    """Return what a handler is called with, from the parameters of a call."""
    try:
        told = params[0]
        return [ServiceChange(service=told["service"], state=told["state"], providers=tuple(told["providers"]))]
    except (LookupError, TypeError) as error:
        raise Misfit(f"a change of a service is a list of one map of service, state and providers: {error!r}") from error
