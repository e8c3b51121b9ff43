"""``SyncHost``: the host for Flask, Django and scripts.

A ``Host`` on an event loop in a thread of its own; each call of the application's waits for that thread. From any number of threads at
once; not from inside a running loop, nor in a forked child of the process that made it.

Source: docs/reference/host.md, "SyncHost"; ADR-0056.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, final, overload

from annexe.contract import ExtensionPoint, HookSpec
from annexe.dispatch.graph import Impact
from annexe.dispatch.listeners import TopicEvent
from annexe.errors import HostClosedError, WrongContextError
from annexe.host.host import Host
from annexe.host.loop_thread import LoopThread, check_caller
from annexe.host.plugin_handle import PluginHandle, PluginView
from annexe.host.requests import RequestScope
from annexe.host.sync_calls import SyncCalls

__all__ = ["SyncHost", "SyncPluginHandle", "SyncRequestScope"]

P = ParamSpec("P")
T = TypeVar("T")

_NOT_OPEN = "this host is not open; use it inside `with SyncHost(…) as host`"


def _takes_what(host: Callable[P, object]) -> Callable[[Callable[..., None]], Callable[Concatenate[SyncHost, P], None]]:
    """Give ``__init__`` the signature of another class."""

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[SyncHost, P], None]:
        init.__wrapped__ = host.__init__  # type: ignore[attr-defined]  # for inspect.signature and help()
        return init

    return decorate


@final
class SyncHost:
    """Runs plugins and calls them through typed hooks and extension points, from blocking code.

    It takes what ``Host`` takes. Hooks and extension methods are called without ``await``; where ``Host`` has async iterators, this has
    plain ones.

    Use it as ``with SyncHost(…) as host``: entering waits until every eager plugin is ready or has failed. One that is left open is
    closed when the main thread of the program ends.

    Raises:
        WrongContextError: Used inside a running event loop, or in a forked child of the process that made it.
    """

    @_takes_what(Host)
    def __init__(self, **settings: Any) -> None:
        self._host = Host(**settings)
        self._pid = os.getpid()
        self._lock = threading.RLock()  # held for moments only, and taken again by a signal handler that comes in one
        self._closing: tuple[int, threading.Event] | None = None  # by which thread
        self._thread: LoopThread | None = None
        self._calls: SyncCalls | None = None

    # Life.

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if os.getpid() == self._pid:  # a forked child that leaves the block has nothing to close
            self.close()

    def open(self) -> None:
        """Take the state directory, find the plugins and start them; wait until every eager one is ready or has failed.

        Raises:
            HostError: As for ``Host``.
            WrongContextError: It is open already.
        """
        check_caller(self._pid)
        with self._lock:
            if self._thread is not None:
                raise WrongContextError("this host is open already")
            thread = self._thread = LoopThread("annexe-host")
        try:
            thread.run(self._host.open)
            self._calls = SyncCalls(thread, self._host._dispatcher.pipelines)
        except BaseException:
            self._thread = None
            thread.stop()
            raise
        _left_open.add(self)

    def close(self) -> None:
        """Stop every plugin in order and give everything back; calls under way get their answer or an error. Idempotent.

        Returns when it is done, also where another thread is at it. A signal handler that interrupts it returns at once.
        """
        check_caller(self._pid)
        with self._lock:
            thread, self._thread, self._calls = self._thread, None, None
            if thread is not None:
                self._closing = (threading.get_ident(), threading.Event())
            closing = self._closing
        if closing is None:
            return
        closer, closed = closing
        if thread is None:
            if closer != threading.get_ident():
                closed.wait()
            return
        try:
            thread.run(self._host.close)
        finally:
            thread.stop()
            closed.set()

    # Requests and calls.

    def request(
        self, *, id: str | None = None, deadline_s: float | None = None, key: str | None = None, traceparent: str | None = None
    ) -> SyncRequestScope:
        """Begin a request: ``with host.request(deadline_s=2.0) as request``; arguments as for ``Host.request``.

        Raises:
            HostClosedError: The host is not open.
            ValueError: The id is not well-formed.
        """
        calls = self._open_calls()
        scope = self._running().run(self._host.request, id=id, deadline_s=deadline_s, key=key, traceparent=traceparent)
        return SyncRequestScope(scope, calls)

    def hooks(self, spec: type[HookSpec]) -> Any:
        """Return the hooks of a spec; each call makes a request of its own and blocks.

        Raises:
            ContractError: The spec is not open in this host.
            HostClosedError: The host is not open.
        """
        return self._open_calls().hooks(spec, self._host)

    def extension(self, point: type[ExtensionPoint]) -> Any:
        """Return the plugin at an extension point: the operator's choice, else the lowest priority, then id.

        Raises:
            PluginUnavailableError: None is installed.
            ContractError: The extension point is not open in this host.
            HostClosedError: The host is not open.
        """
        return self._open_calls().extension(point, self._host)

    def extensions(self, point: type[ExtensionPoint]) -> list[Any]:
        """Return every plugin at an extension point, best first."""
        return self._open_calls().extensions(point, self._host)

    def publish(self, topic: str, value: Any = None) -> int:
        """Publish an event, as ``Host.publish`` does.

        Raises:
            ValueError: That is no name of a topic.
            InvalidParamsError: The value cannot be sent.
        """
        return self.run(lambda host: host.publish(topic, value))

    def subscribe(self, topic: str, callback: Callable[[TopicEvent], Awaitable[None] | None]) -> Callable[[], None]:
        """Have a function called with each event of a topic, as ``Host.subscribe`` does; return what ends that.

        It is called on the thread of the host's loop, and must not block it: hand what takes time to a thread of your own.

        Raises:
            ValueError: That is no name of a topic.
        """
        end = self.run(lambda host: host.subscribe(topic, callback))
        return lambda: self.run(lambda _host: end())

    def explain(self, request_id: str) -> dict[str, Any]:
        """Return what plugins did to a request, as ``Host.explain`` does.

        Raises:
            HostError: No such request is remembered.
        """
        return self.run(lambda host: host.explain(request_id))

    @overload
    def run(self, work: Callable[[Host], Coroutine[Any, Any, T]]) -> T: ...
    @overload
    def run(self, work: Callable[[Host], T]) -> T: ...
    def run(self, work: Callable[[Host], Any]) -> Any:
        """Do something with the ``Host`` itself, on its loop, and return the result: ``host.run(lambda host: host.events.latest(10))``.

        Args:
            work: Must not block; a coroutine is run to its end.
        """
        return self._running().run(work, self._host)

    # Plugins.

    @property
    def plugins(self) -> list[SyncPluginHandle]:
        """Every plugin that was found, by id, broken ones included."""
        thread = self._running()
        return [SyncPluginHandle(handle, thread) for handle in self.run(lambda host: host.plugins)]

    def plugin(self, plugin: str) -> SyncPluginHandle:
        """Return one plugin.

        Raises:
            UnknownPluginError: There is none of that id.
        """
        return SyncPluginHandle(self.run(lambda host: host.plugin(plugin)), self._running())

    def scan(self) -> None:
        """Look into the plugin folders again: take up what is new, let go of what is gone."""
        self.run(lambda host: host.scan())

    def _running(self) -> LoopThread:
        thread = self._thread
        if thread is None:
            raise HostClosedError(_NOT_OPEN)
        return thread

    def _open_calls(self) -> SyncCalls:
        calls = self._calls
        if calls is None:
            raise HostClosedError(_NOT_OPEN)
        return calls


@final
class SyncRequestScope:
    """One request: ``with host.request(…) as request``. What plugins put aside for it is gone when it ends."""

    __slots__ = ("_calls", "_scope")

    def __init__(self, scope: RequestScope, calls: SyncCalls) -> None:
        self._scope = scope
        self._calls = calls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @property
    def id(self) -> str:
        """Its id, for logs and ``explain``."""
        return self._scope.id

    def hooks(self, spec: type[HookSpec]) -> Any:
        """Return the hooks of a spec, called as part of this request."""
        return self._calls.hooks(spec, self._scope)

    def extension(self, point: type[ExtensionPoint]) -> Any:
        """Return the plugin at an extension point, called as part of this request."""
        return self._calls.extension(point, self._scope)

    def extensions(self, point: type[ExtensionPoint]) -> list[Any]:
        """Return every plugin at an extension point, called as part of this request."""
        return self._calls.extensions(point, self._scope)


@final
class SyncPluginHandle(PluginView):
    """A plugin of a ``SyncHost``: ``PluginHandle`` with calls that block."""

    def __init__(self, handle: PluginHandle, thread: LoopThread) -> None:
        super().__init__(handle._known, handle._registry)
        self._handle = handle
        self._run = thread.run

    def start(self) -> None:
        """Start it and wait until it is ready or has failed."""
        self._run(self._handle.start)

    def stop(self) -> None:
        """Stop it until it is started again or the host is; ``disable`` is for good."""
        self._run(self._handle.stop)

    def restart(self) -> None:
        """Start it afresh, also out of quarantine, and wait until it is ready or has failed."""
        self._run(self._handle.restart)

    def reload(self) -> None:
        """Take up what is in its folder now without losing a call, as ``PluginHandle.reload`` does.

        Raises:
            AnnexeError: As there; the old instance goes on.
        """
        self._run(self._handle.reload)

    def impact(self) -> Impact:
        """Return what would happen to others if it were stopped, disabled or removed now; nothing is changed."""
        impact: Impact = self._run(self._handle.impact)
        return impact

    def enable(self) -> None:
        """Let it run, also after the host's next start; wait until it is ready or has failed."""
        self._run(self._handle.enable)

    def disable(self) -> None:
        """Stop it, also after the host's next start."""
        self._run(self._handle.disable)

    def grant(self, *, by: str = "the application", note: str = "", to_content: bool = False, versions: str = "") -> None:
        """Grant all that it asks for, bound to its folder, or to its content as it is now; start it if it is enabled."""
        self._run(self._handle.grant, by=by, note=note, to_content=to_content, versions=versions)

    def revoke(self, *, by: str = "the application", rights: Iterable[str] = ()) -> None:
        """Take its grants back, or these rights alone; it is stopped if it asks for any of what was taken."""
        self._run(self._handle.revoke, by=by, rights=rights)

    def configure(self, value: Mapping[str, Any], *, expected_revision: int | None = None) -> None:
        """Write its configuration and push it to the running instance.

        Raises:
            ConfigInvalidError: It does not fit the plugin's schema; nothing was changed.
        """
        self._run(self._handle.configure, value, expected_revision=expected_revision)


_left_open: weakref.WeakSet[SyncHost] = weakref.WeakSet()


def _close_at_exit() -> None:
    """Close what is left open when the main thread ends; a forked child has nothing to close."""
    for host in list(_left_open):
        if os.getpid() == host._pid:
            host.close()


# ``atexit`` is too late: the executors that closing needs are gone by then. These callbacks run last come, first served, so before the one
# of ``concurrent.futures``, which has been there since that was imported. It is private, so do without where it is not: plugins end
# with the host's process in any case.
getattr(threading, "_register_atexit", atexit.register)(_close_at_exit)
