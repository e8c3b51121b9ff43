"""Plugins with ``async def`` handlers: an event loop does the reading.

Imported only for such plugins: asyncio costs more to import than all of the rest. From activation on the loop's thread is the one that
reads; ``def`` handlers of the same plugin run on threads and wait there.

Source: docs/reference/sdk.md; ADR-0003.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from annexe_sdk.calls import BlobCall, Call, Wait
from annexe_sdk.codec import NoRoom
from annexe_sdk.context import Context
from annexe_sdk.errors import CallCancelled, call_failed
from annexe_sdk.plugin import Handler
from annexe_sdk.runner import Runner
from annexe_sdk.session import Stopped
from annexe_sdk.streams import check_yields, item_frame, take_back, take_item
from annexe_sdk.wire import CREDIT

if TYPE_CHECKING:
    from annexe_sdk.fetch import Response

__all__ = ["AsyncContext", "AsyncKv", "EventLoop"]

_UNWIND_S = 1.0  # for what handlers do when they are cancelled at the end


class AsyncKv:
    """``Kv`` for ``async def`` handlers: the same methods, awaited."""

    __slots__ = ("_context",)

    def __init__(self, context: "AsyncContext") -> None:
        self._context = context

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or ``default`` when there is none or its time is over."""
        value = await self._context._ask("kv.get", {"key": key})
        return default if value is None else value

    async def set(self, key: str, value: Any, *, ttl_s: float | None = None) -> None:
        """Store a value, for ``ttl_s`` seconds or for good."""
        await self._context._ask("kv.set", {"key": key, "value": value, "ttl_s": ttl_s})

    async def delete(self, key: str) -> bool:
        """Remove a key; say whether it was there."""
        return bool(await self._context._ask("kv.delete", {"key": key}))

    async def increment(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        """Add to a whole number in one step and return the sum."""
        return int(await self._context._ask("kv.increment", {"key": key, "by": by, "ttl_s": ttl_s}))

    async def list(self, prefix: str = "", *, limit: int = 100, after: str | None = None) -> tuple[list[str], str | None]:
        """Return up to ``limit`` keys in order, and where the next page begins."""
        page = await self._context._ask("kv.list", {"prefix": prefix, "limit": limit, "after": after})
        return page["keys"], page["next"]

    async def compare_and_set(self, key: str, expected: Any, value: Any, *, ttl_s: float | None = None) -> bool:
        """Store ``value`` if the key holds ``expected`` (None: is absent); say whether it did."""
        return bool(await self._context._ask("kv.compare_and_set", {"key": key, "expected": expected, "value": value, "ttl_s": ttl_s}))


class AsyncContext(Context):
    """``Context`` for ``async def`` handlers: calls to the host are awaited."""

    __slots__ = ("_loop",)

    def __init__(self, runner: Runner, call: Call | None, loop: "EventLoop") -> None:
        super().__init__(runner, call)
        self._loop = loop

    @property
    def kv(self) -> AsyncKv:  # type: ignore[override]  # the awaited twin
        """The plugin's key-value store."""
        return AsyncKv(self)

    async def hook(self, name: str, value: Any) -> Any:
        """Have the plugins called that implement a hook which this one defines; return what came of it."""
        return await self._ask(f"hook.{name}", [value])

    async def publish(self, topic: str, value: Any = None) -> int:  # type: ignore[override]  # the awaited twin
        """Tell whoever subscribed to a topic; return for how many it was queued."""
        return int(await self._ask("event.publish", {"topic": topic, "value": value}))

    async def fetch(  # type: ignore[override]  # the awaited twin
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        body: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> "Response":
        """Have the host make an HTTP request."""
        from annexe_sdk.fetch import params_of, response_of

        return response_of(await self._ask("fetch", params_of(url, method, headers, body, timeout_s)))

    def _ask(self, method: str, params: Any, key: str | None = None) -> Any:
        return self._loop.ask(self._call, method, params, key)

    def _stream(self, method: str, params: list[Any], key: str | None, items: Any, direction: str) -> Any:
        return self._loop.stream(self, method, params, key, items, direction)


class EventLoop:
    """The event loop of one plugin.

    Args:
        runner: Whose connection to read. The loop keeps the leader's place for good.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        runner.reader.take_over()
        runner.reader.start_stream = self._start_stream  # as tasks
        runner.reader.run = self._run_for_waiting
        self._loop.add_reader(runner.reader.fileno(), self._on_readable)

    def run(self) -> None:
        """Serve until the plugin is stopped."""
        self._start_ready()
        if not self.runner.stopped:
            self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks, timeout=_UNWIND_S))
        self._loop.close()
        raise Stopped

    def run_life(self, handler: Handler, call: Call) -> Any:
        """Run a life-cycle function, from the thread of the loop (which does not run yet) or from another."""
        if handler.is_async:
            ctx: Context = AsyncContext(self.runner, call, self)
        else:
            ctx = self.runner.context(call)
        args = (ctx,) if handler.wants_ctx else ()
        if not self._loop.is_running():
            work = handler.function(*args) if handler.is_async else asyncio.to_thread(handler.function, *args)
            return self._loop.run_until_complete(work)
        if handler.is_async:
            return asyncio.run_coroutine_threadsafe(handler.function(*args), self._loop).result()
        return handler.function(*args)

    def _on_readable(self) -> None:
        try:
            self.runner.reader.read_nowait()
        except Stopped:
            self._loop.stop()
            return
        self._start_ready()

    def _start_ready(self) -> None:
        ready, runner = self.runner.session.ready, self.runner
        while ready and self._running < runner.concurrency:
            self._start(ready.popleft(), counted=True)

    def _start(self, call: Call, *, counted: bool) -> None:
        call.started = True
        handler = self.runner.handlers.get(call.method)
        if handler is None:
            self.runner.start_thread(call, self._run_on_thread, (call, False))
            return
        self._running += counted
        if handler.is_async:
            self._spawn(call, self._answer(call, handler, counted=counted), counted=counted)
        elif not self.runner.start_thread(call, self._run_on_thread, (call, counted)):
            self._running -= counted

    def _start_nested(self, call: Call) -> None:
        """Start a call that serves a waiting one: it takes no slot."""
        self._start(call, counted=False)

    def _spawn(self, call: Call, work: Any, *, counted: bool) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        call.on_cancel = partial(_cancel, task)
        task.add_done_callback(partial(self._ended, call, counted))

    def _ended(self, call: Call, counted: bool, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if call.id in self.runner.session.calls:
            # Cancelled before its first step: nothing of it ran, so nothing of it answered.
            self._reply(call, self.runner.session.error(call.id, "cancelled", "cancelled before it was started"))
            if type(call) is BlobCall:
                call.drop()
            if counted:
                self._finished()

    def _run_on_thread(self, call: Call, counted: bool) -> None:
        try:
            self.runner.run_call(call)
        except Stopped:
            self._tell(self._loop.stop)
            return
        if counted:
            self._tell(self._finished)

    def _run_for_waiting(self, call: Call) -> None:
        """Run a call that serves a waiting thread: on that thread, or as a task if its handler is an ``async def``."""
        handler = self.runner.handlers.get(call.method)
        if handler is not None and handler.is_async:
            self._tell(partial(self._start_nested, call))
        else:
            self.runner.run_call(call)

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop has ended

    def _finished(self) -> None:
        self._running -= 1
        self._start_ready()

    async def _answer(self, call: Call, handler: Handler, *, counted: bool) -> None:
        ctx = AsyncContext(self.runner, call, self)
        try:
            params = call.params if handler.convert is None else handler.convert(call.params)
            value = await (handler.function(*params, ctx) if handler.wants_ctx else handler.function(*params))
        except BaseException as error:
            frame = self.runner.failure(call, handler, error, ctx)
        else:
            frame = await self.with_room(lambda: self.runner.success(call, handler, value, ctx))
        self._reply(call, frame)
        if counted:
            self._finished()

    def _reply(self, call: Call, frame: bytes) -> None:
        self.runner.session.close(call)
        try:
            self.runner.send(frame)
        except Stopped:
            self._loop.stop()

    async def ask(self, call: Call | None, method: str, params: Any, key: str | None = None) -> Any:
        """Call the host and wait for the answer; calls that serve ``call`` are run meanwhile."""
        wait = self.wait()
        if call is not None and call.wait is None:
            call.wait = wait
        try:
            await self.with_room(lambda: self.runner.send_request(call, method, params, wait, key))
            await wait.result_ready
        finally:
            if call is not None and call.wait is wait:
                call.wait = None
        if wait.error is not None:
            raise call_failed(wait.error)
        return wait.result

    def stream(self, ctx: AsyncContext, method: str, params: list[Any], key: str | None, items: Any, direction: str) -> Any:
        """Ask for a stream of a service, for ``ctx``; see ``aio_service_streams``."""
        from annexe_sdk.aio_service_streams import ask_stream

        return ask_stream(ctx, method, params, key, items, direction)

    def wait(self) -> "_LoopWait":
        """Make a wait for the loop."""
        return _LoopWait(self._loop.create_future(), self._start_nested)

    async def with_room(self, make: Callable[[], Any]) -> Any:
        """Return what ``make`` does, when there is room in shared memory for it. Only the loop reads, so no release is missed."""
        while True:
            try:
                return make()
            except NoRoom:
                memory = self.runner.session.shared.memory
            assert memory is not None
            wait = self.wait()
            memory.wake_when_free(wait)
            await wait.result_ready

    # Streams.

    def _start_stream(self, call: Call) -> None:
        handler = self.runner.handlers.get(call.method)
        if handler is None or not handler.is_async:
            self.runner.start_stream(call)
            return
        call.started = True
        self._spawn(call, self._stream(call, handler), counted=False)

    async def _stream(self, call: Call, handler: Handler) -> None:
        ctx = AsyncContext(self.runner, call, self)
        params = list(call.params or [])
        if call.stream != "out":
            params.insert(0, self._items(call))
        value = None
        try:
            if handler.convert is not None:
                params = handler.convert(params)
            if handler.wants_ctx:
                params.append(ctx)
            check_yields(call, handler)
            if handler.is_generator:
                async for item in handler.function(*params):
                    await self._send(call, item)
            else:
                value = await handler.function(*params)
        except BaseException as error:
            frame = self.runner.failure(call, handler, error, ctx)
        else:
            frame = await self.with_room(lambda: self.runner.success(call, handler, value, ctx))
        self._reply(call, frame)

    async def _items(self, call: Call) -> AsyncIterator[Any]:
        while True:
            try:
                taken = take_item(call)
            except StopIteration:
                return
            if taken is None:
                self.acknowledge(call, call.consumed)
                call.consumed = 0
                await self._wait_until(call, lambda: bool(call.inbox or call.ended))
                continue
            self.acknowledge(call, taken[1])
            yield taken[0]

    def acknowledge(self, call: Call, granted_bytes: int) -> None:
        """Grant that much anew, if anything."""
        if granted_bytes:
            self.runner.send(self.runner.session.message(CREDIT, call.id, granted_bytes))

    async def _send(self, call: Call, value: Any) -> None:
        frame, cost = await self.with_room(lambda: item_frame(self.runner.session, call, value))
        try:
            await self._wait_until(call, lambda: call.credit >= cost)
        except BaseException:
            take_back(self.runner.session, frame)
            raise
        call.credit -= cost
        self.runner.send(frame)

    async def _wait_until(self, call: Call, there: Callable[[], bool]) -> None:
        while not there():
            if call.cancelled:
                raise CallCancelled("cancelled", "the caller has given up")
            wait = self.wait()
            call.stream_wait = wait
            await wait.result_ready
            call.stream_wait = None


def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()


class _LoopWait(Wait):
    """A wait that wakes a future instead of a thread."""

    __slots__ = ("_start", "_thread", "result_ready")

    def __init__(self, result_ready: "asyncio.Future[None]", start: Callable[[Call], None]) -> None:
        super().__init__()
        self.result_ready = result_ready
        self._start = start
        self._thread = get_ident()
        self.on_done = self._wake

    def _wake(self) -> None:
        if get_ident() != self._thread:  # a thread of this plugin's gave back shared memory
            try:
                self.result_ready.get_loop().call_soon_threadsafe(self._wake)
            except RuntimeError:
                pass  # the loop has ended
            return
        while self.nested:
            self._start(self.nested.popleft())
        if self.done and not self.result_ready.done():
            self.result_ready.set_result(None)
