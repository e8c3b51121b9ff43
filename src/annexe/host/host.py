"""``Host``: runs plugins for one application.

It composes the rooms below and owns their lives; it decides nothing itself.

Source: docs/reference/host.md; docs/explanation/architecture.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, final

from annexe.capabilities.kv import KvService
from annexe.capabilities.services import Capability
from annexe.channel import CodecName
from annexe.clock import Clock, SystemClock
from annexe.contract import ExtensionPoint, HookSpec, capability_definition, check_distinct
from annexe.dispatch.breaker import BreakerPolicy
from annexe.dispatch.dispatcher import Dispatcher
from annexe.dispatch.listeners import TopicEvent
from annexe.dispatch.policy import DispatchPolicy
from annexe.dispatch.request import Request
from annexe.dispatch.service_offers import ServicePolicy
from annexe.errors import ConfigInvalidError, HostClosedError, WrongContextError
from annexe.host.advice import Advice, command
from annexe.host.attaching import Attaching
from annexe.host.control import ControlServer
from annexe.host.control_methods import ControlMethods
from annexe.host.judge import Judge
from annexe.host.known import KnownPlugin
from annexe.host.learning import Learning
from annexe.host.permissions import Permissions
from annexe.host.planner import Planner
from annexe.host.plugin_handle import PluginHandle
from annexe.host.registry import Registry
from annexe.host.requests import RequestScope
from annexe.host.requirements import Requirements
from annexe.host.right_uses import RightUses
from annexe.host.settings import Grants, HostSettings, StrategyName
from annexe.host.state_dir import StateDir, default_data_dir, default_state_dir
from annexe.host.store_thread import StoreThread
from annexe.host.watch import Watch
from annexe.ids import MAX_REQUEST_ID_CHARS, RequestIds, is_request_id
from annexe.launch import InProcessStrategy, LaunchStrategy, ProcessStrategy, PythonFinder
from annexe.launch.data_folders import DataFolders
from annexe.launch.uids import DEFAULT_UID_RANGE
from annexe.manifest.files import open_file
from annexe.record import Event, EventKind, Events, Explain, LogStore, Metrics
from annexe.storage.kv import KvStore
from annexe.supervision.policies import Policies
from annexe.trust.grants import MANIFEST_MODE_WARNING
from annexe.trust.policy import MAX_POLICY_BYTES, Policy, parse_policy

__all__ = ["Host"]

S = TypeVar("S", bound=HookSpec)
E = TypeVar("E", bound=ExtensionPoint)

_MAX_OPENING_S = 60.0
_LOGGED_EVENTS = frozenset(
    {
        EventKind.ATTACHED,
        EventKind.DETACHED,
        EventKind.ATTACH_REFUSED,
        EventKind.CALL_FAILED,
        EventKind.INVALID_RESULT,
        EventKind.HOOK_SKIPPED,
        EventKind.HOOK_FAILED,
        EventKind.BREAKER_OPENED,
        EventKind.BREAKER_CLOSED,
        EventKind.PROTOCOL_ERROR,
        EventKind.STUCK,
        EventKind.TREE_KILL_SOFT,
        EventKind.METRIC_DROPPED,
        EventKind.EVENT_DROPPED,
    }
)


@final
class Host:
    """Runs plugins and calls them through typed hooks and extension points.

    Args:
        plugins: Folder of plugins, or several; a folder that is itself a plugin will do.
        contracts: Hook specs and extension points that are open to plugins.
        capabilities: Objects of classes with a ``name`` and typed ``async def`` methods, which plugins may be granted.
        grants: ``"stored"``: what people granted (default deny); a path: a policy file; ``"manifest"``: all that is asked, for development.
        state_dir: Where state is kept, one host at a time; by default a folder of the user's.
        data_dir: Where plugins' private folders are kept; by default in the state directory, for root in ``/var/lib/annexe``.
        config: Configuration by plugin id, in place of what is stored.
        isolation: The lowest sandbox level at which a plugin may run here; one that cannot have it is blocked.
        strategy: ``"process"``; ``"zygote"`` to fork each instance from a fork server of the plugin's own, as is done for lazy plugins
            anyway; ``"in-process"`` for trusted code in development and tests; or by plugin id.
        production: Refuse what is for development: ``grants="manifest"`` and unnamed in-process plugins.
        pythons: Further Python interpreters that plugins may run on, for those whose ``.venv`` fits neither the host's nor the system's.
        order: By hook or extension point: plugin ids that come first.
        on_failure: By hook or plugin id: ``"closed"`` makes a policy stricter.
        services: By service: which plugin answers where several offer it.
        policies: Restart, health and stop rules.
        breaker: When a plugin is passed over at a hook where it keeps failing.
        name: Of the application, as told to plugins.
        version: Of the application.
        default_deadline_s: For requests that name none, in seconds.
        codecs: Offered to plugins, best first.
        control: Listen on the control socket, for the ``annexe`` command.
        attach: Let processes that were started by hand, under a debugger, take the place of plugins, as ``grants="manifest"`` does
            anyway; see ``annexe attach``.
        explain_values: Explain keeps what plugins were given and gave; without, who did what and when remains.
        unsafe_learning: For ``annexe learn`` alone: what a plugin needs is written down, with the walls off.
        clock: For tests.

    Use it as ``async with Host(…) as host``: entering waits until every eager plugin is ready or has failed, for 60 seconds at
    most: one that is not done by then stays ``starting``, and its start timeout decides.

    Raises:
        ContractError: On entering: a contract or capability is defined wrongly.
        ConfigInvalidError: On entering: the policy file cannot be followed.
        HostAlreadyRunningError: On entering: another host holds the state directory.
        StorageError: On entering: the store cannot be opened.
    """

    def __init__(
        self,
        *,
        plugins: str | Path | Sequence[str | Path] = "plugins",
        contracts: Sequence[type[HookSpec] | type[ExtensionPoint]] = (),
        capabilities: Sequence[Any] = (),
        grants: Literal["stored", "manifest"] | str | Path = "stored",
        state_dir: str | Path | None = None,
        data_dir: str | Path | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        isolation: str = "none",
        strategy: StrategyName | Mapping[str, StrategyName] = "process",
        production: bool = False,
        pythons: Sequence[str | Path] = (),
        order: Mapping[str, Sequence[str]] | None = None,
        on_failure: Mapping[str, Literal["open", "closed"]] | None = None,
        services: Mapping[str, ServicePolicy] | None = None,
        policies: Policies | None = None,
        breaker: BreakerPolicy | None = None,
        name: str = "application",
        version: str = "0",
        default_deadline_s: float = 30.0,
        codecs: Sequence[CodecName] = ("msgpack", "json"),
        control: bool = True,
        attach: bool = False,
        explain_values: bool = True,
        unsafe_learning: Learning | None = None,
        clock: Clock | None = None,
    ) -> None:
        folders = [plugins] if isinstance(plugins, (str, Path)) else list(plugins)
        state = Path(state_dir) if state_dir is not None else default_state_dir()
        self._settings = HostSettings(
            folders=[Path(folder) for folder in folders],
            contracts=contracts,
            capabilities=capabilities,
            state_dir=state,
            data_dir=Path(data_dir) if data_dir is not None else default_data_dir(state),
            grants=_grants(grants),
            config=config or {},
            isolation=isolation,
            strategy=strategy,
            production=production,
            pythons=[Path(python) for python in pythons],
            name=name,
            version=version,
            default_deadline_s=default_deadline_s,
            codecs=codecs,
            control=control,
            attach=attach,
            explain_values=explain_values,
            unsafe_learning=unsafe_learning,
            dispatch=DispatchPolicy(
                order=order or {}, on_failure=on_failure or {}, breaker=breaker or BreakerPolicy(), services=services or {}
            ),
            policies=policies or Policies(),
        )
        self._clock = clock or SystemClock()
        self._owner_pid = os.getpid()
        self._stack: AsyncExitStack | None = None
        self._new_request: Callable[[], Request] = self._closed
        self._ids = RequestIds()

    # Life.

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def open(self) -> None:
        """Take the state directory, find the plugins and start them; wait until every eager one is ready or failed, a minute at most."""
        self._check_process()
        if self._stack is not None:
            raise WrongContextError("this host is open already")
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        self._new_request = self._make_request
        try:
            await self._wait_settled()
        except BaseException:  # called off while plugins start: nobody will close what was not opened
            await self.close()
            raise

    async def _open(self, stack: AsyncExitStack) -> None:
        """Open every room, each closed again when the stack unwinds."""
        settings, clock = self._settings, self._clock
        self._loop = asyncio.get_running_loop()
        self.state_dir = StateDir.hold(settings.state_dir)
        stack.callback(self.state_dir.release)
        self.metrics = Metrics()
        self.events = Events(clock, count=self.metrics.count_event)
        self._explain = Explain(keeps_values=settings.explain_values)
        self.logs = LogStore(self.state_dir.logs, clock, on_dropped=self._on_log_dropped)
        stack.push_async_callback(asyncio.to_thread, self.logs.close)
        stack.callback(self.events.subscribe(self._log_event))
        thread = StoreThread()
        await thread.open(self.state_dir.path, now_s=clock.now())
        stack.push_async_callback(thread.close)
        stack.callback(self.events.subscribe(thread.add_event))
        uses = RightUses(thread, clock)
        stack.callback(uses.close)
        kv = KvService(await asyncio.to_thread(KvStore.open, self.state_dir.kv), clock)
        await kv.open()
        stack.push_async_callback(kv.close)
        plugins: dict[str, KnownPlugin] = {}
        dispatcher = self._dispatcher = Dispatcher(
            settings.contracts,
            policy=settings.dispatch,
            explain=self._explain,
            events=self.events,
            metrics=self.metrics,
            clock=clock,
            command=partial(command, state_dir=settings.state_dir),
            declared=lambda: [known.manifest for known in plugins.values() if known.manifest is not None],
        )
        stack.callback(dispatcher.close)
        stack.push_async_callback(dispatcher.bus.close)
        strategies = await self._open_strategies(stack)
        if settings.grants == "manifest":
            self.events.add(EventKind.HOST_STARTED, reason=MANIFEST_MODE_WARNING)
            _warn(MANIFEST_MODE_WARNING)
        else:
            self.events.add(EventKind.HOST_STARTED, reason="opened", pid=os.getpid())
        data = self._data
        policy = await asyncio.to_thread(_read_policy, settings.grants)
        advice = Advice(settings.state_dir, settings.grants if isinstance(settings.grants, Path) else None)
        requirements = Requirements(plugins)
        judge = Judge(settings, dispatcher=dispatcher, thread=thread, policy=policy, clock=clock, requirements=requirements, advice=advice)
        planner = Planner(
            settings,
            judge=judge,
            requirements=requirements,
            dispatcher=dispatcher,
            kv=kv,
            capabilities=_capabilities(settings.capabilities),
            logs=self.logs,
            metrics=self.metrics,
            events=self.events,
            advice=advice,
            data=data,
            uses=uses,
        )
        self._registry = Registry(
            settings,
            plugins,
            requirements=requirements,
            judge=judge,
            planner=planner,
            dispatcher=dispatcher,
            strategies=strategies,
            thread=thread,
            kv=kv,
            logs=self.logs,
            events=self.events,
            metrics=self.metrics,
            clock=clock,
        )
        stack.push_async_callback(self._registry.stop_all, "the host stopped")
        self._watch = Watch(
            self._registry,
            data=data,
            events=self.events,
            policy=settings.policies.monitor,
            pace=settings.policies.pace,
            clock=clock,
            state_dir=self.state_dir.path,
        )
        stack.push_async_callback(self._watch.close)
        self._registry.monitor = self._watch.monitor
        await self._registry.scan()
        self._watch.open()
        for plugin, argument in settings.plugins_named.items():
            if plugin not in self._registry.plugins:
                _warn(f"{argument} names plugin {plugin!r}, which is in none of the folders")
        for argument, name in dispatcher.undecided():
            _warn(f"{argument} names hook {name!r}, which the host does not open and no plugin defines")
        if settings.control:
            await self._open_control(stack, thread, uses, planner)

    async def _open_control(self, stack: AsyncExitStack, thread: StoreThread, uses: RightUses, planner: Planner) -> None:
        attaching = Attaching(
            self._settings,
            registry=self._registry,
            planner=planner,
            events=self.events,
            forgive=self._dispatcher.forgive,
            path=self.state_dir.attach_socket,
        )
        methods = ControlMethods(
            self._settings,
            state_dir=self.state_dir.path,
            registry=self._registry,
            dispatcher=self._dispatcher,
            explain=self._explain,
            events=self.events,
            logs=self.logs,
            metrics=self.metrics,
            thread=thread,
            clock=self._clock,
            scan=self.scan,
            permissions=Permissions(self._settings, registry=self._registry, thread=thread, uses=uses),
            attaching=attaching,
        )
        control = ControlServer(self.state_dir, methods)
        await control.open()
        stack.push_async_callback(control.close)
        stack.push_async_callback(attaching.close)  # first: what hangs up then is not to bring anything back

    async def _open_strategies(self, stack: AsyncExitStack) -> Mapping[str, LaunchStrategy]:
        self._data = DataFolders(self._settings.data_dir, plugin_uids=DEFAULT_UID_RANGE if _is_root() else range(0))
        learning = self._settings.unsafe_learning
        make = ProcessStrategy if learning is None else partial(ProcessStrategy, offers=learning.offers())
        processes = make(state_dir=self.state_dir.path, pythons=PythonFinder(given=self._settings.pythons), data=self._data)
        stack.push_async_callback(processes.close)
        for swept in await processes.sweep():
            reason = f"{swept.killed} processes of {swept.instance} outlived an earlier host"
            self.events.add(EventKind.ORPHAN_SWEPT, plugin=swept.plugin, reason=reason, killed=swept.killed, gone=swept.gone)
        inside = InProcessStrategy()
        stack.push_async_callback(inside.close)
        return {"process": processes, "zygote": processes, "in-process": inside}

    async def close(self) -> None:
        """Stop every plugin in order and give everything back. Idempotent."""
        self._check_process()
        stack, self._stack = self._stack, None
        if stack is not None:
            self._new_request = self._closed
            self.events.add(EventKind.HOST_STOPPED, reason="closed")
            await stack.aclose()

    def _log_event(self, event: Event) -> None:
        """Tell a plugin's faults in its own log, where its author looks first; events are rate-limited already."""
        if event.plugin is not None and event.kind in _LOGGED_EVENTS:
            self.logs.sink(event.plugin).write("warning", event.reason, {"event": event.kind, **event.facts}, source="host")

    def _on_log_dropped(self, plugin: str, count: int) -> None:
        # Comes on the log's own thread.
        self._loop.call_soon_threadsafe(
            lambda: self.events.add(EventKind.LOG_DROPPED, plugin=plugin, reason="too many lines", dropped_count=count)
        )

    def _check_process(self) -> None:
        if os.getpid() != self._owner_pid:
            text = "this host belongs to the process that made it, and this is a forked child; make a Host here, after the fork"
            raise WrongContextError(text)

    # Requests and calls.

    def request(
        self,
        *,
        id: str | None = None,
        deadline_s: float | None = None,
        key: str | None = None,
        traceparent: str | None = None,
    ) -> RequestScope:
        """Begin a request: ``async with host.request(deadline_s=2.0) as request``.

        Args:
            id: The application's correlation id: 1 to 128 printable characters without blanks; by default a new one.
            deadline_s: The roof over everything done for the request, in seconds from now.
            key: The application's key for it: tenant, user, API key; plugins see it as ``ctx.key``.
            traceparent: W3C trace context to go on with; by default a new trace.

        Raises:
            HostClosedError: The host is not open.
            ValueError: The id is not well-formed.
        """
        self._new_request_or_raise()
        seconds = self._settings.default_deadline_s if deadline_s is None else deadline_s
        if id is not None and not is_request_id(id):
            raise ValueError(f"expected a request id of 1 to {MAX_REQUEST_ID_CHARS} printable characters without blanks, got {id!r}")
        new_id, new_traceparent = self._ids.new()
        request = Request(id=id or new_id, deadline=monotonic() + seconds, key=key, traceparent=traceparent or new_traceparent)
        return RequestScope(request, self._dispatcher)

    def hooks(self, spec: type[S]) -> S:
        """Return the hooks of a spec; each call makes a request of its own.

        Raises:
            ContractError: The spec is not open in this host.
            HostClosedError: The host is not open.
        """
        self._new_request_or_raise()
        hooks: S = self._dispatcher.hooks(spec, None, self._new_request)
        return hooks

    def extension(self, point: type[E]) -> E:
        """Return the plugin at an extension point: the operator's choice, else the lowest priority, then id.

        Raises:
            PluginUnavailableError: None is installed.
            ContractError: The extension point is not open in this host.
            HostClosedError: The host is not open.
        """
        self._new_request_or_raise()
        extension: Any = self._dispatcher.extension(point, self._new_request)
        return extension  # type: ignore[no-any-return]  # it has the point's methods

    def extensions(self, point: type[E]) -> list[E]:
        """Return every plugin at an extension point, best first."""
        self._new_request_or_raise()
        extensions: Any = self._dispatcher.extensions(point, self._new_request)
        return extensions  # type: ignore[no-any-return]  # they have the point's methods

    def publish(self, topic: str, value: Any = None) -> int:
        """Publish an event for the plugins, and functions of the application, that subscribed to its topic; waits for none of them.

        Args:
            topic: A dotted name, such as ``orders.paid``.
            value: Plain values, bytes included; 64 KiB at most.

        Returns:
            For how many it was queued.

        Raises:
            ValueError: That is no name of a topic.
            InvalidParamsError: The value cannot be sent.
            PluginBusyError: Events lead to events, 16 deep.
            HostClosedError: The host is not open.
        """
        self._new_request_or_raise()
        return self._dispatcher.bus.publish_for_application(topic, value)

    def subscribe(self, topic: str, callback: Callable[[TopicEvent], Awaitable[None] | None]) -> Callable[[], None]:
        """Have a function called with each event of a topic, one after the other; return what ends that.

        Args:
            topic: A dotted name.
            callback: A ``def``, which must not block, or an ``async def``. While a thousand events wait for it, the oldest are lost.

        Raises:
            ValueError: That is no name of a topic.
            HostClosedError: The host is not open.
        """
        self._new_request_or_raise()
        return self._dispatcher.bus.subscribe(topic, callback)

    def explain(self, request_id: str) -> dict[str, Any]:
        """Return what plugins did to a request: who ran, in which order, how long, what each changed, who was skipped and why.

        Raises:
            HostError: No such request is remembered.
        """
        self._check_process()
        return self._explain.render(request_id)

    def _new_request_or_raise(self) -> None:
        self._check_process()
        if self._stack is None:
            raise HostClosedError("this host is not open; use it inside `async with Host(…) as host`")

    def _make_request(self) -> Request:
        request_id, traceparent = self._ids.new()
        return Request(id=request_id, deadline=monotonic() + self._settings.default_deadline_s, key=None, traceparent=traceparent)

    def _closed(self) -> Request:
        raise HostClosedError("this host is not open; use it inside `async with Host(…) as host`")

    # Plugins.

    @property
    def plugins(self) -> list[PluginHandle]:
        """Every plugin that was found, by id, broken ones included."""
        return [PluginHandle(known, self._registry) for _, known in sorted(self._registry.plugins.items())]

    def plugin(self, plugin: str) -> PluginHandle:
        """Return one plugin.

        Raises:
            UnknownPluginError: There is none of that id.
        """
        return PluginHandle(self._registry.get(plugin), self._registry)

    async def scan(self) -> None:
        """Look into the plugin folders again: take up what is new or mended, let go of what is gone.

        A plugin that runs goes on as it was started; ``restart`` takes up what changed in its folder.
        """
        await self._registry.scan()
        await self._wait_settled()

    async def _wait_settled(self) -> None:
        """Wait while plugins start, but not for ever: no plugin decides how long the application waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_MAX_OPENING_S):
                await self._registry.wait_settled()


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _grants(grants: str | Path) -> Grants:
    if grants in ("stored", "manifest"):
        return "manifest" if grants == "manifest" else "stored"
    return Path(grants)


def _read_policy(grants: Grants) -> Policy | None:
    if not isinstance(grants, Path):
        return None
    try:
        with open_file(grants.resolve()) as file:
            text = file.read(MAX_POLICY_BYTES + 1)  # one more than is accepted
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise ConfigInvalidError(f"the policy file {grants} {problem}", source=str(grants), problems=[problem]) from error
    return parse_policy(text, source=str(grants))


def _capabilities(objects: Iterable[Any]) -> dict[str, Capability]:
    capabilities = [Capability(capability_definition(type(target)), target) for target in objects]
    check_distinct(capability.definition for capability in capabilities)
    return {capability.definition.name: capability for capability in capabilities}


def _warn(text: str) -> None:
    import logging

    logging.getLogger("annexe.host").warning(text)
