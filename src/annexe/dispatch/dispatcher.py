"""What the host opens, and who fills it: from manifests to pipelines.

Everything that can be decided before a call is decided here, when a plugin is added or removed: order, policy, limits, counters.

Source: docs/reference/hooks.md, "Order"; features HK1 to HK7 and EP1 to EP4.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeVar, final

from annexe.channel import Connection, Provided
from annexe.clock import Clock
from annexe.contract import (
    ExtensionDefinition,
    ExtensionPoint,
    HookDefinition,
    HookKind,
    HookSpec,
    SpecDefinition,
    check_distinct,
    definition_of,
)
from annexe.dispatch.breaker import Breaker
from annexe.dispatch.callers import HookCaller, make_caller_class
from annexe.dispatch.events import EventBus
from annexe.dispatch.extensions import Extension, ExtensionCaller
from annexe.dispatch.members import HookMember, Provider
from annexe.dispatch.observers import ObserverQueue, observer_queue
from annexe.dispatch.order import Ordered, absent_names, order_implementations
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.plugin_hooks import OpenHook, PluginHooks
from annexe.dispatch.policy import DispatchPolicy
from annexe.dispatch.provided import check_provided
from annexe.dispatch.request import Request
from annexe.dispatch.services import Services
from annexe.errors import ContractError, PluginUnavailableError
from annexe.manifest import Manifest, contract_problems
from annexe.record import Events, Explain, Metrics

__all__ = ["Dispatcher"]

Entry = TypeVar("Entry", HookMember, Extension)


@final
@dataclass(frozen=True, slots=True)
class _Added:
    manifest: Manifest
    provider: Provider


@final
class Dispatcher:
    """The contracts of one host and the plugins behind them.

    Args:
        contracts: Hook specs and extension points.
        policy: The operator's.
        explain: Gets the steps of requests.
        events: Gets skips and breakers.
        metrics: Gets counts.
        clock: For times that people read.
        command: Makes a command of ``annexe`` for this host from its words.
        declared: Gives the manifests of all plugins that are known, for the hooks that they define.

    Raises:
        ContractError: A contract is defined wrongly, or two share a name.
    """

    def __init__(
        self,
        contracts: Iterable[type[HookSpec] | type[ExtensionPoint]],
        *,
        policy: DispatchPolicy,
        explain: Explain,
        events: Events,
        metrics: Metrics,
        clock: Clock,
        command: Callable[[str], str],
        declared: Callable[[], Iterable[Manifest]],
    ) -> None:
        self._policy = policy
        self._explain = explain
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._plugins: dict[str, _Added] = {}
        self._intricate = set(policy.order)  # hooks and points where more than priority and id decides who comes when, or once did
        self._queues: dict[str, ObserverQueue] = {}
        self.services = Services(policy.services, metrics=metrics, events=events)
        self.bus = EventBus(metrics=metrics, events=events, clock=clock)
        self.pipelines: dict[str, Pipeline] = {}
        self.extensions_by_point: dict[str, tuple[Extension, ...]] = {}
        self._members: dict[str, dict[str, HookMember]] = {}  # of each pipeline, by plugin
        self._extensions: dict[str, dict[str, Extension]] = {}  # of each point whose order is plain, by plugin
        self.specs: dict[str, SpecDefinition] = {}
        self.points: dict[str, ExtensionDefinition] = {}
        self._callers: dict[type[HookSpec], type[HookCaller]] = {}
        self._make_pipeline = partial(Pipeline, explain=explain, events=events, clock=clock, command=command)
        self.plugin_hooks = PluginHooks(
            own=self.specs, make_pipeline=self._make_pipeline, declared=declared, explain=explain, events=events, clock=clock, bus=self.bus
        )
        opened = list(contracts)
        for contract in opened:
            if not (isinstance(contract, type) and issubclass(contract, (HookSpec, ExtensionPoint))):
                raise ContractError(f"{contract!r} is no contract; expected a HookSpec or an ExtensionPoint")
        check_distinct(definition_of(contract) for contract in opened)
        for contract in opened:
            self._open(contract)
        policy.check(hooks=self.pipelines, points=self.points, specs=self.specs)

    def _open(self, contract: type[HookSpec] | type[ExtensionPoint]) -> None:
        if issubclass(contract, HookSpec):
            spec = definition_of(contract)
            self.specs[spec.name] = spec
            for hook in spec.hooks.values():
                self.pipelines[hook.qualified] = self._make_pipeline(hook)
            self._callers[contract] = make_caller_class(spec, self.pipelines, self._queues)
        else:
            point = definition_of(contract)
            self.points[point.name] = point
            self.extensions_by_point[point.name] = ()

    # Who is there.

    def problems(self, manifest: Manifest) -> list[ContractError]:
        """Return what of a manifest does not fit what is open here."""
        hooks = {hook.qualified: hook.revision for spec in self.specs.values() for hook in spec.hooks.values()}
        extensions = {name: point.revision for name, point in self.points.items()}
        strange = manifest.provides.hooks.keys() - hooks.keys()
        by_plugins = self.plugin_hooks.names(wanted=strange) if strange else ()
        return [
            *contract_problems(manifest, hooks=hooks, extensions=extensions, by_plugins=by_plugins),
            *self.plugin_hooks.problems(manifest),
            *self.bus.problems(manifest),
        ]

    def undecided(self) -> list[tuple[str, str]]:
        """Return what the operator decided about hooks that neither the application nor a plugin defines: argument and name."""
        return self._policy.undecided({*self.plugin_hooks.names(), *self.pipelines, *self.points})

    def add(self, manifest: Manifest, provider: Provider, *, is_granted: bool = True) -> None:
        """Let a plugin take part.

        Args:
            manifest: Its.
            provider: It.
            is_granted: It has all the rights that it asks for: the hooks that it defines are its own.

        Raises:
            ContractError: It does not fit, or its place contradicts another's; nothing was changed.
        """
        problems = self.problems(manifest)
        if problems:
            raise problems[0]
        before = self._plugins.get(manifest.id)
        self._plugins[manifest.id] = _Added(manifest, provider)
        try:
            self._arrange(manifest)
            if before is not None:
                self._arrange(before.manifest)  # what it provided until now, and may not any more
        except ContractError:
            del self._plugins[manifest.id]
            if before is not None:
                self._plugins[manifest.id] = before
                self._arrange(before.manifest)
            self._arrange(manifest)
            raise
        self.services.add(manifest, provider)
        self.bus.add(manifest, provider)
        self._define(manifest, is_granted=is_granted)
        if before is None:
            self._queues[manifest.id] = observer_queue(provider, events=self._events, loop=self._loop)

    def _define(self, manifest: Manifest, *, is_granted: bool) -> None:
        """Open the hooks that a plugin defines, and let go of those that it defines no more."""
        opened: list[OpenHook] = []
        if is_granted:
            opened = self.plugin_hooks.claim(manifest)
        else:
            self.plugin_hooks.release(manifest.id)
        self._close_hooks()
        for hook in opened:
            self.pipelines[hook.pipeline.definition.qualified] = hook.pipeline
            self._arrange_afresh(hook.pipeline)

    def _close_hooks(self) -> None:
        """Let go of the pipelines of hooks that nobody defines any more."""
        for name in [name for name in self.pipelines if not self._is_own(name) and name not in self.plugin_hooks.opened]:
            del self.pipelines[name]
            self._members.pop(name, None)

    def _is_own(self, hook: str) -> bool:
        """Say whether a hook is the application's, or would have to be by its name."""
        return hook.partition(".")[0] in self.specs

    def learn(self, manifest: Manifest, provided: Provided, connection: Connection) -> None:
        """Take over what the code of an instance says of itself."""
        self.services.learn(manifest, provided, connection)
        for name in self.plugin_hooks.learn(manifest.id, provided):
            if name in self.plugin_hooks.opened and name in manifest.provides.hooks:
                self._arrange_hook(name, manifest)

    def remove(self, plugin: str) -> None:
        """Let a plugin take part no more."""
        added = self._plugins.pop(plugin, None)
        if added is None:
            return
        self._arrange(added.manifest)
        self.services.remove(plugin)
        self.bus.remove(plugin)
        self.plugin_hooks.forget(plugin)
        self._close_hooks()
        self._queues.pop(plugin).close()

    def forgive(self, plugin: str) -> None:
        """Close a plugin's breakers: it is started afresh, or another instance has taken over."""
        for _, member in self._places_of(plugin):
            member.breaker.close()
            member.failing = False

    def open_breakers(self, plugin: str) -> dict[str, float]:
        """Return, by hook, for how many seconds more a plugin is passed over there."""
        now = monotonic()
        left_s = {hook: member.breaker.retry_in_s(now) for hook, member in self._places_of(plugin)}
        return {hook: seconds for hook, seconds in left_s.items() if seconds}

    def _places_of(self, plugin: str) -> Iterator[tuple[str, HookMember]]:
        for hook in self._plugins[plugin].manifest.provides.hooks if plugin in self._plugins else ():
            members = self.pipelines[hook].members if hook in self.pipelines else ()
            yield from ((hook, member) for member in members if member.provider.id == plugin)

    def implementers(self, hook: str) -> tuple[list[str], dict[str, str]]:
        """Return who implements a hook of a plugin's: those that are called, in order; and those that are not, with why."""
        members = self.pipelines[hook].members if hook in self.pipelines else ()
        all_of_them = {plugin: added.manifest.provides.hooks[hook] for plugin, added in sorted(self._implementing(hook).items())}
        reasons = {plugin: self.plugin_hooks.misfit(plugin, hook, impl) for plugin, impl in all_of_them.items()}
        return [member.provider.id for member in members], {plugin: why for plugin, why in reasons.items() if why is not None}

    def close(self) -> None:
        """Forget what waits for observers."""
        self.plugin_hooks.close()
        for queue in self._queues.values():
            queue.close()

    def _arrange(self, changed: Manifest) -> None:
        """Work out afresh who comes when, wherever the changed plugin takes part."""
        for name in changed.provides.hooks:
            self._arrange_hook(name, changed)
        for name in changed.provides.extensions:
            self._arrange_point(self.points[name], changed.id)

    def _arrange_hook(self, name: str, changed: Manifest) -> None:
        impl, pipeline = changed.provides.hooks[name], self.pipelines.get(name)
        if impl.before or impl.after:
            self._intricate.add(name)
        if name in self._intricate and not self._is_own(name):
            # Also where nobody defines it yet: whoever contradicts the others is refused now, and not whoever comes to define it.
            ordered = [_ordered(plugin, added.manifest, name) for plugin, added in self._implementing(name).items()]
            order_implementations(ordered, self._policy.order.get(name, ()))
        if pipeline is None:
            return
        if name in self._intricate:
            self._arrange_afresh(pipeline)
            return
        members, added = self._members.setdefault(name, {}), self._plugins.get(changed.id)
        before = members.pop(changed.id, None)
        new = self._member(pipeline.definition, added, before) if added is not None and self._fits(name, added) else None
        if new is not None:
            members[changed.id] = new
        pipeline.members = _placed(pipeline.members, before, new)

    def _arrange_afresh(self, pipeline: Pipeline) -> None:
        """Work out who comes when from all that implement a hook."""
        hook = pipeline.definition
        here = {plugin: added for plugin, added in self._implementing(hook.qualified).items() if self._fits(hook.qualified, added)}
        ordered = [_ordered(plugin, added.manifest, hook.qualified) for plugin, added in here.items()]
        operator_order = self._policy.order.get(hook.qualified, ())
        old = {member.provider.id: member for member in pipeline.members}
        names = order_implementations(ordered, operator_order)
        pipeline.members = tuple(self._member(hook, here[name], old.get(name)) for name in names)
        self._members[hook.qualified] = {member.provider.id: member for member in pipeline.members}
        pipeline.absent = tuple(absent_names(ordered, operator_order))

    def _implementing(self, hook: str) -> dict[str, _Added]:
        return {plugin: added for plugin, added in self._plugins.items() if hook in added.manifest.provides.hooks}

    def _fits(self, hook: str, added: _Added) -> bool:
        impl = added.manifest.provides.hooks.get(hook)
        return impl is not None and self.plugin_hooks.misfit(added.manifest.id, hook, impl) is None

    def _member(self, hook: HookDefinition, added: _Added, old: HookMember | None) -> HookMember:
        manifest, rules = added.manifest, self._policy.on_failure
        impl = manifest.provides.hooks[hook.qualified]
        policies = (hook.on_failure, impl.on_failure, rules.get(hook.qualified), rules.get(manifest.id))
        timeout_s = manifest.resources.call_timeout_s
        return HookMember(
            provider=added.provider,
            priority=impl.priority,
            closed="closed" in policies and hook.kind is not HookKind.OBSERVER,  # nobody waits for an observer
            run_s=timeout_s if hook.budget_s is None else min(hook.budget_s, timeout_s),
            breaker=Breaker(self._policy.breaker) if old is None else old.breaker,
            figures=self._metrics.method(manifest.id, hook.method),
            failing=old is not None and old.failing,
        )

    def _arrange_point(self, point: ExtensionDefinition, changed: str) -> None:
        if point.name not in self._intricate:
            added = self._plugins.get(changed)
            extensions = self._extensions.setdefault(point.name, {})
            before = extensions.pop(changed, None)
            is_here = added is not None and point.name in added.manifest.provides.extensions
            new = self._extension(point, added) if added and is_here else None
            if new is not None:
                extensions[changed] = new
            self.extensions_by_point[point.name] = _placed(self.extensions_by_point[point.name], before, new)
            return
        here = {plugin: added for plugin, added in self._plugins.items() if point.name in added.manifest.provides.extensions}
        ordered = [
            Ordered(plugin=plugin, priority=added.manifest.provides.extensions[point.name].priority) for plugin, added in here.items()
        ]
        names = order_implementations(ordered, self._policy.order.get(point.name, ()))
        self.extensions_by_point[point.name] = tuple(self._extension(point, here[name]) for name in names)

    def _extension(self, point: ExtensionDefinition, added: _Added) -> Extension:
        return Extension(
            provider=added.provider,
            priority=added.manifest.provides.extensions[point.name].priority,
            definition=point,
            call_timeout_s=added.manifest.resources.call_timeout_s,
            figures={method.name: self._metrics.method(added.manifest.id, method.method) for method in point.methods.values()},
            explain=self._explain,
            events=self._events,
            clock=self._clock,
        )

    def check_provided(self, manifest: Manifest, provided: Provided) -> None:
        """Hold what a plugin's code provides against its verified manifest and the contracts; see ``provided.check_provided``."""
        hooks = {name: pipeline.definition for name, pipeline in self.pipelines.items() if name in manifest.provides.hooks}
        check_provided(manifest, provided, hooks=hooks, points=self.points)

    # What the application calls.

    def hooks(self, spec: type[HookSpec], request: Request | None, new_request: Callable[[], Request]) -> Any:
        """Return the object whose methods call the hooks of a spec."""
        caller = self._callers.get(spec)
        if caller is None:
            raise ContractError(f"{spec.__name__} is not open in this host; pass it in Host(contracts=[{spec.__name__}])")
        return caller(request, new_request)

    def extensions(self, point: type[ExtensionPoint], new_request: Callable[[], Request]) -> list[ExtensionCaller]:
        """Return one caller for each plugin at an extension point, best first."""
        return [extension.caller(new_request) for extension in self._extensions_at(point)]

    def extension(self, point: type[ExtensionPoint], new_request: Callable[[], Request]) -> ExtensionCaller:
        """Return the caller for the best plugin at an extension point.

        Raises:
            PluginUnavailableError: None is installed.
        """
        extensions = self._extensions_at(point)
        if not extensions:
            name = point.contract_name
            text = f'no plugin fills the extension point {name!r}; install one that has [provides.extensions] "{name}" in its plugin.toml'
            raise PluginUnavailableError(text, method=f"ext.{name}", point=name)
        return extensions[0].caller(new_request)

    def _extensions_at(self, point: type[ExtensionPoint]) -> tuple[Extension, ...]:
        extensions = self.extensions_by_point.get(point.contract_name)
        if extensions is None:
            raise ContractError(f"{point.__name__} is not open in this host; pass it in Host(contracts=[{point.__name__}])")
        return extensions


def _placed(entries: tuple[Entry, ...], old: Entry | None, new: Entry | None) -> tuple[Entry, ...]:
    """Return entries in order without one plugin's old one and with its new one: all others stay, and are not looked at one by one."""
    if old is not None:
        at = bisect_left(entries, _rank(old), key=_rank)
        entries = entries[:at] + entries[at + 1 :]
    if new is not None:
        at = bisect_left(entries, _rank(new), key=_rank)
        entries = entries[:at] + (new,) + entries[at:]  # noqa: RUF005 - unpacked it would be another type to mypy
    return entries


def _rank(entry: Entry) -> tuple[int, str]:
    return entry.priority, entry.provider.id


def _ordered(plugin: str, manifest: Manifest, hook: str) -> Ordered:
    impl = manifest.provides.hooks[hook]
    return Ordered(plugin=plugin, priority=impl.priority, before=tuple(impl.before), after=tuple(impl.after))
