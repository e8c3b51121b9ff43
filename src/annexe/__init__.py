"""Run other people's plugins next to your own code, behind their own walls.

>>> from annexe import Host, HookSpec, hook

Names are loaded when they are first used, so that ``import annexe`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annexe.contract import ExtensionPoint, HookSpec, hook
    from annexe.dispatch.breaker import BreakerPolicy
    from annexe.dispatch.graph import Impact, Requirement
    from annexe.dispatch.listeners import TopicEvent
    from annexe.dispatch.outcomes import Responded
    from annexe.dispatch.service_offers import ServicePolicy
    from annexe.host.host import Host
    from annexe.host.plugin_handle import PluginHandle
    from annexe.host.requests import RequestScope
    from annexe.host.sync import SyncHost
    from annexe.sandbox import IsolationLevel, Receipt
    from annexe.supervision.health import HealthPolicy
    from annexe.supervision.instance import StopPolicy
    from annexe.supervision.monitor import MonitorPace
    from annexe.supervision.policies import Policies
    from annexe.supervision.restart import RestartPolicy
    from annexe.supervision.state import PluginState
    from annexe.supervision.violations import Action, MonitorPolicy, Resource, Rule

__all__ = [
    "Action",
    "BreakerPolicy",
    "ExtensionPoint",
    "HealthPolicy",
    "HookSpec",
    "Host",
    "Impact",
    "IsolationLevel",
    "MonitorPace",
    "MonitorPolicy",
    "PluginHandle",
    "PluginState",
    "Policies",
    "Receipt",
    "RequestScope",
    "Requirement",
    "Resource",
    "Responded",
    "RestartPolicy",
    "Rule",
    "ServicePolicy",
    "StopPolicy",
    "SyncHost",
    "TopicEvent",
    "__version__",
    "hook",
]

__version__ = "0.1.0"

_HOMES = {
    "Action": "annexe.supervision.violations",
    "BreakerPolicy": "annexe.dispatch.breaker",
    "ExtensionPoint": "annexe.contract",
    "HealthPolicy": "annexe.supervision.health",
    "HookSpec": "annexe.contract",
    "Host": "annexe.host.host",
    "Impact": "annexe.dispatch.graph",
    "IsolationLevel": "annexe.sandbox",
    "MonitorPace": "annexe.supervision.monitor",
    "MonitorPolicy": "annexe.supervision.violations",
    "PluginHandle": "annexe.host.plugin_handle",
    "PluginState": "annexe.supervision.state",
    "Policies": "annexe.supervision.policies",
    "Receipt": "annexe.sandbox",
    "RequestScope": "annexe.host.requests",
    "Requirement": "annexe.dispatch.graph",
    "Resource": "annexe.supervision.violations",
    "Responded": "annexe.dispatch.outcomes",
    "RestartPolicy": "annexe.supervision.restart",
    "Rule": "annexe.supervision.violations",
    "ServicePolicy": "annexe.dispatch.service_offers",
    "StopPolicy": "annexe.supervision.instance",
    "SyncHost": "annexe.host.sync",
    "TopicEvent": "annexe.dispatch.listeners",
    "hook": "annexe.contract",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
