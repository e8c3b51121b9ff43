"""The faults.

Each takes the request and the context of a call of ``chat.on_request`` and does what a bad plugin might; some return, most do not. The
docstring is what the user is told.
"""

# ruff: noqa: ARG001 - every fault is called alike

from __future__ import annotations

import os
import signal
import struct
import time

from annexe_sdk import Context, Reject, Respond

from .escapes import escape

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Never

    Request = dict[str, Any]

__all__ = ["FAULTS"]

_LEAK_STEP_BYTES = 16 * 1024 * 1024
_LEFT_BEHIND_S = 600  # so that a child left behind by a host without a way to find it does not stay for good


def _channel() -> int:
    return int(os.environ["ANNEXE_FD"])


# The process ends.


def crash(request: Request, ctx: Context) -> Never:
    """Die of a segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("not reached")


def abort(request: Request, ctx: Context) -> Never:
    """Die of SIGABRT, as C libraries do."""
    os.abort()


def exit_(request: Request, ctx: Context) -> Never:
    """Exit at once with status 3."""
    os._exit(3)


def exit_clean(request: Request, ctx: Context) -> Never:
    """Exit at once with status 0, as if all were well."""
    os._exit(0)


# It does not answer in time.


def hang(request: Request, ctx: Context) -> Never:
    """Compute for ever."""
    while True:
        pass


def sleep(request: Request, ctx: Context) -> Never:
    """Wait for ever."""
    while True:
        time.sleep(3600)


def slow(request: Request, ctx: Context) -> object:
    """Answer rightly, but late (``slow_s``)."""
    time.sleep(ctx.config.get("slow_s", 5))
    return ctx.unchanged


def stop(request: Request, ctx: Context) -> object:
    """Stop its own process with SIGSTOP."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return ctx.unchanged


# It takes what it can get.


def leak(request: Request, ctx: Context) -> Never:
    """Take memory until something gives (at the latest at ``leak_bytes``)."""
    steps = ctx.config.get("leak_bytes", 1024**3) // _LEAK_STEP_BYTES
    held = [bytearray(os.urandom(4096) * (_LEAK_STEP_BYTES // 4096)) for _ in range(steps)]
    raise MemoryError(f"nothing stopped it at {len(held) * _LEAK_STEP_BYTES} bytes")


def leak_files(request: Request, ctx: Context) -> Never:
    """Open files until there are no descriptors left."""
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(100_000)]
    raise OSError(f"nothing stopped it at {len(held)} files")


def threads(request: Request, ctx: Context) -> Never:
    """Start threads until it may not."""
    from _thread import start_new_thread

    for _ in range(10_000):
        start_new_thread(time.sleep, (_LEFT_BEHIND_S,))
    raise RuntimeError("nothing stopped it at 10,000 threads")


def fork(request: Request, ctx: Context) -> object:
    """Leave a child behind that holds the channel open. Without the right ``subprocess`` the kernel refuses it, and it raises."""
    if os.fork() == 0:
        time.sleep(_LEFT_BEHIND_S)
        os._exit(0)
    return ctx.unchanged


def fork_exit(request: Request, ctx: Context) -> Never:
    """Leave a child behind and exit. Without the right ``subprocess`` the kernel refuses it, and it raises."""
    if os.fork() == 0:
        time.sleep(_LEFT_BEHIND_S)
    os._exit(0)


# It breaks the protocol.


def garbage(request: Request, ctx: Context) -> object:
    """Write random bytes into the channel."""
    os.write(_channel(), os.urandom(4096))
    return ctx.unchanged


def truncate(request: Request, ctx: Context) -> Never:
    """Exit in the middle of a message."""
    os.write(_channel(), struct.pack(">I", 1000) + b'[1, 1, null, {"model": "')
    os._exit(0)


def oversize(request: Request, ctx: Context) -> object:
    """Announce a message of four gigabytes."""
    os.write(_channel(), b"\xff\xff\xff\xff")
    return ctx.unchanged


def close(request: Request, ctx: Context) -> Never:
    """Close the channel and go on living."""
    os.close(_channel())
    while True:
        time.sleep(3600)


def forge(request: Request, ctx: Context) -> object:
    """Answer a question that nobody asked."""
    frame = b"[1, 999999, null, 42, {}]"
    os.write(_channel(), struct.pack(">I", len(frame)) + frame)
    return ctx.unchanged


# It floods.


def flood_log(request: Request, ctx: Context) -> object:
    """Log 20,000 lines, some with terminal escapes in them."""
    for number in range(20_000):
        ctx.log.info(f"\x1b[31mline {number}\r\n", at=number)
    return ctx.unchanged


def flood_stdout(request: Request, ctx: Context) -> object:
    """Print 64 MiB without a line end, and no UTF-8 at that."""
    for _ in range(64):
        os.write(1, b"\xff" * 1024 * 1024)
    return ctx.unchanged


def flood_kv(request: Request, ctx: Context) -> object:
    """Use the key-value store as fast as it can."""
    for number in range(20_000):
        ctx.kv.set(f"flood/{number}", "x" * 1024, ttl_s=60)
    return ctx.unchanged


# It answers wrongly.


def huge(request: Request, ctx: Context) -> object:
    """Answer with 64 MiB."""
    return {**request, "model": "x" * (64 * 1024 * 1024)}


def none(request: Request, ctx: Context) -> object:
    """Forget to return the request."""
    return None


def wrong_type(request: Request, ctx: Context) -> object:
    """Answer with a number."""
    return 42


def wrong_shape(request: Request, ctx: Context) -> object:
    """Answer with a request whose messages are no messages."""
    return {**request, "messages": [{"role": ["user"]}]}


def deep(request: Request, ctx: Context) -> object:
    """Answer with lists in lists, 500 deep."""
    value: object = "x"
    for _ in range(500):
        value = [value]
    return {**request, "extra": {**request.get("extra", {}), "deep": value}}


def nan(request: Request, ctx: Context) -> object:
    """Answer with a temperature that is not a number."""
    return {**request, "temperature": float("nan")}


def state(request: Request, ctx: Context) -> object:
    """Put a megabyte into the request's state."""
    ctx.state["x"] = "x" * (1024 * 1024)
    return ctx.unchanged


def raise_(request: Request, ctx: Context) -> Never:
    """Raise an exception."""
    raise RuntimeError("chaos was asked to raise")


def recursion(request: Request, ctx: Context) -> Never:
    """Call itself for ever."""
    recursion(request, ctx)


def denied(request: Request, ctx: Context) -> object:
    """Use a capability that it was not granted, and let the refusal pass."""
    return ctx.cap("vault").read(name="api-key")


# It answers, as it may.


def reject(request: Request, ctx: Context) -> Never:
    """Refuse the request with status 418. This is no fault: it reaches the user."""
    raise Reject("teapot", "Chaos was asked to refuse.", status=418)


def respond(request: Request, ctx: Context) -> Never:
    """Answer in the model's place. This is no fault either."""
    message = {"role": "assistant", "content": "Chaos was asked to answer.", "extra": {}}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "extra": {}}
    raise Respond({"model": request["model"], "choices": [choice], "usage": None, "extra": {}})


_ALL = (
    *(crash, abort, exit_, exit_clean),
    *(hang, sleep, slow, stop),
    *(leak, leak_files, threads, fork, fork_exit),
    *(garbage, truncate, oversize, close, forge),
    *(flood_log, flood_stdout, flood_kv),
    *(huge, none, wrong_type, wrong_shape, deep, nan, state, raise_, recursion, denied),
    *(reject, respond, escape),
)

FAULTS: dict[str, Callable[[Request, Context], object]] = {fault.__name__.strip("_").replace("_", "-"): fault for fault in _ALL}
