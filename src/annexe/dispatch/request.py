"""One request of the application's: deadline, key, trace, what plugins keep for its length, what they did.

Source: docs/reference/hooks.md, "Requests".
"""

from __future__ import annotations

from typing import Any

import msgspec

from annexe.channel import RequestMeta
from annexe.channel.messages import read_map
from annexe.contract import InvalidValueError
from annexe.contract.wire_check import check_plain
from annexe.errors import InvalidResultError

__all__ = ["MAX_STATE_BYTES", "Request"]

MAX_STATE_BYTES = 64 * 1024

_encode = msgspec.msgpack.Encoder().encode


class Request(msgspec.Struct, eq=False):
    """What belongs to one request. A struct, for one is made per request.

    Attributes:
        id: The application's correlation id.
        deadline: Monotonic time, in seconds: the roof over everything done for the request.
        key: The application's key: tenant, user, API key.
        traceparent: W3C trace context.
        record: The explain record, from the first step on.
    """

    id: str
    deadline: float
    key: str | None
    traceparent: str
    record: Any = None
    _states: dict[str, dict[str, Any]] | None = None

    def meta_for(self, plugin: str, stream: str | None = None) -> RequestMeta:
        """Return what is said to a plugin beside the parameters of a call."""
        state = self._states.get(plugin) if self._states is not None else None
        return RequestMeta(request=self.id, traceparent=self.traceparent, key=self.key, state=state, stream=stream)

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
