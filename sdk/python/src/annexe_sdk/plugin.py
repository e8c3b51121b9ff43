"""What a plugin provides: the decorators its author uses.

Nothing is imported or started here; ``runner`` serves what was registered.

Source: docs/reference/sdk.md.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from annexe_sdk.contract import Service

    F = TypeVar("F", bound=Callable[..., Any])
    C = TypeVar("C", bound=type)

__all__ = ["Handler", "Misfit", "Plugin"]

_ASYNC_FLAGS = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR: ``inspect`` costs 9 ms to import
_GENERATOR_FLAGS = 0x20 | 0x200
_VARARGS = 0x04


class Misfit(TypeError):  # noqa: N818 - of the call, not of the plugin
    """The arguments of a call are not those of the service's method; answered as ``invalid-params``."""


class Handler:
    """One registered function and what is known of it.

    Attributes:
        kind: ``filter``, ``action``, ``first_result``, ``observer``, ``stream_filter``, ``extension``, ``service``, ``event``, ``watch`` or
            ``state``.
        function: Called with the parameters of the hook and, when it has a parameter ``ctx``, the context last.
        at: ``file:line`` for messages.
        is_async: It is an ``async def``.
        is_generator: It yields.
        wants_ctx: It has a last parameter named ``ctx``.
        has_blobs: A result of it held long bytes: look for them before encoding the next.
    """

    __slots__ = ("at", "convert", "function", "has_blobs", "is_async", "is_generator", "kind", "wants_ctx")

    def __init__(self, kind: str, function: "Callable[..., Any]") -> None:
        self.kind = kind
        self.function = function
        self.convert: Callable[[list[Any]], list[Any]] | None = None
        self.has_blobs = False
        code = getattr(function, "__code__", None)
        if code is None:
            raise TypeError(f"{function!r} is not a function; decorate a def or an async def")
        self.at = f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"
        self.is_async = bool(code.co_flags & _ASYNC_FLAGS)
        self.is_generator = bool(code.co_flags & _GENERATOR_FLAGS)
        names = code.co_varnames[: code.co_argcount]
        self.wants_ctx = bool(names) and names[-1] == "ctx"


class Plugin:
    """A plugin's handlers, by the names the host opens.

    >>> plugin = Plugin()
    >>> @plugin.filter("chat.on_request")
    ... def redact(request, ctx):
    ...     return ctx.unchanged
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.activate_handlers: list[Handler] = []
        self.configure_handlers: list[Handler] = []
        self.shutdown_handlers: list[Handler] = []

    def filter(self, hook: str) -> "Callable[[F], F]":
        """Answer a filter: return the value, changed or not, or ``ctx.unchanged``."""
        return self._hook("filter", hook)

    def stream_filter(self, hook: str) -> "Callable[[F], F]":
        """Answer a stream filter: a generator that takes an iterator of chunks and yields chunks."""
        return self._hook("stream_filter", hook)

    def action(self, hook: str) -> "Callable[[F], F]":
        """Answer an action: do something, return nothing."""
        return self._hook("action", hook)

    def first_result(self, hook: str) -> "Callable[[F], F]":
        """Answer a first-result hook: return the result, or None to let the next plugin try."""
        return self._hook("first_result", hook)

    def observer(self, hook: str) -> "Callable[[F], F]":
        """Watch: called beside the request, which neither waits nor sees what happens here."""
        return self._hook("observer", hook)

    def extension(self, point: str) -> "Callable[[C], C]":
        """Fill an extension point with a class; each public method answers the method of that name."""
        return self._class("extension", f"ext.{point}", point)

    def service(self, of: "str | type[Service]") -> "Callable[[C], C]":
        """Offer a service to other plugins by a class, whose methods answer the methods of their names.

        Args:
            of: The name of the service: each public method is offered. Or its contract: its methods are, and no others.

        Raises:
            TypeError: It is neither; or, when the class is decorated, that class does not have what the contract says.
        """
        if isinstance(of, str):
            return self._class("service", f"svc.{of}", f"service {of}")
        from annexe_sdk.contract import contract_of

        contract = contract_of(of)

        def register(cls: "C") -> "C":
            for method, function in contract.provided_by(cls, cls()):
                handler = Handler("service", function)
                handler.convert = _fitting(method.name, handler.at, most=len(method.names), defaults=method.defaults)
                self._add(f"svc.{contract.name}.{method.name}", handler, f"method {method.name!r} of service {contract.name}")
            return cls

        return register

    def _class(self, kind: str, prefix: str, what: str) -> "Callable[[C], C]":
        def register(cls: "C") -> "C":
            instance = cls()
            for name in dir(cls):
                method = getattr(instance, name)
                if not name.startswith("_") and callable(method):
                    handler = Handler(kind, method)
                    if kind == "service":
                        handler.convert = _fitting_own(name, handler)
                    self._add(f"{prefix}.{name}", handler, f"method {name!r} of {what}")
            return cls

        return register

    def on_service(self, name: str) -> "Callable[[F], F]":
        """Be told how a service is that the plugin uses, once it is ready and whenever that changes: ``def changed(change, ctx)``."""

        def register(function: "F") -> "F":
            from annexe_sdk.service_change import change_of

            handler = Handler("watch", function)
            handler.convert = change_of
            self._add(f"service.{name}", handler, f"changes of service {name!r}")
            return function

        return register

    def on_event(self, topic: str) -> "Callable[[F], F]":
        """Be told of what others publish: ``def done(event, ctx)``. Nobody waits; ``subscribe`` in ``plugin.toml`` asks for the topic."""
        if not isinstance(topic, str) or "." not in topic:
            raise TypeError(f'@plugin.on_event takes the name of an event, for example @plugin.on_event("redaction.done"); got {topic!r}')

        def register(function: "F") -> "F":
            from annexe_sdk.events import event_of

            handler = Handler("event", function)
            handler.convert = event_of
            self._add(f"event.{topic}", handler, f"event {topic!r}")
            return function

        return register

    def on_activate(self, function: "F") -> "F":
        """Run once before the plugin is ready: ``def start(ctx)``. Slow work reports by ``ctx.progress``."""
        self.activate_handlers.append(Handler("life", function))
        return function

    def on_configure(self, function: "F") -> "F":
        """Run when the configuration changed; ``ctx.config`` is the new one. Return ``"restart"`` to be started afresh instead."""
        self.configure_handlers.append(Handler("life", function))
        return function

    def save_state(self, function: "F") -> "F":
        """Return what the instance that takes over at a reload shall have, plain values of at most 1 MiB: ``def save(ctx)``."""
        self._add("state.save", Handler("state", function), "the saving of state")
        return function

    def load_state(self, function: "F") -> "F":
        """Take what the instance before saved, once before the first call: ``def load(state, ctx)``."""
        self._add("state.load", Handler("state", function), "the loading of state")
        return function

    def on_shutdown(self, function: "F") -> "F":
        """Run before the plugin stops, within the stop deadline."""
        self.shutdown_handlers.append(Handler("life", function))
        return function

    def run(self) -> None:
        """Serve the host that started this process; for use under ``if __name__ == "__main__"``."""
        from annexe_sdk.runner import run_plugin

        run_plugin(self)

    @property
    def is_async(self) -> bool:
        """Whether any handler is an ``async def``, so that an event loop is needed."""
        life = self.activate_handlers + self.configure_handlers + self.shutdown_handlers
        return any(handler.is_async for handler in [*self.handlers.values(), *life])

    def provides(self) -> "dict[str, Any]":
        """Return what is registered, as sent to the host in answer to ``annexe.activate``."""
        hooks: dict[str, Any] = {}
        extensions: dict[str, dict[str, Any]] = {}
        services: dict[str, dict[str, Any]] = {}
        events: dict[str, Any] = {}
        watches: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for method, handler in self.handlers.items():
            family, _, rest = method.partition(".")
            if family == "hook":
                hooks[rest] = {"kind": handler.kind, "at": handler.at}
            elif family == "event":
                events[rest] = {"at": handler.at}
            elif family == "service":
                watches[rest] = {"at": handler.at}
            elif family == "state":
                state[rest] = {"at": handler.at}
            else:
                point, _, name = rest.rpartition(".")
                of_its_kind = services if family == "svc" else extensions
                of_its_kind.setdefault(point, {"methods": {}})["methods"][name] = {"at": handler.at}
        return {"hooks": hooks, "extensions": extensions, "services": services, "events": events, "watches": watches, "state": state}

    def _hook(self, kind: str, hook: str) -> "Callable[[F], F]":
        if not isinstance(hook, str) or "." not in hook:
            raise TypeError(f'@plugin.{kind} takes the name of a hook, for example @plugin.{kind}("chat.on_request"); got {hook!r}')

        def register(function: "F") -> "F":
            self._add(f"hook.{hook}", Handler(kind, function), f"hook {hook!r}")
            return function

        return register

    def _add(self, method: str, handler: Handler, what: str) -> None:
        earlier = self.handlers.get(method)
        if earlier is not None:
            raise ValueError(f"{what} is registered twice, at {earlier.at} and at {handler.at}; a plugin answers it once")
        self.handlers[method] = handler


def _fitting_own(name: str, handler: Handler) -> "Callable[[list[Any]], list[Any]]":
    """Make the function that fits a call's arguments to what a method of a service takes by its own word."""
    method: Any = handler.function
    most = method.__code__.co_argcount - (getattr(method, "__self__", None) is not None)
    defaults: tuple[Any, ...] = method.__defaults__ or ()
    if handler.wants_ctx:
        return _fitting(name, handler.at, most=most - 1, defaults=defaults[:-1])
    return _fitting(name, handler.at, most=most, defaults=defaults, takes_more=bool(method.__code__.co_flags & _VARARGS))


def _fitting(name: str, at: str, *, most: int, defaults: "tuple[Any, ...]", takes_more: bool = False) -> "Callable[[list[Any]], list[Any]]":
    """Make the function that completes a call's arguments, so that ``ctx`` has its place, and refuses those that do not fit.

    Args:
        name: Of the method.
        at: Where it is.
        most: How many arguments have a place.
        defaults: Of the last of them, for a caller that leaves them out.
        takes_more: It has room for more, in a ``*args``.
    """
    least = most - len(defaults)

    def fit(params: "list[Any]") -> "list[Any]":
        if type(params) is not list:
            raise Misfit(f"{name} takes a list of arguments, got {type(params).__name__}")
        given = len(params)
        if given == most:
            return params
        if given < least or (given > most and not takes_more):
            bounds = f"at least {least}" if takes_more else f"{least} to {most}" if least < most else f"{most}"
            raise Misfit(f"{name} takes {bounds} argument{'' if bounds.endswith(' 1') or bounds == '1' else 's'}, got {given} ({at})")
        return [*params, *defaults[given - least :]] if given < most else params

    return fit
