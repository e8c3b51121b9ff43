"""Bounds of one connection.

Pure.

Source: docs/reference/protocol.md, "Concurrency, slots, stuck" and "Streams".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from annexe_sdk import wire

__all__ = ["ARENA_BYTES", "ChannelLimits"]

ARENA_BYTES = 64 * 1024 * 1024
"""Size of each memory file, and so the longest blob; memory that is never touched costs nothing. See ADR-0085."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLimits:
    """What one connection may hold.

    Attributes:
        concurrency: Host calls that run at once in the plugin; the oldest open ones hold the slots.
        streams: Streamed host calls at once, beside those.
        nested: Calls at once that serve the plugin's own, beside those; above it, ``busy``.
        sent_ahead: Calls sent beyond ``concurrency``, so that the plugin never waits for the next.
        queued: Calls that wait in the host; above it, ``busy``.
        plugin_requests: Requests of the plugin's that are open at once; above it, ``busy``.
        request_bytes: What is longer than 64 KiB of those, together; above it, ``busy``.
        max_frame_bytes: Longest frame either way.
        out_bytes: Bytes that wait to be written; above it, ``busy``.
        hung_s: After this long with every slot holder cancelled, further calls are answered ``busy`` instead of waiting.
        stuck_s: After this long with every slot holder, stream or nested call cancelled, the plugin counts as stuck.
        depth: Calls within calls.
        default_deadline_s: For requests of the plugin's that name no parent and no deadline.
    """

    concurrency: int = 1
    streams: int = 8
    nested: int = 64
    sent_ahead: int = 64
    queued: int = 4096
    plugin_requests: int = 1024
    request_bytes: int = 64 * 1024 * 1024
    max_frame_bytes: int = wire.MAX_FRAME_BYTES
    out_bytes: int = 64 * 1024 * 1024
    hung_s: float = 0.1
    stuck_s: float = 5.0
    depth: int = 16
    default_deadline_s: float = 30.0
