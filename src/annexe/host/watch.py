"""The plugins of one host as its monitor sees them, and what is done about those that use too much.

Source: feature IS8; docs/adr/0075-one-task-monitors-all.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.capabilities.egress import EgressLimits
from annexe.clock import Clock
from annexe.host.advice import command
from annexe.host.known import KnownPlugin
from annexe.host.planner import SDK_THREADS
from annexe.host.registry import Registry
from annexe.launch.data_folders import MAX_DATA_ENTRIES, DataFolders, DataUsage
from annexe.manifest import Manifest
from annexe.record import EventKind, Events
from annexe.sandbox.cgroup import GroupUsage
from annexe.supervision.instance import Instance
from annexe.supervision.monitor import Monitor, MonitorPace
from annexe.supervision.usage import family_of
from annexe.supervision.violations import Action, Limits, MonitorPolicy, Phase, Violation

__all__ = ["Watch"]

_LAST = 19  # niceness: it runs when nobody else wants to


@final
@dataclass(frozen=True, slots=True)
class _Running:
    """One running instance; beside others of its plugin it is told apart by its place among them.

    All are listed at every round and few looked at: what only a look needs is worked out then.
    """

    id: str
    running: Instance
    known: KnownPlugin
    manifest: Manifest
    data: DataFolders

    @property
    def instance(self) -> str:
        return self.running.plan.launch.instance

    @property
    def limits(self) -> Limits:
        return _limits(self.manifest)

    @property
    def may_fork(self) -> bool:
        return "subprocess" in self._granted

    @property
    def _granted(self) -> frozenset[str]:
        return self.known.decision.granted if self.known.decision is not None else frozenset()

    def pids(self) -> Sequence[int]:
        main = self.running.launched.pid
        if main is None:
            return ()
        return family_of(main) if self.may_fork else (main,)

    def group_usage(self) -> GroupUsage | None:
        return self.running.launched.group_usage()

    def data_usage(self) -> DataUsage | None:
        is_counted = "data" in self._granted and self.manifest.permissions.data_kept == "disk"
        return self.data.usage(self.id) if is_counted else None


@final
class Watch:
    """Watches the plugins of one host.

    Args:
        registry: Has them.
        data: Their private folders.
        events: Is told of violations.
        policy: The rules.
        pace: How often is looked.
        clock: For the samples.
        state_dir: The host's, for the commands that people are told.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        data: DataFolders,
        events: Events,
        policy: MonitorPolicy,
        pace: MonitorPace,
        clock: Clock,
        state_dir: Path,
    ) -> None:
        self._registry = registry
        self._data = data
        self._events = events
        self._state_dir = state_dir
        self._acts: set[asyncio.Task[None]] = set()
        self.monitor = Monitor(
            self._running, policy=lambda _plugin: policy, on_violation=self._on_violation, act=self._act, clock=clock, pace=pace
        )

    def open(self) -> None:
        """Begin to look."""
        self.monitor.open()

    async def close(self) -> None:
        """Look no more; what was begun is ended."""
        await self.monitor.close()
        await asyncio.gather(*self._acts, return_exceptions=True)

    def _running(self) -> Iterable[_Running]:
        return list(self._each_running())

    def _each_running(self) -> Iterator[_Running]:
        for known in self._registry.plugins.values():
            supervisor, manifest = known.supervisor, known.manifest
            if supervisor is None or manifest is None:
                continue
            for place, instance in enumerate(supervisor.instances if supervisor.guest is None else ()):
                yield _Running(f"{known.id}#{place}" if place else known.id, instance, known, manifest, self._data)

    def _on_violation(self, name: str, violation: Violation) -> None:
        plugin = name.partition("#")[0]
        self._events.add(EventKind.VIOLATION, plugin=plugin, reason=self._told(plugin, violation), **violation.facts())
        if violation.action is Action.THROTTLE and violation.phase is Phase.ENDED:
            self._renice(self._instance_of(name), None)

    def _told(self, plugin: str, violation: Violation) -> str:
        """Return a violation in words, and where it ends the instance also what a person can do."""
        if not (violation.is_to_be_acted_on and violation.action.ends_instance):
            return violation.reason
        cure = violation.cure(folder=str(self._data.folder_of(plugin)))
        # After the other actions it is started again by itself, or its state says how.
        again = f"start it again with: {command(f'restart {plugin}', self._state_dir)}" if violation.action is Action.STOP else ""
        return "; ".join(part for part in (violation.reason, f"to mend it, {cure}" if cure else "", again) if part)

    def _act(self, name: str, violation: Violation) -> None:
        plugin = name.partition("#")[0]
        action, reason = violation.action, self._told(plugin, violation)
        known = self._registry.plugins.get(plugin)
        if known is None or known.supervisor is None or known.supervisor.guest is not None:  # that was the one before
            return
        if action is Action.THROTTLE:
            self._renice(self._instance_of(name), _LAST)
        elif action is Action.STOP:
            task = asyncio.get_running_loop().create_task(known.supervisor.stop(reason), name=f"annexe-violation-{plugin}")
            self._acts.add(task)
            task.add_done_callback(self._acts.discard)
        elif action.ends_instance:
            known.supervisor.fail(reason, for_good=action is Action.QUARANTINE, instance=self._instance_of(name))

    def _instance_of(self, name: str) -> Instance | None:
        plugin, _, place = name.partition("#")
        known = self._registry.plugins.get(plugin)
        supervisor = known.supervisor if known is not None else None
        instances = supervisor.instances if supervisor is not None and supervisor.guest is None else ()
        return instances[int(place or 0)] if int(place or 0) < len(instances) else None

    @staticmethod
    def _renice(instance: Instance | None, niceness: int | None) -> None:
        """Let an instance run after everybody else, or, with None, as it was started; only root can give that back."""
        if instance is None or instance.launched.pid is None:
            return
        usual = os.nice(0) + instance.plan.launch.profile.nice
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, instance.launched.pid, usual if niceness is None else niceness)


def _limits(manifest: Manifest) -> Limits:
    resources, data = manifest.resources, manifest.permissions.data_quota_bytes
    return Limits(
        memory_bytes=resources.memory_bytes,
        cpu_cores=resources.cpu,
        processes=resources.processes,
        threads=resources.processes + SDK_THREADS,
        connections=EgressLimits().connections,
        open_files=resources.open_files,
        disk_bytes=data,
        disk_entries=MAX_DATA_ENTRIES if data is not None else None,
    )
