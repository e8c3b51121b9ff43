"""The first two exchanges: hello, then activate.

Hello is answered before any plugin code is loaded, so that a fault is blamed on the right side.

Source: docs/reference/protocol.md, "Handshake and life".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from annexe.channel.connection import Connection
from annexe.channel.messages import DECODE_FAULTS, CodecName, RequestMeta, Response
from annexe.errors import ActivationError, CallError, HandshakeError
from annexe_sdk.wire import PROTOCOL_VERSIONS

_FAULTS = (CallError, *DECODE_FAULTS)

__all__ = [
    "MAX_ACTIVATION_BYTES",
    "MAX_ANSWER_BYTES",
    "Greeting",
    "Provided",
    "ProvidedEvent",
    "ProvidedExtension",
    "ProvidedHook",
    "ProvidedMethod",
    "activate",
    "decode_answer",
    "hello",
]

MAX_ANSWER_BYTES = 64 * 1024
"""Longest answer to a method of the host's own, apart from ``annexe.activate``."""

MAX_ACTIVATION_BYTES = 256 * 1024
"""Longest answer to ``annexe.activate``: some two thousand functions."""


class Greeting(msgspec.Struct, frozen=True):
    """What a plugin's SDK answered to hello."""

    protocol: int
    codec: CodecName
    sdk: dict[str, str] = {}
    arenas: bool = False


class ProvidedHook(msgspec.Struct, frozen=True):
    """What a plugin's code says of one hook: its kind, and ``at``, file and line of the function."""

    kind: str | None = None
    at: str | None = None


class ProvidedEvent(msgspec.Struct, frozen=True):
    """What it says of one event that it subscribes to: ``at``, file and line of the function."""

    at: str | None = None


class ProvidedMethod(msgspec.Struct, frozen=True):
    """What it says of one method of an extension: nothing that the host has a use for."""


class ProvidedExtension(msgspec.Struct, frozen=True):
    """What it says of one extension point or service: its methods, and ``at``, file and line of the class."""

    methods: dict[str, ProvidedMethod] = {}
    at: str | None = None


class Provided(msgspec.Struct, frozen=True):
    """What a plugin's code says it provides, by name. What else it says is passed over."""

    hooks: dict[str, ProvidedHook] = {}
    extensions: dict[str, ProvidedExtension] = {}
    services: dict[str, ProvidedExtension] = {}
    events: dict[str, ProvidedEvent] = {}
    watches: dict[str, ProvidedEvent] = {}
    state: dict[str, ProvidedEvent] = {}


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
    limits, files = connection.limits, connection.files
    params = {
        "protocols": list(PROTOCOL_VERSIONS),
        "codecs": list(codecs),
        "host": dict(host),
        "plugin": dict(plugin),
        "limits": {"max_frame_bytes": limits.max_frame_bytes, "concurrency": limits.concurrency, "streams": limits.streams},
        "arenas": None if files is None else {"in": [files.told[0], files.size_bytes], "out": [files.told[1], files.size_bytes]},
    }
    try:
        response = await connection.call("annexe.hello", params, RequestMeta(), deadline=deadline)
        greeting: Greeting = decode_answer(response, Greeting, limit_bytes=MAX_ANSWER_BYTES)
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
    connection.greeted(greeting.codec, uses_arenas=greeting.arenas)
    return greeting


async def activate(connection: Connection, greeting: Greeting, params: Mapping[str, Any], *, deadline: float) -> Provided:
    """Have the plugin load its code and initialise.

    Args:
        connection: After ``hello``.
        greeting: What it answered.
        params: ``config``, ``grants``, ``data_dir``, ``log_level``, ``level``.
        deadline: Monotonic time, in seconds.

    Raises:
        ActivationError: The plugin's code failed, took too long, or answered something else.
    """
    try:
        response = await connection.call("annexe.activate", dict(params), RequestMeta(), deadline=deadline)
        provided: Provided = decode_answer(response, Provided, limit_bytes=MAX_ACTIVATION_BYTES)
    except _FAULTS as error:
        raise ActivationError(f"plugin {connection.plugin!r} could not be activated: {error}", plugin=connection.plugin) from error
    connection.agree(greeting.codec)
    return provided


def decode_answer(response: Response, cls: Any, *, limit_bytes: int) -> Any:
    """Return what a plugin answered to one of the host's own methods, as a type that leaves nothing to the plugin.

    Raises:
        msgspec.ValidationError: It does not fit, or is larger than ``limit_bytes``: it is decoded on the event loop.
        Exception: One of ``DECODE_FAULTS``: it is broken.
    """
    size = len(memoryview(response.result))
    if size > limit_bytes:
        raise msgspec.ValidationError(f"an answer of {size} bytes; expected at most {limit_bytes}")
    decode: Callable[..., Any] = msgspec.json.decode if response.codec == "json" else msgspec.msgpack.decode
    return decode(response.result, type=cls)
