"""One plugin's connection, as the host sees it: calls out, requests in.

* Every call ends: by its answer, by its deadline, by its caller, or with the connection. One timer per connection, none per call.
* A call that was given up keeps its slot until the plugin answers it; a plugin whose slots are all given up for long is stuck.
* What breaks the protocol ends this connection and nothing else.

Source: docs/reference/protocol.md; ADR-0004.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Protocol, final

from annexe.channel.alarm import Alarm
from annexe.channel.arenas import Arenas, NoRoomError, Regions
from annexe.channel.backlog import Backlog
from annexe.channel.calls import CHAIN, HostCall
from annexe.channel.faults import busy, error_from_wire, gone, overdue
from annexe.channel.incoming import Incoming, Notify
from annexe.channel.limits import ChannelLimits
from annexe.channel.memory_files import MemoryFiles
from annexe.channel.messages import (
    DECODE_FAULTS,
    ENCODE_FAULTS,
    JSON,
    MSGPACK,
    MSGPACK_WITH_ARENAS,
    BlobsFound,
    Codec,
    CodecName,
    Message,
    Release,
    RequestMeta,
    Response,
    decode_json,
    decode_msgpack,
)
from annexe.channel.nesting import nest
from annexe.channel.patience import NoAlarm, PatientSlots
from annexe.channel.requests import PluginRequests, Refused, Serve
from annexe.channel.slots import Slots
from annexe.channel.streams import Decode, Stream
from annexe.channel.stuck import StuckWatch
from annexe.channel.transport import Transport
from annexe.errors import (
    AnnexeError,
    CallCancelledError,
    CallError,
    InvalidParamsError,
    OutcomeUnknownError,
    PluginUnavailableError,
    RemoteProtocolError,
)
from annexe_sdk import wire
from annexe_sdk.frames import JSON_FIRST_BYTE

__all__ = ["Connection", "Siblings"]

_COARSENESS_S = 0.001


class Siblings(Protocol):
    """The connections to other instances of the same plugin, among which calls that were not sent yet may move."""

    def feed(self, connection: Connection) -> None:
        """Give one that has a slot free what waits elsewhere."""

    def rescue(self, connection: Connection) -> None:
        """Take over what waits at one that is lost."""


@final
class Connection:
    """Calls to one plugin instance and requests from it.

    Args:
        sock: The host's end of the socket pair.
        plugin: Id of the plugin, for errors.
        limits: Bounds; ``concurrency`` and ``streams`` come from the manifest.
        serve: Answers the plugin's requests; see ``requests.Serve``.
        on_refused: Told of every request that was answered with an error.
        on_notification: Takes the plugin's notifications; see ``incoming.Notify``.
        on_closed: Called once when the connection is over: with None when the plugin closed it or ``close`` was called without an error.
        on_stuck: Called once when the plugin holds every slot with calls that were given up long ago.
        files: Shared memory to offer, which the plugin has inherited; closed with the connection, or when the plugin has no use for it.
        is_patient: The plugin may take its time: nothing here is over by time; see ``patience``.

    Must be made in a running event loop.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        plugin: str,
        limits: ChannelLimits,
        serve: Serve,
        on_refused: Refused,
        on_notification: Notify,
        on_closed: Callable[[AnnexeError | None], None],
        on_stuck: Callable[[], None],
        files: MemoryFiles | None = None,
        is_patient: bool = False,
    ) -> None:
        self.plugin = plugin
        self.is_patient = is_patient
        self.limits = limits
        self.codec: Codec = JSON
        self.closed = False
        self._ended_by: AnnexeError | None = None
        self.loop = asyncio.get_running_loop()
        self._on_closed = on_closed
        self.open_calls: dict[int, HostCall] = {}  # sent and not answered, oldest first
        self.last_id = -1
        self._slots = PatientSlots(limits) if is_patient else Slots(limits)
        self._backlog = Backlog(plugin, limits=limits, slots=self._slots, send=self._send)  # not sent yet
        self._queue, self._roomless, self._pump = self._backlog.queue, self._backlog.roomless, self._backlog.pump
        self._alarm = (NoAlarm if is_patient else Alarm)(self._on_alarm, loop=self.loop)
        self._stuck = StuckWatch(self._slots, stuck_s=limits.stuck_s, on_stuck=on_stuck)
        self._idle: asyncio.Future[None] | None = None  # somebody waits for the last call to end
        self._greeted = False
        self._decode_binary: Callable[[bytes], Message] = self._refuse_binary
        self.frame_bytes = 0  # of the frame being handled
        self.files = files
        self.arenas: Arenas | None = None
        self.siblings: Siblings | None = None
        self.admit: Callable[[], float] | None = None  # returns 0 to let a call through, else how many seconds to wait
        self._transport = Transport(
            sock, loop=self.loop, on_frame=self._on_frame, on_lost=self._lost, limit_bytes=wire.HELLO_MAX_FRAME_BYTES
        )
        self._write = self._transport.write
        self._requests = PluginRequests(self, serve, on_refused=on_refused, loop=self.loop)
        self._incoming = Incoming(self, self._requests, on_notification)

    @property
    def waiting(self) -> int:
        """Calls that have no slot yet."""
        return len(self._queue) + len(self._roomless) + len(self._slots.ahead)

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet, waiting ones included."""
        return len(self.open_calls) + len(self._queue) + len(self._roomless)

    @property
    def is_busy(self) -> bool:
        """Whether anybody still waits for an answer: a call that was given up keeps its slot, but is nobody's any more."""
        return any(not call.future.done() for call in self._all_calls())

    def _all_calls(self) -> list[HostCall]:
        return [*self.open_calls.values(), *self._queue, *self._roomless]

    @property
    def out_bytes(self) -> int:
        """Bytes that wait to be written, because the plugin does not read."""
        return self._transport.out_bytes

    def wake_when_written(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once nothing waits to be written; the same one is called once only."""
        self._transport.wake_when_written(wake)

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call ``wake`` any more."""
        self._transport.forget(wake)

    # Life.

    def greeted(self, codec: CodecName, *, uses_arenas: bool = False) -> None:
        """Hello was answered: frames up to the agreed limit and requests of the plugin's are welcome, and the codec that it chose."""
        self._greeted = True
        if self.files is not None:
            if codec == "msgpack" and uses_arenas:
                self.arenas = Arenas(self.files, plugin=self.plugin)
            else:
                self.files.close()
                self.files = None
        if codec == "msgpack":
            self._decode_binary = decode_msgpack
        self._transport.accept(self.limits.max_frame_bytes)

    def agree(self, codec: CodecName) -> None:
        """Activation was answered: send in this codec from now on."""
        self.codec = JSON if codec == "json" else MSGPACK if self.arenas is None else MSGPACK_WITH_ARENAS

    def close(self, error: AnnexeError | None = None) -> None:
        """End the connection; every open call gets an error. Idempotent."""
        if self.closed:
            return
        self._transport.close()
        self._lost(error)

    def _lost(self, error: AnnexeError | None) -> None:
        self.closed = True
        self._ended_by = error
        self._alarm.cancel()
        if self.siblings is not None and self._queue:
            self.siblings.rescue(self)
        self._requests.abandon_all()
        for call in self._all_calls():
            if not call.future.done():
                call.future.set_exception(gone(call, error, plugin=self.plugin))
            if call.stream is not None:
                call.stream.finish()
        self.open_calls.clear()
        self._backlog.clear()
        self._slots.ahead.clear()
        if self.arenas is not None:
            self.arenas.retire()
        elif self.files is not None:
            self.files.close()
        self.files = self.arenas = None
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        self._on_closed(error)

    # Calls out.

    async def call(self, method: str, params: Any, meta: RequestMeta, *, deadline: float, run_s: float | None = None) -> Response:
        """Call the plugin and wait for the answer.

        Args:
            method: Name on the wire.
            params: What msgspec can encode; already encoded parts as ``msgspec.Raw`` in this connection's codec.
            meta: Owned by the call from now on.
            deadline: Monotonic time, in seconds.
            run_s: How long the plugin may work on it, waiting for a slot not counted; None: until the deadline.

        Returns:
            The response; its ``error`` is None. The result is raw, in ``response.codec``.

        Raises:
            CallError: One of its family; what the plugin answered as an error included.
            RejectedError: The plugin refused.
        """
        call = self.begin(method, params, meta, deadline=deadline, run_s=run_s)
        try:
            response: Response = await call.future
        except asyncio.CancelledError:
            call.connection.give_up(call)  # it may have moved to another instance
            raise
        if response.error is not None:
            raise error_from_wire(response.error, plugin=self.plugin, method=method)
        return response

    def begin(
        self,
        method: str,
        params: Any,
        meta: RequestMeta,
        *,
        deadline: float,
        run_s: float | None = None,
        chain: tuple[HostCall, ...] | None = None,
    ) -> HostCall:
        """Start a call without waiting; see ``call``. Raises what keeps it from being started.

        ``chain`` has the open host calls on whose behalf it is made, outermost first; None: those of the running code.
        """
        if chain is None:
            chain = CHAIN.get()
        if chain:
            deadline = min(deadline, chain[-1].deadline)
        call = HostCall(self, method, params, meta, deadline, run_s, self.loop.create_future(), chain)
        if self.closed:
            because = f": {self._ended_by}" if self._ended_by is not None else ""
            raise PluginUnavailableError(f"plugin {self.plugin!r} is not running{because}", plugin=self.plugin, method=method)
        if chain:
            nest(call, self._slots)
        if self.admit is not None and not call.nested and not method.startswith("annexe."):
            wait_s = self.admit()
            if wait_s:
                why = f"it is called more often than calls-per-s under [runtime] allows, try again in {wait_s:.3g} s"
                raise busy(method, why, plugin=self.plugin)
        if self._transport.out_bytes > self.limits.out_bytes:
            raise busy(method, f"{self._transport.out_bytes} bytes wait to be written", plugin=self.plugin)
        slots = self._slots
        if call.nested:
            if slots.nested >= self.limits.nested:
                raise busy(method, f"{self.limits.nested} calls that serve its own are open", plugin=self.plugin)
            slots.nested += 1
            self._send(call)
        elif meta.stream is not None:
            if slots.streams >= self.limits.streams:
                raise busy(method, f"{self.limits.streams} streams are open", plugin=self.plugin)
            slots.streams += 1
            self._send(call)
        elif slots.given_up and slots.are_given_up(self.open_calls.values(), monotonic() - self.limits.hung_s):
            raise busy(method, "every slot is held by a call that was cancelled and goes on", plugin=self.plugin)
        elif slots.taken < slots.most:
            slots.taken += 1
            self._send(call)
        elif len(self._queue) < self.limits.queued:
            self._queue.append(call)
        else:
            raise busy(method, f"{self.limits.queued} calls wait", plugin=self.plugin)
        if call.deadline < self._alarm.at:
            self._alarm.wake_at(call.deadline)
        if chain:
            chain[-1].add_inner(call)
        return call

    def give_up(self, call: HostCall) -> None:
        """Stop wanting the answer: tell the plugin, and what it asked on this call's behalf is called off."""
        if call.id == 0:
            if not call.future.done():
                call.future.cancel()
            self._backlog.take_out(call)
            self._tell_if_idle()
            return
        if call.given_up_at is not None or call.id not in self.open_calls:
            return
        now = monotonic()
        self._slots.give_up(call, now)
        if call.requests:
            self._requests.abandon(call.requests)
        self.send([wire.CANCEL, call.id])
        self.wake_at(now + self.limits.stuck_s)
        self._tell_if_idle()

    def open_stream(
        self,
        method: str,
        params: Any,
        meta: RequestMeta,
        *,
        deadline: float,
        decode: Decode,
        item_s: float | None,
        chain: tuple[HostCall, ...] | None = None,
    ) -> Stream:
        """Start a streamed call; ``meta.stream`` says which directions it has. ``chain``, and what it raises: as ``begin``."""
        call = self.begin(method, params, meta, deadline=deadline, chain=chain)
        if self.is_patient:
            item_s = None
        stream = call.stream = Stream(self, call, decode=decode, item_s=item_s)
        return stream

    async def wait_idle(self, deadline: float) -> bool:
        """Wait until nobody waits for an answer; say whether that came before the deadline (monotonic time)."""
        if self.is_busy and not self.closed:
            self._idle = self.loop.create_future()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._idle
            except TimeoutError:
                return False
            finally:
                self._idle = None
        return True

    def end_streams(self, why: str, *, of_services: bool = False) -> None:
        """End every open stream, or those of services alone; their readers get ``OutcomeUnknownError``."""
        for call in self._all_calls():
            if call.stream is not None and not call.future.done() and not (of_services and call.meta.caller is None):
                text = f"{call.method} of plugin {self.plugin!r} was ended: {why}"
                call.stream.fail(OutcomeUnknownError(text, plugin=self.plugin, method=call.method))

    def give_up_all(self) -> None:
        """Cancel every open call; their callers get ``CallCancelledError``."""
        for call in self._all_calls():
            if not call.future.done():
                text = f"plugin {self.plugin!r} is stopping, {call.method} was cancelled"
                call.future.set_exception(CallCancelledError(text, plugin=self.plugin, method=call.method))
            self.give_up(call)
            if call.stream is not None:
                call.stream.finish()

    def send(self, message: Any) -> None:
        """Send a message that is known to be encodable."""
        self._write(self.codec.encode(message), True)

    def write(self, body: bytes) -> None:
        """Send an encoded message."""
        self._write(body, True)

    def _send(self, call: HostCall) -> None:
        """Give the call its id and write it; on failure the slot is given back."""
        ident = self.last_id + 2
        left_s = self._slots.enter(call, monotonic())
        call.meta.deadline_ms = int(left_s * 1000) if left_s > 0.0 else 0
        try:
            try:
                body = self.codec.encode((wire.REQUEST, ident, call.method, call.params, call.meta))
                if len(body) > self.limits.max_frame_bytes:
                    raise ValueError(f"{len(body)} bytes; expected at most {self.limits.max_frame_bytes}")
            except BlobsFound:
                assert self.arenas is not None
                head = (wire.REQUEST, ident, call.method, call.params)
                body = self.arenas.encode(head, call.meta, limit_bytes=self.limits.max_frame_bytes)
        except NoRoomError:
            self._slots.take_back(call)
            self._leave(call)
            self._backlog.wait_for_room(call)
            return
        except ENCODE_FAULTS as error:
            self._slots.take_back(call)
            self._leave(call)
            text = f"the arguments of {call.method} for plugin {self.plugin!r} cannot be sent: {error}"
            raise InvalidParamsError(text, plugin=self.plugin, method=call.method) from error
        self.last_id = call.id = ident
        call.params = None  # a plugin that never answers shall not keep them
        self._write(body, not self.open_calls)
        self.open_calls[ident] = call

    # Calls too long for a frame.

    def release(self, message: Release) -> None:
        """The plugin is done with regions: send what waits for room, in order."""
        if self.arenas is None:
            text = "a release of shared memory; this connection has none"
            raise RemoteProtocolError(text, rule="no-arena", plugin=self.plugin)
        self.arenas.free(message)
        self._backlog.send_roomless()
        self._requests.answer_with_room()
        self.arenas.wake()

    def release_regions(self, regions: Regions) -> None:
        """Tell the plugin that what it sent was received."""
        if regions and not self.closed:
            self._write(self.codec.encode((wire.RELEASE, regions)), False)  # with the next request, if the answer leads to one

    def _leave(self, call: HostCall) -> None:
        """Give back what the call took; its slot goes to the oldest one that was sent ahead."""
        if not self._slots.leave(call):
            return
        ahead = self._slots.ahead
        while ahead:
            following = ahead.popleft()
            if following.id in self.open_calls:
                self._slots.start(following, monotonic())
                self._alarm.wake_at(following.deadline)
                return

    # Calls of other instances of the plugin.

    @property
    def queued(self) -> int:
        """Calls that were not sent yet and wait for a slot."""
        return len(self._queue)

    @property
    def has_room(self) -> bool:
        """Whether a call would be sent at once."""
        return not self.closed and self._slots.taken < self._slots.most

    def hand_out(self, *, most: int | None = None) -> list[HostCall]:
        """Give away what was not sent yet and waits for a slot, the oldest first; None: all of it."""
        return self._backlog.hand_out(most)

    def take_in(self, calls: Iterable[HostCall]) -> None:
        """Take over calls that were given away; their callers do not notice."""
        for call in calls:
            call.connection = self
            self._queue.append(call)
            self._alarm.wake_at(call.deadline)
        self._pump()

    # Time.

    def _on_alarm(self) -> None:
        """Give up what is overdue, look for a stuck plugin, and sleep until the next deadline."""
        now = monotonic()
        nearest = float("inf")
        self._requests.give_up_overdue(now)
        for call in self._all_calls():
            if call.given_up_at is not None:
                # Looked at again once per period: a plugin may be given up on for long without being stuck.
                due = call.given_up_at + self.limits.stuck_s
                nearest = min(nearest, due if due > now else now + self.limits.stuck_s)
            elif call.deadline <= now:
                self._overdue(call)
                if call.given_up_at is not None:
                    nearest = min(nearest, call.given_up_at + self.limits.stuck_s)
            else:
                nearest = min(nearest, call.deadline)
        self._stuck.look(self.open_calls.values(), now, is_full=self._transport.writing)
        nearest = min(nearest, self._requests.nearest_deadline())
        if nearest < float("inf"):
            self._alarm.wake_at(max(nearest, now + _COARSENESS_S))

    def wake_at(self, deadline: float) -> None:
        """Look at the deadlines again at this monotonic time, at the latest."""
        self._alarm.wake_at(deadline)

    def _overdue(self, call: HostCall) -> None:
        is_roomless = not call.id and call in self._roomless
        if not call.future.done():
            late = busy(call.method, "no room in shared memory", plugin=self.plugin) if is_roomless else overdue(call, plugin=self.plugin)
            call.future.set_exception(late)
        if call.stream is not None:
            call.stream.finish()
        if call.id:
            self.give_up(call)
        else:
            self._backlog.take_out(call)

    # Frames in.

    def _on_frame(self, frame: bytes) -> None:
        size = self.frame_bytes = len(frame)
        if size > wire.MAX_ITEM_FRAME_BYTES and self._incoming.has_refused_large(frame):
            return
        try:
            message = decode_json(frame) if frame[0] == JSON_FIRST_BYTE else self._decode_binary(frame)
        except DECODE_FAULTS as error:
            self._incoming.take_bad_frame(frame, error, greeted=self._greeted)
            return
        except BlobsFound:
            self._incoming.take_blobs(frame)
            return
        if isinstance(message, Response):
            self.take_response(message)
        elif not self._greeted and (self.open_calls or self.last_id < 1):  # what follows the answer may come with it in one read
            raise RemoteProtocolError("a message before hello was answered", rule="before-hello", plugin=self.plugin)
        else:
            self._incoming.take(message)

    def _refuse_binary(self, _frame: bytes) -> Message:
        raise RemoteProtocolError("a MessagePack frame, but JSON was agreed", rule="codec-not-agreed", plugin=self.plugin)

    def take_response(self, message: Response) -> None:
        """End the call that a response is for."""
        call = self.open_calls.pop(message.id, None)
        if call is None:
            self.refuse_response(message.id)
            return
        self._leave(call)
        if not call.future.done():
            call.future.set_result(message)
        if call.stream is not None or call.requests or self._queue or self._idle is not None or self.siblings is not None:
            self._ended(call)

    def refuse_response(self, ident: int) -> None:
        """End the connection for an answer to what is not open."""
        what = "twice" if ident & 1 and 0 < ident <= self.last_id else "though it was never asked"
        raise RemoteProtocolError(f"request {ident} was answered {what}", rule="unknown-id", plugin=self.plugin)

    def fail(self, call: HostCall, error: CallError) -> None:
        """The plugin answered, but not so that anything can be made of it."""
        del self.open_calls[call.id]
        self._leave(call)
        if not call.future.done():
            call.future.set_exception(error)
        self._ended(call)

    def _ended(self, call: HostCall) -> None:
        """See to what hung on a call that is over."""
        if call.stream is not None:
            call.stream.finish()
        if call.requests:
            self._requests.abandon(call.requests)
        if self._queue:
            self._pump()
        elif self.siblings is not None:
            self.siblings.feed(self)
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self.is_busy:
            self._idle.set_result(None)

    def parent_of(self, ident: int | None) -> HostCall | None:
        """Return the open host call a plugin names as parent; None when it is closed or was never one."""
        return self.open_calls.get(ident) if ident is not None else None
