"""Which room in a memory file is free: kept by whoever writes into the file, in memory of its own.

Pure: numbers only; the file is never looked at. Shared by host and plugin.

* Two regions that are taken never overlap, and none reaches beyond the file.
* First fit from the front: what is used stays near the beginning, so that the rest of the file is never touched and costs no memory.
* Neighbours that are free are one: a file of which nothing is taken is whole again.

Source: docs/reference/protocol.md, "Shared memory"; ADR-0085.
"""

__all__ = ["ALIGNED_BYTES", "Arena"]

ALIGNED_BYTES = 64  # no two regions share a cache line


class Arena:
    """The free room of one file.

    Args:
        size_bytes: Of the file; what is beyond the last whole ``ALIGNED_BYTES`` is not used.
    """

    __slots__ = ("_free", "_taken", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes - size_bytes % ALIGNED_BYTES
        self._free = [(0, self.size_bytes)]  # offset and end of each, in order, never touching each other
        self._taken: dict[int, int] = {}  # offset to length, as asked for

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken."""
        return not self._taken

    def take(self, length: int) -> "int | None":
        """Take a region of that many bytes, at least 1; return its offset, None where no free room is long enough."""
        room = length + -length % ALIGNED_BYTES
        for index, (offset, end) in enumerate(self._free):
            if end - offset >= room:
                if end - offset == room:
                    del self._free[index]
                else:
                    self._free[index] = (offset + room, end)
                self._taken[offset] = length
                return offset
        return None

    def give_back(self, offset: int, length: int) -> bool:
        """Free a region; say whether it was taken, exactly so."""
        if self._taken.get(offset) != length:
            return False
        del self._taken[offset]
        end = offset + length + -length % ALIGNED_BYTES
        index = next((at for at, (start, _) in enumerate(self._free) if start > offset), len(self._free))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == offset:
            index -= 1
            offset = self._free.pop(index)[0]
        self._free.insert(index, (offset, end))
        return True
