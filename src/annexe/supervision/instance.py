"""One running instance of a plugin: process, connection, captured output.

Starting is two steps, so that a fault is blamed right: the handshake, before plugin code is loaded, then activation. Stopping is a ladder:
drain, ``annexe.shutdown``, SIGTERM, SIGKILL; each step is timed, and the end of the whole process tree is verified.

Source: features LC7 and LC9; docs/reference/protocol.md, "Handshake and life".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, final

import msgspec

from annexe.channel import (
    ChannelLimits,
    CodecName,
    Connection,
    Greeting,
    Notify,
    Provided,
    Refused,
    RequestMeta,
    Response,
    Serve,
    activate,
    hello,
)
from annexe.channel.handshake import MAX_ANSWER_BYTES, decode_answer
from annexe.channel.messages import DECODE_FAULTS
from annexe.errors import (
    ActivationError,
    AnnexeError,
    CallError,
    CallTimeoutError,
    HandshakeError,
    InvalidResultError,
    LaunchError,
    OutcomeUnknownError,
    PluginUnavailableError,
)
from annexe.launch import LaunchedPlugin, LaunchRequest, LaunchStrategy, TreeReport
from annexe.launch.egress import Egress
from annexe.record import PipeCapture, PluginLog
from annexe.supervision.attachment import HELLO_S, Guest
from annexe.supervision.scaling import Scaling

__all__ = ["Instance", "InstancePlan", "Proxy", "StopPolicy"]

_CAPTURE_DRAIN_S = 0.5
_EXIT_NEWS_S = 0.2


class _Configured(msgspec.Struct):
    """The answer to ``annexe.configure``; null and what else is there say nothing."""

    restart: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """How long each rung of the stop ladder may take, in seconds."""

    drain_s: float = 30.0
    shutdown_s: float = 5.0
    exit_s: float = 2.0
    terminate_s: float = 2.0
    kill_s: float = 5.0


_GUEST_STOP = StopPolicy(drain_s=2.0, shutdown_s=1.0, exit_s=0.5, terminate_s=0.5, kill_s=0.5)


def _ignore(_instance: Instance) -> None:
    return None


class Proxy(Protocol):
    """What serves a plugin's HTTP clients."""

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End, whatever is under way. Idempotent."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePlan:
    """Everything decided about an instance before it is launched.

    Attributes:
        launch: For the strategy.
        limits: Of the connection.
        start_timeout_s: From launch to ready.
        host: Name and version of the application, as told to the plugin.
        version: Of the plugin.
        activation: ``config``, ``grants``, ``data_dir``, ``log_level``; ``level`` is added when it is known.
        serve: Answers the plugin's requests.
        on_refused: Told of those that were answered with an error.
        on_notification: Takes the plugin's log lines and metrics.
        check: Holds what the code provides against the verified manifest; raises ``ActivationError``.
        codecs: Offered to the plugin, best first.
        open_egress: Makes the proxy behind the plugin's way out; None where it has none.
        admit: Asked before every call: returns 0 to let it through, else how many seconds to wait; None: all are let through.
        scaling: How many instances of the plugin may run.
        stream_drain_s: How long its streams may go on once another one has taken over; None: as long as its other calls.
        on_ready: Told of the instance once it takes calls.
        guest: It came by itself, and is launched as that says; None: as the plugin usually is.
    """

    launch: LaunchRequest
    limits: ChannelLimits
    start_timeout_s: float
    host: Mapping[str, str]
    version: str
    activation: Mapping[str, Any]
    serve: Serve
    on_refused: Refused
    on_notification: Notify
    check: Callable[[Provided], None]
    codecs: tuple[CodecName, ...] = ("msgpack", "json")
    open_egress: Callable[[Egress], Proxy] | None = None
    admit: Callable[[], float] | None = None
    scaling: Scaling = Scaling()  # noqa: RUF009 - it cannot be changed
    stream_drain_s: float | None = None
    on_ready: Callable[[Instance], None] = _ignore
    guest: Guest | None = None


@final
class Instance:
    """A launched plugin and its connection. Made by ``start``.

    Attributes:
        ended: Done when the instance cannot take calls any more, with the reason in words; never an exception.
        protocol_error: What the plugin broke, if that ended the connection.
        on_gone: Called at the moment when the connection of a guest is over, with the reason in words.
    """

    def __init__(self, plan: InstancePlan, launched: LaunchedPlugin, log: PluginLog) -> None:
        self.plan = plan
        self.launched = launched
        self.provided = Provided()
        self.greeting: Greeting | None = None
        self.protocol_error: AnnexeError | None = None
        self.is_stuck = False
        self._proxy: Proxy | None = None
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        name = plan.launch.instance
        self._captures: list[PipeCapture] = []
        if launched.stdout is not None:
            self._captures.append(PipeCapture(launched.stdout, log, source="stdout", instance=name))
        if launched.stderr is not None:
            self._captures.append(PipeCapture(launched.stderr, log, source="stderr", instance=name))
        self.connection = Connection(
            launched.sock,
            plugin=plan.launch.plugin,
            limits=plan.limits,
            serve=plan.serve,
            on_refused=plan.on_refused,
            on_notification=plan.on_notification,
            on_closed=self._on_closed,
            on_stuck=self._on_stuck,
            files=launched.files,
            is_patient=plan.guest is not None,
        )
        self.on_gone: Callable[[str], None] | None = None
        self._watch = self._loop.create_task(self._watch_exit())

    @classmethod
    async def start(cls, plan: InstancePlan, strategy: LaunchStrategy, log: PluginLog) -> Instance:
        """Launch, shake hands, activate.

        Raises:
            LaunchError: One of its family; nothing is left behind.
        """
        deadline = monotonic() + plan.start_timeout_s
        try:
            async with asyncio.timeout(plan.start_timeout_s):
                launched = await strategy.launch(plan.launch)
        except TimeoutError as error:
            raise LaunchError(
                f"plugin {plan.launch.plugin!r} had no process within its start timeout of {plan.start_timeout_s:g} s; its folder may be "
                "very large or the machine busy: remove what it does not need, or raise [resources] start-timeout in its plugin.toml.",
                plugin=plan.launch.plugin,
                timeout_s=plan.start_timeout_s,
            ) from error
        instance = cls(plan, launched, log)
        try:
            identity = {"id": plan.launch.plugin, "version": plan.version, "instance": plan.launch.instance}
            instance.greeting = await _greeting(instance.connection, plan, identity, deadline=deadline)
            launched.confirm()
            await instance._open_egress()
            activation = {**plan.activation, "level": str(launched.receipt.level)}
            instance.provided = await activate(instance.connection, instance.greeting, activation, deadline=deadline)
            plan.check(instance.provided)
            instance.connection.admit = plan.admit
        except BaseException as error:
            told = await instance._in_full(error) if isinstance(error, LaunchError) else error
            await instance.discard(kill_s=StopPolicy().kill_s)
            if told is not error:
                raise told from error
            raise
        return instance

    async def _open_egress(self) -> None:
        """Be there for the plugin's HTTP clients before its code is."""
        if self.launched.egress is not None and self.plan.open_egress is not None:
            self._proxy = self.plan.open_egress(self.launched.egress)
            await self._proxy.open()

    async def _in_full(self, error: LaunchError) -> LaunchError:
        """Return why it did not start with what only the instance knows: how its process ended, and how long it had."""
        plugin, start_s, cause = self.plan.launch.plugin, self.plan.start_timeout_s, error.__cause__
        exit_text = await self._why_it_ended()
        if isinstance(error, HandshakeError):
            return HandshakeError(f"{error.message}; it {exit_text}", plugin=plugin) if exit_text else error
        if isinstance(cause, CallTimeoutError):
            text = f"plugin {plugin!r} was not ready within its start timeout of {start_s:g} s"
            return ActivationError(f"{text}; where it needs longer, raise [resources] start-timeout in its plugin.toml", plugin=plugin)
        if isinstance(cause, PluginUnavailableError | OutcomeUnknownError) and self.protocol_error is None:
            text = f"its process {exit_text}" if exit_text else "it closed its connection"
            return ActivationError(f"plugin {plugin!r} could not be activated: {text} before it was ready", plugin=plugin)
        return error

    async def _why_it_ended(self) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_NEWS_S):
                status = await self.launched.wait()
                return f"was {status.text}" if status.signal is not None else status.text
        return ""

    def _on_closed(self, error: AnnexeError | None) -> None:
        self.protocol_error = error
        if self.plan.guest is not None:
            self._on_guest_gone(error)
        elif error is not None:
            self._end(f"broke the protocol: {error.message}")
        else:
            # Most likely it has just ended: how it ended tells more.
            self._loop.call_later(_EXIT_NEWS_S, self._end, "closed its connection")

    def _on_guest_gone(self, error: AnnexeError | None) -> None:
        self.launched.terminate()  # however it went: nobody waits for the rest
        reason = "its process has ended, or closed the connection" if error is None else f"it broke the protocol: {error.message}"
        self._end(reason)
        if self.on_gone is not None:
            self.on_gone(reason)

    def _on_stuck(self) -> None:
        self.is_stuck = True
        self._end("is stuck: every slot is held by a call that was cancelled long ago")

    async def _watch_exit(self) -> None:
        status = await self.launched.wait()
        # What it wrote before its end is still to be read: let the connection come to its end by itself.
        await asyncio.sleep(0)
        self._end(status.text)

    def _end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)

    @property
    def cause(self) -> str:
        """Return in a word why it has to be ended, or has ended, as a failure."""
        if self.protocol_error is not None:
            return "protocol-error"
        if self.is_stuck:
            return "stuck"
        return "exited" if self.ended.done() else "no-answer"

    async def ping(self, timeout_s: float) -> float | None:
        """Return how long the plugin took to answer, in seconds; None when it did not in time."""
        if self.plan.guest is not None:
            return 0.0  # it may be held in a debugger
        started = monotonic()
        try:
            await self.connection.call("annexe.ping", None, RequestMeta(), deadline=started + timeout_s)
        except CallError:
            return None
        return monotonic() - started

    async def configure(self, config: Mapping[str, Any], *, timeout_s: float) -> bool:
        """Push a new configuration; return whether the plugin asks to be restarted for it.

        Raises:
            CallError: The plugin did not take it.
        """
        response = await self._ask("annexe.configure", {"config": dict(config)}, timeout_s)
        try:
            answer: _Configured | None = decode_answer(response, _Configured | None, limit_bytes=MAX_ANSWER_BYTES)
        except DECODE_FAULTS as error:
            text = f"plugin {self.plan.launch.plugin!r} answered annexe.configure with what cannot be used: {error}"
            raise InvalidResultError(text, plugin=self.plan.launch.plugin, method="annexe.configure") from error
        return answer is not None and answer.restart

    async def _ask(self, method: str, params: Any, timeout_s: float) -> Response:
        """Call a method of the host's own; a guest, too, has no longer for that."""
        try:
            async with asyncio.timeout(timeout_s if self.connection.is_patient else None):
                return await self.connection.call(method, params, RequestMeta(), deadline=monotonic() + timeout_s)
        except TimeoutError:
            text = f"plugin {self.plan.launch.plugin!r} did not answer {method} within {timeout_s:g} s"
            raise CallTimeoutError(text, plugin=self.plan.launch.plugin, method=method) from None

    async def retire(self, policy: StopPolicy) -> TreeReport:
        """Take it down after another one took over: its streams have the time that its manifest gives them, and end then."""
        if self.plan.stream_drain_s is not None and not self.connection.closed:
            await self.connection.wait_idle(monotonic() + self.plan.stream_drain_s)
            self.end_streams()
        return await self.stop(policy)

    def end_streams(self, *, at_once: bool = False) -> None:
        """End the streams whose time its manifest sets, whatever is left of it; ``at_once``: only where it gives them none."""
        drain_s = self.plan.stream_drain_s
        if drain_s is not None and not (at_once and drain_s) and not self.connection.closed:
            self.connection.end_streams("another instance has taken its place; begin it again")

    async def stop(self, policy: StopPolicy) -> TreeReport:
        """Take the plugin down by the ladder; the caller has stopped sending it calls."""
        policy = policy if self.plan.guest is None else _GUEST_STOP
        if not self.connection.closed:
            await self.connection.wait_idle(monotonic() + policy.drain_s)
            self.connection.give_up_all()
        if not self.connection.closed:
            await self._step("shutdown", self._shut_down(policy.shutdown_s, policy.exit_s))
        if not await self._exits_within(0):
            self.launched.terminate()
            await self._step("SIGTERM", self._exits_within(policy.terminate_s))
        return await self.discard(kill_s=policy.kill_s)

    async def _shut_down(self, shutdown_s: float, exit_s: float) -> bool:
        try:
            await self._ask("annexe.shutdown", None, shutdown_s)
        except CallError:
            return self._watch.done()
        return await self._exits_within(exit_s)

    async def _exits_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._watch)
        except TimeoutError:
            return self._watch.done()
        return True

    async def _step(self, name: str, work: Awaitable[bool]) -> None:
        started = monotonic()
        worked = await work
        took_ms = round((monotonic() - started) * 1000)
        self._log.write("debug", f"stop: {name} {'worked' if worked else 'did not work'}", {"took_ms": took_ms}, source="host")

    async def discard(self, *, kill_s: float) -> TreeReport:
        """Kill what is left and give everything back. Idempotent."""
        self.connection.close()
        if self._proxy is not None:
            await self._proxy.close()
        self.launched.kill()
        await self._exits_within(kill_s)
        for capture in self._captures:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CAPTURE_DRAIN_S):
                    await capture.wait_ended()
            capture.stop()
        self._captures.clear()
        self._watch.cancel()
        self._end("was stopped")
        return await self.launched.close()


async def _greeting(connection: Connection, plan: InstancePlan, identity: Mapping[str, str], *, deadline: float) -> Greeting:
    """Shake hands; a guest, too, has little time for that: nothing of the plugin's is run yet."""
    try:
        async with asyncio.timeout(None if plan.guest is None else HELLO_S):
            return await hello(connection, host=plan.host, plugin=identity, codecs=plan.codecs, deadline=deadline)
    except TimeoutError:
        raise HandshakeError(f"plugin {connection.plugin!r} did not answer hello within {HELLO_S:g} s", plugin=connection.plugin) from None
