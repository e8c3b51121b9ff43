"""annexe's rows of long bytes: the same host, plugin and calls, with and without shared memory."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from annexe.host import planner
from benchmarks.contracts import Carrier
from benchmarks.subject import Ours

__all__ = ["ByArena", "Inline"]


class ByArena(Ours):
    """One plugin that takes and gives bytes."""

    plugin = "carrier"
    _has_arenas = True

    def contracts(self) -> list[type]:
        return [*super().contracts(), Carrier]

    async def open(self) -> None:
        await super().open()
        supervisor = self.host.plugins[0]._known.supervisor
        connection = supervisor.connection if supervisor is not None else None
        if connection is None or (connection.arenas is not None) is not self._has_arenas:
            raise RuntimeError("expected shared memory" if self._has_arenas else "expected none")

    def take(self, size: int, count: int) -> list[float]:
        data = os.urandom(size)
        return self.run(self._each(count, lambda: self.host.extension(Carrier).take(data), lambda got: got == [size, data[0], data[-1]]))

    def give(self, size: int, count: int) -> list[float]:
        return self.run(
            self._each(count, lambda: self.host.extension(Carrier).give(size), lambda got: len(got) == size and got[255] == 255)
        )

    def echo(self, size: int, count: int) -> list[float]:
        data = os.urandom(size)
        return self.run(self._each(count, lambda: self.host.extension(Carrier).echo(data), lambda got: got == data and got is not data))

    def pass_on(self, size: int, count: int) -> list[float]:
        data = os.urandom(size)
        return self.run(self._each(count, lambda: self.host.extension(Carrier).pass_on(data), lambda got: got == data))

    async def _each(self, count: int, call: Callable[[], Awaitable[Any]], is_right: Callable[[Any], bool]) -> list[float]:
        clock, samples = time.perf_counter_ns, []
        await call()  # what is made or touched for the first time at this size
        for _ in range(count):
            began = clock()
            got = await call()
            samples.append((clock() - began) / 1000)
            if not is_right(got):
                raise RuntimeError(f"expected the bytes that were sent, got {got!r:.80}")
        return samples


class Inline(ByArena):
    """The same in frames alone."""

    _has_arenas = False

    async def open(self) -> None:
        whole, planner.ARENA_BYTES = planner.ARENA_BYTES, 0  # type: ignore[attr-defined]
        try:
            await super().open()
        finally:
            planner.ARENA_BYTES = whole  # type: ignore[attr-defined]
