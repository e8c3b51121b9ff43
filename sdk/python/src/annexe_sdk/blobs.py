"""Shared memory, seen from the plugin: long bytes that travel beside the messages.

Imported when the first blob comes or goes, never before.

* What the host sent stays in its file until a handler wants it; so the file's size bounds what waits in the plugin.
* What the plugin sends stays its own until the host has released it.

Source: docs/reference/protocol.md, "Shared memory"; ADR-0085.
"""

from _thread import RLock
from collections.abc import Callable, Sequence
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap
from os import close
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from annexe_sdk.arena import Arena
from annexe_sdk.calls import Unread, Wait
from annexe_sdk.codec import CodecError, NoRoom
from annexe_sdk.frames import JSON_FIRST_BYTE
from annexe_sdk.session import Broken
from annexe_sdk.wire import BLOB_EXTENSION, BLOB_FROM_BYTES, MAX_BLOBS, RELEASE

__all__ = ["Memory"]

_AT_ONCE_PART = 8  # so much of the file is released at once; less waits for the next message, for a write of its own costs time
_BYTES = (bytes, bytearray, memoryview)
_PLAIN_BYTES = frozenset(_BYTES)
_encode = msgspec.msgpack.Encoder().encode
_EXTENSIONS = tuple(Ext(BLOB_EXTENSION, bytes((index,))) for index in range(MAX_BLOBS))


class Memory:
    """Both memory files of one connection.

    Args:
        arenas: As hello told them: descriptor and size by ``in`` (from the host) and ``out``. The descriptors are closed here.
        send: Writes a frame at once.
        send_later: Writes a frame with the next one.
    """

    def __init__(self, arenas: "dict[str, list[int]]", send: "Callable[[bytes], None]", send_later: "Callable[[bytes], None]") -> None:
        (read_fd, read_bytes), (write_fd, write_bytes) = arenas["in"], arenas["out"]
        self._in = mmap(read_fd, read_bytes, MAP_SHARED, PROT_READ)
        self._out = mmap(write_fd, write_bytes, MAP_SHARED, PROT_READ | PROT_WRITE)
        for fd in (read_fd, write_fd):
            close(fd)  # a map has its own
        self._send = send
        self._send_later = send_later
        self._room = Arena(write_bytes)
        self.lock = RLock()
        self._waiting: list[Wait] = []

    # In.

    def take(self, frame: bytes) -> "list[Any]":
        """Decode a message with blobs; its payload becomes an ``Unread``.

        Raises:
            CodecError: It cannot be decoded, or holds extensions and names no regions.
            Broken: It names regions that are not there.
        """
        message = _decode(frame)
        meta = message[-1] if type(message) is list and message else None
        regions = meta.get("blobs") if type(meta) is dict else None
        if regions is None:
            raise CodecError("a MessagePack extension in a message without blobs")
        if not _are_regions(regions, len(self._in)):
            raise Broken("bad-region", f"blobs {regions!r}, not all within {len(self._in)} bytes")
        taken: list[Any] = message
        taken[-2] = Unread(self, frame, regions)
        return taken

    def read(self, unread: Unread) -> "Any":
        """Return the payload with its blobs, and tell the host that it has been read.

        Raises:
            CodecError: It has an extension that stands for no blob.
        """
        blobs = [self._in[offset : offset + length] for offset, length in unread.regions]
        self.release(unread.regions)
        return _with_blobs(unread.frame, blobs)

    def look(self, unread: Unread) -> "tuple[Any, list[memoryview]]":
        """Return the payload with views instead of its blobs, and those. Arguments and errors are as for ``read``."""
        file = memoryview(self._in)
        views = [file[offset : offset + length] for offset, length in unread.regions]
        return _with_blobs(unread.frame, views), views

    def release(self, regions: "list[Any]", *, at_once: bool = False) -> None:
        """Tell the host that regions were received: with the next message, unless they are large or it is wanted ``at_once``."""
        body = _encode((RELEASE, regions))
        released_bytes = regions[0][1] if len(regions) == 1 else sum(length for _, length in regions)
        send = self._send if at_once or released_bytes * _AT_ONCE_PART >= len(self._in) else self._send_later
        send(len(body).to_bytes(4, "big") + body)

    # Out.

    def encode(self, message: "tuple[Any, ...]", limit_bytes: int, from_bytes: int = BLOB_FROM_BYTES) -> "tuple[bytes, bool]":
        """Encode a message, its blobs beside it as far as there is room.

        Args:
            message: Its payload is the last but one element, its metadata the last.
            limit_bytes: Longest message.
            from_bytes: Shorter ones stay in it.

        Returns:
            The message, and whether it has a blob beside it.

        Raises:
            NoRoom: It is too long for want of room; there may be some later.
            CodecError: It is too long.
        """
        placing = _Placing(self, from_bytes)
        try:
            payload = message[-2]
            payload = placing.moved(payload if type(payload) in _PLAIN_BYTES else msgspec.to_builtins(payload, builtin_types=_BYTES))
            meta = {**message[-1], "blobs": placing.regions} if placing.regions else message[-1]
            body = _encode((*message[:-2], payload, meta))
            if len(body) <= limit_bytes:
                return body, bool(placing.regions)
        except BaseException:
            self.take_back(placing.regions)
            raise
        self.take_back(placing.regions)
        text = f"a message of {len(body)} bytes; expected at most {limit_bytes}, and as much in blobs as shared memory takes"
        with self.lock:
            may_fit = placing.is_short and not self._room.is_empty
        raise NoRoom(text) if may_fit else CodecError(text)

    def place(self, octets: "Any", length: int) -> "int | None":
        """Copy bytes into the file; return where, None without room."""
        with self.lock:
            offset = self._room.take(length)
        if offset is not None:
            self._out[offset : offset + length] = octets
        return offset

    def take_back(self, regions: "list[tuple[int, int]]") -> None:
        """Free regions that were never sent."""
        with self.lock:
            for offset, length in regions:
                self._room.give_back(offset, length)

    def take_back_from(self, body: bytes) -> None:
        """Free the regions of a message that was encoded here and never sent."""
        regions = _decode(body)[-1].get("blobs") if body[0] != JSON_FIRST_BYTE else None
        if regions:
            self.take_back(regions)
            self._wake()  # no release comes for them

    def on_release(self, regions: "Any") -> None:
        """The host has received what we sent."""
        with self.lock:
            freed = type(regions) is list and all(
                type(region) is list and len(region) == 2 and self._room.give_back(region[0], region[1]) for region in regions
            )
        self._wake()
        if not freed:
            raise Broken("unknown-region", f"a release of {regions!r}, which the host does not have")

    def _wake(self) -> None:
        with self.lock:
            waiting, self._waiting = self._waiting, []
        for wait in waiting:
            wait.finish()

    def wake_when_free(self, wait: Wait) -> None:
        """Finish ``wait`` at the next release."""
        with self.lock:
            self._waiting.append(wait)


class _Placing:
    """Moves the blobs of one message."""

    def __init__(self, memory: Memory, from_bytes: int) -> None:
        self._memory = memory
        self._from_bytes = from_bytes
        self.regions: list[tuple[int, int]] = []
        self.is_short = False

    def moved(self, value: "Any") -> "Any":
        """Return plain builtins with extensions for blobs; changes what is in them."""
        kind = type(value)
        if kind in _PLAIN_BYTES:
            return self._placed(value)
        if kind is dict:
            for key, item in value.items():
                if type(item) in _LOOKED_INTO:
                    value[key] = self.moved(item)
        elif kind is list or kind is tuple:
            return [self.moved(item) if type(item) in _LOOKED_INTO else item for item in value]
        return value

    def _placed(self, octets: "Any") -> "Any":
        length = octets.nbytes if type(octets) is memoryview else len(octets)
        if length < self._from_bytes or len(self.regions) == MAX_BLOBS:
            return octets
        offset = self._memory.place(octets, length)
        if offset is None:
            self.is_short = True
            return octets
        self.regions.append((offset, length))
        return _EXTENSIONS[len(self.regions) - 1]


_LOOKED_INTO = frozenset({bytes, bytearray, memoryview, dict, list, tuple})


def _decode(frame: bytes) -> "Any":
    try:
        return msgspec.msgpack.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CodecError(str(error)) from error


def _are_regions(regions: "Any", size_bytes: int) -> bool:
    if type(regions) is not list:
        return False
    for region in regions:
        if type(region) is not list or len(region) != 2:
            return False
        offset, length = region
        if type(offset) is not int or type(length) is not int or not 0 <= offset < offset + length <= size_bytes:
            return False
    return True


def _with_blobs(frame: bytes, blobs: "Sequence[Any]") -> "Any":
    """Return the payload of a message with the blobs where extensions stand for them."""

    def blob(code: int, index: memoryview) -> "Any":
        if code != BLOB_EXTENSION or len(index) != 1 or index[0] >= len(blobs):
            raise CodecError(f"a MessagePack extension of type {code} that stands for no blob")
        return blobs[index[0]]

    return msgspec.msgpack.decode(frame, ext_hook=blob)[-2]
