"""An event loop on a thread of its own, and the way other threads have work done there.

A caller puts its work into a queue, rings the loop's bell and sleeps on a bell of its own. Bells are pipes: whoever rings one lets go of
the interpreter while it does, so that the thread it wakes can go on at once; with locks it would wake, find the interpreter taken, and
sleep again.

* Every caller is woken, also by the end of the loop.
* A caller that is interrupted (Ctrl-C) calls its work off and goes.
* A pipe is closed when nobody holds it any more, never under somebody who is about to ring.

Source: ADR-0056.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable
from threading import Event, Thread
from types import CoroutineType
from typing import Any, final

from annexe.errors import HostClosedError, WrongContextError

__all__ = ["LoopThread", "check_caller", "fastest_loop"]

_CALLED_OFF_S = 30.0


def fastest_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop: uvloop's where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def check_caller(owner_pid: int) -> None:
    """Refuse callers that would block an event loop, or that are not in the process of the host.

    Raises:
        WrongContextError: The text has the line to write instead.
    """
    if os.getpid() != owner_pid:
        text = (
            "this SyncHost belongs to the process that made it, and this is a forked child; make one here, after the fork: "
            "`with SyncHost(…) as host` in the worker, not in the process that forks it"
        )
        raise WrongContextError(text)
    if _get_running_loop() is not None:
        text = (
            "SyncHost blocks, and this thread runs an event loop; write `async with Host(…) as host` instead, or call from a thread: "
            "`await asyncio.to_thread(function)`"
        )
        raise WrongContextError(text)


@final
class LoopThread:
    """A running loop. ``stop`` ends it.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        self._queue: deque[_Work] = deque()
        self._bell = _Bell()
        self._idle_bells: list[_Bell] = []
        self._stopping = self._ended = False
        self._stopped = asyncio.Event()
        started = Event()
        # A daemon: the host is closed before the interpreter ends, which must not wait for one that cannot be.
        self._thread = Thread(target=self._run, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.wait()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on the loop's thread and return what it returns; a coroutine is run there to its end.

        Raises:
            HostClosedError: The loop has ended, or ends before the work does.
            WrongContextError: Not from here.
        """
        check_caller(self._pid)
        try:
            bell = self._idle_bells.pop()
        except IndexError:
            bell = _Bell()
        work = _Work(function, args, kwargs, bell)
        self._queue.append(work)
        # Looked at after the append: the loop's end sets it first and clears the queue then.
        if self._ended:
            raise _closed()
        try:
            self._bell.ring()
            bell.wait()
        except BaseException:
            self._call_off(work)
            raise
        self._idle_bells.append(bell)
        if work.error is None:
            return work.result
        try:
            raise work.error
        finally:
            del work  # or the error would hold itself, by its traceback

    def _call_off(self, work: _Work) -> None:
        work.is_called_off = True
        self._queue.append(work)
        self._bell.ring()

    def stop(self) -> None:
        """End the loop: call off what still runs, wake all who wait. Returns when the thread has ended. Idempotent."""
        self._stopping = True
        self._bell.ring()
        self._thread.join()

    # On the thread.

    def _run(self, started: Event) -> None:
        try:
            with asyncio.Runner(loop_factory=fastest_loop) as runner:
                runner.run(self._live(started))
        finally:
            self._ended = True
            while self._queue:
                self._queue.popleft().finish(_closed())
            started.set()

    async def _live(self, started: Event) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._bell.fileno(), self._on_ring)
        started.set()
        await self._stopped.wait()
        loop.remove_reader(self._bell.fileno())
        # What was called off is given the time to clean up; the end of the loop would call it off once more.
        cleaning = [task for task in asyncio.all_tasks() if task.cancelling()]
        if cleaning:
            await asyncio.wait(cleaning, timeout=_CALLED_OFF_S)

    def _on_ring(self) -> None:
        self._bell.clear()
        queue = self._queue
        while queue:
            queue.popleft().turn()
        if self._stopping:
            self._stopped.set()


@final
class _Work:
    """A function to be called on the loop, and the thread that waits for it."""

    __slots__ = ("_args", "_bell", "_function", "_kwargs", "_task", "error", "is_called_off", "result")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], bell: _Bell) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._bell = bell
        self._task: asyncio.Task[None] | None = None
        self.is_called_off = False
        self.result: Any = None
        self.error: BaseException | None = None

    def turn(self) -> None:
        """Begin, or call off what was begun."""
        if self.is_called_off:
            if self._task is not None:
                self._task.cancel()
            return
        try:
            result = self._function(*self._args, **self._kwargs)
        except BaseException as error:  # noqa: BLE001 - it is the waiting thread's
            self.finish(error)
            return
        if type(result) is CoroutineType:
            self._task = asyncio.get_running_loop().create_task(self._wait(result))
        else:
            self.result = result
            self.finish(None)

    async def _wait(self, work: Awaitable[Any]) -> None:
        # The task rings as its last step: a callback on its end would cost a turn of the loop.
        try:
            self.result = await work
        except asyncio.CancelledError:
            self.finish(_closed())
        except BaseException as error:  # noqa: BLE001 - it is the waiting thread's
            self.finish(error)
        else:
            self.finish(None)

    def finish(self, error: BaseException | None) -> None:
        """Wake the waiting thread."""
        self.error = error
        self._bell.ring()


@final
class _Bell:
    """Wakes one thread. Rung as often as one likes; never blocks the one who rings."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        """The descriptor that is readable when it was rung."""
        return self._read

    def ring(self) -> None:
        """Wake the one who waits."""
        os.write(self._write, b"!")

    def wait(self) -> None:
        """Sleep until it is rung."""
        os.read(self._read, 1)

    def clear(self) -> None:
        """Take in every ring there was; it was rung at least once."""
        os.read(self._read, 4096)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)


def _closed() -> HostClosedError:
    return HostClosedError("this host is closed; use it inside `with SyncHost(…) as host`")
