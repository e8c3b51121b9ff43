"""Answer one plugin's requests: what it may use, looked up once, checked always.

* Default deny: what the plugin was not granted is answered with the line and the command that would allow it, logged and noted as an event.
* What is granted becomes an entry in a table; a call is one look-up.
* That a right is used is told by its first call alone, until ``look_again``; the calls after it cost nothing more.
* The application's own functions are called with checked arguments, a bounded number at a time, and cancelled with the request.

Source: features PE3 and PE4; docs/reference/permissions.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any, final
from weakref import WeakKeyDictionary

import msgspec

from annexe.capabilities.egress import EgressLimits, EgressRules
from annexe.capabilities.egress_dial import Dialer
from annexe.capabilities.fetch import FetchService, fetch_target
from annexe.capabilities.kv_handle import KvHandle
from annexe.capabilities.kv_limits import FREE_BYTES
from annexe.capabilities.proxy import EgressProxy
from annexe.capabilities.publishing import published
from annexe.capabilities.retry_bucket import RetryBucket
from annexe.channel import CodecName, PluginCall, PluginStream
from annexe.contract import CapabilityDefinition, InvalidValueError, MethodDefinition, decode_params
from annexe.errors import AnnexeError, InvalidParamsError, InvalidResultError, MethodNotFoundError, PermissionDeniedError, PluginBusyError
from annexe.launch.egress import Egress
from annexe.manifest import Manifest, names
from annexe.record import EventKind, Events, PluginLog, PluginMetrics
from annexe.storage.kv_values import MAX_VALUE_BYTES
from annexe.trust.grants import denial

__all__ = ["Capability", "PluginServices"]

_MAX_CAPABILITY_CALLS = 64
_MAX_NOTIFICATION_BYTES = 64 * 1024
# What is read costs 1, and 1 more for each KiB.
_METRICS_PER_S, _METRICS_AT_ONCE = 1_000.0, 2_000.0
_BYTES_OF_COST = 1024
_MAX_KV_PARAMS_BYTES = 64 * 1024
_KV_VALUES = {"kv.set": 1, "kv.compare_and_set": 2}
_EVENTS = {
    "permission-denied": EventKind.PERMISSION_DENIED,
    "rate-limited": EventKind.RATE_LIMITED,
    "quota-exceeded": EventKind.QUOTA_EXCEEDED,
}


@final
@dataclass(frozen=True, slots=True)
class Capability:
    """Functions of the application: what they are called and typed as, and the object that has them."""

    definition: CapabilityDefinition
    target: Any


@final
class PluginServices:
    """What one plugin may use.

    Args:
        manifest: The plugin's, verified.
        granted: Rights it was granted, in normal form.
        kv: Its part of the key-value store.
        capabilities: The application's, by name; those not granted are refused.
        services: By name of each service that it was granted, what takes a call of one of its methods on its way to who offers it.
        hooks: By name of each hook that it defines and was granted, what has those called that implement it.
        log: The plugin's.
        metrics: The plugin's.
        events: The host's.
        instance: Id of the instance that they are for.
        grant_command: What grants the plugin what it asks for, for its author and the operator.
        publish: Takes what it publishes: its request, the topic and the raw value; returns for how many that was queued.
        on_used: Told of each right that is used: of one to the network each time, of others once until ``look_again``.
    """

    def __init__(
        self,
        manifest: Manifest,
        granted: frozenset[str],
        *,
        kv: KvHandle | None,
        capabilities: Mapping[str, Capability],
        services: Mapping[str, Callable[[PluginCall], Any]],
        log: PluginLog,
        metrics: PluginMetrics,
        events: Events,
        instance: str,
        grant_command: str,
        publish: Callable[[PluginCall, str, msgspec.Raw], int] | None = None,
        hooks: Mapping[str, Callable[[PluginCall], Any]] = MappingProxyType({}),
        on_used: Callable[[str], None] | None = None,
    ) -> None:
        self._plugin = manifest.id
        self._instance = instance
        self._grant_command = grant_command
        self._manifest = manifest
        self._capabilities = capabilities
        self._services = dict(services)
        self._streams: WeakKeyDictionary[PluginStream, str] = WeakKeyDictionary()  # those of services, with the right to each
        self._hooks = {f"hook.{name}": begin for name, begin in hooks.items() if f"define:{name}" in granted}
        self._topics = frozenset(right for right in granted if right.startswith("events.publish:"))
        self._unseen: set[str] = set()  # services and topics, as rights, whose first use has yet to be told of
        self._log = log
        self._metrics = metrics
        self._events = events
        self._capability_calls = 0
        self._metric_bucket = RetryBucket(rate_per_s=_METRICS_PER_S, burst=_METRICS_AT_ONCE, now_s=monotonic())
        self._on_used = on_used
        self._methods: dict[str, Callable[[PluginCall], Any]] = {}
        self._by_right: dict[str, dict[str, Callable[[PluginCall], Any]]] = {}
        if "kv" in granted and kv is not None:
            names = ("get", "set", "delete", "increment", "list", "compare_and_set")
            self._by_right["kv"] = {f"kv.{name}": partial(_call_kv, kv, f"kv.{name}") for name in names}
        self._rules = EgressRules(manifest, granted, command=grant_command)
        self._proxy: EgressProxy | None = None
        self._fetch: FetchService | None = None
        self._dialer: Dialer | None = None
        self._ending: asyncio.Task[None] | None = None
        if any(right.startswith("network:") for right in granted):
            self._dialer = Dialer(self._rules, EgressLimits())
            self._fetch = FetchService(self._rules, dialer=self._dialer, on_used=on_used)
            self._methods["fetch"] = self._fetch.serve
        if self._topics and publish is not None:
            self._methods["event.publish"] = partial(self._publish, publish)
        for name, capability in capabilities.items():
            if f"cap:{name}" in granted:
                self._by_right[f"cap:{name}"] = {
                    method.method: partial(self._call_capability, method, getattr(capability.target, method.name))
                    for method in capability.definition.methods.values()
                }
        self.look_again()

    def serve(self, call: PluginCall) -> Any:
        """Answer one request: return the result or an awaitable of it.

        Raises:
            AnnexeError: It is refused.
        """
        method = self._methods.get(call.method) or self._hooks.get(call.method) or self._service(call)
        return method(call)

    def _service(self, call: PluginCall) -> Callable[[PluginCall], Any]:
        """Return what takes a call of another plugin's service on its way."""
        family, _, rest = call.method.partition(".")
        name = rest.partition(".")[0]
        begin = self._services.get(name) if family == "svc" else None
        if begin is None:
            raise self._refusal(call)
        right = f"services:{name}"
        self._note_use(right)
        if call.stream is not None:
            self._streams[call.stream] = right
        return begin

    def _publish(self, publish: Callable[[PluginCall, str, msgspec.Raw], int], call: PluginCall) -> int:
        asked = published(call)
        right = f"events.publish:{asked.topic}"
        if right not in self._topics:
            raise self._denial(right)
        count = publish(call, asked.topic, asked.value)
        self._note_use(right)
        return count

    def _note_use(self, right: str) -> None:
        if right in self._unseen:
            self._unseen.discard(right)
            if self._on_used is not None:
                self._on_used(right)

    def look_again(self) -> None:
        """Tell of the next use of each right, too."""
        self._unseen.update((f"services:{name}" for name in self._services), self._topics)
        for right, functions in self._by_right.items():
            if self._on_used is None:
                self._methods.update(functions)
            else:
                self._methods.update({name: partial(self._first, right, function) for name, function in functions.items()})

    def _first(self, right: str, function: Callable[[PluginCall], Any], call: PluginCall) -> Any:
        self._methods.update(self._by_right[right])  # from here on without a look at who uses what
        if self._on_used is not None:
            self._on_used(right)
        return function(call)

    def withdraw(self) -> None:
        """Take every right back."""
        self._methods.clear()
        self._by_right.clear()
        self._services.clear()
        self._hooks.clear()
        if self._fetch is not None:
            self._fetch.close()
        if self._proxy is not None:
            self._ending = asyncio.get_running_loop().create_task(self._proxy.close())

    def end_streams(self) -> None:
        """Have what is open of services go no further: a right to it was taken back."""
        for stream, right in list(self._streams.items()):
            stream.refuse(self._denial(right))

    def proxy(self, egress: Egress) -> EgressProxy:
        """Make the proxy behind a plugin's way out; whoever asks opens and closes it, and so does ``withdraw``."""
        self._proxy = EgressProxy(
            egress.listener,
            self._rules,
            secret=egress.secret,
            dialer=self._dialer,
            on_denied=self._note_denied,
            on_used=self._on_used,
        )
        return self._proxy

    def _note_denied(self, error: PermissionDeniedError) -> None:
        self._events.add(EventKind.PERMISSION_DENIED, plugin=self._plugin, reason=error.message, method="proxy", **_asking(error))
        self._log.write("warning", error.message, {"method": "proxy"}, source="host", instance=self._instance)

    def _refusal(self, call: PluginCall) -> AnnexeError:
        """Make the error for a method that is not in the table: not granted, or not there at all."""
        family, _, rest = call.method.partition(".")
        if family == "cap":
            name, _, method = rest.partition(".")
            capability = self._capabilities.get(name)
            if capability is None:
                known = ", ".join(sorted(self._capabilities)) or "none"
                text = f"the application offers no capability {name!r}; expected one of: {known}"
                return MethodNotFoundError(text, plugin=self._plugin, method=call.method)
            if method not in capability.definition.methods:
                known = ", ".join(sorted(capability.definition.methods))
                text = f"capability {name!r} has no method {method!r}; expected one of: {known}"
                return MethodNotFoundError(text, plugin=self._plugin, method=call.method)
            return self._denial(f"cap:{name}")
        if family == "kv":
            return self._denial("kv")
        if family == "svc" and names.is_word(name := rest.partition(".")[0]):
            return self._denial(f"services:{name}")
        if family == "hook" and names.is_dotted(rest):
            return self._not_its_hook(rest)
        if call.method == "event.publish":
            return self._denial(f"events.publish:{published(call).topic}")
        if call.method == "fetch":
            return self._denial(fetch_target(call).right)
        return MethodNotFoundError(f"this host has no method {call.method!r} for plugins", plugin=self._plugin, method=call.method)

    def _not_its_hook(self, name: str) -> AnnexeError:
        error = PermissionDeniedError(plugin=self._plugin, permission=f"define:{name}", manifest_line="", command=self._grant_command)
        if name not in self._manifest.provides.hook_specs:
            own = ", ".join(self._manifest.provides.hook_specs) or "none"
            error.message = (
                f"plugin {self._plugin!r} calls hook {name!r}, which it does not define; it defines: {own}; a hook is called by "
            )
            error.message += f'the plugin alone that has [provides.hook-specs] "{name}" in its plugin.toml'
        return error

    def _denial(self, right: str) -> AnnexeError:
        return denial(self._plugin, right, self._manifest, command=self._grant_command)

    def note_refusal(self, call: PluginCall, error: AnnexeError) -> None:
        """Tell author and operator of a request that was answered with an error."""
        kind = _EVENTS.get(error.code)
        if kind is not None:
            self._events.add(kind, plugin=self._plugin, reason=error.message, method=call.method, **_asking(error))
            fields = {"method": call.method}
            self._log.write("warning", error.message, fields, request=call.request_id, source="host", instance=self._instance)

    async def _call_capability(self, method: MethodDefinition, function: Callable[..., Any], call: PluginCall) -> Any:
        if self._capability_calls >= _MAX_CAPABILITY_CALLS:
            text = f"plugin {self._plugin!r} has {_MAX_CAPABILITY_CALLS} capability calls open; expected at most that many"
            raise PluginBusyError(text, plugin=self._plugin, method=call.method)
        values = decode_params(method, call.params, call.codec)
        self._capability_calls += 1
        try:
            result = await function(*values)
        finally:
            self._capability_calls -= 1
        if method.result is None:
            return None
        try:
            return method.result.to_send(result)
        except InvalidValueError as error:
            text = f"the application's {method.method} returned what cannot be sent: {error}"
            raise InvalidResultError(text, plugin=self._plugin, method=method.method) from error

    def notify(self, method: str, params: msgspec.Raw, codec: CodecName, request_id: str | None) -> None:
        """Take a notification: a log line, a metric, or how far activation is. What is malformed is logged as far as it goes."""
        size = len(memoryview(params))
        if method == "metric":
            self._take_metric(params, size, codec)
            return
        if size > _MAX_NOTIFICATION_BYTES or not self._log.is_open():
            self._log.drop(1)
            return
        if size >= _BYTES_OF_COST:
            self._log.charge(size // _BYTES_OF_COST)  # for reading it; what is written of it may be short
        given = _decoded(params, codec)
        given = given if isinstance(given, dict) else {}
        if method == "log":
            fields = given.get("fields")
            self._log.write(given.get("level"), given.get("message"), fields, request=request_id, instance=self._instance)
        elif method == "progress":
            progress = {"fraction": given.get("fraction"), "message": given.get("message")}
            self._log.write("info", "starting", progress, instance=self._instance)

    def _take_metric(self, params: msgspec.Raw, size: int, codec: CodecName) -> None:
        why: str | None
        if size > _MAX_NOTIFICATION_BYTES:
            why = self._metrics.drop("too-large")
        elif self._metric_bucket.take(1 + size // _BYTES_OF_COST, now_s=monotonic()) > 0.0:
            why = self._metrics.drop("too-often")
        else:
            given = _decoded(params, codec)
            given = given if isinstance(given, dict) else {}
            why = self._metrics.record(given.get("name"), given.get("kind"), given.get("value"), given.get("labels"))
        if why is not None:
            self._events.add(EventKind.METRIC_DROPPED, plugin=self._plugin, reason=why)


def _asking(error: AnnexeError) -> dict[str, Any]:
    """Return which right was missing and how it is asked for, as facts of an event."""
    return {name: error.data[name] for name in ("permission", "manifest_line") if name in error.data}


def _call_kv(kv: KvHandle, name: str, call: PluginCall) -> Any:
    # Beside its values, a request is a key or two.
    limit_bytes = _KV_VALUES.get(name, 0) * MAX_VALUE_BYTES + _MAX_KV_PARAMS_BYTES
    size = len(memoryview(call.params))
    if size > limit_bytes:
        raise InvalidParamsError(f"{name}: expected parameters of at most {limit_bytes} bytes, got {size}.", method=name)
    if size > FREE_BYTES:
        kv.pay_for(size)
    return kv.call(name, _decoded(call.params, call.codec))


def _decoded(raw: msgspec.Raw, codec: CodecName) -> Any:
    """Return plain values; None for bytes that hold none, which no method accepts as its parameters."""
    try:
        return msgspec.json.decode(raw) if codec == "json" else msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
