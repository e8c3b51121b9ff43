"""Streams of other plugins' services, as the plugin that asks for them has them. Imported by the first one.

* What has arrived is given before more is sent, and more is sent only while the provider has room for it.
* Whoever stops reading calls it off: ``break``, ``close()``, an error, the end of the call that it belongs to.
* A call that serves the one whose handler reads here is run by the thread that waits here, so two plugins cannot block each other.

Source: docs/reference/sdk.md, "Streams of services"; docs/reference/protocol.md, "Streams".
"""

from _thread import start_new_thread
from threading import Condition

from annexe_sdk.calls import Call, Wait
from annexe_sdk.codec import NoRoom
from annexe_sdk.errors import call_failed
from annexe_sdk.session import Session, Stopped
from annexe_sdk.streams import item_frame, take_back, take_item
from annexe_sdk.wire import CANCEL, CREDIT, END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any

    from annexe_sdk.context import Context
    from annexe_sdk.runner import Runner

__all__ = ["Asked", "ask_stream"]


class Asked(Call):
    """A stream that this plugin asked for. What ``Call`` says of the caller's items holds for the provider's.

    Args:
        session: Whose.
        method: Name on the wire.
        direction: ``in``: it gets our items, ``out``: it sends some, or ``both``.
        wait: Woken whenever there is something new; calls that serve the one that asked are put there.

    Attributes:
        answer: Gets the provider's answer, the end of the stream.
        ended: Nothing more comes.
    """

    started = True
    stream_wait: "Wait"

    def __init__(self, session: Session, method: str, direction: str, wait: Wait) -> None:
        super().__init__(0, method, None, {"stream": direction}, 0.0)
        self.ended = False
        self.answer = Wait()
        self.answer.on_done = self._on_answer
        self.stream_wait = wait
        self._session = session

    def _on_answer(self) -> None:
        if self.answer.done:  # else the connection is gone: whoever waits is told by the reader, and must not take it for the end
            self.ended = True
            self.stream_wait.finish()

    def raise_fault(self) -> None:
        """Raise the error that it ended with, if it did."""
        if self.answer.error is not None:
            raise call_failed(self.answer.error)

    def close(self, send: "Callable[[bytes], None]") -> None:
        """Let go of it: call it off where it is not over, and drop what was not read."""
        is_over, self.ended = self.answer.done, True
        try:
            self._session.close(self)
            if self.id and not is_over:
                send(self._session.message(CANCEL, self.id))
        except Stopped:
            pass


class _ThreadWait(Wait):
    """Wakes a thread for each item, and takes calls that serve the waiting one until the stream is over."""

    __slots__ = ("closed",)

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    @property
    def is_over(self) -> bool:
        return self.closed


def ask_stream(ctx: "Context", method: str, params: "list[Any]", key: "str | None", items: "Any", direction: str) -> "Any":
    """Ask for a stream of a service.

    Args:
        ctx: Of the call that the plugin works on.
        method: Name on the wire.
        params: Arguments beside the stream.
        key: Alike calls go to the same plugin by it.
        items: What is sent, read when nothing is there to be given; None where nothing is.
        direction: ``in``, ``out`` or ``both``.

    Returns:
        What the provider answers to a stream that goes ``in``; otherwise an iterator of what it sends.

    Raises:
        CallFailed: The provider, or the host, could not go on with it.
        ValueError: An item is too long.
    """
    stream = _stream(ctx, method, params, key, items, direction)
    if direction != "in":
        return stream
    try:
        while True:
            next(stream)
    except StopIteration as end:
        return end.value


def _stream(
    ctx: "Context", method: str, params: "list[Any]", key: "str | None", items: "Iterable[Any]", direction: str
) -> "Generator[Any, None, Any]":
    """Yield what the provider sends, and return what it answers."""
    runner, call = ctx._runner, ctx._call
    wait = _ThreadWait()
    asked = Asked(runner.session, method, direction, wait)
    source = _Source(runner, asked, iter(items) if direction != "out" else None)
    try:
        _ask(runner, call, params, key, asked)
        while True:
            wait.done = False  # before the look: what comes after it wakes us
            if asked.inbox:
                item, granted_bytes = take_item(asked)  # type: ignore[misc]  # there is one
                _acknowledge(runner, asked, granted_bytes)
                yield item
            elif asked.ended:
                break
            elif not source.advance():
                _acknowledge(runner, asked, asked.consumed)
                asked.consumed = 0
                _wait(runner, call, wait)
        asked.raise_fault()
        return asked.answer.result
    finally:
        wait.closed = True
        _leave(runner, asked, source)
        if call is not None and call.wait is wait:
            call.wait = None
        while wait.nested:  # they serve nobody who waits any more
            runner.session.ready.append(wait.nested.popleft())


def _ask(runner: "Runner", call: "Call | None", params: "list[Any]", key: "str | None", asked: Asked) -> None:
    try:
        runner.send_request(call, asked.method, params, asked.answer, key, asked)
    except NoRoom:
        from annexe_sdk.room import request_with_room

        request_with_room(runner, call, asked.method, params, asked.answer, key, asked)


def _leave(runner: "Runner", asked: Asked, source: "_Source") -> None:
    """Let go of a stream; elsewhere where the collector has found it while this thread was sending: that comes first."""

    def leave() -> None:
        source.close()
        asked.close(runner.send)

    if not _is_inside(runner):
        leave()
        return
    try:
        start_new_thread(leave, ())
    except RuntimeError:  # the machine, or our limits, allow no more; nobody would hear of it either
        runner.do_later(leave)


def _is_inside(runner: "Runner") -> bool:
    """Say whether this thread is just sending or placing something: what the garbage collector runs may come in between."""
    memory = runner.session.shared.memory
    return _holds(runner.send_lock) or (memory is not None and _holds(memory.lock))


def _holds(lock: "Any") -> bool:
    """Say whether this thread holds a lock: whoever does not may not notify those that wait for it."""
    try:
        Condition(lock).notify()
    except RuntimeError:
        return False
    return True


class _Source:
    """The plugin's own items: each is made once there is room for it, and sent once it is paid for."""

    def __init__(self, runner: "Runner", asked: Asked, items: "Iterator[Any] | None") -> None:
        self._runner = runner
        self._asked = asked
        self._items = items
        self._unmade: list[Any] = []  # the next item, without room for it
        self._frame, self._cost = b"", 0

    def advance(self) -> bool:
        """Do what can be done next; False where there is nothing, before more room or credit has come: then ``stream_wait`` is woken."""
        runner, asked = self._runner, self._asked
        if self._frame:
            if asked.credit < self._cost:
                return False
            asked.credit -= self._cost
            frame, self._frame = self._frame, b""
            runner.send(frame)
        elif self._unmade:
            return self._is_made()
        elif self._items is None:
            return False
        else:
            try:
                self._unmade.append(next(self._items))
            except StopIteration:
                self._items = None
                runner.send(runner.session.message(END, asked.id))
        return True

    def _is_made(self) -> bool:
        session = self._runner.session
        if session.shared.memory is not None:  # before it is tried: no release is missed in between
            session.shared.memory.wake_when_free(self._asked.stream_wait)
        try:
            self._frame, self._cost = item_frame(session, self._asked, self._unmade[0])
        except NoRoom:
            return False
        self._unmade.clear()
        return True

    def close(self) -> None:
        """Nothing more is sent."""
        if self._frame:
            take_back(self._runner.session, self._frame)
            self._frame = b""


def _acknowledge(runner: "Runner", asked: Asked, granted_bytes: int) -> None:
    if granted_bytes and not asked.ended:
        runner.send(runner.session.message(CREDIT, asked.id, granted_bytes))


def _wait(runner: "Runner", call: "Call | None", wait: _ThreadWait) -> None:
    """Wait until there is something new."""
    if call is not None and call.wait is not wait:
        earlier, call.wait = call.wait, wait
        while earlier is not None and earlier.nested:
            wait.nested.append(earlier.nested.popleft())
    passed = runner.pass_turn()
    try:
        runner.reader.wait_for(wait)
    finally:
        runner.take_turn(passed)
