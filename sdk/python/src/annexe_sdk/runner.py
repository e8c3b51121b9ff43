"""Run a plugin: run handlers, write answers, ask the host. Who reads is in ``reader``.

* No call is started twice, and each is answered once.
* The host's end closing ends the plugin.
* Nothing heavy is imported before the plugin is ready.

Source: docs/reference/protocol.md; ADR-0003.
"""

import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from _thread import RLock, allocate_lock, get_ident, start_new_thread

from annexe_sdk.calls import BlobCall, Call, Wait
from annexe_sdk.codec import CodecError, NoRoom, json_codec
from annexe_sdk.context import UNCHANGED, Context
from annexe_sdk.errors import call_failed
from annexe_sdk.life import Life
from annexe_sdk.plugin import Handler, Plugin
from annexe_sdk.reader import Reader
from annexe_sdk.session import Session, Stopped
from annexe_sdk.wire import ITEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Runner", "main", "run_plugin"]


class Runner:
    """Serves one plugin on one connection.

    Args:
        sock: The plugin's end, blocking.
        load: Imports the plugin's code and returns its ``Plugin``; called on activation.
        use_msgpack: Offer MessagePack; None looks for msgspec on the import path.
    """

    def __init__(self, sock: "socket", load: "Callable[[], Plugin]", *, use_msgpack: bool | None = None) -> None:
        self.session = Session(json_codec())
        self.config: dict[str, Any] = {}
        self.grants: list[str] = []
        self.data_dir: str | None = None
        self.level = ""  # of isolation; empty: the host did not say
        self.concurrency = 1
        self._sock = sock
        self.handlers: dict[str, Handler] = {}
        self.send_lock = RLock()
        self.turn: Any = None  # taken to run handler code, where streams have threads of their own
        self._at_turn: set[int] = set()  # threads that have one
        self._workers = 1
        self._workers_lock = allocate_lock()
        self.then: Callable[[], None] | None = None  # what follows the answer that is being sent
        self._life = Life(self, load, use_msgpack)
        self.reader = Reader(sock, self.session, send=self.send, run=self.run_call, add_worker=self._add_worker)
        self.reader.start_stream = self.start_stream
        self._releases: list[bytes] = []  # frames to be written with the next one
        self._later: list[Callable[[], None]] = []  # what is to be done before the next one is written
        self.session.shared.write, self.session.shared.write_later = self.send, self._releases.append
        self.session.on_blobs = self._note_blobs

    # Threads: who reads, who runs.

    def serve(self) -> None:
        """Serve until the host stops the plugin or goes away."""
        try:
            self._work()
        except Stopped:
            pass
        finally:
            self.stop()

    def _work(self) -> None:
        idle = Wait()
        next_call, run_call = self.reader.next_call, self.run_call
        while True:
            run_call(next_call(idle))

    def _add_worker(self) -> bool:
        if self._workers >= self.concurrency:
            return False
        with self._workers_lock:
            if self._workers >= self.concurrency:
                return False
            self._workers += 1
        try:
            start_new_thread(self.serve, ())
        except RuntimeError:  # the machine, or our limits, allow no more: those that there are serve on
            self._workers -= 1
            return False
        return True

    @property
    def stopped(self) -> bool:
        """Whether the connection is gone."""
        return self.reader.stopped

    def stop(self) -> None:
        """End everything."""
        self.reader.stop()

    # Handlers.

    def run_call(self, call: Call) -> None:
        """Run one call's handler and answer it."""
        call.started = True
        handler = self.handlers.get(call.method)
        if handler is None:
            self._run_control(call)
            return
        if self._workers < self.concurrency:
            self.reader.relieve()
        if self.turn is None:
            frame = self._answer(call, handler)
        else:
            self.take_turn()
            try:
                frame = self._answer(call, handler)
            finally:
                self.pass_turn()
        self.session.calls.pop(call.id, None)
        self.send(frame)
        if call.wait is not None:
            self.run_left(call.wait)

    def run_left(self, wait: Wait) -> None:
        """Run calls that serve one whose handler has ended, without having waited for what it asked: nobody else knows of them."""
        while wait.nested:
            self.reader.run(wait.nested.popleft())

    def _answer(self, call: Call, handler: Handler) -> bytes:
        ctx = None
        try:
            params = call.params if handler.convert is None else handler.convert(call.params)
            if handler.wants_ctx:
                ctx = Context(self, call)
                value = handler.function(*params, ctx)
            else:
                value = handler.function(*params)
        except Stopped:
            raise
        except BaseException as error:
            return self.failure(call, handler, error, ctx)
        if value is UNCHANGED or (ctx is not None and ctx._state is not None) or handler.has_blobs:
            return self.success(call, handler, value, ctx)
        try:
            return self.session.result(call.id, value)
        except CodecError as error:
            return self.unsendable(call, handler, error, value, {})

    def context(self, call: "Call | None") -> Context:
        """Make the ``ctx`` of one call."""
        return Context(self, call)

    def success(self, call: Call, handler: Handler, value: "Any", ctx: "Context | None") -> bytes:
        """Make the answer for what a handler returned."""
        is_unchanged = value is UNCHANGED
        frame = self.result(call, handler, None if is_unchanged else value, "unchanged" if is_unchanged else None, ctx)
        if type(call) is BlobCall:
            call.drop()  # what it looked at in shared memory is in the frame by now, or not wanted
        return frame

    def result(self, call: Call, handler: Handler, value: "Any", outcome: str | None, ctx: "Context | None") -> bytes:
        """Make the answer for a value; ``outcome``: what it is beside a result."""
        meta: dict[str, Any] = {}
        try:
            if ctx is not None and ctx._state is not None:
                state = ctx._changed_state()
                if state is not None:
                    meta["state"] = state
            if outcome is not None:
                meta["outcome"] = outcome
            if handler.has_blobs:
                return self.session.result_with_blobs(call.id, value, meta)
            return self.session.result(call.id, value, meta)
        except CodecError as error:
            return self.unsendable(call, handler, error, value, meta)

    def _note_blobs(self, method: str) -> None:
        handler = self.handlers.get(method)
        if handler is not None:
            handler.has_blobs = True

    def unsendable(self, call: Call, handler: Handler, error: CodecError, value: "Any", meta: "dict[str, Any]") -> bytes:
        """Make the answer for what cannot be sent, or wait until there is room for it in shared memory."""
        if handler.is_generator and call.stream is None:
            return self._yielding(call, handler)
        if isinstance(error, NoRoom):
            if handler.is_async:
                raise error  # the loop must not wait; it awaits
            from annexe_sdk.room import result_with_room

            return result_with_room(self, call, handler, value, meta)
        return self.session.error(call.id, "invalid-result", f"{handler.at}: {error}", {"at": handler.at})

    def _yielding(self, call: Call, handler: Handler) -> bytes:
        text = f"it yields ({handler.at}); ask for it as a stream"
        if call.method.startswith("svc."):
            text += ": ctx.service({!r}).{}.stream(…)".format(*call.method.split(".")[1:])
        return self.session.error(call.id, "invalid-params", text, {"at": handler.at})

    def failure(self, call: Call, handler: Handler, error: BaseException, ctx: "Context | None") -> bytes:
        """Make the answer for what a handler raised."""
        from annexe_sdk.failures import frame_of

        try:
            if handler.is_generator and call.stream is None:  # an event loop cannot await it
                return self._yielding(call, handler)
            return frame_of(self, call, handler, error, ctx)
        finally:
            if type(call) is BlobCall:
                call.drop()

    def start_stream(self, call: Call) -> None:
        """Run a streamed call beside the others."""
        self.start_thread(call, self.run_stream, (call,))

    def start_thread(self, call: Call, run: "Callable[..., None]", args: "tuple[Any, ...]") -> bool:
        """Run a call on a thread of its own; where there cannot be another it is answered ``busy``. Says whether it runs."""
        try:
            start_new_thread(run, args)
        except RuntimeError as error:
            self.session.close(call)
            self.send(self.session.error(call.id, "busy", f"this plugin has no thread for it: {error}"))
            return False
        return True

    def run_stream(self, call: Call) -> None:
        """Run a streamed call on this thread."""
        from annexe_sdk.streams import run_stream

        try:
            run_stream(self, call, self.handlers.get(call.method))
        except Stopped:
            pass

    def pass_turn(self) -> bool:
        """Let other threads run handler code while this one waits; say whether it had a turn: threads that handlers start have none."""
        if self.turn is None or get_ident() not in self._at_turn:
            return False
        self._at_turn.discard(get_ident())
        self.turn.release()
        return True

    def take_turn(self, passed: bool = True) -> None:
        """Wait until this thread may run handler code again; ``passed``: it had a turn."""
        if self.turn is not None and passed:
            self.turn.acquire()
            self._at_turn.add(get_ident())

    # Messages of our own.

    def send(self, frame: bytes) -> None:
        """Write frames; blocks while the host's side is full."""
        with self.send_lock:
            if self._releases:
                frame = self._with_releases(frame)
            try:
                self._sock.sendall(frame)
            except OSError:
                self.stop()
                raise Stopped from None

    def do_later(self, work: "Callable[[], None]") -> None:
        """Have something done when the next frame is written; whatever this thread does now goes on."""
        self._later.append(work)
        self._releases.append(b"")  # that is looked at already

    def _with_releases(self, frame: bytes) -> bytes:
        while self._later:
            self._later.pop()()
        frames = []
        while self._releases:
            frames.append(self._releases.pop())
        return b"".join((*frames, frame))

    def ask(self, call: "Call | None", method: str, params: "Any", key: str | None = None) -> "Any":
        """Call the host and wait for the answer."""
        wait = Wait()
        if call is not None:
            # Before the request leaves: a call that serves this one may be read by another thread at once.
            outer, call.wait = call.wait, wait
            try:
                self._send_request(call, method, params, wait, key)
                passed = self.pass_turn()
                try:
                    self.reader.wait_for(wait)
                finally:
                    self.take_turn(passed)
            finally:
                call.wait = outer
        else:
            self._send_request(call, method, params, wait, key)
            self.reader.wait_for(wait)
        if wait.error is not None:
            raise call_failed(wait.error)
        return wait.result

    def stream(self, ctx: Context, method: str, params: "list[Any]", key: "str | None", items: "Any", direction: str) -> "Any":
        """Ask for a stream of a service, for ``ctx``; see ``service_streams``."""
        from annexe_sdk.service_streams import ask_stream

        return ask_stream(ctx, method, params, key, items, direction)

    def _send_request(self, call: "Call | None", method: str, params: "Any", wait: Wait, key: str | None) -> None:
        try:
            self.send_request(call, method, params, wait, key)
        except NoRoom:
            from annexe_sdk.room import request_with_room

            request_with_room(self, call, method, params, wait, key)

    def send_request(
        self, call: "Call | None", method: str, params: "Any", wait: Wait, key: "str | None" = None, stream: "Call | None" = None
    ) -> None:
        """Send a request of ours; ids go out in order. ``key``: alike calls of a service go to the same plugin by it."""
        with self.send_lock:
            frame = self.session.request(method, params, call, wait, key, stream)
            if self._releases:
                frame = self._with_releases(frame)
            try:
                self._sock.sendall(frame)
            except OSError:
                self.stop()
                raise Stopped from None

    def notify(self, method: str, params: "Any", call: "Call | None" = None) -> None:
        """Send a notification; what cannot be written as JSON is sent as its ``repr``, what is too large not at all."""
        try:
            frame = self.session.notification(method, params, call)
        except CodecError:
            try:
                frame = self.session.notification(method, _writable(params), call)
            except Exception:  # cyclic, too deep, too large, or with a repr that fails
                return
        self.send(frame)

    def log(self, level: str, message: str, fields: "dict[str, Any]", call: "Call | None") -> None:
        """Send a log line."""
        self.notify("log", {"level": level, "message": str(message), "fields": fields}, call)

    def send_item(self, call: Call, value: "Any") -> None:
        """Send one item without waiting for credit: for progress, which is small and rare."""
        self.send(self.session.message(ITEM, call.id, value, {}))

    def _run_control(self, call: Call) -> None:
        frame = self._life.answer(call)
        self.session.calls.pop(call.id, None)
        self.send(frame)
        then, self.then = self.then, None
        if then is not None:
            then()


def _writable(value: "Any") -> "Any":
    if isinstance(value, dict):
        return {str(key): _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    return (value if isinstance(value, str) else repr(value)).encode("utf-8", "backslashreplace").decode()


def _find_plugin(entry: str) -> Plugin:
    """Import the plugin's entry module and return its ``Plugin``."""
    __import__(entry)
    module = sys.modules[entry]
    found = getattr(module, "plugin", None)
    if not isinstance(found, Plugin):
        raise TypeError(f"module {entry!r} has no Plugin named 'plugin'; write: plugin = Plugin()")
    return found


def main(fd: int, entry: str) -> None:
    """Serve the plugin whose entry module is ``entry`` on an inherited descriptor; returns when the host is done with it."""
    _serve(fd, lambda: _find_plugin(entry))


def run_plugin(plugin: Plugin) -> None:
    """Serve an imported plugin: on the descriptor that the host put into ``ANNEXE_FD``, or where ``ANNEXE_ATTACH`` says to join one."""
    import os  # costs an eighth of starting Python; whoever comes this way runs a program of its own

    number = os.environ.get("ANNEXE_FD", "")
    if number.isdigit():
        _serve(int(number), lambda: plugin)
        return
    from annexe_sdk.attach import run

    run(plugin)


def _serve(fd: int, load: "Callable[[], Plugin]") -> None:
    sock = socket(AF_UNIX, SOCK_STREAM, 0, fd)
    try:
        Runner(sock, load).serve()
    finally:
        sock.close()
