"""Run a plugin's handlers without a host: in the test's own process, with everything a host would do for them played.

The handlers get real contexts of the SDK; behind those are a dictionary for the store, a list for the log, and the test's own objects for
capabilities and for other plugins' services. What goes in and out makes the trip through MessagePack, as it would on the wire. An
exception that a handler raises reaches the test as it is, with its own traceback. A folder's configuration is completed and checked by its
schema, and with contracts parameters and results are held against their types, as a host does.

Source: docs/reference/testing.md; ADR-0058.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, final, overload

from annexe.capabilities.config import schema_of
from annexe.errors import InvalidParamsError, MethodNotFoundError
from annexe.ids import new_request_id
from annexe.testing.calling import Methods, as_async, check_given, closable, gathered, travelled
from annexe.testing.checks import Checks
from annexe.testing.clock import FakeClock
from annexe.testing.fake_host import FakeHost
from annexe.testing.hooks import PlayedHooks
from annexe.testing.learning import session_for
from annexe.testing.loading import LoadedPlugin
from annexe.testing.services import PlayedServices, client_of, name_of
from annexe_sdk import Plugin, Respond
from annexe_sdk.context import UNCHANGED
from annexe_sdk.convert import converter
from annexe_sdk.events import event_of
from annexe_sdk.plugin import Handler, Misfit

if TYPE_CHECKING:
    from typing import TypeVar

    from annexe_sdk import Service

    S = TypeVar("S", bound=Service)

__all__ = ["PluginRunner", "RunnerRequest"]


@final
class PluginRunner:
    """A plugin and what its handlers see around them.

    Args:
        plugin: Its folder, or the ``Plugin`` itself. With a folder the manifest counts: what it does not ask for is refused.
        config: Seen as ``ctx.config``; with a folder completed and checked by the schema that its manifest names.
        capabilities: Objects of classes with a ``name`` and ``async def`` methods, as a host takes them.
        services: Objects that stand for services of other plugins, by name.
        hooks: Functions that stand for those who implement hooks that the plugin defines, by name: they take the value, and return it.
        clock: Decides when keys are over.
        contracts: What the application opens: parameters and results are held against its types.

    Raises:
        ConfigInvalidError: The configuration does not fit the schema.
        TypeError: A class was given for the object that stands for a service.
        ValueError: The manifest does not define a hook that a function stands for.

    Attributes:
        config: As handlers see it; ``configure`` changes it.
        logs: What was logged, oldest first.
        metrics: What was measured, oldest first.
        progress: What activation told of how far it is.
        published: What was published, oldest first.
        clock: Stands still until it is advanced.

    Use it as ``with PluginRunner(…) as runner``: entering activates the plugin, leaving shuts it down.
    """

    def __init__(
        self,
        plugin: Plugin | str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        capabilities: Iterable[Any] = (),
        services: Mapping[str, object] = MappingProxyType({}),
        hooks: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
        clock: FakeClock | None = None,
        contracts: Iterable[type[Any]] = (),
    ) -> None:
        self._session = session_for(Path(plugin)) if isinstance(plugin, str | Path) else None
        with self._watching(Path(plugin) if isinstance(plugin, str | Path) else Path()):
            self._loaded = LoadedPlugin(Path(plugin)) if isinstance(plugin, str | Path) else None
        self.plugin = plugin if isinstance(plugin, Plugin) else self._loaded.plugin if self._loaded is not None else Plugin()
        self.clock = clock or FakeClock()
        granted = self._loaded.manifest.permission_set() if self._loaded is not None else None
        if self._session is not None:
            self._session.note("ran", "memory")
            granted = self._session.rights
        own_id = self._loaded.manifest.id if self._loaded is not None else "plugin"
        needs = self._loaded.manifest.requires.services if self._loaded is not None else {}
        self._checks = Checks(contracts, plugin=own_id)
        self._host = FakeHost(
            config=self._completed(config or {}),
            capabilities=capabilities,
            services=PlayedServices(services, caller=own_id, versions={name: need.version for name, need in needs.items()}),
            hooks=PlayedHooks(hooks, manifest=self._loaded.manifest if self._loaded is not None else None),
            clock=self.clock,
            granted=granted,
            session=self._session,
        )
        self._runner: asyncio.Runner | None = None  # the loop of async handlers, from the first on
        self.logs = self._host.logs
        self.metrics = self._host.metrics
        self.progress = self._host.progress
        self.published = self._host.published

    @property
    def config(self) -> dict[str, Any]:
        """The configuration at hand."""
        return self._host.config

    @property
    def kv(self) -> dict[str, Any]:
        """What is in the key-value store, by key; a copy."""
        return self._host.kv.values()

    def __enter__(self) -> Self:
        try:
            self.activate()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.shutdown()
        finally:
            self.close()

    # Life.

    def activate(self) -> None:
        """Hold the code against the manifest and run what is registered for activation.

        Raises:
            ActivationError: It answers what the manifest does not declare, or declares what it does not answer.
        """
        if self._loaded is not None:
            self._loaded.check_provided()
        self._run_life(self.plugin.activate_handlers)

    def configure(self, config: Mapping[str, Any]) -> bool:
        """Change the configuration; say whether the plugin asks to be restarted.

        Raises:
            ConfigInvalidError: It does not fit the schema; nothing is changed.
        """
        self._host.config = self._completed(config)
        return "restart" in self._run_life(self.plugin.configure_handlers)

    def shutdown(self) -> None:
        """Run what is registered for the end."""
        self._run_life(self.plugin.shutdown_handlers)

    def close(self) -> None:
        """Give back what the runner holds, without a word to the plugin. Idempotent."""
        if self._runner is not None:
            self._runner.close()
        if self._loaded is not None:
            self._loaded.close()
        self._host.close()

    # Calls.

    def request(
        self, *, id: str | None = None, key: str | None = None, deadline_s: float = 30.0, caller: str | None = None
    ) -> RunnerRequest:
        """Begin a request: calls made in it share ``ctx.state``, ``ctx.request_id``, ``ctx.key`` and ``ctx.caller`` (a plugin's id)."""
        meta = {"request": id or new_request_id(), "deadline_ms": round(deadline_s * 1000), "key": key, "caller": caller}
        return RunnerRequest(self, {name: value for name, value in meta.items() if value is not None})

    def call(self, hook: str, *params: Any) -> Any:
        """Call the handler of a hook in a request of its own; see ``RunnerRequest.call``."""
        return self.request().call(hook, *params)

    def stream(self, hook: str, items: Iterable[Any], *params: Any) -> list[Any]:
        """Pass items through a stream filter in a request of its own; see ``RunnerRequest.stream``."""
        return self.request().stream(hook, items, *params)

    def extension(self, point: str) -> Any:
        """Return what the plugin puts at an extension point, called in a request of its own."""
        return self.request().extension(point)

    @overload
    def service(self, of: type[S], /) -> S: ...
    @overload
    def service(self, of: str, /) -> Any: ...

    def service(self, of: Any, /) -> Any:
        """Return a service that the plugin offers, each call in a request of its own; see ``RunnerRequest.service``."""
        self.request().service(of)
        request = self.request
        return client_of(of, lambda *asked: request()._ask_service(*asked), lambda *asked: request()._stream_service(*asked))

    def event(self, topic: str, value: Any = None, *, publisher: str | None = None) -> None:
        """Tell the plugin of an event, as if ``publisher`` (None: the application) had published it."""
        handler = self._handler(f"event.{topic}", f"event {topic!r}")
        params = {"topic": topic, "value": travelled(value), "publisher": publisher, "time": self.clock.now()}
        meta: dict[str, Any] = {} if publisher is None else {"caller": publisher}
        self._run(handler, event_of(params), meta)

    # How it is done.

    def _handler(self, method: str, what: str) -> Handler:
        handler = self.plugin.handlers.get(method)
        if handler is None:
            known = ", ".join(sorted(self.plugin.handlers)) or "none"
            raise MethodNotFoundError(f"the plugin does not answer {what}; it answers: {known}", method=method)
        return handler

    def _completed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if self._loaded is None:
            return dict(config)
        manifest = self._loaded.manifest
        return schema_of(self._loaded.folder, manifest.config_schema, plugin=manifest.id).complete(dict(config))

    def _run_life(self, handlers: list[Handler]) -> list[Any]:
        return [self._run(handler, [], {}) for handler in handlers]

    def _run(self, handler: Handler, params: list[Any], meta: dict[str, Any]) -> Any:
        """Call a handler; returns what it returned, items of a stream as a list. State goes back into ``meta``."""
        check_given(handler, params)
        ctx = self._host.async_context(meta) if handler.is_async else self._host.context(meta)
        params = [*params, ctx] if handler.wants_ctx else params
        with self._watching(self._loaded.folder if self._loaded is not None else Path()):
            result = handler.function(*params)
            if handler.is_async:
                self._runner = self._runner or asyncio.Runner()
                result = self._runner.run(gathered(result) if handler.is_generator else result)
            elif handler.is_generator:
                result = list(result)
        changed = ctx._changed_state()
        if changed is not None:
            kept = {**meta.get("state", {}), **changed}
            meta["state"] = {key: value for key, value in kept.items() if value is not None}
        return result

    def _watching(self, folder: Path) -> AbstractContextManager[None]:
        """Note what the plugin does in this block, where ``annexe learn`` asked for it."""
        return self._session.watching(folder.resolve()) if self._session is not None else nullcontext()


@final
class RunnerRequest:
    """One request. Made by ``PluginRunner.request``."""

    def __init__(self, runner: PluginRunner, meta: dict[str, Any]) -> None:
        self._runner = runner
        self._meta = meta

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @property
    def id(self) -> str:
        """Seen as ``ctx.request_id``."""
        return str(self._meta["request"])

    @property
    def state(self) -> dict[str, Any]:
        """What the plugin has put aside so far; a copy."""
        return dict(self._meta.get("state", {}))

    def call(self, hook: str, *params: Any) -> Any:
        """Call the handler of a hook.

        Args:
            hook: Qualified name: ``"chat.on_request"``.
            params: Its parameters, anything the wire can carry; dataclasses too.

        Returns:
            What the handler returned, as the application would get it: for ``ctx.unchanged`` the first parameter.

        Raises:
            Reject: The handler refused.
            Respond: The handler answered for all.
            MethodNotFoundError: The plugin does not answer the hook.
            InvalidParamsError: What the test gives does not fit the contract.
            InvalidResultError: What the handler gave does not.
        """
        method = f"hook.{hook}"
        handler = self._runner._handler(method, f"hook {hook!r}")
        return self._call(method, handler, self._runner._checks.bound(method, params, {}))

    def stream(self, hook: str, items: Iterable[Any], *params: Any) -> list[Any]:
        """Pass items through a stream filter and return what comes out."""
        method, checks = f"hook.{hook}", self._runner._checks
        handler = self._runner._handler(method, f"hook {hook!r}")
        _, *others = checks.bound(method, (items, *params), {})
        checks.check_params(method, travelled(others))
        passed: list[Any] = checks.result(method, self._stream(handler, checks.items_in(method, map(travelled, items)), others))
        return passed

    def extension(self, point: str) -> Any:
        """Return what the plugin puts at an extension point: its methods take what the wire can carry; an iterator streams in."""
        handlers = self._runner.plugin.handlers
        methods = [method for method in handlers if method.rpartition(".")[0] == f"ext.{point}"]
        if not methods:
            self._runner._handler(f"ext.{point}", f"extension point {point!r}")
        return Methods({method.rpartition(".")[2]: self._method(method, handlers[method]) for method in methods})

    @overload
    def service(self, of: type[S], /) -> S: ...
    @overload
    def service(self, of: str, /) -> Any: ...

    def service(self, of: Any, /) -> Any:
        """Return a service that the plugin offers, as other plugins have it.

        Args:
            of: Its name: methods take arguments by position. Or its contract: by name too, and answers are of its types.

        Raises:
            MethodNotFoundError: The plugin does not offer it.
            TypeError: It is neither.
        """
        name = name_of(of)
        if not any(method.startswith(f"svc.{name}.") for method in self._runner.plugin.handlers):
            self._runner._handler(f"svc.{name}", f"service {name!r}")
        return client_of(of, self._ask_service, self._stream_service)

    def _ask_service(self, method: str, params: list[Any]) -> Any:
        handler = self._runner._handler(method, method)
        if handler.is_generator:
            text = "it yields ({}); ask for it as a stream: runner.service({!r}).{}.stream(…)".format(handler.at, *method.split(".")[1:])
            raise InvalidParamsError(text, method=method)
        try:
            return self._call(method, handler, params)
        except Misfit as error:
            raise InvalidParamsError(str(error), method=method) from error

    def _stream_service(self, method: str, params: list[Any], items: Any, direction: str) -> Any:
        handler = self._runner._handler(method, method)
        if direction != "in" and not handler.is_generator:
            raise InvalidParamsError(f"it yields nothing, so there is no stream of it ({handler.at})", method=method)
        try:
            if direction == "out":
                return closable(travelled(self._run(handler, travelled(params))))
            answer = self._stream(handler, items, params)
        except Misfit as error:
            raise InvalidParamsError(str(error), method=method) from error
        return answer if direction == "in" else closable(answer)

    def _method(self, method: str, handler: Handler) -> Callable[..., Any]:
        checks = self._runner._checks

        def call(*params: Any, **named: Any) -> Any:
            values = checks.bound(method, params, named)
            source = next((value for value in values if isinstance(value, Iterator)), None)
            if source is None:
                return self._call(method, handler, values)
            others = [value for value in values if value is not source]
            checks.check_params(method, travelled(others))
            return checks.result(method, self._stream(handler, checks.items_in(method, map(travelled, source)), others))

        return call

    def _call(self, method: str, handler: Handler, params: list[Any]) -> Any:
        checks = self._runner._checks
        sent = travelled(params)
        checks.check_params(method, sent)
        try:
            result = self._run(handler, travelled(sent))
        except Respond as answer:
            checks.result(method, answer.value, is_response=True)
            raise
        return sent[0] if result is UNCHANGED else checks.result(method, travelled(result))

    def _stream(self, handler: Handler, items: Iterable[Any], params: list[Any]) -> Any:
        source: Any = map(travelled, items)
        if handler.is_async:
            source = as_async(source)
        return travelled(self._run(handler, [source, *travelled(params)]))

    def _run(self, handler: Handler, params: list[Any]) -> Any:
        convert = converter(handler)
        params = convert(params) if convert is not None else params
        try:
            return self._runner._run(handler, params, self._meta)
        except Respond as answer:
            answer.value = travelled(answer.value)
            raise
