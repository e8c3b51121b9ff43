"""The host: composes the rooms below.

Names are loaded when they are first used: the client of the control socket lives here too, and a command that only asks a running host must
not pay for loading one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annexe.host.host import Host
    from annexe.host.plugin_handle import PluginHandle
    from annexe.host.requests import RequestScope

__all__ = ["Host", "PluginHandle", "RequestScope"]

_HOMES = {"Host": "annexe.host.host", "PluginHandle": "annexe.host.plugin_handle", "RequestScope": "annexe.host.requests"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
