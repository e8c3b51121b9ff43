"""What the host knows of one plugin."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import final

from annexe.capabilities.config import PluginConfig
from annexe.capabilities.services import PluginServices
from annexe.errors import AnnexeError
from annexe.manifest import Discovered, LoadedManifest, Manifest
from annexe.supervision.state import PluginState
from annexe.supervision.supervisor import Supervisor
from annexe.trust.grants import GrantDecision

__all__ = ["KnownPlugin"]


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
        is_told: An event said which of its rights and limits cannot be enforced here.
        services: What its latest instance may use.
        lock: Held by whoever acts on the plugin.
    """

    id: str
    found: Discovered
    loaded: LoadedManifest | None = None
    error: AnnexeError | None = None
    decision: GrantDecision | None = None
    config: PluginConfig | None = None
    enabled: bool = True
    is_told: bool = False
    judged_at: float = 0.0
    supervisor: Supervisor | None = None
    services: PluginServices | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

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

    async def wait_settled(self) -> None:
        """Wait while it is starting."""
        if self.supervisor is not None:
            await self.supervisor.wait_settled()

    def withdraw_rights(self) -> None:
        """Take every right back from the instance that runs, at once: it is about to be stopped, and may take its time."""
        if self.services is not None:
            self.services.withdraw()
