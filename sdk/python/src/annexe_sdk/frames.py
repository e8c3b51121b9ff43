"""Frames: a length, then one message.

Sans I/O: bytes in, whole frames out. Shared by host and plugin.

* The length is checked before anything of that size is kept.
* The first byte of a frame tells its codec: ``[`` (0x5B) is JSON, anything else MessagePack. So no state is needed to read one.
* Kind and id can be read from the head alone, so a fault inside a payload is charged to its call and not to the connection.

Source: docs/reference/protocol.md, "Frame".
"""

from annexe_sdk.wire import HEAD_BYTES, MAX_FRAME_BYTES, MAX_ID

__all__ = ["JSON_FIRST_BYTE", "FrameBuffer", "FrameError", "pack_frame", "read_head"]

JSON_FIRST_BYTE = 0x5B

_TAIL = "0123456789"
_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


class FrameError(Exception):
    """A frame that breaks the protocol; ``rule`` names the rule."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class FrameBuffer:
    """Cuts a stream of bytes into frames.

    Args:
        limit_bytes: Longest frame accepted, its length field not counted. May be raised later.
    """

    __slots__ = ("_need", "_pending", "limit_bytes")

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._pending = bytearray()
        self._need = HEAD_BYTES

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take in what was read and return the frames it completes, without their length fields.

        Raises:
            FrameError: A length of zero or above the limit. The buffer is of no use afterwards.
        """
        if not self._pending:
            # Nearly always: one whole frame.
            size = len(chunk) - HEAD_BYTES
            if 0 < size <= self.limit_bytes and int.from_bytes(chunk[:HEAD_BYTES], "big") == size:
                return [chunk[HEAD_BYTES:]]
        else:
            self._pending += chunk
            if len(self._pending) < self._need:
                return []
            chunk = bytes(self._pending)
            self._pending.clear()
        frames = []
        start, have = 0, len(chunk)
        need = HEAD_BYTES
        while have - start >= HEAD_BYTES:
            size = int.from_bytes(chunk[start : start + HEAD_BYTES], "big")
            if not 0 < size <= self.limit_bytes:
                raise self._bad_length(size)
            end = start + HEAD_BYTES + size
            if end > have:
                need = HEAD_BYTES + size
                break
            frames.append(chunk[start + HEAD_BYTES : end])
            start = end
        if start < have:
            self._pending += chunk[start:] if start else chunk
        self._need = need
        return frames

    def _bad_length(self, size: int) -> FrameError:
        if size == 0:
            return FrameError("frame-empty", "a frame of length 0; expected at least one byte")
        return FrameError("frame-too-large", f"a frame of {size} bytes; expected at most {self.limit_bytes}")


def pack_frame(body: bytes) -> bytes:
    """Return the body with its length in front."""
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def read_head(frame: bytes) -> tuple[int, int] | None:
    """Read kind and id from the head of a frame, without decoding the rest.

    Returns:
        ``(kind, id)``, or None when the head is not that of a message with an id.
    """
    head = bytes(frame[:32])
    if head[:1] == b"[":
        return _read_json_head(head)
    return _read_msgpack_head(head)


def _read_json_head(head: bytes) -> tuple[int, int] | None:
    parts = head[1:].decode("latin-1").replace("]", ",").split(",", 2)
    if len(parts) < 3:
        return None
    kind, ident = parts[0].strip(), parts[1].strip()
    if not (kind and ident) or kind.strip(_TAIL) or ident.strip(_TAIL):
        return None
    return _checked(int(kind), int(ident))


def _read_msgpack_head(head: bytes) -> tuple[int, int] | None:
    if len(head) < 3 or not 0x92 <= head[0] <= 0x9F or head[1] > 0x7F:
        return None
    if head[2] <= 0x7F:
        return _checked(head[1], head[2])
    width = _UINT_BYTES.get(head[2])
    if width is None or len(head) < 3 + width:
        return None
    return _checked(head[1], int.from_bytes(head[3 : 3 + width], "big"))


def _checked(kind: int, ident: int) -> tuple[int, int] | None:
    return (kind, ident) if 0 < ident <= MAX_ID and kind != 2 else None
