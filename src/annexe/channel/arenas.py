"""Shared memory of one connection: blobs out, blobs in, and whose regions are whose.

* What the plugin writes is copied once, before anybody looks at it, and never read again: it may change at any time.
* A region is the receiver's from its message until ``release``; the host's own list says which are, never the file.
* What is in the file was sent: nothing waits there that the plugin could release before it has it.
* Nothing here waits: without room a blob goes into the frame, and ``NoRoomError`` says that the frame would be too long.

Source: docs/reference/protocol.md, "Shared memory"; ADR-0085.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import msgspec
from msgspec.msgpack import Ext

from annexe.channel.memory_files import MemoryFiles
from annexe.channel.messages import DECODE_FAULTS, BlobMessage, Release, RequestMeta, decode_with_blobs
from annexe.contract.blobs import Blob, as_inline
from annexe.errors import RemoteProtocolError
from annexe_sdk import wire
from annexe_sdk.arena import Arena

__all__ = ["Arenas", "NoRoomError", "Regions"]

Regions = Sequence[tuple[int, int]]
"""Offset and length of each."""

_MAX_HELD = 4096  # more than a plugin can make of regions worth the name, and few enough to be kept in order
_EXTENSIONS = tuple(Ext(wire.BLOB_EXTENSION, bytes((index,))) for index in range(wire.MAX_BLOBS))
_decode_release: Callable[[msgspec.Raw], list[tuple[int, int]]] = msgspec.msgpack.Decoder(list[tuple[int, int]]).decode


class NoRoomError(Exception):
    """Too long for a frame, and at present there is no room beside it."""


@final
class Arenas:
    """Both memory files of one connection.

    Args:
        files: Agreed on with the plugin; closed some time after ``retire``.
        plugin: Its id, for errors.
    """

    def __init__(self, files: MemoryFiles, *, plugin: str) -> None:
        self._files = files
        self._plugin = plugin
        self._room = Arena(files.size_bytes)
        self._held: list[tuple[int, int]] = []  # the plugin's, to be read or released later; in order, none touching another's bytes
        self._is_over = False
        self._encode = msgspec.msgpack.Encoder(enc_hook=self._place).encode
        self._limit_bytes = 0
        self._inline_bytes = 0  # of blobs that go into the frame
        self._is_short = False
        self._waiting: set[Callable[[], None]] = set()
        self.placed: list[tuple[int, int]] = []  # by the latest ``encode``

    # Out.

    def encode(self, head: tuple[Any, ...], meta: RequestMeta | dict[str, Any], *, limit_bytes: int) -> bytes:
        """Encode a message and put its blobs into the file, as far as there is room.

        Args:
            head: The message up to its payload.
            meta: Its last element; gets ``blobs``.
            limit_bytes: Longest message.

        Raises:
            NoRoomError: It would be too long for want of room; nothing was placed.
            ValueError: It is too long whatever becomes free; what else encoding raises.
        """
        regions = self.placed = []
        if isinstance(meta, RequestMeta):
            meta.blobs = regions
        else:
            meta["blobs"] = regions
        self._limit_bytes, self._inline_bytes, self._is_short = limit_bytes, 0, False
        try:
            body = self._encode((*head, meta))
        except NoRoomError:
            body = b""
        except BaseException:
            self.take_back(regions)
            raise
        if 0 < len(body) <= limit_bytes:
            return body
        self.take_back(regions)
        if self._is_short and not self._room.is_empty:
            raise NoRoomError
        size = f"{len(body)} bytes" if body else f"a blob of more than {limit_bytes} bytes, or several with as much"
        raise ValueError(
            f"{size}; expected at most {limit_bytes}, and as much in blobs as {self._files.size_bytes} bytes of shared memory take"
        )

    def _place(self, value: Any) -> Any:
        if type(value) is not Blob:
            return as_inline(value)
        octets, regions = value.octets, self.placed
        length = octets.nbytes if isinstance(octets, memoryview) else len(octets)
        if len(regions) < wire.MAX_BLOBS:
            offset = self._room.take(length)
            if offset is not None:
                regions.append((offset, length))
                self._files.to_plugin[offset : offset + length] = octets
                return _EXTENSIONS[len(regions) - 1]
            self._is_short = True
        self._inline_bytes += length
        if self._inline_bytes > self._limit_bytes:  # before it is written out: one object may stand in thousands of places
            raise NoRoomError
        return octets

    def take_back(self, regions: Iterable[tuple[int, int]]) -> None:
        """Free regions that were placed and never sent."""
        for offset, length in regions:
            self._room.give_back(offset, length)

    def free(self, message: Release) -> None:
        """Take in a ``release``.

        Raises:
            RemoteProtocolError: One that the plugin does not have.
        """
        try:
            regions = _decode_release(message.regions)
        except DECODE_FAULTS as error:
            raise RemoteProtocolError(f"a release that names no regions: {error}", rule="bad-envelope", plugin=self._plugin) from error
        for offset, length in regions:
            if not self._room.give_back(offset, length):
                text = f"a release of {length} bytes at {offset}, which the plugin does not have"
                raise RemoteProtocolError(text, rule="unknown-region", plugin=self._plugin)

    def wake_when_free(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after the next ``release``; the same one is called once only."""
        self._waiting.add(wake)

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call ``wake`` any more: who never releases anything shall not have streams kept that are over."""
        self._waiting.discard(wake)

    def wake(self) -> None:
        """Wake all who wait for room."""
        waiting, self._waiting = self._waiting, set()
        for wake in waiting:
            wake()

    # End.

    def retire(self) -> None:
        """The connection is over: close the files once what is held was read or given up. Nothing is encoded any more."""
        self._is_over = True
        self._waiting.clear()
        self._close_unless_held()

    def _close_unless_held(self) -> None:
        if self._is_over and not self._held:
            self._files.close()

    # In.

    def take(self, frame: bytes) -> BlobMessage:
        """Decode a message with blobs; its regions are in ``meta.blobs`` and good to be read.

        Raises:
            RemoteProtocolError: A region is not within the file, or shares bytes with another.
            MsgspecError: As decoding any message.
        """
        message = decode_with_blobs(frame)
        self._check(message.meta.blobs)
        return message

    def _check(self, regions: Regions) -> None:
        held, size_bytes = self._held, self._files.size_bytes
        if len(regions) + len(held) > _MAX_HELD:
            text = f"{len(regions) + len(held)} regions at once; expected at most {_MAX_HELD}"
            raise RemoteProtocolError(text, rule="bad-region", plugin=self._plugin)
        end = 0
        for offset, length in sorted(regions):
            at = bisect_left(held, (offset, length))  # only its neighbours: whatever is held, a message costs what it brings
            if at:
                end = max(end, sum(held[at - 1]))
            if offset < end or offset + length > (held[at][0] if at < len(held) else size_bytes):
                text = f"a blob of {length} bytes at {offset}: beyond the file, or where another one is"
                raise RemoteProtocolError(text, rule="bad-region", plugin=self._plugin)
            end = offset + length

    def read(self, regions: Regions) -> list[bytes]:
        """Copy what the plugin sent: once, whatever it writes meanwhile."""
        file = self._files.from_plugin
        return [file[offset : offset + length] for offset, length in regions]

    def hold(self, regions: Regions) -> None:
        """Keep regions beyond the message that brought them: while they are, the plugin cannot send more there."""
        for region in regions:
            insort(self._held, region)

    def let_go(self, regions: Regions) -> None:
        """They are about to be released."""
        held = self._held
        for region in regions:
            at = bisect_left(held, region)
            if held[at : at + 1] == [region]:
                del held[at]
        self._close_unless_held()
