"""Open calls, both ways, and how they hang together.

A plugin that works on a call may ask the host; what the application does to answer may call plugins again. The chain of such calls is
carried in a context variable, so that a call back into a plugin that waits is marked with the call it serves, and cannot deadlock.

Source: docs/reference/protocol.md, "Concurrency, slots, stuck"; ADR-0004.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, final

import msgspec

if TYPE_CHECKING:
    from annexe.channel.connection import Connection
    from annexe.channel.messages import CodecName
    from annexe.channel.plugin_streams import PluginStream

__all__ = ["CHAIN", "HostCall", "Onward", "PluginCall"]

CHAIN: ContextVar[tuple[HostCall, ...]] = ContextVar("annexe_chain", default=())
"""The open host calls on whose behalf the running code works, outermost first."""


class HostCall(msgspec.Struct, eq=False):
    """A call of the host's to a plugin. A struct, for one is made per call.

    Attributes:
        future: Gets the ``Response``, or the error.
        deadline: Monotonic time, in seconds. Comes nearer when the call gets a slot and ``run_s`` is less than what is left.
        run_s: How long it may take from the moment it has a slot; None: until the deadline.
        chain: The calls it was made on behalf of, outermost first.
        holds_slot: It is among the oldest open calls that the plugin runs at once.
        id: Odd; 0 while it waits in the host.
        given_up_at: Monotonic time when the host stopped wanting the answer; the call keeps its slot until the plugin answers.
        nested: It serves a call of the plugin's own that waits, so it takes no slot.
        requests: What the plugin asked on its behalf and is not answered yet.
        inner_calls: Calls made on its behalf that are not over yet.
    """

    connection: Any
    method: str
    params: Any
    meta: Any
    deadline: float
    run_s: float | None
    future: Any
    chain: tuple[Any, ...]
    holds_slot: bool = False
    id: int = 0
    given_up_at: float | None = None
    nested: bool = False
    requests: set[Any] | None = None
    stream: Any = None
    inner_calls: set[Any] | None = None

    def add_inner(self, call: HostCall) -> None:
        """Remember a call made on this one's behalf until it is over: a long call shall not keep the answers of all it led to."""
        inner = self.inner_calls
        if inner is None:
            inner = self.inner_calls = set()
        inner.add(call)
        call.future.add_done_callback(lambda _: inner.discard(call))


class Onward(Protocol):
    """A request that another plugin answers: what answers it gives that plugin's ``Response``, which is passed on undecoded.

    Attributes:
        plugin: Id of the plugin that was asked last.
    """

    plugin: str

    def ended(self, error: BaseException | None) -> Awaitable[Any] | None:
        """Told how the last attempt ended (None: with a result); returns what answers instead, None where nothing does."""
        ...

    def give_up(self) -> None:
        """Nobody wants the answer any more: tell the plugin."""
        ...


@final
class PluginCall:
    """A request of a plugin's to the host.

    Attributes:
        params: Raw, in ``codec``.
        deadline: Monotonic time, in seconds: the smaller of the parent's and the plugin's own.
        parent: The host call on whose behalf it was made, as the host knows it; None for work of the plugin's own.
        key: What the plugin would have alike calls go to the same place by; None: it does not care.
        stream: The items of a streamed one, both ways; None for a plain one.
        task: What answers it, while that takes time.
        onward: Set by whoever serves it by asking another plugin.
    """

    __slots__ = ("codec", "connection", "deadline", "id", "key", "method", "onward", "params", "parent", "stream", "task")

    def __init__(
        self,
        connection: Connection,
        ident: int,
        method: str,
        params: msgspec.Raw,
        *,
        codec: CodecName,
        deadline: float,
        parent: HostCall | None,
        key: str | None = None,
    ) -> None:
        self.connection = connection
        self.id = ident
        self.method = method
        self.params = params
        self.codec = codec
        self.deadline = deadline
        self.parent = parent
        self.key = key
        self.stream: PluginStream | None = None
        self.task: asyncio.Future[Any] | None = None
        self.onward: Onward | None = None

    @property
    def chain(self) -> tuple[HostCall, ...]:
        """The open host calls on whose behalf it was made, outermost first."""
        return () if self.parent is None else (*self.parent.chain, self.parent)

    @property
    def request_id(self) -> str | None:
        """The application's id for the request this belongs to, as the host knows it."""
        return self.parent.meta.request if self.parent is not None else None
