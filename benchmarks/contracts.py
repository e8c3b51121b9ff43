# mypy: disable-error-code="empty-body"
"""What the benchmark host opens to its plugins."""

from __future__ import annotations

from typing import ClassVar

from annexe import ExtensionPoint, HookSpec, hook
from benchmarks.payload import ChatRequest

__all__ = ["Bench", "Caller", "Carrier", "Editor", "Keeper", "Ledger", "Probe"]


class Bench(HookSpec, name="bench", revision=1):
    """Hooks on a request."""

    @hook.filter(budget_ms=1000, on_failure="closed")
    async def edit(self, request: ChatRequest) -> ChatRequest: ...

    @hook.filter
    async def unheard(self, request: ChatRequest) -> ChatRequest: ...

    @hook.observer
    async def seen(self, request: ChatRequest) -> None: ...


class Editor(ExtensionPoint, name="bench-editor", revision=1):
    """One typed call."""

    async def edit(self, request: ChatRequest) -> ChatRequest: ...


class Probe(ExtensionPoint, name="bench-probe", revision=1):
    """Questions that show whether the host's guards are on."""

    async def request_id(self) -> str: ...
    async def traceparent(self) -> str: ...
    async def reach(self) -> str: ...
    async def stall(self, seconds: float) -> str: ...


class Keeper(ExtensionPoint, name="bench-keeper", revision=1):
    """Key-value calls, timed by the plugin that makes them; samples in microseconds."""

    async def fill(self, count: int) -> int: ...
    async def get(self, first: int, count: int) -> list[float]: ...
    async def set(self, count: int) -> list[float]: ...
    async def swap(self, count: int) -> list[float]: ...
    async def add(self, count: int) -> int: ...
    async def shared(self) -> int: ...
    async def polite(self, count: int) -> list[float]: ...
    async def flood(self, seconds: float) -> list[int]: ...


class Carrier(ExtensionPoint, name="bench-carrier", revision=1):
    """Bytes to a plugin, from it, and both."""

    async def take(self, data: bytes) -> list[int]: ...
    async def give(self, size: int) -> bytes: ...
    async def echo(self, data: bytes) -> bytes: ...
    async def pass_on(self, data: bytes) -> bytes: ...


class Caller(ExtensionPoint, name="bench-caller", revision=1):
    """Calls of another plugin's service, timed by the plugin that makes them; samples in microseconds."""

    async def edits(self, request: ChatRequest, count: int) -> list[float]: ...
    async def echoes(self, size: int, count: int) -> list[float]: ...


class Ledger:
    """A capability of the application that no plugin here is granted."""

    name: ClassVar[str] = "bench-ledger"

    async def read(self) -> str:
        return "answered"
