"""The host: composes the rooms below."""

from annexe.host.host import Host
from annexe.host.plugin_handle import PluginHandle
from annexe.host.requests import RequestScope

__all__ = ["Host", "PluginHandle", "RequestScope"]
