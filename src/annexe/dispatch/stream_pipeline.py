"""Pass a stream through every plugin of a stream filter.

Each plugin is one stage: what the stage before yields is fed to it, what it sends is checked and yielded. A stage that fails before its
first output follows the hook's policy; open means that what it was fed is replayed past it. A later failure ends the stream.

* One task per stage, for the feeding; none per item.
* What may have to be replayed is bounded; beyond that a failure can only end the stream.

Source: docs/reference/hooks.md, "Stream filter".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from time import monotonic
from typing import Any, final

import msgspec

from annexe.channel import CodecName, Connection, Stream
from annexe.contract import InvalidValueError, ValueType, wire_params
from annexe.dispatch.faults import invalid_result
from annexe.dispatch.members import HookMember
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.request import Request
from annexe.errors import CallError, HookError, InvalidParamsError, RejectedError
from annexe.record import Outcome

__all__ = ["as_generator", "filter_stream"]

_REPLAY_BYTES = 1024 * 1024

_size_of = msgspec.msgpack.Encoder().encode


def filter_stream(pipeline: Pipeline, request: Request, values: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
    """Return what is left of the stream in ``values`` when every plugin has had it.

    Raises:
        InvalidParamsError: An argument beside the stream cannot be sent.
        HookError: While it is read: a fail-closed plugin could not take part, or any plugin failed after its first output.
        RejectedError: While it is read: a plugin refused.
    """
    source: AsyncIterable[Any] = values[0]
    members = list(pipeline.members)
    others = wire_params(pipeline.definition.params, values, method=pipeline.definition.method)
    for index, member in enumerate(members):
        source = _Stage(pipeline, member, request, source, others, len(members) - index).run()
    return as_generator(source)


def as_generator(source: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """Return what can be closed early."""
    return source if isinstance(source, AsyncGenerator) else _each(source)


async def _each(source: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    async for item in source:
        yield item


@final
class _Stage:
    """One plugin of the pipeline."""

    def __init__(
        self, pipeline: Pipeline, member: HookMember, request: Request, source: AsyncIterable[Any], others: tuple[Any, ...], left: int
    ) -> None:
        self._pipeline = pipeline
        self._definition = pipeline.definition
        self._member = member
        self._request = request
        self._source = aiter(source)
        self._others = others
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._started = monotonic()
        self._fed: list[Any] | None = []  # None: too much to replay
        self._fed_bytes = 0
        self._source_fault: BaseException | None = None
        self._source_ended = False
        self._feeder: asyncio.Task[None] | None = None
        self._is_past = False  # the plugin is out; what was fed is replayed

    async def run(self) -> AsyncGenerator[Any, None]:
        """Yield what the plugin makes of the source."""
        stream: Stream | None = None
        try:
            connection = await self._pipeline.admit(self._request, self._member, self._started, self._left)
            stream = self._open(connection)
            async with aclosing(self._through(stream)) as through:
                async for item in through:
                    yield item
            self._pipeline.answered(self._request, self._member, self._started, Outcome.CHANGED)
        except RejectedError as error:
            if error is self._source_fault:
                raise  # of a plugin before, which has been noted
            self._pipeline.answered(self._request, self._member, self._started, Outcome.REJECTED, reason=error.reject_code)
            raise
        except CallError as error:
            if error is self._source_fault:
                raise
            self._failed(error, stream)
            async for item in self._past():
                yield item
        finally:
            if self._feeder is not None:
                self._feeder.cancel()
                await asyncio.wait([self._feeder])
            if isinstance(self._source, AsyncGenerator):
                await self._source.aclose()

    def _open(self, connection: Connection) -> Stream:
        request = self._request
        meta = request.meta_for(self._member.provider.id, "both")
        return connection.open_stream(
            self._definition.method,
            self._others,
            meta,
            deadline=request.deadline,
            decode=self._decode,
            item_s=self._member.run_s,
        )

    def _decode(self, codec: CodecName, raw: msgspec.Raw) -> Any:
        stream_out: ValueType | None = self._definition.stream_out
        assert stream_out is not None
        try:
            return stream_out.decoders[codec](raw)
        except InvalidValueError as error:
            plugin, hook = self._member.provider.id, self._definition.qualified
            raise invalid_result(f"an item of {hook}", error, plugin=plugin, method=self._definition.method, hook=hook) from error

    async def _through(self, stream: Stream) -> AsyncGenerator[Any, None]:
        self._feeder = self._loop.create_task(self._feed(stream))
        try:
            async for item in stream:
                self._fed = None  # the first output: nothing will be replayed
                yield item
            response = stream.call.future.result()
            if response.meta.state:
                self._request.change_state(self._member.provider.id, response.meta.state, method=self._definition.method)
        finally:
            if not stream.call.future.done():
                stream.abandon()

    async def _feed(self, stream: Stream) -> None:
        """Send the source's items as the plugin has room for them."""
        try:
            async for item in self._source:
                self._keep(item)
                try:
                    await stream.send(self._to_send(item))
                except InvalidParamsError:
                    raise  # the item itself cannot be sent: the source's fault
                except CallError:
                    return  # the stream is over; its reader sees why
        except Exception as error:  # noqa: BLE001 - the source is the application's; its reader gets the error
            self._source_fault = error
            stream.fail(error)
            return
        self._source_ended = True
        stream.end()

    def _keep(self, item: Any) -> None:
        """Keep an item for the case that the plugin fails before its first output."""
        if self._fed is None or self._member.closed:
            return
        self._fed.append(item)
        if self._is_past:
            return
        self._fed_bytes += len(_size_of(self._to_wire(item)))
        if self._fed_bytes > _REPLAY_BYTES:
            self._fed = None

    def _to_send(self, item: Any) -> Any:
        stream_in: ValueType | None = self._definition.stream_in
        assert stream_in is not None
        return item if stream_in.as_is else stream_in.to_send(item)

    def _to_wire(self, item: Any) -> Any:
        stream_in: ValueType | None = self._definition.stream_in
        assert stream_in is not None
        return item if stream_in.native else stream_in.to_wire(item)

    def _failed(self, error: CallError, stream: Stream | None) -> None:
        """Note the failure; returns when the stream may go on past this plugin."""
        self._pipeline.failed(self._request, self._member, self._started, error)
        if self._fed is None:
            hook, plugin = self._definition.qualified, self._member.provider.id
            when = "after its first output" if stream is not None and stream.items_received else "after it had taken in too much to replay"
            raise HookError(
                f"{hook} ended: plugin {plugin!r} failed {when}: {error.message}", plugin=plugin, hook=hook, reason=error.code
            ) from error

    async def _past(self) -> AsyncIterator[Any]:
        """Yield the source as it is: first what the plugin was fed, then the rest."""
        self._is_past = True
        fed = self._fed
        assert fed is not None
        for item in fed:
            yield item
        if self._feeder is not None:
            # It may be in the midst of taking an item from the source: that is the last it takes, and not to be lost.
            count = len(fed)
            await asyncio.wait([self._feeder])
            for item in fed[count:]:
                yield item
        if self._source_fault is not None:
            raise self._source_fault
        if not self._source_ended:
            async for item in self._source:
                yield item
