"""Hooks that plugins define: whose they are, and the way of a call from the one that defines it to those that implement it.

* A name belongs to one plugin, the first that was granted it. It is free again when that one takes part no more. The application's own
  names nobody can have.
* Only who defines a hook calls it. Who implements it changes with the set of plugins, never with a call.
* Who implements a hook in another revision, or as another kind, is passed over until both fit; that is no fault of either.
* What runs is the pipeline that runs the application's hooks, on behalf of the request that the plugin works on.
* An instance calls the hook as its own manifest defined it, whatever the next one made of it.

Source: feature HK5; docs/how-to/define-hooks-in-a-plugin.md; ADR-0096.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, final

from annexe.capabilities.retry_bucket import RetryBucket
from annexe.channel import PluginCall, Provided
from annexe.clock import Clock
from annexe.contract import HookDefinition, HookKind, decode_params
from annexe.dispatch.events import MAX_DEPTH, EventBus
from annexe.dispatch.hook_definitions import hook_definition, schema_faults
from annexe.dispatch.lanes import Lanes
from annexe.dispatch.members import Provider
from annexe.dispatch.observers import MAX_WAITING, Observation, ObserverQueue, encoded_params, observer_queue
from annexe.dispatch.pipeline import Pipeline
from annexe.dispatch.request import Request, request_behind
from annexe.errors import ContractError, PluginBusyError, PluginUnavailableError, RateLimitedError
from annexe.ids import RequestIds
from annexe.manifest import Manifest
from annexe.manifest.model import HookImpl, HookSpecOffer
from annexe.record import Events, Explain
from annexe.record.explain import RequestRecord

__all__ = ["HookRoute", "OpenHook", "PluginHooks"]

_MAX_WAITING_BYTES = 8 * 1024 * 1024
# Of each second of the host's, how much the values at one plugin's hooks may take; and how much at once.
_SHARE, _AT_ONCE_S = 0.25, 0.5


@final
@dataclass(frozen=True, slots=True)
class OpenHook:
    """A hook as one plugin defines it."""

    plugin: str
    offer: HookSpecOffer
    pipeline: Pipeline


@final
class PluginHooks:
    """The hooks that the plugins of one host define.

    Args:
        own: Specs of the application, by name.
        make_pipeline: Makes the pipeline of a hook.
        declared: Gives the manifests of all plugins that are known, whether they may start or not.
        explain: Gets the steps of requests.
        events: Is told of what observers miss.
        clock: For times that people read.
        bus: Knows what led to a call.

    Attributes:
        opened: By qualified name.
        on_changed: Told of names that are another plugin's, or nobody's, from now on.
    """

    def __init__(
        self,
        *,
        own: Collection[str],
        make_pipeline: Callable[[HookDefinition], Pipeline],
        declared: Callable[[], Iterable[Manifest]],
        explain: Explain,
        events: Events,
        clock: Clock,
        bus: EventBus,
    ) -> None:
        self._own = own
        self._make_pipeline = make_pipeline
        self._declared = declared
        self._explain = explain
        self._events = events
        self._clock = clock
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._ids = RequestIds()
        self._once_known: set[str] = set()
        self._kinds: dict[tuple[str, str], str] = {}  # by plugin and hook, as its code says
        self._queues: dict[str, ObserverQueue] = {}
        self._buckets: dict[str, RetryBucket] = {}
        self.opened: dict[str, OpenHook] = {}
        self.on_changed: Callable[[frozenset[str]], None] = lambda _: None

    # Whose a name is.

    def names(self, *, wanted: Collection[str] = ()) -> Collection[str]:
        """Return every name that a plugin defines, would define if it were granted it, or once did.

        Args:
            wanted: Look no further where these are known already.
        """
        if not wanted or not self._once_known.issuperset(wanted):
            self._once_known.update(name for manifest in self._declared() for name in manifest.provides.hook_specs)
        return self._once_known

    def problems(self, manifest: Manifest) -> list[ContractError]:
        """Return what of the hooks that a manifest defines cannot be had."""
        plugin, found = manifest.id, []
        for name, offer in manifest.provides.hook_specs.items():
            spec, holder = name.partition(".")[0], self.opened.get(name)
            if spec in self._own:
                text = f"plugin {plugin!r} defines hook {name!r}, but the hooks of {spec!r} are the application's own; give it another name"
                found.append(ContractError(text, plugin=plugin, name=name))
            elif holder is not None and holder.plugin != plugin:
                text = f"plugin {plugin!r} defines hook {name!r}, which plugin {holder.plugin!r} defines already; it starts once that one"
                found.append(ContractError(f"{text} is disabled or removed", plugin=plugin, name=name))
            else:
                found += [ContractError(text, plugin=plugin, name=name) for text in schema_faults(name, offer)]
        return found

    def claim(self, manifest: Manifest) -> list[OpenHook]:
        """Open what a plugin defines, instead of what it defined before; return what was not open as it is now.

        There are no ``problems``.
        """
        wanted = manifest.provides.hook_specs
        gone = [name for name, hook in self.opened.items() if hook.plugin == manifest.id and name not in wanted]
        for name in gone:
            del self.opened[name]
        made, bucket = [], self.bucket(manifest.id)
        for name, offer in wanted.items():
            before = self.opened.get(name)
            if before is None or before.offer != offer:
                pipeline = self._make_pipeline(hook_definition(name, offer, spent=bucket.charge))
                self.opened[name] = OpenHook(manifest.id, offer, pipeline)
                made.append(self.opened[name])
        self._once_known.update(wanted)
        if gone or made:
            self.on_changed(frozenset((*gone, *(hook.pipeline.definition.qualified for hook in made))))
        return made

    def release(self, plugin: str) -> None:
        """Let go of what a plugin defines."""
        gone = [name for name, hook in self.opened.items() if hook.plugin == plugin]
        for name in gone:
            del self.opened[name]
        if gone:
            self.on_changed(frozenset(gone))

    def forget(self, plugin: str) -> None:
        """Let go of all that is known of a plugin."""
        self.release(plugin)
        self._buckets.pop(plugin, None)
        self._kinds = {key: kind for key, kind in self._kinds.items() if key[0] != plugin}
        queue = self._queues.pop(plugin, None)
        if queue is not None:
            queue.close()

    def close(self) -> None:
        """Forget what waits for observers."""
        for queue in self._queues.values():
            queue.close()

    # Who implements it.

    def learn(self, plugin: str, provided: Provided) -> list[str]:
        """Take over as what kinds the code of a plugin answers hooks; return those of which that is news."""
        news = [name for name, facts in provided.hooks.items() if self._kinds.get((plugin, name)) != str(facts.kind)]
        self._kinds.update({(plugin, name): str(provided.hooks[name].kind) for name in news})
        return news

    def misfit(self, plugin: str, name: str, impl: HookImpl) -> str | None:
        """Return why a plugin is passed over at a hook that it implements; None when it is not, or the hook is the application's."""
        if name.partition(".")[0] in self._own:
            return None
        hook = self.opened.get(name)
        if hook is None:
            return f"no enabled plugin that was granted define:{name} defines it"
        if impl.revision != hook.offer.revision:
            return f"it implements revision {impl.revision}, and plugin {hook.plugin!r} defines revision {hook.offer.revision}"
        kind = self._kinds.get((plugin, name), hook.offer.kind)
        if kind != hook.offer.kind:
            return f"it answers it as {kind}, and plugin {hook.plugin!r} defines it as {hook.offer.kind}"
        return None

    def passed_over(self, manifest: Manifest) -> dict[str, str]:
        """Return at which hooks of other plugins' a plugin is not called, with why."""
        reasons = {name: self.misfit(manifest.id, name, impl) for name, impl in manifest.provides.hooks.items()}
        return {name: why for name, why in reasons.items() if why is not None}

    # Calls.

    def route(self, manifest: Manifest, name: str) -> HookRoute:
        """Return the way of an instance to a hook that it defines; the plugin was granted it."""
        return HookRoute(self, manifest.id, name, manifest.provides.hook_specs[name])

    def request_for(self, call: PluginCall, plugin: str) -> Request:
        """Return the request on whose behalf a plugin calls its hook: that which it works on, or one of its own."""
        behind = request_behind(call.chain)
        now = self._clock.now
        if behind is not None:
            return behind.within(plugin, deadline=call.deadline, new_record=lambda: self._explain.start(behind.id, now()))
        new_id, new_traceparent = self._ids.new()
        meta = call.parent.meta if call.parent is not None else None
        request = Request(
            id=(meta.request if meta is not None else None) or new_id,
            deadline=call.deadline,
            key=meta.key if meta is not None else None,
            traceparent=(meta.traceparent if meta is not None else None) or new_traceparent,
            caller=plugin,
        )
        # What it does by itself is nobody's request: it must not push out the records of those.
        request.record = self._explain.live(request.id) or RequestRecord(request.id, now(), None)
        return request

    def bucket(self, plugin: str) -> RetryBucket:
        """Return what is left to a plugin of the host's time, in seconds."""
        bucket = self._buckets.get(plugin)
        if bucket is None:
            bucket = self._buckets[plugin] = RetryBucket(rate_per_s=_SHARE, burst=_AT_ONCE_S, now_s=monotonic())
        return bucket

    def observe(self, pipeline: Pipeline, call: PluginCall, request: Request, values: tuple[Any, ...]) -> None:
        """Have all observers of a hook told, beside the request.

        Raises:
            PluginBusyError: They would go on to tell each other without an end.
        """
        request.depth = 1 + self._bus.depth_of(call.chain)
        if request.depth > MAX_DEPTH:
            text = f"what observers have others observe is {MAX_DEPTH} deep, so {call.method} is not called; expected at most that many"
            raise PluginBusyError(text, plugin=request.caller, method=call.method)
        params = encoded_params(pipeline.definition, values)
        for member in pipeline.members:
            self._queue(member.provider).add(Observation(pipeline, member, request, params))

    def _queue(self, provider: Provider) -> ObserverQueue:
        # One of its own, with a lane for each plugin that defines hooks: none pushes out what the application or another one had to tell.
        queue = self._queues.get(provider.id)
        if queue is None:
            lanes: Lanes[Observation] = Lanes(most=MAX_WAITING, most_bytes=_MAX_WAITING_BYTES)
            queue = self._queues[provider.id] = observer_queue(provider, events=self._events, loop=self._loop, waiting=lanes)
        return queue


@final
class HookRoute:
    """The way of one instance to one hook of its own.

    Args:
        hooks: Those of the host.
        plugin: Id.
        name: Of the hook.
        offer: As the instance's manifest defines it.
    """

    __slots__ = ("_hooks", "_name", "_offer", "_open", "_plugin")

    def __init__(self, hooks: PluginHooks, plugin: str, name: str, offer: HookSpecOffer) -> None:
        self._hooks = hooks
        self._plugin = plugin
        self._name = name
        self._offer = offer
        self._open: OpenHook | None = None

    def begin(self, call: PluginCall) -> Any:
        """Call the hook: return what is left of the value or what was found, or an awaitable of it.

        Raises:
            AnnexeError: It cannot be called, or not with that.
        """
        hooks, pipeline = self._hooks, self._pipeline()
        wait_s = hooks.bucket(self._plugin).take(0.0, now_s=monotonic())
        if wait_s > 0.0:
            text = f"plugin {self._plugin!r} takes too much of the host's time with values at its hooks; try again in {wait_s:.3f} s"
            raise RateLimitedError(text, plugin=self._plugin, retry_after_s=wait_s)
        definition = pipeline.definition
        values = decode_params(definition, call.params, call.codec)
        if not pipeline.members:
            return values[0] if definition.kind is HookKind.FILTER else None
        request = hooks.request_for(call, self._plugin)
        if definition.kind is HookKind.OBSERVER:
            hooks.observe(pipeline, call, request, values)
            return None
        run: Mapping[HookKind, Callable[[Request, tuple[Any, ...]], Awaitable[Any]]] = {
            HookKind.FILTER: pipeline.filter,
            HookKind.ACTION: pipeline.action,
            HookKind.FIRST_RESULT: pipeline.first_result,
        }
        return run[definition.kind](request, values)

    def _pipeline(self) -> Pipeline:
        current = self._hooks.opened.get(self._name)
        if current is not self._open and current is not None and current.plugin == self._plugin and current.offer == self._offer:
            self._open = current
        if self._open is None:
            text = f"hook {self._name!r} of plugin {self._plugin!r} is not open yet: this instance has not taken over"
            raise PluginUnavailableError(text, plugin=self._plugin, method=f"hook.{self._name}")
        return self._open.pipeline
