"""One plugin, as the application sees it.

Source: docs/reference/host.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, final

from annexe.channel import CodecName
from annexe.dispatch.graph import Impact
from annexe.host.grant_book import check_as_read
from annexe.host.known import KnownPlugin
from annexe.host.registry import Registry
from annexe.manifest import Manifest
from annexe.sandbox import Receipt
from annexe.supervision.monitor import Sample
from annexe.supervision.state import Change, PluginState

__all__ = ["PluginHandle", "PluginView"]


class PluginView:
    """What a plugin of a host is, and how it is now."""

    def __init__(self, known: KnownPlugin, registry: Registry) -> None:
        self._known = known
        self._registry = registry

    def __repr__(self) -> str:
        return f"<plugin {self.id} {self.version}: {self.state}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self._known.id

    @property
    def version(self) -> str:
        """Its version; empty when its manifest was refused."""
        return self.manifest.version if self.manifest is not None else ""

    @property
    def manifest(self) -> Manifest | None:
        """Its manifest; None when that was refused."""
        return self._known.manifest

    @property
    def state(self) -> PluginState:
        """Where it is in its life."""
        return self._known.state

    @property
    def reason(self) -> str:
        """Why it is there."""
        return self._known.reason

    @property
    def history(self) -> tuple[Change, ...]:
        """Its last changes of state, oldest first."""
        return self._known.supervisor.life.changes if self._known.supervisor is not None else ()

    @property
    def enabled(self) -> bool:
        """The operator's choice."""
        return self._known.enabled

    @property
    def granted(self) -> frozenset[str]:
        """Rights it was granted."""
        return self._known.decision.granted if self._known.decision is not None else frozenset()

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration, defaults filled in."""
        return self._known.config.value if self._known.config is not None else {}

    @property
    def pid(self) -> int | None:
        """Process id of its running instance, the first where there are several."""
        instance = self._known.supervisor.instance if self._known.supervisor is not None else None
        return instance.launched.pid if instance is not None else None

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of its running instances."""
        instances = self._known.supervisor.instances if self._known.supervisor is not None else ()
        return tuple(instance.launched.pid for instance in instances if instance.launched.pid is not None)

    @property
    def is_attached(self) -> bool:
        """Whether a process that was started by hand takes its calls, see ``annexe attach``; ``pid`` is that one's then."""
        return self._known.supervisor is not None and self._known.supervisor.guest is not None

    @property
    def codec(self) -> CodecName | None:
        """What its running instance is spoken to in; None when it does not run."""
        instance = self._known.supervisor.instance if self._known.supervisor is not None else None
        return instance.connection.codec.name if instance is not None else None

    @property
    def receipt(self) -> Receipt | None:
        """What is really enforced for its running instance; None when it does not run."""
        instance = self._known.supervisor.instance if self._known.supervisor is not None else None
        return instance.launched.receipt if instance is not None else None

    @property
    def usage(self) -> Sample | None:
        """What its running instance used when it was last looked at, every few seconds; None before that, and when it does not run."""
        monitor = self._registry.monitor
        return monitor.latest(self.id) if monitor is not None and self.pid is not None else None


@final
class PluginHandle(PluginView):
    """A plugin of a host: what it is, how it is, and what can be done with it."""

    def impact(self) -> Impact:
        """Return what would happen to others if it were stopped, disabled or removed now; nothing is changed.

        ``restart`` stops nobody else.
        """
        return self._registry.requirements.impact(self.id)

    async def start(self) -> None:
        """Start it and wait until it is ready or has failed.

        Raises:
            PluginBlockedError: It is disabled.
        """
        known = await self._registry.start(self.id)
        await known.wait_settled()

    async def stop(self) -> None:
        """Stop it until it is started again or the host is; ``disable`` is for good."""
        await self._registry.stop(self.id)

    async def restart(self) -> None:
        """Start it afresh, also out of quarantine, and wait until it is ready or has failed."""
        known = await self._registry.restart(self.id)
        await known.wait_settled()

    async def reload(self) -> None:
        """Take up what is in its folder now without losing a call: another instance becomes ready beside the one that runs and takes over.

        One that keeps files in a private folder never runs twice: there the new instance starts once the old one has ended, and calls wait.

        Raises:
            ManifestError: What is in its folder now cannot be used. The old instance goes on, here and below.
            PluginBlockedError: It is disabled, or may not run as it is now: it asks for other rights, say.
            DependencyError: Plugins that require it could not use it as it is now.
            LaunchError: It did not become ready.
            PluginUnavailableError: It ended, or was stopped, meanwhile.
        """
        known = await self._registry.reload(self.id)
        await known.wait_settled()

    async def enable(self) -> None:
        """Let it run, also after the host's next start; wait until it is ready or has failed."""
        known = await self._registry.set_enabled(self.id, True)
        await known.wait_settled()

    async def disable(self) -> None:
        """Stop it, also after the host's next start."""
        await self._registry.set_enabled(self.id, False)

    async def grant(self, *, by: str = "the application", note: str = "", to_content: bool = False, versions: str = "") -> None:
        """Grant all that it asks for, bound to its folder, or to its content as it is now; start it if it is enabled.

        That is what ``manifest`` asks for. Where plugin.toml asks for something else by now, nothing is granted: restart it first.

        Args:
            by: Who, for the record.
            note: Why, for the record.
            to_content: Bind it to the content.
            versions: Range of versions that it holds for, for example ``>=1,<2``; empty: any.

        Raises:
            ConflictError: Its plugin.toml asks for other rights than it did when it was taken up.
            InvalidParamsError: The range is none, or the plugin as it is now is outside.
            ManifestError: What is in its folder now cannot be used.
        """
        rights = self.manifest.permission_set() if self.manifest is not None else ()
        check = partial(check_as_read, rights=rights, digest=None)
        known = await self._registry.grant(self.id, by=by, note=note, to_content=to_content, versions=versions, check=check)
        await known.wait_settled()

    async def revoke(self, *, by: str = "the application", rights: Iterable[str] = ()) -> None:
        """Take its grants back, or these rights alone; it is stopped if it asks for any of what was taken.

        Raises:
            InvalidParamsError: It was not granted one of these; the others were taken back.
        """
        await self._registry.revoke(self.id, by=by, rights=rights)

    async def configure(self, value: Mapping[str, Any], *, expected_revision: int | None = None) -> None:
        """Write its configuration and push it to what runs; wait until that, or another instance in its place, has taken it.

        Raises:
            ConfigInvalidError: It does not fit the plugin's schema; nothing was changed.
        """
        known = await self._registry.configure(self.id, value, expected_revision=expected_revision)
        await known.wait_settled()
