"""What a handler gets beside its parameters: ``ctx``.

``Context`` is for ``def`` handlers, where calls block; ``aio.AsyncContext`` is its twin for ``async def`` handlers.

Source: docs/reference/sdk.md.
"""

from time import monotonic

from annexe_sdk.errors import right_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeVar, overload

    from annexe_sdk.calls import Call
    from annexe_sdk.contract import Service
    from annexe_sdk.fetch import Response
    from annexe_sdk.runner import Runner

    S = TypeVar("S", bound=Service)

__all__ = ["UNCHANGED", "Capability", "Context", "Kv", "Log", "Metrics", "ServiceClient", "ServiceMethod"]


class _Unchanged:
    __slots__ = ()

    def __repr__(self) -> str:
        return "ctx.unchanged"


UNCHANGED = _Unchanged()


class Log:
    """Structured log lines; they never wait and never fail."""

    __slots__ = ("_call", "_runner")

    def __init__(self, runner: "Runner", call: "Call | None") -> None:
        self._runner = runner
        self._call = call

    def debug(self, message: str, **fields: "Any") -> None:
        """Log for someone who is looking for a fault."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: "Any") -> None:
        """Log what happened."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: "Any") -> None:
        """Log what may need attention."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: "Any") -> None:
        """Log what went wrong."""
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: "dict[str, Any]") -> None:
        self._runner.log(level, message, fields, self._call)


class Metrics:
    """Figures for the operator; they never wait and never fail."""

    __slots__ = ("_runner",)

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._runner.notify("metric", {"name": name, "kind": "counter", "value": by, "labels": labels})

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._runner.notify("metric", {"name": name, "kind": "gauge", "value": value, "labels": labels})

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        self._runner.notify("metric", {"name": name, "kind": "histogram", "value": value, "labels": labels})


class Kv:
    """The plugin's own key-value store, kept by the host; needs the permission ``kv``.

    Keys are text of at most 512 bytes, values anything JSON can hold, at most 1 MiB.
    """

    __slots__ = ("_context",)

    def __init__(self, context: "Context") -> None:
        self._context = context

    def get(self, key: str, default: "Any" = None) -> "Any":
        """Return the value, or ``default`` when there is none or its time is over."""
        value = self._context._ask("kv.get", {"key": key})
        return default if value is None else value

    def set(self, key: str, value: "Any", *, ttl_s: float | None = None) -> None:
        """Store a value, for ``ttl_s`` seconds or for good."""
        self._context._ask("kv.set", {"key": key, "value": value, "ttl_s": ttl_s})

    def delete(self, key: str) -> bool:
        """Remove a key; say whether it was there."""
        return bool(self._context._ask("kv.delete", {"key": key}))

    def increment(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        """Add to a whole number (0 when absent) in one step and return the sum; ``ttl_s`` counts from the first increment."""
        return int(self._context._ask("kv.increment", {"key": key, "by": by, "ttl_s": ttl_s}))

    def list(self, prefix: str = "", *, limit: int = 100, after: str | None = None) -> "tuple[list[str], str | None]":
        """Return up to ``limit`` keys in order, and where the next page begins (None: no more)."""
        page = self._context._ask("kv.list", {"prefix": prefix, "limit": limit, "after": after})
        return page["keys"], page["next"]

    def compare_and_set(self, key: str, expected: "Any", value: "Any", *, ttl_s: float | None = None) -> bool:
        """Store ``value`` if the key holds ``expected`` (None: is absent); say whether it did."""
        return bool(self._context._ask("kv.compare_and_set", {"key": key, "expected": expected, "value": value, "ttl_s": ttl_s}))


class Capability:
    """The application's own functions; needs the permission ``cap:<name>``. ``ctx.cap("orders").find(id=7)``."""

    __slots__ = ("_context", "_name")

    def __init__(self, context: "Context", name: str) -> None:
        self._context = context
        self._name = name

    def __getattr__(self, method: str) -> "Any":
        if method.startswith("_"):
            raise AttributeError(method)
        context, wire_name = self._context, f"cap.{self._name}.{method}"

        def ask(*args: "Any", **named: "Any") -> "Any":
            if args and named:
                raise TypeError(f"{wire_name}: pass all arguments by position or all by name")
            return context._ask(wire_name, named if named else list(args))

        return ask


class ServiceClient:
    """A service of another plugin's by its name; needs the permission ``services``. ``ctx.service("tokenizer").count(text)``."""

    __slots__ = ("_context", "_key", "_name")

    def __init__(self, context: "Context", name: str, key: str | None) -> None:
        self._context = context
        self._name = name
        self._key = key

    def __getattr__(self, method: str) -> "Any":
        if method.startswith("_"):
            raise AttributeError(method)
        return ServiceMethod(self._context, f"svc.{self._name}.{method}", self._key)


class ServiceMethod:
    """One method of a service: called, or asked for as a stream."""

    __slots__ = ("_context", "_key", "_name")

    def __init__(self, context: "Context", name: str, key: str | None) -> None:
        self._context = context
        self._name = name
        self._key = key

    def __call__(self, *args: "Any", **named: "Any") -> "Any":
        """Call it; returns the answer."""
        if named:
            raise TypeError(f"{self._name}: pass arguments by position, or give ctx.service the contract: it knows their names")
        return self._context._ask(self._name, list(args), self._key)

    def stream(self, *args: "Any", items: "Any" = None) -> "Any":
        """Ask for what it yields: an iterator, of which leaving it early calls the stream off. ``items``: what it takes as a stream."""
        return self._context._stream(self._name, list(args), self._key, items, "out" if items is None else "both")

    def send(self, items: "Any", *args: "Any") -> "Any":
        """Send it a stream; returns the answer."""
        return self._context._stream(self._name, list(args), self._key, items, "in")


class Context:
    """What a handler may use, for the length of one call.

    Attributes:
        unchanged: Return it from a filter that leaves the value as it is.
    """

    __slots__ = ("_before", "_call", "_runner", "_state")

    unchanged = UNCHANGED

    def __init__(self, runner: "Runner", call: "Call | None") -> None:
        self._runner = runner
        self._call = call
        self._state: dict[str, Any] | None = None

    @property
    def log(self) -> Log:
        """The plugin's log."""
        return Log(self._runner, self._call)

    @property
    def metrics(self) -> Metrics:
        """The plugin's metrics."""
        return Metrics(self._runner)

    @property
    def kv(self) -> Kv:
        """The plugin's key-value store."""
        return Kv(self)

    def cap(self, name: str) -> Capability:
        """Return one of the application's capabilities."""
        return Capability(self, name)

    if TYPE_CHECKING:

        @overload
        def service(self, of: type[S], /, *, key: str | None = None) -> S: ...
        @overload
        def service(self, of: str, /, *, key: str | None = None) -> ServiceClient: ...

    def service(self, of: "str | type[Service]", /, *, key: str | None = None) -> "Any":
        """Return a service of another plugin's.

        Args:
            of: Its name, as in ``[requires.services]`` and ``services`` under ``[permissions]``: arguments and answers are as they
                travel. Or its contract, a class: arguments are held against it before they are sent, and answers are of its types.
            key: Where the operator chose ``sticky``, calls of the same key go to the same plugin; the request's key when left out.

        Raises:
            TypeError: It is neither.
        """
        if isinstance(of, str):
            return ServiceClient(self, of, key)
        from annexe_sdk.typed import TypedClient

        return TypedClient(self, of, key)

    def hook(self, name: str, value: "Any") -> "Any":
        """Have the plugins called that implement a hook which this one defines; waits for them, but for observers.

        Args:
            name: As in ``[provides.hook-specs]``.
            value: One that fits the hook's schema.

        Returns:
            For a filter what they left of the value, for a first result what the first of them found, or None.
        """
        return self._ask(f"hook.{name}", [value])

    def publish(self, topic: str, value: "Any" = None) -> int:
        """Tell whoever subscribed to a topic; needs the permission ``events.publish``. Waits for the host alone, which has taken it then.

        Args:
            topic: Its name, as in ``[provides.topics]``.
            value: Anything that can be sent, 64 KiB at most.

        Returns:
            For how many it was queued.
        """
        return int(self._ask("event.publish", {"topic": topic, "value": value}))

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: "Mapping[str, str] | Iterable[tuple[str, str]] | None" = None,
        body: "bytes | str | None" = None,
        timeout_s: float | None = None,
    ) -> "Response":
        """Have the host make an HTTP request; needs the permission ``network:<host>:<port>``, for redirects too.

        Args:
            url: ``http://`` or ``https://``.
            method: In capitals.
            headers: By name, or pairs of name and value.
            body: At most 8 MiB; text is sent as UTF-8.
            timeout_s: Most that it may take; 30 s when left out, and never more than the call has.
        """
        from annexe_sdk.fetch import params_of, response_of

        return response_of(self._ask("fetch", params_of(url, method, headers, body, timeout_s)))

    @property
    def config(self) -> "dict[str, Any]":
        """The plugin's configuration, as its schema describes it."""
        return self._runner.config

    @property
    def grants(self) -> "list[str]":
        """The rights this plugin was granted."""
        return self._runner.grants

    @property
    def data_dir(self) -> str:
        """Path of the plugin's private folder; needs the permission ``data``."""
        folder = self._runner.data_dir
        if folder is None:
            raise right_missing("data", 'data = { quota = "50MiB" }')
        return folder

    @property
    def request_id(self) -> str | None:
        """The application's id for the request at hand."""
        return self._call.meta.get("request") if self._call else None

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of the request at hand."""
        return self._call.meta.get("traceparent") if self._call else None

    @property
    def caller(self) -> str | None:
        """The plugin that called, set by the host; None when it was the application."""
        return self._call.meta.get("caller") if self._call else None

    @property
    def key(self) -> str | None:
        """The key the application gave the request: tenant, user, API key."""
        return self._call.meta.get("key") if self._call else None

    @property
    def deadline_s(self) -> float | None:
        """Seconds left for this call; None when it has no deadline."""
        left_ms = self._call.meta.get("deadline_ms") if self._call else None
        if left_ms is None or self._call is None:
            return None
        return float(self._call.received + left_ms / 1000 - monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up; long work should look and stop."""
        return self._call.cancelled if self._call else False

    @property
    def state(self) -> "dict[str, Any]":
        """What this plugin keeps for the length of the request, at most 64 KiB; the host holds it between the plugin's hooks."""
        if self._state is None:
            self._state = dict(self._call.meta.get("state") or {}) if self._call else {}
            encode = self._runner.session.json.encode_plain
            self._before = {key: encode(value) for key, value in self._state.items()}
        return self._state

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far activation is: 0.0 to 1.0."""
        if self._call is not None:
            self._runner.send_item(self._call, {"fraction": fraction, "message": message})

    def _changed_state(self) -> "dict[str, Any] | None":
        """Return the keys that changed since the handler first looked, None for those it removed."""
        if self._state is None:
            return None
        encode = self._runner.session.json.encode_plain
        changed = {key: value for key, value in self._state.items() if self._before.get(key) != encode(value)}
        changed.update({key: None for key in self._before if key not in self._state})
        return changed or None

    def _ask(self, method: str, params: "Any", key: str | None = None) -> "Any":
        return self._runner.ask(self._call, method, params, key)

    def _stream(self, method: str, params: "list[Any]", key: "str | None", items: "Any", direction: str) -> "Any":
        return self._runner.stream(self, method, params, key, items, direction)
