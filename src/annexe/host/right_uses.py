"""Which rights are used, as far as the host sees it.

Counted nowhere: a use is a name in a set, which is written behind once a minute and at the end. Then the next use of each is told again, so
that the stored time of a use is right to a minute, and the calls between cost nothing.

What the kernel lets through without asking the host (files, variables, programs, devices) is not seen, and nothing is claimed of it.

Source: feature PE5; ADR-0077.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from functools import partial
from typing import final
from weakref import WeakValueDictionary

from annexe.capabilities.services import PluginServices
from annexe.clock import Clock
from annexe.host.store_thread import StoreThread

__all__ = ["OBSERVABLE", "RightUses"]

OBSERVABLE = frozenset({"kv", "cap", "network", "services", "events.publish"})
"""Kinds of rights whose use the host sees, because it serves them itself."""

_EVERY_S = 60.0


@final
class RightUses:
    """The uses of one host's plugins; used on its loop.

    Args:
        thread: The store.
        clock: For times that people read.
        every_s: How long uses are gathered.
    """

    def __init__(self, thread: StoreThread, clock: Clock, *, every_s: float = _EVERY_S) -> None:
        self._thread = thread
        self._clock = clock
        self._every_s = every_s
        self._used: set[tuple[str, str]] = set()
        self._services: WeakValueDictionary[str, PluginServices] = WeakValueDictionary()  # of instances that are there
        self._timer: TimerHandle | None = None
        self._is_closed = False

    def telling(self, plugin: str) -> Callable[[str], None]:
        """Return what is to be called with each right that a plugin uses."""
        return partial(self._note, plugin)

    def watch(self, plugin: str, services: PluginServices) -> None:
        """Have the services of a plugin's latest instance tell of uses again, after each time that uses were written."""
        self._services[plugin] = services

    async def last_used(self, plugin: str) -> Mapping[str, float]:
        """Return when a plugin last used which right, in Unix seconds."""
        self._write()
        return await self._thread.run(lambda: self._thread.store.right_uses.of(plugin))

    def close(self) -> None:
        """Write what was gathered. Called before the store is closed."""
        self._is_closed = True
        self._write()

    def _note(self, plugin: str, right: str) -> None:
        self._used.add((plugin, right))
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._write)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        used, self._used = self._used, set()
        if not used:
            return
        now_s = self._clock.now()
        self._thread.run_behind(lambda: self._thread.store.right_uses.put(used, now_s=now_s))
        for plugin in {plugin for plugin, _ in used}:
            services = self._services.get(plugin)
            if services is not None:
                services.look_again()
