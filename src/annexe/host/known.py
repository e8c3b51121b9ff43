"""What the host knows of its plugins, and the turns that are taken at each.

* One act at a time on each plugin: the next one begins where the last has ended.
* What is urgent does not wait until a reload's next instance is ready: it calls that off.
* Once the host is closing, no act begins.

Source: features LC1, LC3; docs/explanation/architecture.md, "Life of a plugin".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import final
from weakref import WeakSet

from annexe.capabilities.config import PluginConfig
from annexe.capabilities.pace import Pace
from annexe.capabilities.services import PluginServices
from annexe.errors import AnnexeError, HostClosedError, UnknownPluginError
from annexe.manifest import Discovered, LoadedManifest, Manifest
from annexe.supervision.attachment import Guest
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor
from annexe.trust.grants import GrantDecision

__all__ = ["KnownPlugin", "KnownPlugins"]


@final
@dataclass(slots=True)
class KnownPlugin:
    """What the host knows of one plugin.

    Attributes:
        loaded: Manifest, folder and digest; None when the manifest was refused.
        error: Why it cannot be used at all.
        decision: Rights granted and missing.
        config: As it is now.
        enabled: The operator's choice.
        judged_at: Monotonic time of the last verdict.
        lacks: What it requires and nobody gave when it was to start; it is started once somebody does. Empty: nothing.
        is_leaving: It is about to be stopped, and those who require it are stopped first.
        taken_up: Set once it was judged for the first time.
        is_told: An event said which of its rights and limits cannot be enforced here.
        services: What its instances may use, and those that they replaced as long as they are under way.
        pace: How often it may be called, all instances together; None: as often as anybody likes.
        lock: Held by whoever acts on the plugin.
        urgent: How many wait for the lock who cannot wait for another instance to become ready.
        coming: A process that attaches, and is not ready yet; nothing bounds how long that takes.
    """

    id: str
    found: Discovered
    loaded: LoadedManifest | None = None
    error: AnnexeError | None = None
    decision: GrantDecision | None = None
    config: PluginConfig | None = None
    enabled: bool = True
    lacks: str = ""
    is_leaving: bool = False
    taken_up: asyncio.Event = field(default_factory=asyncio.Event)
    is_told: bool = False
    judged_at: float = 0.0
    supervisor: Supervisor | None = None
    services: WeakSet[PluginServices] = field(default_factory=WeakSet)
    pace: Pace | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    urgent: int = 0
    coming: Guest | None = None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, if it was accepted."""
        return self.found.manifest

    @property
    def state(self) -> PluginState:
        """Where it is in its life."""
        return self.supervisor.state if self.supervisor is not None else PluginState.BLOCKED

    @property
    def reason(self) -> str:
        """Why it is there."""
        if self.supervisor is not None:
            return self.supervisor.life.reason
        return self.error.message if self.error is not None else ""

    @property
    def is_there(self) -> bool:
        """Whether it takes calls, or would start at the first one."""
        return self.supervisor is not None and self.supervisor.is_there and not self.is_leaving

    @property
    def is_settled(self) -> bool:
        """Whether it is what it will be for a while: not starting, nor about to."""
        return self.taken_up.is_set() and self.state is not PluginState.STARTING

    async def wait_settled(self) -> None:
        """Wait while it is starting, or about to."""
        await self.taken_up.wait()
        if self.supervisor is not None:
            await self.supervisor.wait_settled()

    def withdraw_rights(self) -> None:
        """Take every right back from what runs, at once: it is about to be stopped, and may take its time."""
        is_revoked = self.decision is not None and self.decision.is_blocked
        for services in tuple(self.services):
            services.withdraw()
            if is_revoked:
                services.end_streams()
        if is_revoked and self.supervisor is not None:
            self.supervisor.end_served("its plugin's rights were taken back")

    def adopt(self, discovered: Discovered) -> None:
        """Go by another manifest from now on."""
        self.found = discovered
        if self.supervisor is not None and discovered.manifest is not None:
            runtime = discovered.manifest.runtime
            self.supervisor.adopt(lazy=runtime.start == "lazy", idle_stop_s=runtime.idle_stop_s)

    @asynccontextmanager
    async def held(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Hold the plugin's lock; what is urgent waits neither until a reload's next instance is ready nor for a process that attaches."""
        self.urgent += urgent
        try:
            if urgent and self.supervisor is not None:
                self.supervisor.call_off()
                if self.coming is not None:  # whoever holds the lock may wait for it
                    self.coming.let_go("the plugin is about to be stopped")
            await self.lock.acquire()
        finally:
            self.urgent -= urgent
        try:
            yield
        finally:
            self.lock.release()


@final
class KnownPlugins:
    """All plugins of one host.

    Args:
        by_id: All that are known; others may read it.

    Attributes:
        is_closing: The host is; no act begins any more.
    """

    def __init__(self, by_id: dict[str, KnownPlugin]) -> None:
        self.by_id = by_id
        self.is_closing = False

    def get(self, plugin: str) -> KnownPlugin:
        """Return what is known of a plugin.

        Raises:
            UnknownPluginError: Nothing.
        """
        known = self.by_id.get(plugin)
        if known is None:
            there = ", ".join(sorted(self.by_id)) or "none"
            raise UnknownPluginError(f"no plugin {plugin!r} is known; known are: {there}", plugin=plugin)
        return known

    def has(self, known: KnownPlugin) -> bool:
        """Say whether this is what is known of a plugin: not let go of, nor a copy of it as it is coming."""
        return self.by_id.get(known.id) is known

    @asynccontextmanager
    async def acting_on(self, plugin: str, *, urgent: bool = False) -> AsyncIterator[KnownPlugin]:
        """Hold a plugin for one act; an urgent one calls off the reloads that come before it.

        Raises:
            UnknownPluginError: It is not known, or not any more.
            HostClosedError: The host is closing.
        """
        while True:
            known = self.get(plugin)
            async with known.held(urgent=urgent):
                if self.is_closing:
                    raise HostClosedError("this host is closing", plugin=plugin)
                if self.has(known):  # not let go of meanwhile
                    yield known
                    return
