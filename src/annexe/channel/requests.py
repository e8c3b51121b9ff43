"""A plugin's requests to the host: checked, answered, called off.

* Ids are even and increase; what breaks that ends the connection.
* Parent, deadline and depth are what the host knows, not what the plugin says.
* An answer that is there at once costs no task; only what waits does.

Source: docs/reference/protocol.md, "The host derives, the plugin does not claim".
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any, cast, final

import msgspec

from annexe.channel.arenas import NoRoomError, Regions
from annexe.channel.calls import CHAIN, Onward, PluginCall
from annexe.channel.faults import error_from_wire, error_to_wire
from annexe.channel.messages import ENCODE_FAULTS, BlobRequest, BlobsFound, Cancel, CodecName, PluginRequest, Response, passed_on
from annexe.channel.patience import PATIENCE_S, is_paused
from annexe.channel.plugin_streams import DIRECTIONS, Direction, PluginStream
from annexe.contract.blobs import BlobPayload
from annexe.errors import (
    AnnexeError,
    CallCancelledError,
    CallTimeoutError,
    InvalidResultError,
    OutcomeUnknownError,
    PluginBusyError,
    RemoteProtocolError,
)
from annexe_sdk import wire

if TYPE_CHECKING:
    from annexe.channel.connection import Connection

__all__ = ["PluginRequests", "Refused", "Serve"]

Serve = Callable[[PluginCall], Any]
"""Answers one request: returns the result or an awaitable of it; raises an AnnexeError to refuse. Never blocks the event loop."""

Refused = Callable[[PluginCall, AnnexeError], None]
"""Told of every request that was answered with an error of ours."""

_LOG = logging.getLogger("annexe.channel")
_UNREAD_REFUSALS_BYTES = 1024 * 1024
_MAX_ROOMLESS = 64


@final
class PluginRequests:
    """The requests of one plugin that are not answered yet."""

    def __init__(self, connection: Connection, serve: Serve, *, on_refused: Refused, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._serve = serve
        self._on_refused = on_refused
        self._loop = loop
        self._open: dict[int, PluginCall] = {}
        self._long: dict[int, int] = {}  # bytes of open requests that are long
        self._long_bytes = 0
        self._held: dict[int, Regions] = {}  # shared memory that open requests came with
        self._roomless: deque[tuple[PluginCall, Any]] = deque()  # answers too long for a frame, without room beside it
        self.last_id = 0

    def begin(self, message: PluginRequest) -> None:
        """Take in a request and start to answer it."""
        self._check_id(message.id)
        connection = self._connection
        if connection.out_bytes > connection.limits.out_bytes:
            self._refuse_unread(message.id)
            return
        if len(self._open) >= connection.limits.plugin_requests:
            self._answer_error(message.id, "busy", f"{len(self._open)} requests are open; expected at most that many")
            return
        parent = connection.parent_of(message.meta.parent)
        if message.meta.parent is not None and (parent is None or parent.given_up_at is not None):
            self._answer_error(message.id, "cancelled", "the call this belongs to is over")
            return
        if message.meta.stream is not None and not self._may_stream(message):
            return
        size = connection.frame_bytes
        if type(message) is BlobRequest:
            if not self._bring_in_blobs(message):
                return
            size += sum(length for _, length in message.meta.blobs)
        if size > wire.MAX_ITEM_FRAME_BYTES and self._long_bytes + size > connection.limits.request_bytes:
            self._answer_error(message.id, "busy", f"requests of {self._long_bytes} bytes are open; expected fewer before one of {size}")
            return
        call = self._make(message, parent)
        if message.meta.stream is not None:
            call.stream = PluginStream(connection, call.id, call.method, cast(Direction, message.meta.stream))
        try:
            answer = self._serve(call)
        except Exception as error:  # noqa: BLE001 - whatever the host's side raises is answered
            self._fail(call, error)
            return
        if hasattr(answer, "__await__"):
            if size > wire.MAX_ITEM_FRAME_BYTES:
                self._long[call.id] = size
                self._long_bytes += size
            self._wait_for(call, answer)
        else:
            self._answer(call, answer)

    def _bring_in_blobs(self, message: BlobRequest) -> bool:
        """Put the blobs back into the parameters, for whoever serves it; say whether that could be, and answer if not.

        What is long is looked at last, and is no longer than a frame: a few bytes must not cost the event loop as much as they can name.
        """
        arenas, limit = self._connection.arenas, self._connection.limits.max_frame_bytes
        assert arenas is not None
        size = sum(length for _, length in message.meta.blobs)
        if size > limit:
            text = f"{size} bytes of blobs; expected at most {limit} in a request of a plugin's"
            self._answer_error(message.id, "invalid-params", text)
            return False
        try:
            payload = BlobPayload(bytes(message.params), arenas.read(message.meta.blobs))
            if message.method.startswith("svc."):
                message.params = payload  # type: ignore[assignment]  # for whoever passes it on: its blobs go beside it again
            else:
                message.params = msgspec.Raw(msgspec.msgpack.encode(payload.plain()))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            self._answer_error(message.id, "invalid-params", str(error))
            return False
        return True

    def _may_stream(self, message: PluginRequest) -> bool:
        """Say whether a request may bring or get a stream, and answer if not."""
        if not message.method.startswith("svc."):
            self._answer_error(message.id, "invalid-params", f"{message.method} takes and gives no stream; only services do")
        elif message.meta.stream not in DIRECTIONS:
            self._answer_error(message.id, "invalid-params", f"a stream {message.meta.stream!r}; expected one of: {', '.join(DIRECTIONS)}")
        elif sum(call.stream is not None for call in self._open.values()) >= wire.MAX_STREAMS:
            self._answer_error(message.id, "busy", f"{wire.MAX_STREAMS} streams are open; expected at most that many")
        else:
            return True
        return False

    def stream_of(self, ident: int) -> PluginStream | None:
        """Return the stream of an open request; None where it has none, or is over."""
        call = self._open.get(ident)
        return call.stream if call is not None else None

    def _refuse_unread(self, ident: int) -> None:
        """Refuse while much waits to be read; a plugin that goes on asking without reading would fill the host's memory."""
        connection = self._connection
        if connection.out_bytes > connection.limits.out_bytes + _UNREAD_REFUSALS_BYTES:
            text = f"a request while {connection.out_bytes} bytes wait to be read"
            raise RemoteProtocolError(text, rule="not-reading", plugin=connection.plugin)
        self._answer_error(ident, "busy", f"{connection.out_bytes} bytes wait to be read")

    def _check_id(self, ident: int) -> None:
        if ident & 1 or not self.last_id < ident <= wire.MAX_ID:
            text = f"request id {ident} after {self.last_id}; expected even ids that increase"
            raise RemoteProtocolError(text, rule="bad-id", plugin=self._connection.plugin)
        self.last_id = ident

    def _make(self, message: PluginRequest, parent: Any) -> PluginCall:
        connection = self._connection
        now = monotonic()
        roof = parent.deadline if parent is not None else now + connection.limits.default_deadline_s
        if message.meta.deadline_ms is not None:
            roof = min(roof, now + message.meta.deadline_ms / 1000)
        params, key = message.params, message.meta.key
        codec: CodecName = "blobs" if type(params) is BlobPayload else message.codec  # type: ignore[comparison-overlap]
        return PluginCall(connection, message.id, message.method, params, codec=codec, deadline=roof, parent=parent, key=key)

    def _wait_for(self, call: PluginCall, answer: Any) -> None:
        if call.parent is not None:
            if call.parent.requests is None:
                call.parent.requests = set()
            call.parent.requests.add(call)
        self._open[call.id] = call
        if isinstance(answer, asyncio.Future):
            call.task = answer
        else:
            # What the application does to answer is done on behalf of the call that the plugin works on.
            context = contextvars.copy_context()
            if call.parent is not None:
                context.run(CHAIN.set, call.chain)
            call.task = self._loop.create_task(answer, context=context)
        call.task.add_done_callback(partial(self._done, call))
        self._connection.wake_at(call.deadline)

    def _done(self, call: PluginCall, work: asyncio.Future[Any]) -> None:
        if call.id not in self._open:
            if not work.cancelled():
                work.exception()  # answered already: nobody asks for it, and nobody misses it
            return
        fault = self._called_off(call) if work.cancelled() else work.exception()
        result: Any = None if fault is not None else work.result()
        onward = call.onward
        if onward is not None:
            if fault is None:
                fault, result = self._passed_on(call, onward, result)
            again = onward.ended(fault)
            if again is not None:
                self._wait_for(call, again)
                return
            call.onward = None
        if fault is not None:
            self._close(call, fault)
            return
        del self._open[call.id]
        self._forget(call)
        self._answer(call, result)

    def _passed_on(self, call: PluginCall, onward: Onward, response: Response) -> tuple[AnnexeError | None, Any]:
        """Return the error or the result that another plugin answered, undecoded where both speak one codec."""
        if response.error is not None:
            return error_from_wire(response.error, plugin=onward.plugin, method=call.method), None
        try:
            return None, passed_on(response.result, response.codec, to=self._connection.codec.name)
        except ValueError as error:
            text = f"plugin {onward.plugin!r} answered {call.method} with what cannot be passed on: {error}"
            return InvalidResultError(text, plugin=onward.plugin, method=call.method), None

    def _close(self, call: PluginCall, error: BaseException) -> None:
        """Answer with an error now, and stop the work; later answers are dropped."""
        if self._open.pop(call.id, None) is None:
            return
        self._forget(call)
        self._fail(call, error)
        onward, call.onward = call.onward, None  # they know each other: what was asked would be kept until a collection
        if onward is not None:
            onward.give_up()
        if call.task is not None:
            call.task.cancel()

    def _forget(self, call: PluginCall) -> None:
        if call.stream is not None:
            call.stream.close()
        if call.parent is not None and call.parent.requests is not None:
            call.parent.requests.discard(call)
        if self._long:
            self._long_bytes -= self._long.pop(call.id, 0)
        if self._held:
            self._release(call.id)

    def hold(self, ident: int, regions: Regions) -> None:
        """Keep the shared memory of a request that was begun until it is answered."""
        arenas = self._connection.arenas
        if ident in self._open and arenas is not None:
            arenas.hold(regions)
            self._held[ident] = regions
        else:
            self._connection.release_regions(regions)

    def _release(self, ident: int) -> None:
        regions = self._held.pop(ident, None)
        if regions is not None and self._connection.arenas is not None:
            self._connection.arenas.let_go(regions)
            self._connection.release_regions(regions)

    def give_up_overdue(self, now: float) -> None:
        """Answer what is over its deadline."""
        for call, _ in [waiting for waiting in self._roomless if waiting[0].deadline <= now]:
            self._roomless = deque(waiting for waiting in self._roomless if waiting[0] is not call)
            text = f"no room in shared memory for the answer to {call.method}"
            self._fail(call, PluginBusyError(text, plugin=self._connection.plugin, method=call.method))
        for call in list(self._open.values()):
            if call.deadline <= now and is_paused(call, now):
                call.deadline = now + PATIENCE_S
            elif call.deadline <= now:
                text = f"{call.method} took longer than its deadline"
                self._close(call, CallTimeoutError(text, plugin=self._connection.plugin, method=call.method))

    def nearest_deadline(self) -> float:
        """Monotonic time of the next deadline; infinity when nothing is open."""
        if not self._open and not self._roomless:
            return float("inf")
        return min(call.deadline for call in chain(self._open.values(), (call for call, _ in self._roomless)))

    def cancel(self, message: Cancel) -> None:
        """The plugin no longer wants an answer; it is answered at once."""
        call = self._open.get(message.id)
        if call is not None:
            self.abandon([call])
        elif message.id & 1 or message.id > self.last_id:
            text = f"cancel of {message.id}, which was never asked"
            raise RemoteProtocolError(text, rule="unknown-id", plugin=self._connection.plugin)

    def abandon(self, calls: Iterable[PluginCall]) -> None:
        """Call off what was asked on behalf of a call that is over."""
        for call in list(calls):
            self._close(call, self._called_off(call))

    def _called_off(self, call: PluginCall) -> CallCancelledError:
        return CallCancelledError(f"{call.method} was cancelled", plugin=self._connection.plugin, method=call.method)

    def abandon_all(self) -> None:
        """Call off everything: the connection is over."""
        self._roomless.clear()
        self.abandon(self._open.values())

    def refuse(self, ident: int, code: str, message: str) -> None:
        """Answer a request whose parameters cannot be decoded."""
        self._check_id(ident)
        self._answer_error(ident, code, message)

    def _answer(self, call: PluginCall, result: Any) -> None:
        connection = self._connection
        if connection.closed:
            return
        if connection.out_bytes > connection.limits.out_bytes:
            text = f"{connection.out_bytes} bytes wait to be read, so the answer to {call.method} was dropped"
            self._answer_error(call.id, OutcomeUnknownError.code, text)
            return
        try:
            try:
                body = connection.codec.encode((wire.RESPONSE, call.id, None, result, {}))
                if len(body) > connection.limits.max_frame_bytes:
                    raise ValueError(f"{len(body)} bytes; expected at most {connection.limits.max_frame_bytes}")
            except BlobsFound:
                assert connection.arenas is not None
                body = connection.arenas.encode((wire.RESPONSE, call.id, None, result), {}, limit_bytes=connection.limits.max_frame_bytes)
        except NoRoomError:
            self._wait_for_room(call, result)
        except ENCODE_FAULTS as error:
            self._answer_error(call.id, "invalid-result", f"the answer to {call.method} cannot be sent: {error}")
        else:
            connection.write(body)

    def _wait_for_room(self, call: PluginCall, result: Any) -> None:
        if len(self._roomless) >= _MAX_ROOMLESS:
            self._answer_error(call.id, "busy", f"{_MAX_ROOMLESS} answers wait for room in shared memory")
            return
        self._roomless.append((call, result))
        self._connection.wake_at(call.deadline)

    def answer_with_room(self) -> None:
        """Some shared memory is free again: send the answers that wait for it, in order."""
        for _ in range(len(self._roomless)):
            call, result = self._roomless.popleft()
            self._answer(call, result)
            if self._roomless and self._roomless[-1][0] is call:  # still too long
                self._roomless.rotate(1)
                return

    def _fail(self, call: PluginCall, error: BaseException) -> None:
        if isinstance(error, AnnexeError):
            self._on_refused(call, error)
        else:
            _LOG.error("%s for plugin %r failed", call.method, self._connection.plugin, exc_info=error)
        if not self._connection.closed:
            self._connection.send((wire.RESPONSE, call.id, error_to_wire(error), None, {}))

    def _answer_error(self, ident: int, code: str, message: str) -> None:
        self._connection.send((wire.RESPONSE, ident, {"code": code, "message": message, "data": None}, None, {}))
