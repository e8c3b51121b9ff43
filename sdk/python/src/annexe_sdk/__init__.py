"""Write plugins for annexe hosts.

>>> from annexe_sdk import Plugin
>>> plugin = Plugin()

Importing this package costs next to nothing and needs nothing but Python: what is heavy is imported when it is used.
"""

from annexe_sdk.context import Context
from annexe_sdk.errors import CallCancelled, CallFailed, DeadlineExceeded, PermissionDenied, Reject, Respond
from annexe_sdk.plugin import Plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from annexe_sdk.aio import AsyncContext
    from annexe_sdk.contract import Service
    from annexe_sdk.events import Event
    from annexe_sdk.service_change import ServiceChange

__all__ = [
    "AsyncContext",
    "CallCancelled",
    "CallFailed",
    "Context",
    "DeadlineExceeded",
    "Event",
    "PermissionDenied",
    "Plugin",
    "Reject",
    "Respond",
    "Service",
    "ServiceChange",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "AsyncContext":  # brings asyncio with it
        from annexe_sdk.aio import AsyncContext

        return AsyncContext
    if name == "Event":  # for plugins that subscribe
        from annexe_sdk.events import Event

        return Event
    if name == "Service":  # for plugins that offer or use services
        from annexe_sdk.contract import Service

        return Service
    if name == "ServiceChange":  # for plugins that watch one
        from annexe_sdk.service_change import ServiceChange

        return ServiceChange
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
