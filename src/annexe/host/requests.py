"""A request as the application holds it.

Source: docs/reference/hooks.md, "Requests".
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar, final

from annexe.contract import ExtensionPoint, HookSpec
from annexe.dispatch.dispatcher import Dispatcher
from annexe.dispatch.request import Request

__all__ = ["RequestScope"]

S = TypeVar("S", bound=HookSpec)
E = TypeVar("E", bound=ExtensionPoint)


@final
class RequestScope:
    """One request: ``async with host.request(…) as request``. What plugins put aside for it is gone when it ends."""

    __slots__ = ("_dispatcher", "_request")

    def __init__(self, request: Request, dispatcher: Dispatcher) -> None:
        self._request = request
        self._dispatcher = dispatcher

    async def __aenter__(self) -> RequestScope:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @property
    def id(self) -> str:
        """Its id, for logs and ``explain``."""
        return self._request.id

    def hooks(self, spec: type[S]) -> S:
        """Return the hooks of a spec, called as part of this request."""
        hooks: S = self._dispatcher.hooks(spec, self._request, self._this)
        return hooks

    def extension(self, point: type[E]) -> E:
        """Return the plugin at an extension point, called as part of this request."""
        extension: Any = self._dispatcher.extension(point, self._this)
        return extension  # type: ignore[no-any-return]  # it has the point's methods

    def extensions(self, point: type[E]) -> list[E]:
        """Return every plugin at an extension point, called as part of this request."""
        extensions: Any = self._dispatcher.extensions(point, self._this)
        return extensions  # type: ignore[no-any-return]  # they have the point's methods

    def _this(self) -> Request:
        return self._request
