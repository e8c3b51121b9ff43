"""Streams of other plugins' services for ``async def`` handlers; the twin of ``service_streams``. Imported by the first one.

* Items are sent by a task of their own, so what is asked for and what comes do not wait for each other.

Source: docs/reference/sdk.md, "Streams of services".
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from annexe_sdk.calls import Wait
from annexe_sdk.service_streams import Asked
from annexe_sdk.streams import item_frame, take_back, take_item
from annexe_sdk.wire import END

if TYPE_CHECKING:
    from annexe_sdk.aio import AsyncContext, EventLoop

__all__ = ["ask_stream"]


class _Bell(Wait):
    """Wakes everybody who waits on the loop, whenever there is something new."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []

    def finish(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def next(self) -> None:
        """Return when there is something new. Only the loop reads, so nothing comes between a look and this."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        await future


def ask_stream(ctx: "AsyncContext", method: str, params: list[Any], key: str | None, items: Any, direction: str) -> Any:
    """Ask for a stream of a service; see ``service_streams.ask_stream``. What goes ``in`` has its answer awaited, the others are async."""
    asked = Asked(ctx._runner.session, method, direction, _Bell(asyncio.get_running_loop()))
    coming = _items(ctx, asked, params, key, items)
    return coming if direction != "in" else _answer(asked, coming)


async def _answer(asked: Asked, coming: AsyncGenerator[Any, None]) -> Any:
    async for _ in coming:
        pass
    return asked.answer.result


async def _items(ctx: "AsyncContext", asked: Asked, params: list[Any], key: str | None, items: Any) -> AsyncGenerator[Any, None]:
    runner, loop, call = ctx._runner, ctx._loop, ctx._call
    serving, feeder = loop.wait(), None
    if call is not None and call.wait is None:
        call.wait = serving  # calls that serve this one are run at once
    try:
        await loop.with_room(lambda: runner.send_request(call, asked.method, params, asked.answer, key, asked))
        if asked.stream != "out":
            feeder = asyncio.create_task(_feed(loop, asked, items))
            feeder.add_done_callback(lambda _: asked.stream_wait.finish())
        while True:
            if asked.inbox:
                item, granted_bytes = take_item(asked)  # type: ignore[misc]  # there is one
                _acknowledge(loop, asked, granted_bytes)
                yield item
            elif asked.ended:
                break
            elif feeder is not None and feeder.done():
                await feeder  # what went wrong with our items
                feeder = None
            else:
                _acknowledge(loop, asked, asked.consumed)
                asked.consumed = 0
                await _next(asked)
        asked.raise_fault()
    finally:
        if feeder is not None:
            feeder.cancel()
        asked.close(runner.send)
        serving.done = True
        if call is not None and call.wait is serving:
            call.wait = None


async def _next(asked: Asked) -> None:
    bell = asked.stream_wait
    assert isinstance(bell, _Bell)
    await bell.next()


def _acknowledge(loop: "EventLoop", asked: Asked, granted_bytes: int) -> None:
    if not asked.ended:
        loop.acknowledge(asked, granted_bytes)


async def _feed(loop: "EventLoop", asked: Asked, items: "AsyncIterable[Any] | Iterable[Any]") -> None:
    async for item in _each(items):
        frame, cost = await loop.with_room(partial(item_frame, loop.runner.session, asked, item))
        try:
            while asked.credit < cost and not asked.ended:
                await _next(asked)
        except BaseException:
            take_back(loop.runner.session, frame)
            raise
        if asked.ended:
            take_back(loop.runner.session, frame)
            return
        asked.credit -= cost
        loop.runner.send(frame)
    if not asked.ended:
        loop.runner.send(loop.runner.session.message(END, asked.id))


async def _each(items: "AsyncIterable[Any] | Iterable[Any]") -> AsyncGenerator[Any, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
