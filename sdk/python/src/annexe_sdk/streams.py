"""Streamed calls of ``def`` handlers: each on a thread of its own.

* A thread waits for an item, or for credit to send one, without its turn, so that others run.
* Taking in an item is acknowledged when the handler asks for the next: at once when it would wait, else in batches.

Source: docs/reference/protocol.md, "Streams".
"""

from annexe_sdk.calls import Call, Unread, Wait
from annexe_sdk.codec import NoRoom
from annexe_sdk.errors import CallCancelled
from annexe_sdk.frames import pack_frame
from annexe_sdk.plugin import Misfit
from annexe_sdk.session import Stopped
from annexe_sdk.wire import CREDIT, HEAD_BYTES, INITIAL_CREDIT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from annexe_sdk.plugin import Handler
    from annexe_sdk.runner import Runner
    from annexe_sdk.session import Session

__all__ = ["check_yields", "item_frame", "run_stream", "take_back", "take_item"]

_ACKNOWLEDGE_BYTES = INITIAL_CREDIT_BYTES // 2


def run_stream(runner: "Runner", call: Call, handler: "Handler | None") -> None:
    """Run one streamed call to its end and answer it."""
    call.started = True
    if handler is None:
        frame = runner.session.error(call.id, "method-not-found", f"this plugin has no {call.method!r}")
    else:
        runner.take_turn()
        try:
            frame = _run(runner, call, handler)
        finally:
            runner.pass_turn()
    runner.session.close(call)
    runner.send(frame)
    if call.wait is not None:
        runner.run_left(call.wait)


def _run(runner: "Runner", call: Call, handler: "Handler") -> bytes:
    ctx = runner.context(call)
    params = list(call.params or [])
    if call.stream != "out":
        params.insert(0, _items(runner, call))
    try:
        if handler.convert is not None:
            params = handler.convert(params)
        if handler.wants_ctx:
            params.append(ctx)
        check_yields(call, handler)
        value = handler.function(*params)
        if handler.is_generator:
            for item in value:
                _send(runner, call, item)
            value = None
    except Stopped:
        raise
    except BaseException as error:
        return runner.failure(call, handler, error, ctx)
    return runner.success(call, handler, value, ctx)


def check_yields(call: Call, handler: "Handler") -> None:
    """Refuse a stream of a service's method that gives none.

    Raises:
        Misfit: It does not yield.
    """
    if handler.kind == "service" and call.stream != "in" and not handler.is_generator:
        raise Misfit(f"it yields nothing, so there is no stream of it ({handler.at})")


def take_item(call: Call) -> "tuple[Any, int] | None":
    """Take the next item that has arrived.

    Returns:
        The item and how many bytes to acknowledge now (0: not yet); None when one has to wait.

    Raises:
        StopIteration: The caller's stream is over.
        CallCancelled: The caller has given up.
    """
    if call.cancelled:
        raise CallCancelled("cancelled", "the caller has given up")
    if call.inbox:
        value, size = call.inbox.popleft()
        if type(value) is Unread:
            value = value.read()
        due, call.consumed = call.consumed, call.consumed + size
        if due < _ACKNOWLEDGE_BYTES:
            return value, 0
        call.consumed = size
        return value, due
    if call.ended:
        raise StopIteration
    return None


def item_frame(session: "Session", call: Call, value: "Any") -> tuple[bytes, int]:
    """Make the frame for one item; returns it with the credit it costs."""
    body = session.item_body(call.id, value)
    return pack_frame(body), len(body)


def take_back(session: "Session", frame: bytes) -> None:
    """Give back the shared memory of an item that was made and will not be sent."""
    if session.shared.memory is not None:
        session.shared.memory.take_back_from(frame[HEAD_BYTES:])


def _items(runner: "Runner", call: Call) -> "Iterator[Any]":
    while True:
        try:
            taken = take_item(call)
        except StopIteration:
            return
        if taken is None:
            _acknowledge(runner, call, call.consumed)
            call.consumed = 0
            _wait(runner, call, lambda: bool(call.inbox or call.ended))
            continue
        _acknowledge(runner, call, taken[1])
        yield taken[0]


def _acknowledge(runner: "Runner", call: Call, granted_bytes: int) -> None:
    if granted_bytes:
        runner.send(runner.session.message(CREDIT, call.id, granted_bytes))


def _send(runner: "Runner", call: Call, value: "Any") -> None:
    try:
        frame, cost = item_frame(runner.session, call, value)
    except NoRoom:
        from annexe_sdk.room import item_with_room

        frame, cost = item_with_room(runner, call, lambda: item_frame(runner.session, call, value))
    try:
        _wait(runner, call, lambda: call.credit >= cost)
    except BaseException:
        take_back(runner.session, frame)
        raise
    call.credit -= cost
    runner.send(frame)


def _wait(runner: "Runner", call: Call, there: "Any") -> None:
    while not there():
        if call.cancelled:
            raise CallCancelled("cancelled", "the caller has given up")
        wait = call.stream_wait = Wait()
        # Looked at again after the wait is set, or a wake between the two would be lost.
        if not (there() or call.cancelled):
            passed = runner.pass_turn()
            try:
                runner.reader.wait_for(wait)
            finally:
                runner.take_turn(passed)
        call.stream_wait = None
    if call.cancelled:
        raise CallCancelled("cancelled", "the caller has given up")
