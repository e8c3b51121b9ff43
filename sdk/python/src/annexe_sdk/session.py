"""The plugin's side of the protocol: what each side still owes the other.

Sans I/O: bytes in, calls to run and answers out. It starts no thread, reads no socket and runs no handler; ``runner`` does.

* Ids of the host are odd and increase; our own are even. What was never used is an error; what is closed crossed on the wire.
* A fault inside a payload fails that call alone.
* Pings are answered here, so that a plugin without a free thread still answers while it reads.

Source: docs/reference/protocol.md.
"""

from _collections import deque  # type: ignore[import-not-found]  # `collections` costs 1 ms to import

from annexe_sdk.calls import BlobCall, Call, Shared, Unread, Wait
from annexe_sdk.codec import BlobsFound, Codec, CodecError, msgpack_codec, too_large
from annexe_sdk.errors import sendable
from annexe_sdk.frames import JSON_FIRST_BYTE, FrameBuffer, FrameError, read_head
from annexe_sdk.wire import (
    BLOB_FROM_BYTES,
    CANCEL,
    CREDIT,
    END,
    HEAD_BYTES,
    HELLO_MAX_FRAME_BYTES,
    ITEM,
    MAX_FRAME_BYTES,
    MAX_ITEM_FRAME_BYTES,
    NOTIFICATION,
    RELEASE,
    REQUEST,
    RESPONSE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Broken", "Session", "Stopped"]

_LENGTHS = {REQUEST: 5, RESPONSE: 5, NOTIFICATION: 4, CANCEL: 2, ITEM: 4, END: 2, CREDIT: 3, RELEASE: 2}


class Broken(Exception):  # noqa: N818 - a state of the connection
    """The host broke the protocol; ``rule`` names the rule. The plugin can only exit."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Stopped(BaseException):
    """The connection is gone; unwinds whatever runs."""


class Session:
    """State of one connection, seen from the plugin.

    Attributes:
        ready: Calls to start, in id order.
        streams: Streamed calls to start, each on a thread of its own.
        calls: Calls of the host's that are not answered yet.
    """

    def __init__(self, json: Codec) -> None:
        self.json = json
        self.expects_msgpack = False  # it was agreed on; imported by whichever thread needs it first
        self.msgpack: Codec | None = None
        self.codec = json  # what we send
        self.limit_bytes = MAX_FRAME_BYTES
        self.shared = Shared()
        self._large_bytes = MAX_FRAME_BYTES  # longer answers are looked at for blobs, or refused
        self.on_blobs: Callable[[str], None] | None = None  # told the method whose results held blobs
        self._new_call: Callable[..., Call] = Call
        self.ready: deque[Call] = deque()
        self.streams: deque[Call] = deque()
        self.calls: dict[int, Call] = {}
        self.waits: dict[int, Wait] = {}
        self._buffer = FrameBuffer(HELLO_MAX_FRAME_BYTES)
        self._last_host_id = -1
        self._last_own_id = 0
        self._now = 0.0
        self.answers: list[bytes] = []  # frames to send, made while reading
        self._by_kind = {
            REQUEST: self._on_request,
            RESPONSE: self._on_response,
            CANCEL: self._on_cancel,
            ITEM: self._on_item,
            END: self._on_end,
            CREDIT: self._on_credit,
            RELEASE: self._on_release,
        }

    def agree(self, limit_bytes: int, arenas: "dict[str, list[int]] | None" = None) -> None:
        """Take over what hello agreed on: the frame limit, and shared memory."""
        self.limit_bytes = self._large_bytes = self._buffer.limit_bytes = limit_bytes
        self.shared.arenas = arenas
        if arenas is not None:
            self._large_bytes = min(limit_bytes, BLOB_FROM_BYTES)

    # Bytes in.

    def receive(self, chunk: bytes, now: float) -> None:
        """Take in what was read.

        Args:
            chunk: Any number of bytes.
            now: The monotonic time, in seconds.

        Raises:
            Broken: The host broke the protocol.
        """
        self._now = now
        try:
            frames = self._buffer.feed(chunk)
        except FrameError as error:
            raise Broken(error.rule, str(error)) from error
        for frame in frames:
            self._on_frame(frame)

    def take_answers(self) -> bytes:
        """Return the frames that are to be sent, together."""
        answers, self.answers = self.answers, []
        return b"".join(answers)

    def take_msgpack(self) -> Codec:
        """Return the MessagePack codec: the host may use it as soon as activation is answered, before we have imported it."""
        if not self.expects_msgpack:
            raise Broken("codec-not-agreed", "a MessagePack frame, but JSON was agreed")
        self.msgpack = msgpack_codec()
        return self.msgpack

    def _on_frame(self, frame: bytes) -> None:
        codec = self.json if frame[0] == JSON_FIRST_BYTE else self.msgpack or self.take_msgpack()
        try:
            message = codec.decode(frame)
        except codec.faults as error:
            self._on_bad_payload(frame, error)
            return
        except BlobsFound:
            message = self._with_blobs(frame)
            if message is None:
                return
        if type(message) is not list or not message:
            raise Broken("not-an-array", "a message that is no array")
        kind = message[0]
        if type(kind) is not int or _LENGTHS.get(kind) != len(message):
            raise Broken("unknown-kind", f"a message of kind {kind!r} with {len(message)} elements")
        take = self._by_kind.get(kind)
        if take is not None:
            take(message, len(frame))

    def _with_blobs(self, frame: bytes) -> "Any":
        """Decode a message with blobs; None when it was charged to its call."""
        memory = self.shared.take()
        if memory is None:
            self._on_bad_payload(frame, CodecError("a MessagePack extension, but no shared memory was agreed on"))
            return None
        try:
            message = memory.take(frame)
            if message[0] == RESPONSE:
                message[-2] = message[-2].read()
        except CodecError as error:
            self._on_bad_payload(frame, error)
            return None
        if message[0] == REQUEST:
            self._new_call = self._new_blob_call
        return message

    def _new_blob_call(self, *args: "Any") -> Call:
        self._new_call = Call
        call = BlobCall(*args)
        call.as_views = call.method in self.shared.viewing
        return call

    def _on_release(self, message: "list[Any]", _size: int) -> None:
        if self.shared.memory is not None:
            self.shared.memory.on_release(message[1])
        elif message[1]:
            raise Broken("no-arena", "a release of shared memory, but nothing was sent in any")

    def _on_bad_payload(self, frame: bytes, error: Exception) -> None:
        head = read_head(frame)
        if head is None:
            raise Broken("undecodable", f"a frame that cannot be decoded: {error}")
        kind, ident = head
        if kind == REQUEST:
            self._check_host_id(ident)
            self.answers.append(self.error(ident, "invalid-params", str(error)))
        elif kind == RESPONSE and ident in self.waits:
            self._finish(ident, {"code": "invalid-result", "message": str(error)}, None)
        elif kind == ITEM and ident in self.waits:
            self._finish(ident, {"code": "invalid-result", "message": f"an item that cannot be decoded: {error}"}, None)
            self.answers.append(self.message(CANCEL, ident))
        elif kind == ITEM and ident in self.calls:
            self._abandon(self.calls[ident])

    def _on_request(self, message: "list[Any]", _size: int) -> None:
        _, ident, method, params, meta = message
        if type(ident) is not int or type(method) is not str or type(meta) is not dict:
            raise Broken("bad-envelope", "a request whose id, method or meta has the wrong type")
        if ident & 1 and ident > self._last_host_id:
            self._last_host_id = ident
        else:
            self._check_host_id(ident)
        if method == "annexe.ping":
            self.answers.append(self.result(ident, None))
            return
        call = self._new_call(ident, method, params, meta, self._now)
        self.calls[ident] = call
        parent = self.calls.get(meta["parent"]) if "parent" in meta else None
        wait = parent.wait if parent is not None else None
        if wait is not None and not wait.is_over:
            wait.nested.append(call)
            wait.wake()
            if wait.is_over or meta["parent"] not in self.calls:  # it ended just now, on another thread: nobody waits there any more
                try:
                    wait.nested.remove(call)
                except ValueError:
                    return  # it was found
                self.ready.append(call)
        elif call.stream is not None:
            self.streams.append(call)
        else:
            self.ready.append(call)

    def _check_host_id(self, ident: int) -> None:
        if not ident & 1 or ident <= self._last_host_id:
            raise Broken("bad-id", f"request id {ident} after {self._last_host_id}; expected odd ids that increase")
        self._last_host_id = ident

    def _on_response(self, message: "list[Any]", _size: int) -> None:
        _, ident, error, result, _ = message
        if ident in self.waits:
            self._finish(ident, error, result)
        elif type(ident) is not int or ident & 1 or ident > self._last_own_id:
            raise Broken("unknown-id", f"a response to {ident!r}, which was never asked")

    def _finish(self, ident: int, error: "Any", result: "Any") -> None:
        wait = self.waits.pop(ident)
        wait.error, wait.result = error, result
        wait.finish()

    def _call_of(self, ident: "Any") -> "Call | None":
        call = self.calls.get(ident)
        if call is None and (type(ident) is not int or ident > max(self._last_host_id, self._last_own_id)):
            raise Broken("unknown-id", f"a message for id {ident!r}, which was never used")
        return call

    def _on_cancel(self, message: "list[Any]", _size: int) -> None:
        call = self._call_of(message[1])
        if call is not None:
            self._abandon(call)

    def close(self, call: Call) -> None:
        """Let go of a call that is over, and of what of its stream nobody has read."""
        self.calls.pop(call.id, None)
        if call.stream is not None:
            call.drop_inbox()

    def _abandon(self, call: Call) -> None:
        call.cancelled = True
        if not call.started:
            parent = self.calls.get(call.meta.get("parent", 0))
            nested = (parent.wait.nested,) if parent is not None and parent.wait is not None else ()
            for queue in (self.ready, self.streams, *nested):
                try:
                    queue.remove(call)
                except ValueError:
                    continue
                self.answers.append(self.error(call.id, "cancelled", "cancelled before it was started"))
                self.close(call)
                if type(call) is BlobCall:
                    call.drop()
                return
        if call.on_cancel is not None:
            call.on_cancel()
        else:
            self._nudge(call)

    def _on_item(self, message: "list[Any]", size: int) -> None:
        call = self._call_of(message[1])
        if call is not None and call.stream is not None:
            call.inbox.append((message[2], size))
            if call.id not in self.calls:  # it ended just now, on another thread
                call.drop_inbox()
            self._nudge(call)
        elif type(message[2]) is Unread:
            message[2].drop(at_once=True)

    def _on_end(self, message: "list[Any]", _size: int) -> None:
        call = self._call_of(message[1])
        if call is not None and call.stream is not None:
            call.ended = True
            self._nudge(call)

    def _on_credit(self, message: "list[Any]", _size: int) -> None:
        call = self._call_of(message[1])
        if call is not None and call.stream is not None:
            call.credit += message[2]
            self._nudge(call)

    def _nudge(self, call: Call) -> None:
        if call.stream_wait is not None:
            call.stream_wait.finish()

    # Messages out: frames, ready to be written.

    def request(
        self, method: str, params: "Any", parent: "Call | None", wait: Wait, key: "str | None" = None, stream: "Call | None" = None
    ) -> bytes:
        """Make a request of ours; its answer finishes ``wait``. To be called and sent under one lock, so that ids go out in order.

        ``stream`` gets the id, and the items of the request from then on.
        """
        ident = self._last_own_id + 2
        # A thread of the plugin's own may outlive the call whose context it uses: what it asks then belongs to the plugin alone.
        meta: dict[str, Any] = {"parent": parent.id} if parent is not None and parent.id in self.calls else {}
        meta.update({} if key is None else {"key": key})
        if stream is not None:
            meta["stream"] = stream.stream
        message = (REQUEST, ident, method, params, meta)
        # What the application's functions take is declared; what the store takes is not.
        if method.startswith("kv."):
            body = self.encode(message, is_plain=True)
        else:
            body = self._encoded(message, is_plain=False)
            if len(body) > self._large_bytes:
                body = self._moved(message, body, self.limit_bytes)
        self._last_own_id, self.waits[ident] = ident, wait
        if stream is not None:
            stream.id = ident
            self.calls[ident] = stream
        return len(body).to_bytes(HEAD_BYTES, "big") + body

    def notification(self, method: str, params: "Any", parent: "Call | None") -> bytes:
        """Make a notification; ``parent`` is the call it belongs to."""
        return self._pack([NOTIFICATION, method, params, {"parent": parent.id} if parent is not None else {}], is_plain=True)

    def result(self, ident: int, value: "Any", meta: "dict[str, Any] | None" = None) -> bytes:
        """Answer a call; raises CodecError when the value cannot be sent."""
        # As _pack, without its layers: this is the hot path.
        try:
            body = self.codec.encode((RESPONSE, ident, None, value, meta or {}))
        except self.codec.faults as error:
            raise CodecError(str(error)) from error
        if len(body) > self._large_bytes:
            return self.result_with_blobs(ident, value, meta, body)
        return len(body).to_bytes(HEAD_BYTES, "big") + body

    def result_with_blobs(self, ident: int, value: "Any", meta: "dict[str, Any] | None", inline: bytes = b"") -> bytes:
        """Answer a call with a value that may hold blobs, encoded already without (``inline``) or not; raises as ``result``."""
        body = self._moved((RESPONSE, ident, None, value, meta or {}), inline, self.limit_bytes)
        call = self.calls.get(ident)
        if call is not None and body is not inline and self.on_blobs is not None:
            self.on_blobs(call.method)  # the next time they are looked for before anything is encoded
        return len(body).to_bytes(HEAD_BYTES, "big") + body

    def _moved(self, message: "tuple[Any, ...]", inline: bytes, limit_bytes: int) -> bytes:
        """Encode a message, its blobs in shared memory where there is some; what has none is returned as ``inline`` is."""
        if self.codec is self.msgpack:
            memory = self.shared.take()
            if memory is not None:
                try:
                    body, has_moved = memory.encode(message, limit_bytes, min(BLOB_FROM_BYTES, limit_bytes // 2))
                except CodecError:
                    raise
                except self.codec.faults as error:
                    raise CodecError(str(error)) from error
                return body if has_moved or not inline else inline
        inline = inline or self.encode(message)
        if len(inline) > limit_bytes:
            raise too_large(inline, limit_bytes)
        return inline

    def error(self, ident: int, code: str, message: str, error_facts: "Any" = None) -> bytes:
        """Answer a call with an error; facts that cannot be sent are left out, so that this always gives an answer."""
        text = sendable(message)
        try:
            return self._pack([RESPONSE, ident, {"code": code, "message": text, "data": error_facts}, None, {}])
        except CodecError:
            return self._pack([RESPONSE, ident, {"code": code, "message": text, "data": None}, None, {}])

    def item_body(self, ident: int, value: "Any") -> bytes:
        """Encode one item, its blobs in shared memory when it is too long for a frame."""
        message: tuple[Any, ...] = (ITEM, ident, value, {})
        body = self._encoded(message, is_plain=False)
        if len(body) <= MAX_ITEM_FRAME_BYTES:
            return body
        if self.shared.arenas is None or self.codec is not self.msgpack:
            raise ValueError(f"an item of {len(body)} bytes; expected at most {MAX_ITEM_FRAME_BYTES}: yield it in parts")
        return self._moved(message, body, MAX_ITEM_FRAME_BYTES)

    def message(self, kind: int, *parts: "Any") -> bytes:
        """Make a message of any kind that stands for itself: an end, a cancel, a credit, a small item."""
        return self._pack([kind, *parts])

    def encode(self, message: "Any", *, is_plain: bool = False) -> bytes:
        """Encode a message, one with bytes too unless it is plain; raises CodecError when it cannot be sent."""
        body = self._encoded(message, is_plain=is_plain)
        if len(body) > self.limit_bytes:
            raise too_large(body, self.limit_bytes)
        return body

    def _encoded(self, message: "Any", *, is_plain: bool) -> bytes:
        try:
            return self.codec.encode_plain(message) if is_plain else self.codec.encode(message)
        except self.codec.faults as error:
            raise CodecError(str(error)) from error

    def _pack(self, message: "Any", *, is_plain: bool = False) -> bytes:
        body = self.encode(message, is_plain=is_plain)
        return len(body).to_bytes(HEAD_BYTES, "big") + body
