"""Lines out of a stream of bytes, whatever their length.

Pure: no descriptor, no clock. Holds at most one chunk and ``max_line_bytes`` of a line not yet complete; what a line has beyond
that is counted and thrown away.
"""

from __future__ import annotations

from typing import final

__all__ = ["LineSplitter"]


@final
class LineSplitter:
    """Give it a chunk, take its lines one by one; the next chunk comes when the last one is used up.

    Args:
        max_line_bytes: How much of a line is kept.
    """

    __slots__ = ("_chunk", "_cut_bytes", "_max_line_bytes", "_partial", "_start")

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._chunk = b""
        self._start = 0
        self._partial = bytearray()
        self._cut_bytes = 0

    @property
    def is_used_up(self) -> bool:
        """Whether every complete line has been taken and ``feed`` may be called."""
        return self._start >= len(self._chunk)

    @property
    def held_bytes(self) -> int:
        """Bytes in memory now."""
        return len(self._chunk) + len(self._partial)

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            RuntimeError: The last chunk is not used up.
        """
        if not self.is_used_up:
            raise RuntimeError("expected the last chunk to be used up before the next is fed")
        self._chunk = chunk
        self._start = 0

    def next_line(self) -> tuple[bytes, int] | None:
        """Return the next complete line without its line feed and how many bytes of it were cut; None: feed the next chunk."""
        if self.is_used_up:
            return None
        end = self._chunk.find(b"\n", self._start)
        if end < 0:
            self._keep(len(self._chunk))
            return None
        self._keep(end)
        self._start = end + 1
        return self._taken()

    def skip_lines(self) -> int:
        """Throw away every complete line of the chunk; return how many. Costs a search, not a step for each line."""
        last = self._chunk.rfind(b"\n", self._start)
        if last < 0:
            self._keep(len(self._chunk))
            return 0
        count = self._chunk.count(b"\n", self._start, last + 1)
        self._taken()
        self._start = last + 1
        self._keep(len(self._chunk))
        return count

    def last_line(self) -> tuple[bytes, int] | None:
        """Return what came after the last line feed, at the end of the stream; None if nothing did."""
        line, cut_bytes = self._taken()
        return (line, cut_bytes) if line else None

    def _keep(self, end: int) -> None:
        """Move ``chunk[start:end]`` to the line in the making, as far as there is room."""
        room = self._max_line_bytes - len(self._partial)
        wanted = end - self._start
        self._partial += self._chunk[self._start : self._start + min(room, wanted)]
        self._cut_bytes += max(0, wanted - room)
        self._start = end
        if end == len(self._chunk):
            self._chunk = b""
            self._start = 0

    def _taken(self) -> tuple[bytes, int]:
        taken = bytes(self._partial), self._cut_bytes
        self._partial.clear()
        self._cut_bytes = 0
        return taken
