"""Bytes between host and plugin: reads frames, writes frames.

* Never blocks: what cannot be written at once waits in a bounded queue.
* One connection uses only its quota of a loop turn, however much arrives.
* Small messages made in one loop turn leave in one write when others are under way; a lone one leaves at once.

Source: docs/reference/protocol.md, "Frame"; ADR-0004.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import final

from annexe.errors import RemoteProtocolError
from annexe_sdk.frames import FrameBuffer, FrameError

__all__ = ["Transport"]

_READ_BYTES = 64 * 1024
_FRAMES_PER_TURN = 256
# Some frames cost much more than others, so a turn is over after a time as well.
_TURN_S = 0.003
_MAX_WRITE_BYTES = 1024 * 1024


@final
class Transport:
    """A socket as a stream of frames. Belongs to one event loop.

    Args:
        sock: Connected, non-blocking; closed by ``close``.
        on_frame: Called with each frame, in order. What it raises as ``RemoteProtocolError`` ends the connection.
        on_lost: Called once: with None at the end of the stream, else with the error.
        limit_bytes: Longest frame accepted.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_flush_due",
        "_frames",
        "_loop",
        "_on_frame",
        "_on_lost",
        "_out",
        "_paused",
        "_recv",
        "_send",
        "_sock",
        "_when_written",
        "out_bytes",
        "writing",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[[RemoteProtocolError | None], None],
        limit_bytes: int,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        self._loop = loop
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._buffer = FrameBuffer(limit_bytes)
        self._frames: deque[bytes] = deque()
        self._paused = False  # nothing is read until what was read is worked off
        self._out: deque[bytes | memoryview] = deque()
        self.out_bytes = 0
        self.writing = False  # the socket is full; the loop tells when it is not
        self._flush_due = False
        self._when_written: set[Callable[[], None]] = set()
        self._closed = False
        loop.add_reader(sock.fileno(), self._on_readable)

    def accept(self, limit_bytes: int) -> None:
        """Change the longest frame accepted."""
        self._buffer.limit_bytes = limit_bytes

    def write(self, body: bytes, alone: bool) -> None:
        """Send one frame.

        Args:
            body: The message, encoded.
            alone: Nothing else is under way, so do not wait for company.
        """
        frame: bytes | memoryview = len(body).to_bytes(4, "big") + body
        if alone and not self._out and not self._closed:
            try:
                sent = self._send(frame)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                return  # the reader learns that the peer is gone
            if sent == len(frame):
                return
            frame = memoryview(frame)[sent:]
            self._wait_writable()
        self._out.append(frame)
        self.out_bytes += len(frame)
        if not (self._flush_due or self.writing):
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def wake_when_written(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once the queue is empty; never when it is empty now, or the peer is gone."""
        self._when_written.add(wake)

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call ``wake`` any more."""
        self._when_written.discard(wake)

    def close(self) -> None:
        """Stop reading and writing and close the socket. Idempotent; ``on_lost`` is not called any more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        if self.writing:
            self._loop.remove_writer(self._sock.fileno())
        self._out.clear()
        self._frames.clear()
        self._when_written.clear()
        self.out_bytes = 0
        self._sock.close()

    def _on_readable(self) -> None:
        try:
            chunk = self._recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._lose(None)
            return
        try:
            frames = self._buffer.feed(chunk)
            if len(frames) == 1 and not self._frames:
                self._on_frame(frames[0])
                return
        except FrameError as error:
            self._lose(RemoteProtocolError(str(error), rule=error.rule))
            return
        except RemoteProtocolError as error:
            self._lose(error)
            return
        self._frames.extend(frames)
        self._work_off()

    def _work_off(self) -> None:
        """Handle a quota of what was read, and come back in the next turn for the rest."""
        frames = self._frames
        ends_at = monotonic() + _TURN_S
        try:
            for _ in range(min(_FRAMES_PER_TURN, len(frames))):
                if self._closed:
                    return
                self._on_frame(frames.popleft())
                if monotonic() >= ends_at:
                    break
        except RemoteProtocolError as error:
            self._lose(error)
            return
        if self._closed:
            return
        if frames:
            if not self._paused:
                self._paused = True
                self._loop.remove_reader(self._sock.fileno())
            self._loop.call_soon(self._work_off)
        elif self._paused:
            self._paused = False
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _lose(self, error: RemoteProtocolError | None) -> None:
        if not self._closed:
            self.close()
            self._on_lost(error)

    def _flush(self) -> None:
        self._flush_due = False
        if self._closed:
            return
        out = self._out
        while out:
            data = self._gather()
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                out.clear()
                self.out_bytes = 0
                return
            self.out_bytes -= sent
            if sent < len(data):
                out.appendleft(memoryview(data)[sent:])
                self._wait_writable()
                return
        if self.writing:
            self.writing = False
            self._loop.remove_writer(self._sock.fileno())
        if self._when_written:
            waiting = [*self._when_written]
            self._when_written.clear()
            for wake in waiting:
                wake()

    def _gather(self) -> bytes | memoryview:
        """Take frames off the queue, up to what one write should hold."""
        out = self._out
        if len(out) == 1 or len(out[0]) >= _MAX_WRITE_BYTES:
            return out.popleft()
        parts, size = [], 0
        while out and size < _MAX_WRITE_BYTES:
            part = out.popleft()
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def _wait_writable(self) -> None:
        if not self.writing:
            self.writing = True
            self._loop.add_writer(self._sock.fileno(), self._flush)
