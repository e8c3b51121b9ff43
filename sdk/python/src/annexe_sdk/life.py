"""The host's own calls: hello, activate, configure, shutdown.

Plugin code is loaded by ``annexe.activate``, never before: so a fault is blamed on the right side.

Source: docs/reference/protocol.md, "Handshake and life".
"""

import sys
from _thread import allocate_lock

from annexe_sdk import __version__
from annexe_sdk.codec import has_msgspec
from annexe_sdk.errors import sendable
from annexe_sdk.session import Stopped
from annexe_sdk.wire import MAX_FRAME_BYTES, PROTOCOL_VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from annexe_sdk.calls import Call
    from annexe_sdk.plugin import Handler, Plugin
    from annexe_sdk.runner import Runner

__all__ = ["Life", "describe", "last_frame", "with_hint"]

# Names that need no conversion, and those of what may hold some; ``bytes`` do, for in JSON they are text.
_PLAIN = frozenset({"Any", "AsyncContext", "Context", "None", "NoneType", "bool", "ellipsis", "float", "int", "object", "str"})
_PLAIN |= {"AsyncIterable", "AsyncIterator", "Iterable", "Iterator", "Optional", "Union", "dict", "list", "tuple"}


class Life:
    """Answers the host's own calls for one runner."""

    def __init__(self, runner: "Runner", load: "Callable[[], Plugin]", use_msgpack: bool | None) -> None:
        self._runner = runner
        self._load = load
        self._use_msgpack = use_msgpack
        self._plugin: Any = None
        self._loop: Any = None  # the event loop of a plugin with async handlers; it does the reading from activation on
        self._answers = {
            "annexe.hello": self._hello,
            "annexe.activate": self._activate,
            "annexe.configure": self._configure,
            "annexe.shutdown": self._shutdown,
        }

    def answer(self, call: "Call") -> bytes:
        """Return the frame that answers the call."""
        answer = self._answers.get(call.method)
        if answer is None:
            return self._runner.session.error(call.id, "method-not-found", f"this plugin has no {call.method!r}")
        return answer(call)

    def _hello(self, call: "Call") -> bytes:
        offered = call.params.get("protocols", [])
        common = set(offered) & set(PROTOCOL_VERSIONS)
        if not common:
            text = f"this SDK speaks protocol {list(PROTOCOL_VERSIONS)}, the host {offered}; upgrade whichever is older"
            return self._runner.session.error(call.id, "protocol-unsupported", text, {"protocols": list(PROTOCOL_VERSIONS)})
        limits = call.params.get("limits", {})
        self._runner.concurrency = max(1, limits.get("concurrency", 1))
        if self._use_msgpack is None:
            self._use_msgpack = has_msgspec(sys.path)
        self._use_msgpack = self._use_msgpack and "msgpack" in call.params.get("codecs", [])
        self._runner.session.expects_msgpack = self._use_msgpack
        arenas = call.params.get("arenas") if self._use_msgpack else None
        self._runner.session.agree(limits.get("max_frame_bytes", MAX_FRAME_BYTES), arenas)
        sdk = {"name": "annexe-sdk", "language": "python", "version": __version__}
        answer = {"protocol": max(common), "codec": "msgpack" if self._use_msgpack else "json", "sdk": sdk}
        if arenas is not None:
            answer["arenas"] = True
        return self._runner.session.result(call.id, answer)

    def _activate(self, call: "Call") -> bytes:
        self._runner.config = call.params.get("config") or {}
        self._runner.grants = call.params.get("grants") or []
        self._runner.data_dir = call.params.get("data_dir")
        self._runner.level = call.params.get("level") or ""
        try:
            if call.params.get("record"):  # a host that learns what the plugin needs
                from annexe_sdk.recording import record

                record(self._runner, call.params["record"])
            self._plugin = self._load()
            self._prepare()
            if self._plugin.is_async:
                from annexe_sdk.aio import EventLoop

                self._loop = EventLoop(self._runner)
            for handler in self._plugin.activate_handlers:
                self.run_life(handler, call)
        except Stopped:
            raise
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            where = last_frame(error)
            text = describe(error) + (f" (at {where})" if where else "")
            text, facts = with_hint(self._runner, error, text, {"type": type(error).__name__, "at": where})
            return self._runner.session.error(call.id, "activation-failed", text, facts)
        self._runner.then = self._after_activation
        return self._runner.session.result(call.id, self._plugin.provides())

    def _prepare(self) -> None:
        self._runner.handlers = self._plugin.handlers
        for method, handler in self._runner.handlers.items():
            if handler.kind not in ("event", "watch") and _has_rich_annotations(handler.function):
                from annexe_sdk.convert import converter, takes_views

                handler.convert = converter(handler)
                if takes_views(handler):
                    self._runner.session.shared.viewing.add(method)
                    handler.has_blobs = True  # its answers are made where its views are given up
        if any(handler.is_generator for handler in self._runner.handlers.values()):
            if self._runner.concurrency == 1:
                self._runner.turn = allocate_lock()
            else:
                import threading

                self._runner.turn = threading.Semaphore(self._runner.concurrency)

    def _after_activation(self) -> None:
        """What can wait until the host knows that the plugin is ready: the import of msgspec."""
        if self._use_msgpack:
            self._runner.session.codec = self._runner.session.take_msgpack()
        if self._loop is not None:
            self._loop.run()

    def run_life(self, handler: "Handler", call: "Call") -> "Any":
        """Run one of the plugin's own life-cycle functions."""
        if self._loop is not None:
            return self._loop.run_life(handler, call)
        ctx = self._runner.context(call)
        self._runner.take_turn()  # as every handler: what asks the host passes it on meanwhile
        try:
            return handler.function(ctx) if handler.wants_ctx else handler.function()
        finally:
            self._runner.pass_turn()

    def _configure(self, call: "Call") -> bytes:
        self._runner.config = call.params.get("config") or {}
        try:
            answers = [self.run_life(handler, call) for handler in self._plugin.configure_handlers]
        except Exception as error:
            return self._runner.failure(call, self._plugin.configure_handlers[0], error, self._runner.context(call))
        return self._runner.session.result(call.id, {"restart": "restart" in answers})

    def _shutdown(self, call: "Call") -> bytes:
        for handler in self._plugin.shutdown_handlers:
            try:
                self.run_life(handler, call)
            except Exception as error:
                sys.excepthook(type(error), error, error.__traceback__)
        self._runner.then = self._end
        return self._runner.session.result(call.id, None)

    def _end(self) -> None:
        self._runner.stop()
        raise Stopped


def _has_rich_annotations(function: "Any") -> bool:
    """Say whether an annotation of a parameter may need a conversion: looked at without importing what it takes to follow it."""
    try:
        annotations = getattr(function, "__annotations__", {})
    except Exception:
        return True  # the names in them are not all there: see convert
    return any(not _is_plain(annotation) for name, annotation in annotations.items() if name != "return")


def _is_plain(annotation: "Any") -> bool:
    if isinstance(annotation, str):
        for mark in "[],|":
            annotation = annotation.replace(mark, " ")
        return all(name.rpartition(".")[2] in _PLAIN for name in annotation.split())
    held = getattr(annotation, "__args__", None)
    if held:
        return all(map(_is_plain, held))
    return annotation is None or getattr(annotation, "__name__", type(annotation).__name__) in _PLAIN


def describe(error: BaseException) -> str:
    """Return class and text of an exception, whatever its author made of it."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def last_frame(error: BaseException) -> str | None:
    """Return ``file:line`` of the innermost frame of the plugin's own code; of packages and the standard library, where it has none."""
    trace, where, outside = error.__traceback__, None, None
    library = f"{sys.base_prefix}/lib/python"
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "annexe_sdk" not in name and not name.startswith("<frozen"):
            at = f"{name.rpartition('/')[2]}:{trace.tb_lineno}"
            if name.startswith(library) or "/site-packages/" in name:
                outside = at
            else:
                where = at
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename.rpartition('/')[2]}:{error.lineno}"
    return where or outside


def with_hint(runner: "Runner", error: BaseException, text: str, facts: "dict[str, Any]") -> "tuple[str, dict[str, Any]]":
    """Add what the author can do about it where the sandbox may have refused something; it goes to standard error as well."""
    if not isinstance(error, Exception):
        return text, facts
    from annexe_sdk.hints import hint_for

    hint = hint_for(error, level=runner.level, grants=runner.grants, data_dir=runner.data_dir)
    if not hint:
        return text, facts
    print(f"annexe_sdk: {sendable(hint['hint'])}", file=sys.stderr)
    return f"{text}; {hint['hint']}", facts | {name: sendable(value) for name, value in hint.items()}
