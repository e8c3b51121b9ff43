"""Wait for room in shared memory: for what is too long for a frame.

Imported when there was none, by code of plugins' own threads; an event loop awaits instead, in ``aio``.

* Whoever waits was told so before it tries once more: no release is missed in between.

Source: docs/reference/protocol.md, "Shared memory".
"""

from annexe_sdk.calls import Wait
from annexe_sdk.codec import CodecError, NoRoom
from annexe_sdk.errors import CallCancelled, call_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from annexe_sdk.calls import Call
    from annexe_sdk.plugin import Handler
    from annexe_sdk.runner import Runner

    T = TypeVar("T")

__all__ = ["item_with_room", "request_with_room", "result_with_room"]


def result_with_room(runner: "Runner", call: "Call", handler: "Handler", value: "Any", meta: "dict[str, Any]") -> bytes:
    """Make the answer to a call once there is room for it; ``busy`` when the host gives up before."""
    try:
        frame = _when_room(runner, call, lambda: runner.session.result_with_blobs(call.id, value, meta))
    except CodecError as error:
        return runner.unsendable(call, handler, error, value, meta)
    return runner.session.error(call.id, "busy", "no room in shared memory for the result") if frame is None else frame


def request_with_room(
    runner: "Runner", call: "Call | None", method: str, params: "Any", wait: Wait, key: str | None, stream: "Call | None" = None
) -> None:
    """Send a request once there is room for it; ``stream`` is that of the request, if it has one.

    Raises:
        CallFailed: ``busy``: the host has given up before.
    """

    def send() -> bool:
        runner.send_request(call, method, params, wait, key, stream)
        return True

    if _when_room(runner, call, send) is None:
        raise call_failed({"code": "busy", "message": f"no room in shared memory for what {method} is given", "data": None})


def item_with_room(runner: "Runner", call: "Call", make: "Callable[[], T]") -> "T":
    """Return the item that ``make`` makes once there is room for it.

    Raises:
        CallCancelled: The host has given up before.
    """
    made = _when_room(runner, call, make)
    if made is None:
        raise CallCancelled("cancelled", "the caller has given up")
    return made


def _when_room(runner: "Runner", call: "Call | None", make: "Callable[[], T]") -> "T | None":
    """Return what ``make`` does once it raises ``NoRoom`` no more; None when the call was cancelled before."""
    memory = runner.session.shared.memory
    assert memory is not None
    while True:
        wait = Wait()
        memory.wake_when_free(wait)
        try:
            return make()
        except NoRoom:
            pass
        if not _waited(runner, wait, call):
            return None


def _waited(runner: "Runner", wait: Wait, call: "Call | None") -> bool:
    """Wait; say whether the call is still wanted."""
    if call is not None:
        call.stream_wait = wait  # what a cancel wakes
        if call.cancelled:
            return False
    passed = runner.pass_turn()
    try:
        runner.reader.wait_for(wait)
    finally:
        runner.take_turn(passed)
        if call is not None:
            call.stream_wait = None
    return call is None or not call.cancelled
