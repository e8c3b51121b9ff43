"""The first two exchanges: hello, then activate.

Hello is answered before any plugin code is loaded, so that a fault is blamed on the right side.

Source: docs/reference/protocol.md, "Handshake and life".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from annexe.channel.connection import Connection
from annexe.channel.messages import CodecName, RequestMeta, Response
from annexe.errors import ActivationError, CallError, HandshakeError
from annexe_sdk.wire import PROTOCOL_VERSIONS

T = TypeVar("T")

_FAULTS = (CallError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

__all__ = ["Greeting", "Provided", "activate", "hello"]


class Greeting(msgspec.Struct, frozen=True):
    """What a plugin's SDK answered to hello."""

    protocol: int
    codec: CodecName
    sdk: dict[str, str] = {}


class Provided(msgspec.Struct, frozen=True):
    """What a plugin's code says it provides, by name; each with facts for messages, such as ``at``."""

    hooks: dict[str, dict[str, Any]] = {}
    extensions: dict[str, dict[str, Any]] = {}
    services: dict[str, dict[str, Any]] = {}
    routes: dict[str, dict[str, Any]] = {}
    topics: dict[str, dict[str, Any]] = {}


async def hello(
    connection: Connection,
    *,
    host: Mapping[str, str],
    plugin: Mapping[str, str],
    deadline: float,
    codecs: Sequence[CodecName] = ("msgpack", "json"),
) -> Greeting:
    """Agree on protocol and codec.

    Args:
        connection: Fresh.
        host: Name and version of the application.
        plugin: Id, version and instance, as verified by the host.
        deadline: Monotonic time, in seconds.
        codecs: Offered, best first.

    Raises:
        HandshakeError: No common protocol, no answer, or a wrong one.
    """
    limits = connection.limits
    params = {
        "protocols": list(PROTOCOL_VERSIONS),
        "codecs": list(codecs),
        "host": dict(host),
        "plugin": dict(plugin),
        "limits": {"max_frame_bytes": limits.max_frame_bytes, "concurrency": limits.concurrency, "streams": limits.streams},
        "arenas": None,
    }
    try:
        response = await connection.call("annexe.hello", params, RequestMeta(), deadline=deadline)
        greeting = _decode(response, Greeting)
    except _FAULTS as error:
        raise HandshakeError(
            f"plugin {connection.plugin!r} did not get through the handshake: {error}", plugin=connection.plugin
        ) from error
    if greeting.protocol not in PROTOCOL_VERSIONS:
        text = f"plugin {connection.plugin!r} speaks protocol {greeting.protocol}, expected one of {list(PROTOCOL_VERSIONS)}; "
        text += "upgrade the plugin's SDK" if greeting.protocol < min(PROTOCOL_VERSIONS) else "upgrade the host"
        raise HandshakeError(text, plugin=connection.plugin, expected=list(PROTOCOL_VERSIONS), actual=greeting.protocol)
    if greeting.codec not in codecs:
        text = f"plugin {connection.plugin!r} chose codec {greeting.codec!r}, expected one of {list(codecs)}"
        raise HandshakeError(text, plugin=connection.plugin, expected=list(codecs), actual=greeting.codec)
    connection.greeted()
    return greeting


async def activate(connection: Connection, greeting: Greeting, params: Mapping[str, Any], *, deadline: float) -> Provided:
    """Have the plugin load its code and initialise.

    Args:
        connection: After ``hello``.
        greeting: What it answered.
        params: ``config``, ``grants``, ``data_dir``, ``log_level``.
        deadline: Monotonic time, in seconds.

    Raises:
        ActivationError: The plugin's code failed, took too long, or answered something else.
    """
    try:
        response = await connection.call("annexe.activate", dict(params), RequestMeta(), deadline=deadline)
        provided = _decode(response, Provided)
    except _FAULTS as error:
        raise ActivationError(f"plugin {connection.plugin!r} could not be activated: {error}", plugin=connection.plugin) from error
    connection.agree(greeting.codec)
    return provided


def _decode(response: Response, cls: type[T]) -> T:
    decode: Callable[..., T] = msgspec.json.decode if response.codec == "json" else msgspec.msgpack.decode
    return decode(response.result, type=cls)
