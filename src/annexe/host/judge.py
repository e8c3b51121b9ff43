"""Whether a plugin may start: from what is known to a verdict.

Asked whenever something that counts may have changed: before a start, and when files, grants, configuration or the operator's choice did.

Source: features DI5, PE1, EP2; docs/reference/permissions.md.
"""

from __future__ import annotations

import asyncio
import platform
from functools import partial
from time import monotonic
from typing import final

from annexe import __version__
from annexe.capabilities.config import ConfigService, PluginConfig, schema_of
from annexe.clock import Clock
from annexe.dispatch.dispatcher import Dispatcher
from annexe.dispatch.hook_definitions import read_schemas
from annexe.dispatch.service_schema import check_service_schemas
from annexe.errors import AnnexeError, ContractError, ManifestError
from annexe.host.advice import Advice
from annexe.host.known import KnownPlugin
from annexe.host.plugin_folders import Digest
from annexe.host.requirements import Requirements
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoreThread
from annexe.manifest import MANIFEST_NAME, LoadedManifest, Manifest, folder_digest, this_machine, unmet_requirements
from annexe.storage.grants import StoredGrant
from annexe.trust.grants import Grant, GrantDecision, decide, grant_as_asked
from annexe.trust.policy import Policy

__all__ = ["Judge"]


@final
class Judge:
    """Judges the plugins of one host.

    Args:
        settings: The host's.
        dispatcher: Knows what is open to plugins.
        thread: The store, with grants and configuration.
        policy: The operator's policy file, which then stands in for stored grants.
        clock: For configuration.
        requirements: What plugins require of each other.
        advice: How rights are granted here.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        dispatcher: Dispatcher,
        thread: StoreThread,
        policy: Policy | None,
        clock: Clock,
        requirements: Requirements,
        advice: Advice,
    ) -> None:
        self._settings = settings
        self._advice = advice
        self._dispatcher = dispatcher
        self._thread = thread
        self._policy = policy
        self._clock = clock
        self._requirements = requirements

    async def judge(self, known: KnownPlugin) -> str | None:
        """Bring what is known of a plugin up to date; return why it must not start, None when it may."""
        return await self.judge_alone(known) or self.admit(known)

    def admit(self, known: KnownPlugin) -> str | None:
        """Take a plugin that may start by itself into the graph of requirements; return why it must not, with others, or None."""
        try:
            lacking = self.lacking(known)
        except AnnexeError as error:
            known.error = error
            return error.message
        return f"{lacking}; it starts once all is there" if lacking is not None else None

    def lacking(self, known: KnownPlugin) -> str | None:
        """Take a plugin that may start by itself into the graph of requirements; return what it lacks, and what to do about that, or None.

        Raises:
            DependencyError: It cannot be taken in; see ``Requirements.admit``.
        """
        lacking = self._requirements.admit(known)
        if lacking is not None and self._requirements.is_not_installed(known):
            lacking += f"; {self._advice.scan()}"
        return lacking

    async def judge_alone(self, known: KnownPlugin, *, digest: Digest | None = None) -> str | None:
        """Judge a plugin by itself, whatever it requires of others; ``admit`` comes next.

        Args:
            known: It.
            digest: Of its folder, if that was made a moment ago.

        Returns:
            Why it must not start, by itself; None when it may.
        """
        known.judged_at = monotonic()
        manifest = known.manifest
        assert manifest is not None
        known.error, known.lacks = None, ""
        try:
            if digest is None:
                digest = await asyncio.to_thread(folder_digest, known.found.folder)
            elif isinstance(digest, ManifestError):
                raise digest
            return await self._judge(known, manifest, digest)
        except AnnexeError as error:
            known.error = error
            return error.message

    async def _judge(self, known: KnownPlugin, manifest: Manifest, digest: str) -> str | None:
        folder = known.found.folder
        known.loaded = LoadedManifest(manifest, folder, digest)
        if manifest.provides.hook_specs:
            await asyncio.to_thread(read_schemas, manifest)
        if any(offer.schema for offer in manifest.provides.services.values()):
            await asyncio.to_thread(check_service_schemas, manifest, source=str(folder / MANIFEST_NAME))
        problems: list[ContractError] = self._dispatcher.problems(manifest)
        if problems:
            known.error = problems[0]
            return "; ".join(problem.message for problem in problems)
        is_inside = self._settings.strategy_of(known.id) == "in-process"
        python = platform.python_version() if is_inside else ""
        unmet = unmet_requirements(manifest, this_machine(host=__version__, python=python, libs=manifest.runtime.requires_libs))
        if unmet:
            return f"this machine does not fit: {'; '.join(unmet)}"
        if is_inside and self._settings.production:
            named = not isinstance(self._settings.strategy, str)
            if not named:
                return "it would run inside the host's process; in production name it: strategy={\"" + known.id + '": "in-process"}'
        known.decision = await self._decide(known.loaded)
        if known.decision.is_blocked:
            decision = known.decision
            cure = self._advice.grant(known.id, manifest.permission_set(), to_content=decision.was_to_content)
            return f"{decision.problem}; {cure}"
        known.config = await self._configuration(known.loaded)
        return None

    async def _decide(self, loaded: LoadedManifest) -> GrantDecision:
        manifest, folder = loaded.manifest, str(loaded.folder)
        if self._settings.grants == "manifest":
            grants: list[Grant] = [grant_as_asked(manifest, folder=folder, note='grants="manifest"')]
        elif self._policy is not None:
            grants = list(self._policy.grants_for(manifest, loaded.digest))
        else:
            stored = await self._thread.run(lambda: self._thread.store.grants.of(manifest.id))
            grants = [_grant(row) for row in stored]
        return decide(manifest, digest=loaded.digest, folder=folder, grants=grants)

    async def _configuration(self, loaded: LoadedManifest) -> PluginConfig:
        manifest = loaded.manifest
        read = partial(schema_of, loaded.folder, manifest.config_schema, plugin=manifest.id)
        schema = read() if manifest.config_schema is None else await asyncio.to_thread(read)  # a file, if there is one
        given = self._settings.config.get(manifest.id)
        if given is not None:
            return PluginConfig(value=schema.complete(dict(given)), written=dict(given), revision=0)
        if not self._thread.store.config.has(manifest.id):  # as with most: no turn on the store's thread for each
            return PluginConfig(value=schema.complete({}), written={}, revision=0)
        service = ConfigService(self._thread.store.config, self._clock)
        return await self._thread.run(service.read, manifest.id, schema)


def _grant(row: StoredGrant) -> Grant:
    return Grant(plugin=row.plugin, rights=row.rights, digest=row.digest, folder=row.folder, version_range=row.version_range, note=row.note)
