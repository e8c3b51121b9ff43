"""One request of the application's: deadline, key, trace, what plugins keep for its length, what they did.

Source: docs/reference/hooks.md, "Requests".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import msgspec

from annexe.channel import HostCall, RequestMeta
from annexe.channel.messages import read_map
from annexe.contract import InvalidValueError
from annexe.contract.wire_check import check_plain
from annexe.errors import InvalidResultError

__all__ = ["MAX_STATE_BYTES", "Request", "request_behind"]

MAX_STATE_BYTES = 64 * 1024

_encode = msgspec.msgpack.Encoder().encode


@final
class _Meta(RequestMeta, dict=True, gc=True):
    """What is said to a plugin, and beside it, never sent, the ``Request`` that it belongs to."""


class Request(msgspec.Struct, eq=False):
    """What belongs to one request. A struct, for one is made per request.

    Attributes:
        id: The application's correlation id.
        deadline: Monotonic time, in seconds: the roof over everything done for the request.
        key: The application's key: tenant, user, API key.
        traceparent: W3C trace context.
        record: The explain record, from the first step on.
        caller: The plugin that has the work done, in the application's stead; None: the application itself.
        depth: How many events and observations, each made while the one before was handled, led to it.
    """

    id: str
    deadline: float
    key: str | None
    traceparent: str
    record: Any = None
    caller: str | None = None
    depth: int = 0
    _states: dict[str, dict[str, Any]] | None = None

    def meta_for(self, plugin: str, stream: str | None = None) -> RequestMeta:
        """Return what is said to a plugin beside the parameters of a call."""
        state = self._states.get(plugin) if self._states is not None else None
        meta = _Meta(request=self.id, traceparent=self.traceparent, key=self.key, state=state, stream=stream, caller=self.caller)
        meta.__dict__["behind"] = self
        return meta

    def within(self, caller: str, *, deadline: float, new_record: Callable[[], Any]) -> Request:
        """Return what a plugin that works on this one has done by others: the same to them, but for the caller and the deadline.

        Args:
            caller: Id of the plugin.
            deadline: Monotonic time, in seconds.
            new_record: Makes the explain record, if there is none yet.
        """
        if self.record is None:
            self.record = new_record()
        if self._states is None:
            self._states = {}
        return Request(
            self.id, deadline, self.key, self.traceparent, record=self.record, caller=caller, depth=self.depth, _states=self._states
        )

    def state_of(self, plugin: str) -> dict[str, Any] | None:
        """Return what a plugin put aside; not to be changed."""
        return self._states.get(plugin) if self._states is not None else None

    def change_state(self, plugin: str, raw: msgspec.Raw, *, method: str) -> None:
        """Take over what a plugin changed: a key with None is removed.

        Raises:
            InvalidResultError: It would hold more than 64 KiB, or what cannot be sent back; nothing is changed.
        """
        try:
            changes = read_map(raw, limit_bytes=MAX_STATE_BYTES)
        except ValueError as error:
            text = f"plugin {plugin!r} keeps state in {method} that cannot be taken over: {error}"
            raise InvalidResultError(text, plugin=plugin, method=method, limit_bytes=MAX_STATE_BYTES) from error
        if changes is None:
            return
        try:
            check_plain(changes)
        except InvalidValueError as error:
            text = f"plugin {plugin!r} keeps what it cannot get back as state in {method}: {error}"
            raise InvalidResultError(
                text, plugin=plugin, method=method, path=error.path, expected=error.expected, actual=error.actual
            ) from error
        before = self.state_of(plugin) or {}
        after = {key: value for key, value in {**before, **changes}.items() if value is not None}
        size = len(_encode(after))
        if size > MAX_STATE_BYTES:
            text = f"plugin {plugin!r} keeps {size} bytes of state in {method}; expected at most {MAX_STATE_BYTES}"
            raise InvalidResultError(text, plugin=plugin, method=method, limit_bytes=MAX_STATE_BYTES, wanted_bytes=size)
        if self._states is None:
            self._states = {}
        self._states[plugin] = after


def request_behind(chain: Sequence[HostCall]) -> Request | None:
    """Return the request that open calls belong to, by the innermost that knows it; None where none does."""
    for call in reversed(chain):
        behind = getattr(call.meta, "__dict__", {}).get("behind")
        if isinstance(behind, Request):
            return behind
    return None
