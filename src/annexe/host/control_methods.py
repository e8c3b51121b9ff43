"""What can be asked over the control socket, and what answers.

One table. Parameters are checked against a struct each; everything else is asked of the room that knows it, as the application could.

Source: docs/reference/control.md has the same table for people; a test holds one to the other.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, final

import msgspec

from annexe import __version__
from annexe.clock import Clock
from annexe.contract import export_schema
from annexe.dispatch.dispatcher import Dispatcher
from annexe.errors import HostError, InvalidParamsError
from annexe.host.asking import Asking
from annexe.host.attaching import Attaching
from annexe.host.control import Answer, Stream
from annexe.host.control_calls import NamedCalls
from annexe.host.control_views import details, summaries, summary
from annexe.host.grant_book import check_as_read
from annexe.host.graph_views import graph_view, impact_view, requirements_view
from annexe.host.hook_views import hooks_view
from annexe.host.permissions import Permissions
from annexe.host.plugin_handle import PluginHandle
from annexe.host.registry import Registry
from annexe.host.reload_preview import preview_view
from annexe.host.service_views import ServiceQuery, schema_view
from annexe.host.settings import HostSettings
from annexe.host.store_thread import StoreThread
from annexe.record import Event, EventKind, Events, Explain, LogStore, Metrics
from annexe.record.entry import rfc3339

__all__ = ["ControlMethods"]

_MAX_EVENTS = 10_000
_FOLLOWED_EVENTS = 1000
_MAX_DEADLINE_S = 600.0
_CHANGE_S = 120.0
_CALL_MARGIN_S = 5.0


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Plugin(msgspec.Struct, forbid_unknown_fields=True):
    plugin: str


class _Logs(msgspec.Struct, forbid_unknown_fields=True):
    plugin: str
    count: int = 100
    follow: bool = False


class _Events(msgspec.Struct, forbid_unknown_fields=True):
    plugin: str | None = None
    kind: str | None = None
    count: int = 100
    follow: bool = False


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    method: str
    plugin: str | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    deadline_s: float | None = None
    key: str | None = None
    request: str | None = None


class _RequestId(msgspec.Struct, forbid_unknown_fields=True):
    request: str


class _Count(msgspec.Struct, forbid_unknown_fields=True):
    count: int = 20


class _Grant(msgspec.Struct, forbid_unknown_fields=True):
    plugin: str
    rights: list[str]
    digest: str | None = None
    by: str = "the operator"
    note: str = ""
    versions: str = ""


class _Revoke(msgspec.Struct, forbid_unknown_fields=True):
    plugin: str
    by: str = "the operator"
    rights: list[str] = []


class _SetConfig(msgspec.Struct, forbid_unknown_fields=True):
    plugin: str
    value: dict[str, Any]
    expected_revision: int | None = None


@final
class ControlMethods:
    """The methods of one host.

    Args:
        settings: The host's.
        state_dir: Where its state is.
        registry: Its plugins.
        dispatcher: Its contracts.
        explain: Its requests.
        events: What happens.
        logs: What plugins say.
        metrics: Figures.
        thread: The store.
        clock: For times that people read.
        scan: Looks into the plugin folders again.
        permissions: Who may do what.
        attaching: Lets processes take the place of plugins.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        state_dir: Path,
        registry: Registry,
        dispatcher: Dispatcher,
        explain: Explain,
        events: Events,
        logs: LogStore,
        metrics: Metrics,
        thread: StoreThread,
        clock: Clock,
        scan: Callable[[], Awaitable[None]],
        permissions: Permissions,
        attaching: Attaching,
    ) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._registry = registry
        self._dispatcher = dispatcher
        self._explain = explain
        self._events = events
        self._logs = logs
        self._metrics = metrics
        self._thread = thread
        self._clock = clock
        self._scan_folders = scan
        self._permissions = permissions
        self._attaching = attaching
        self._asking = Asking(settings, registry)
        self._opened_at = clock.now()
        self._calls = NamedCalls(dispatcher, explain=explain, events=events, clock=clock)
        change = partial(Answer, deadline_s=_CHANGE_S, changes=True)
        self.table: Mapping[str, Answer | Stream] = {
            "status": Answer(_Nothing, self._status),
            "list": Answer(_Nothing, self._list),
            "show": Answer(_Plugin, self._show),
            "permissions": Answer(_Plugin, self._show_permissions),
            "asks": Answer(_Plugin, self._show_asked),
            "graph": Answer(_Nothing, self._graph),
            "impact": Answer(_Plugin, self._impact),
            "logs": Stream(_Logs, self._follow_log),
            "events": Stream(_Events, self._follow_events),
            "call": Answer(_Call, self._call, deadline_s=_MAX_DEADLINE_S + _CALL_MARGIN_S),
            "explain": Answer(_RequestId, self._explain_request),
            "requests": Answer(_Count, self._requests),
            "grant": change(_Grant, self._grant),
            "revoke": change(_Revoke, self._revoke),
            "enable": change(_Plugin, self._done_with(PluginHandle.enable)),
            "disable": change(_Plugin, self._done_with(PluginHandle.disable)),
            "restart": change(_Plugin, self._done_with(PluginHandle.restart)),
            "reload": change(_Plugin, self._done_with(PluginHandle.reload)),
            "reload.preview": Answer(_Plugin, self._preview_reload),
            "start": change(_Plugin, self._done_with(PluginHandle.start)),
            "stop": change(_Plugin, self._done_with(PluginHandle.stop)),
            "attach": Stream(_Plugin, lambda params: self._attaching.attach(params.plugin)),
            "config.get": Answer(_Plugin, self._get_config),
            "config.set": change(_SetConfig, self._set_config),
            "scan": change(_Nothing, self._scan),
            "schema": Answer(_Nothing, self._schema),
            "service.schema": Answer(ServiceQuery, lambda asked: schema_view(self._dispatcher.services, asked)),
            "metrics": Answer(_Nothing, self._figures),
        }

    def _handle(self, plugin: str) -> PluginHandle:
        return PluginHandle(self._registry.get(plugin), self._registry)

    # The host.

    async def _status(self, _params: _Nothing) -> dict[str, Any]:
        now = self._clock.now()
        grants = self._settings.grants
        plugins = await summaries(self._registry.plugins)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "name": self._settings.name,
            "application_version": self._settings.version,
            "state_dir": str(self._state_dir),
            "folders": [str(folder.absolute()) for folder in self._settings.folders],
            "grants": str(grants) if isinstance(grants, Path) else grants,
            "started": rfc3339(self._opened_at),
            "uptime_s": round(now - self._opened_at, 3),
            "plugins": dict(Counter(one["state"] for one in plugins)),
            "isolation": self._settings.isolation,
            "attached": {one["id"]: one["pid"] for one in plugins if one["attached"]},
            "levels": dict(Counter(one["level"] for one in plugins if one["level"])),
            "hooks": sorted(self._dispatcher.pipelines),
            "extensions": sorted(f"{point.name}.{method}" for point in self._dispatcher.points.values() for method in point.methods),
        }

    async def _schema(self, _params: _Nothing) -> dict[str, Any]:
        return export_schema([*self._dispatcher.specs.values(), *self._dispatcher.points.values()])

    async def _figures(self, _params: _Nothing) -> dict[str, Any]:
        return self._metrics.snapshot()

    async def _scan(self, _params: _Nothing) -> dict[str, Any]:
        before = set(self._registry.plugins)
        await self._scan_folders()
        after = set(self._registry.plugins)
        return {"added": sorted(after - before), "removed": sorted(before - after), "known": len(after)}

    # Plugins.

    async def _list(self, _params: _Nothing) -> list[dict[str, Any]]:
        return await summaries(self._registry.plugins)

    async def _show(self, params: _Plugin) -> dict[str, Any]:
        known = self._registry.get(params.plugin)
        figures = self._metrics.snapshot_of(known.id)
        strategy = self._settings.strategy_of(known.id)
        return details(
            self._handle(known.id),
            known,
            strategy=strategy,
            expected=await self._registry.expected_walls(known.id),
            requires=requirements_view(known.id, self._registry.plugins, self._registry.requirements.graph),
            hooks=hooks_view(known.manifest, self._dispatcher),
            breakers=self._dispatcher.open_breakers(known.id),
            figures=figures,
        )

    async def _graph(self, _params: _Nothing) -> dict[str, Any]:
        return graph_view(self._registry.plugins, self._registry.requirements.graph)

    async def _impact(self, params: _Plugin) -> dict[str, Any]:
        return impact_view(params.plugin, self._handle(params.plugin).impact(), self._registry.requirements.graph)

    async def _preview_reload(self, params: _Plugin) -> dict[str, Any]:
        return preview_view(await self._registry.preview_reload(params.plugin))

    async def _show_permissions(self, params: _Plugin) -> dict[str, Any]:
        return await self._permissions.of(params.plugin)

    async def _show_asked(self, params: _Plugin) -> dict[str, Any]:
        return await self._asking.of(params.plugin)

    def _done_with(self, step: Callable[[PluginHandle], Awaitable[None]]) -> Callable[[_Plugin], Awaitable[dict[str, Any]]]:
        async def run(params: _Plugin) -> dict[str, Any]:
            await step(self._handle(params.plugin))
            return summary(self._registry.get(params.plugin))

        return run

    async def _grant(self, params: _Grant) -> dict[str, Any]:
        self._check_grants_are_stored()
        check = partial(check_as_read, rights=params.rights, digest=params.digest)
        to_content = params.digest is not None
        known = await self._registry.grant(
            params.plugin, by=params.by, note=params.note, to_content=to_content, versions=params.versions, check=check
        )
        await known.wait_settled()
        return summary(self._registry.get(known.id))

    async def _revoke(self, params: _Revoke) -> dict[str, Any]:
        self._check_grants_are_stored()
        await self._handle(params.plugin).revoke(by=params.by, rights=params.rights)
        return summary(self._registry.get(params.plugin))

    def _check_grants_are_stored(self) -> None:
        grants = self._settings.grants
        if isinstance(grants, Path):
            text = f"this host takes its grants from the policy file {grants}; change that and start the host again"
            raise HostError(text, reason="policy")
        if grants == "manifest":
            text = 'this host grants every plugin all that it asks for (grants="manifest"); start it without that'
            raise HostError(text, reason="policy")

    async def _get_config(self, params: _Plugin) -> dict[str, Any]:
        config = self._registry.get(params.plugin).config
        if config is None:
            return {"plugin": params.plugin, "value": {}, "written": {}, "revision": 0}
        return {"plugin": params.plugin, "value": config.value, "written": config.written, "revision": config.revision}

    async def _set_config(self, params: _SetConfig) -> dict[str, Any]:
        await self._handle(params.plugin).configure(params.value, expected_revision=params.expected_revision)
        return await self._get_config(_Plugin(params.plugin))

    # Requests.

    async def _call(self, params: _Call) -> dict[str, Any]:
        deadline_s = self._settings.default_deadline_s if params.deadline_s is None else params.deadline_s
        if not 0 < deadline_s <= _MAX_DEADLINE_S:
            raise InvalidParamsError(f"call: expected a deadline_s up to {_MAX_DEADLINE_S:g}, got {deadline_s}", method="call")
        if params.plugin is not None:
            self._registry.get(params.plugin)
        return await self._calls.call(
            params.method,
            plugin=params.plugin,
            args=params.args,
            kwargs=params.kwargs,
            deadline_s=deadline_s,
            key=params.key,
            request_id=params.request,
        )

    async def _explain_request(self, params: _RequestId) -> dict[str, Any]:
        return await asyncio.to_thread(self._explain.find(params.request).render)

    async def _requests(self, params: _Count) -> list[str]:
        return self._explain.latest(params.count)

    # What happened.

    async def _follow_log(self, params: _Logs) -> AsyncGenerator[dict[str, Any], None]:
        plugin = self._registry.get(params.plugin).id
        if not params.follow:
            for record in await asyncio.to_thread(self._logs.tail, plugin, params.count):
                yield record
            return
        async with aclosing(self._logs.follow(plugin, count=params.count)) as records:
            async for record in records:
                yield record

    async def _follow_events(self, params: _Events) -> AsyncGenerator[dict[str, Any], None]:
        kinds = {str(kind) for kind in EventKind}
        if params.kind is not None and params.kind not in kinds:
            raise InvalidParamsError(f"events: expected a kind of {', '.join(sorted(kinds))}, got {params.kind[:64]!r}", method="events")
        new: asyncio.Queue[Event] = asyncio.Queue(_FOLLOWED_EVENTS)
        lost = 0

        def take(event: Event) -> None:
            nonlocal lost
            if params.plugin in (None, event.plugin) and params.kind in (None, str(event.kind)):
                if new.full():
                    lost += 1
                else:
                    new.put_nowait(event)

        unsubscribe = self._events.subscribe(take) if params.follow else lambda: None
        try:
            seen = set()
            for old in await self._stored_events(params):
                seen.add(_identity(old))
                yield old
            while params.follow:
                fresh = _event(await new.get())
                # What came while the store was read may have been read there.
                if _identity(fresh) not in seen:
                    fresh["lost"], lost = lost, 0
                    yield fresh
                if new.empty():
                    seen.clear()
        finally:
            unsubscribe()

    async def _stored_events(self, params: _Events) -> list[dict[str, Any]]:
        count = min(max(params.count, 0), _MAX_EVENTS)
        stored = await self._thread.run(lambda: self._thread.store.events.newest(count, plugin=params.plugin, kind=params.kind))
        return [
            {"time": rfc3339(event.time), "kind": event.kind, "plugin": event.plugin, "reason": event.reason, "facts": dict(event.facts)}
            for event in reversed(stored)
        ]


def _event(event: Event) -> dict[str, Any]:
    facts = dict(event.facts)
    return {"time": rfc3339(event.at), "kind": str(event.kind), "plugin": event.plugin, "reason": event.reason, "facts": facts}


def _identity(event: Mapping[str, Any]) -> tuple[object, ...]:
    return event["time"], event["kind"], event["plugin"], event["reason"]
