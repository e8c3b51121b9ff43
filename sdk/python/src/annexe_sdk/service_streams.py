"""Streams of other plugins' services, as the plugin that asks for them has them. Imported by the first one.

* What has arrived is given before more is sent, and more is sent only while the provider has room for it.
* Whoever stops reading calls it off: ``break``, ``close()``, an error, the end of the call that it belongs to.
* A call that serves the one whose handler reads here is run by the thread that waits here, so two plugins cannot block each other.

Source: docs/reference/sdk.md, "Streams of services"; docs/reference/protocol.md, "Streams".
"""

from annexe_sdk.calls import Call, Unread, Wait
from annexe_sdk.codec import NoRoom
from annexe_sdk.errors import call_failed
from annexe_sdk.session import Session, Stopped
from annexe_sdk.streams import item_frame, take_item
from annexe_sdk.wire import CANCEL, CREDIT, END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
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
        self.ended = True
        self.stream_wait.finish()

    def raise_fault(self) -> None:
        """Raise the error that it ended with, if it did."""
        if self.answer.error is not None:
            raise call_failed(self.answer.error)

    def close(self, send: "Callable[[bytes], None]") -> None:
        """Let go of it: call it off where it is not over, and drop what was not read."""
        is_over, self.ended = self.answer.done, True
        self._session.calls.pop(self.id, None)
        while self.inbox:
            value, _ = self.inbox.popleft()
            if type(value) is Unread:
                value.drop()
        if self.id and not is_over:
            try:
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
    source = iter(items) if direction != "out" else None
    frame, cost = b"", 0
    try:
        runner.send_request(call, method, params, asked.answer, key, asked)
        while True:
            if asked.inbox:
                item, granted_bytes = take_item(asked)  # type: ignore[misc]  # there is one
                _acknowledge(runner, asked, granted_bytes)
                yield item
            elif asked.ended:
                break
            elif frame and asked.credit >= cost:
                asked.credit -= cost
                runner.send(frame)
                frame = b""
            elif source is not None and not frame:
                try:
                    frame, cost = _framed(runner, asked, next(source))
                except StopIteration:
                    source = None
                    runner.send(runner.session.message(END, asked.id))
            else:
                _acknowledge(runner, asked, asked.consumed)
                asked.consumed = 0
                _wait(runner, call, asked, wait, cost if frame else None)
        asked.raise_fault()
        return asked.answer.result
    finally:
        wait.closed = True
        asked.close(runner.send)
        if call is not None and call.wait is wait:
            call.wait = None
        while wait.nested:  # they serve nobody who waits any more
            runner.session.ready.append(wait.nested.popleft())


def _framed(runner: "Runner", asked: Asked, item: "Any") -> "tuple[bytes, int]":
    try:
        return item_frame(runner.session, asked, item)
    except NoRoom:
        from annexe_sdk.room import item_with_room

        return item_with_room(runner, asked, lambda: item_frame(runner.session, asked, item))


def _acknowledge(runner: "Runner", asked: Asked, granted_bytes: int) -> None:
    if granted_bytes and not asked.ended:
        runner.send(runner.session.message(CREDIT, asked.id, granted_bytes))


def _wait(runner: "Runner", call: "Call | None", asked: Asked, wait: _ThreadWait, cost: "int | None") -> None:
    """Wait for an item, for the end, or for credit of ``cost``."""
    if call is not None and call.wait is not wait:
        earlier, call.wait = call.wait, wait
        while earlier is not None and earlier.nested:
            wait.nested.append(earlier.nested.popleft())
    wait.done = False  # before the look: what comes after it wakes us
    if asked.inbox or asked.ended or (cost is not None and asked.credit >= cost):
        return
    runner.pass_turn()
    try:
        runner.reader.wait_for(wait)
    finally:
        runner.take_turn()
