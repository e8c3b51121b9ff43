"""The channel to one plugin: calls, streams, cancellation, deadlines, flow control."""

from annexe.channel.calls import CHAIN, HostCall, Onward, PluginCall
from annexe.channel.connection import Connection
from annexe.channel.handshake import Greeting, Provided, activate, hello
from annexe.channel.incoming import Notify
from annexe.channel.limits import ARENA_BYTES, ChannelLimits
from annexe.channel.messages import CodecName, RequestMeta, Response, passed_on
from annexe.channel.plugin_streams import PluginStream
from annexe.channel.requests import Refused, Serve
from annexe.channel.streams import Stream

__all__ = [
    "ARENA_BYTES",
    "CHAIN",
    "ChannelLimits",
    "CodecName",
    "Connection",
    "Greeting",
    "HostCall",
    "Notify",
    "Onward",
    "PluginCall",
    "PluginStream",
    "Provided",
    "Refused",
    "RequestMeta",
    "Response",
    "Serve",
    "Stream",
    "activate",
    "hello",
    "passed_on",
]
