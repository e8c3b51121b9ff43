"""What a plugin's next instance is launched with.

A plugin is judged before every start, not only the first: its folder, its grants and its configuration may have changed since.

Source: docs/explanation/launching.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from functools import partial
from time import monotonic
from typing import final

from annexe import __version__
from annexe.capabilities.kv import KvService
from annexe.capabilities.pace import Pace
from annexe.capabilities.services import Capability, PluginServices
from annexe.channel import ARENA_BYTES, ChannelLimits
from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import PluginBlockedError
from annexe.host.advice import Advice
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin
from annexe.host.requirements import Requirements
from annexe.host.right_uses import RightUses
from annexe.host.settings import HostSettings
from annexe.launch import LaunchRequest, plugin_environment
from annexe.launch.data_folders import DataFolders
from annexe.launch.devices import gpu_nodes
from annexe.manifest import Manifest, this_machine
from annexe.manifest.rights import kind_of, manifest_line
from annexe.record import EventKind, Events, LogStore, Metrics
from annexe.sandbox import IsolationLevel, Profile, Receipt
from annexe.sandbox.enforcement import LIMITS, EnforcementState
from annexe.supervision.instance import Instance, InstancePlan
from annexe.supervision.scaling import Scaling

__all__ = ["SDK_THREADS", "Planner"]

SDK_THREADS = 32
"""Threads that the SDK may start, beside the processes and threads that a manifest asks for."""
_VERDICT_HOLDS_S = 1.0  # a plugin that was found, granted or restarted just now was judged for it


@final
class Planner:
    """Plans the instances of one host.

    Args:
        settings: The host's.
        judge: Says whether a plugin may start.
        requirements: Says whether what it requires is there.
        dispatcher: Holds what a plugin provides against its manifest.
        kv: The key-value service.
        capabilities: The application's, by name.
        logs: The plugins' logs.
        metrics: The plugins' metrics.
        events: Is told what cannot be enforced.
        advice: How rights are granted here.
        data: Where plugins' private folders are.
        uses: Is told of each right that is used.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        judge: Judge,
        requirements: Requirements,
        dispatcher: Dispatcher,
        kv: KvService,
        capabilities: Mapping[str, Capability],
        logs: LogStore,
        metrics: Metrics,
        events: Events,
        advice: Advice,
        data: DataFolders,
        uses: RightUses,
    ) -> None:
        self._settings = settings
        self._advice = advice
        self._data = data
        self._uses = uses
        self._judge = judge
        self._requirements = requirements
        self._dispatcher = dispatcher
        self._kv = kv
        self._capabilities = capabilities
        self._logs = logs
        self._metrics = metrics
        self._events = events

    def runs_alone(self, known: KnownPlugin) -> bool:
        """Say whether no two instances of a plugin may run at once: they would write to one folder, or share one interpreter's modules."""
        keeps_files = known.decision is not None and "data" in known.decision.granted
        in_memory = known.manifest is not None and known.manifest.permissions.data_kept == "memory"
        return self._settings.strategy_of(known.id) == "in-process" or (keeps_files and not in_memory)

    def floor_of(self, manifest: Manifest) -> IsolationLevel:
        """Return the lowest level that author and operator accept."""
        return max(IsolationLevel(manifest.sandbox_require), IsolationLevel(self._settings.isolation), key=IsolationLevel.strength)

    async def plan(self, known: KnownPlugin, number: int) -> InstancePlan:
        """Decide everything about a plugin's next instance, as things stand now.

        Raises:
            PluginBlockedError: It may not start any more: what was judged earlier has changed, or what it requires does not come.
        """
        await self._requirements.wait_met(known)
        if monotonic() - known.judged_at > _VERDICT_HOLDS_S:
            verdict = await self._judge.judge(known)
            if verdict is not None:
                raise PluginBlockedError(verdict, plugin=known.id)
        manifest, loaded = known.manifest, known.loaded
        assert manifest is not None and loaded is not None and known.decision is not None
        granted, on_used, learning = known.decision.granted, self._uses.telling(known.id), self._settings.unsafe_learning
        if learning is not None:
            granted = learning.granted(known.id, granted, capabilities=self._capabilities)
            manifest = learning.asking_for(granted, manifest)
            on_used = learning.telling(known.id, on_used)
        resources, runtime = manifest.resources, manifest.runtime
        kv = self._kv.handle(known.id, manifest.permissions.kv_quota_bytes or 0) if "kv" in granted else None
        log = self._logs.sink(known.id)
        for name in sorted(manifest.requires.services.keys() - set(manifest.permissions.services)):
            line = manifest_line(f"services:{name}", manifest.permissions)
            text = f"it requires service {name!r} and has no right to call it; add to plugin.toml under [permissions]: {line}"
            log.write("warning", text, source="host")
        for name in sorted(set(manifest.permissions.capabilities) - self._capabilities.keys()):
            offered = ", ".join(sorted(self._capabilities)) or "none"
            text = f"it asks for capability {name!r}, which the application does not offer; offered: {offered}"
            log.write("warning", text, source="host")
        for hook, why in self._dispatcher.plugin_hooks.passed_over(manifest).items():
            log.write("warning", f"it is not called at hook {hook!r}: {why}", source="host")
        instance = f"{known.id}-{number}"
        services = PluginServices(
            manifest,
            granted,
            kv=kv,
            capabilities=self._capabilities,
            services={name: self._dispatcher.services.route(manifest, name).begin for name in _names(granted, "services")},
            hooks={name: self._dispatcher.plugin_hooks.route(manifest, name).begin for name in manifest.provides.hook_specs},
            log=log,
            metrics=self._metrics.plugin(known.id),
            events=self._events,
            instance=instance,
            grant_command=self._advice.grant_command(known.id),
            publish=self._dispatcher.bus.publish,
            on_used=on_used,
        )
        known.services.add(services)
        self._uses.watch(known.id, services)
        data_dir = str(self._data.folder_of(known.id).absolute()) if "data" in granted else None
        if data_dir is not None and self._settings.strategy_of(known.id) == "in-process":
            await asyncio.to_thread(self._data.ensure, known.id)
        in_memory = manifest.permissions.data_kept == "memory"
        launch = LaunchRequest(
            plugin=known.id,
            instance=instance,
            kind=runtime.kind,
            entry=runtime.entry_for(this_machine(host=__version__).targets) if runtime.entry_by_target else runtime.entry,
            folder=loaded.folder,
            environment=plugin_environment(os.environ, granted=_names(granted, "env")),
            profile=Profile(
                memory_bytes=resources.memory_bytes,
                tasks=resources.processes + SDK_THREADS,
                open_files=resources.open_files,
                file_bytes=resources.disk_bytes,
                cpu=resources.cpu,
                subprocess="subprocess" in granted,
                network=bool(_names(granted, "network")),
                read=_names(granted, "filesystem.read"),
                write=_names(granted, "filesystem.write"),
                data=data_dir,
                data_quota_bytes=None if in_memory else manifest.permissions.data_quota_bytes,
                data_in_memory_bytes=manifest.permissions.data_quota_bytes if in_memory else None,
                devices=gpu_nodes() if "devices:gpu" in granted else (),
            ),
            requires_python=runtime.requires_python,
            floor=self.floor_of(manifest),
            hosts_own=(self._settings.state_dir.absolute(), *(folder.absolute() for folder in self._settings.folders)),
            arena_bytes=min(ARENA_BYTES, resources.memory_bytes) if "msgpack" in self._settings.codecs else 0,
            warm=self._settings.is_warm(known.id, lazy=runtime.start == "lazy"),
        )
        scaling = Scaling(
            least=1 if self.runs_alone(known) else runtime.instances.min,
            most=1 if self.runs_alone(known) else runtime.instances.max,
            concurrency=runtime.concurrency,
            shrink_after_s=self._settings.policies.shrink_after_s,
        )
        if known.pace is None or known.pace.calls_per_s != runtime.calls_per_s:
            known.pace = Pace(runtime.calls_per_s) if runtime.calls_per_s is not None else None
        plan = InstancePlan(
            launch=launch,
            limits=ChannelLimits(
                concurrency=runtime.concurrency,
                streams=runtime.streams,
                # What an instance was sent it keeps; where there are others, what it cannot begin soon had better wait in the host.
                sent_ahead=ChannelLimits().sent_ahead if scaling.most == 1 else runtime.concurrency,
                stuck_s=self._settings.policies.health.stuck_after_s,
            ),
            start_timeout_s=resources.start_timeout_s,
            host={"name": self._settings.name, "version": self._settings.version},
            version=manifest.version,
            activation={
                "config": known.config.value if known.config is not None else {},
                "grants": sorted(granted),
                "data_dir": data_dir,
                "log_level": "debug",
            },
            serve=services.serve,
            on_refused=services.note_refusal,
            on_notification=services.notify,
            check=partial(self._dispatcher.check_provided, manifest),
            codecs=tuple(self._settings.codecs),
            open_egress=services.proxy,
            admit=known.pace,
            scaling=scaling,
            stream_drain_s=runtime.stream_drain_s,
            on_ready=partial(self._note_ready, known),
        )
        return plan if learning is None else learning.planned(plan)

    def _note_ready(self, known: KnownPlugin, instance: Instance) -> None:
        if known.manifest is not None:
            self._dispatcher.learn(known.manifest, instance.provided, instance.connection)
        self._tell_unenforced(known, instance.launched.receipt)

    def _tell_unenforced(self, known: KnownPlugin, receipt: Receipt) -> None:
        """Say once what a plugin asks for, or is limited to, that cannot be held here."""
        if known.is_told or known.manifest is None:
            return
        known.is_told = True
        asked = {kind_of(right) for right in known.manifest.permission_set()} | set(LIMITS)
        loose = sorted(name for name in asked if name in receipt.rights and receipt.rights[name].state is EnforcementState.NOT_ENFORCED)
        if loose:
            reason = "; ".join(f"{name}: {receipt.rights[name].why}" for name in loose)
            self._events.add(EventKind.LIMIT_NOT_ENFORCED, plugin=known.id, reason=reason, limits=loose)


def _names(granted: Iterable[str], kind: str) -> tuple[str, ...]:
    """Return the names of the granted rights of a kind."""
    return tuple(sorted(right.partition(":")[2] for right in granted if kind_of(right) == kind))
