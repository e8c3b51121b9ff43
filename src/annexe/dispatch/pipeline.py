"""Call the plugins of one hook, one after the other: filters, actions, first results.

* Each plugin gets ``min(call time-out, budget, what is left ÷ plugins left)``; waiting for a start or a slot is paid from its share alone.
* A failure follows the policy: open skips the plugin and says so, closed fails the request with ``HookError``.
* A rejection is an answer and always reaches the application.
* What a plugin returned is checked against the declared type before anyone sees it.

Source: docs/reference/hooks.md; ADR-0005.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, final

from msgspec import Raw

from annexe.channel import Connection, Response
from annexe.channel.messages import ENCODE_FAULTS, BlobsFound, Codec
from annexe.clock import Clock
from annexe.contract import HookDefinition, InvalidValueError, ValueType, bind, wire_params
from annexe.dispatch.breaker import BreakerState
from annexe.dispatch.faults import invalid_result, tell_whose_limit, unsendable
from annexe.dispatch.members import HookMember
from annexe.dispatch.outcomes import Responded
from annexe.dispatch.request import Request
from annexe.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    HookError,
    InvalidParamsError,
    InvalidResultError,
    PluginBusyError,
    PluginUnavailableError,
    RejectedError,
)
from annexe.record import EventKind, Events, Explain, Outcome

__all__ = ["Pipeline"]

_NOT_THE_PLUGINS_FAULT = (PluginBusyError, PluginUnavailableError, CallCancelledError, InvalidParamsError)


@final
class Pipeline:
    """One hook and the plugins that implement it, in order.

    Args:
        definition: The hook.
        explain: Gets a step for every plugin.
        events: Gets skips and what the breakers do.
        clock: For times that people read.
        command: Makes a command of ``annexe`` for this host from its words.

    Attributes:
        command: As given.
    """

    __slots__ = ("_events", "_explain", "_first", "_now", "_rest", "absent", "command", "definition", "members")

    def __init__(
        self, definition: HookDefinition, *, explain: Explain, events: Events, clock: Clock, command: Callable[[str], str]
    ) -> None:
        self.definition = definition
        self.members: tuple[HookMember, ...] = ()
        self.absent: tuple[str, ...] = ()
        self._explain = explain
        self._events = events
        self._now = clock.now
        self.command = command
        self._first = definition.params[0] if definition.params else None
        self._rest = definition.params[1:]

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return one value for each parameter, in order."""
        if not kwargs and len(args) == len(self.definition.params):
            return args
        return bind(self.definition.params, args, kwargs, method=self.definition.method)

    # The three kinds that are called in order.

    async def filter(self, request: Request, values: tuple[Any, ...]) -> Any:
        """Pass the first value through every plugin and return what is left of it."""
        value, members = values[0], self.members
        if not members:
            return value
        first, result_type = self._first, self.definition.result
        assert first is not None and result_type is not None
        others = wire_params(self._rest, values[1:], method=self.definition.method) if self._rest else ()
        wire = value if first.type.as_is else self._to_send(first.type, value)
        encoded: tuple[Codec, bytes | None] | None = None
        for index, member in enumerate(members):
            started = monotonic()
            try:
                connection = await self.admit(request, member, started, len(members) - index)
                # Encoded once for all plugins that get the same value in the same codec.
                if encoded is None or encoded[0] is not connection.codec:
                    encoded = (connection.codec, self._encode(connection, wire))
                given = encoded[1]
                params = (wire if given is None else Raw(given), *others)
                response = await self._call(request, member, connection, params, started, len(members) - index)
                outcome = response.meta.outcome
                if outcome == "unchanged":
                    self.answered(request, member, started, Outcome.UNCHANGED)
                    continue
                changed = self._decode(member, result_type if outcome is None else self.definition.responds or result_type, response)
            except CallError as error:
                self.failed(request, member, started, error)
                continue
            self.answered(
                request,
                member,
                started,
                Outcome.CHANGED if outcome is None else Outcome.RESPONDED,
                given if response.codec == encoded[0].name else None,
                response.result,
                response.codec,
            )
            if outcome is not None:
                if self.definition.responds is not None:
                    raise Responded(changed, plugin=member.provider.id, hook=self.definition.qualified)
                return changed
            value = changed
            wire = value if first.type.as_is else self._to_send(first.type, value)
            encoded = None
        return value

    async def action(self, request: Request, values: tuple[Any, ...]) -> None:
        """Have every plugin do its part, in order."""
        members = self.members
        params = self._params(values) if members else None
        for index, member in enumerate(members):
            started = monotonic()
            try:
                connection = await self.admit(request, member, started, len(members) - index)
                await self._call(request, member, connection, params, started, len(members) - index)
            except CallError as error:
                self.failed(request, member, started, error)
            else:
                self.answered(request, member, started, Outcome.DONE)

    async def first_result(self, request: Request, values: tuple[Any, ...]) -> Any:
        """Ask plugins in order until one answers; None when none does."""
        members = self.members
        result_type = self.definition.result
        params = self._params(values) if members else None
        for index, member in enumerate(members):
            started = monotonic()
            try:
                connection = await self.admit(request, member, started, len(members) - index)
                response = await self._call(request, member, connection, params, started, len(members) - index)
                assert result_type is not None
                result = self._decode(member, result_type, response)
            except CallError as error:
                self.failed(request, member, started, error)
                continue
            if result is None:
                self.answered(request, member, started, Outcome.NONE)
                continue
            self.answered(request, member, started, Outcome.ANSWERED, None, response.result, response.codec)
            return result
        return None

    # One plugin.

    async def admit(self, request: Request, member: HookMember, now: float, left: int) -> Connection:
        """Return the connection to use for one plugin; waits for a start within the plugin's share."""
        if not member.breaker.admit(now):
            retry_s = member.breaker.retry_in_s(now)
            plugin, hook = member.provider.id, self.definition.qualified
            text = f"plugin {plugin!r} failed too often at {hook}; tried again in {retry_s:.1f} s; see: {self.command(f'logs {plugin}')}"
            raise PluginUnavailableError(text, plugin=plugin, method=self.definition.method, breaker="open")
        member.provider.last_used = now
        connection = member.provider.connection
        if connection is None:
            share = now + max(0.0, request.deadline - now) / left
            connection = await member.provider.wait_ready(share, method=self.definition.method)
        return connection

    async def _call(self, request: Request, member: HookMember, connection: Connection, params: Any, started: float, left: int) -> Response:
        """Call one plugin and take over its state; a refusal is noted here, for it leaves the pipeline."""
        plugin = member.provider.id
        remaining = request.deadline - started
        if remaining <= 0.0:
            text = f"no time was left for plugin {plugin!r} at {self.definition.qualified}"
            raise CallTimeoutError(text, plugin=plugin, method=self.definition.method)
        meta = request.meta_for(plugin)
        try:
            response = await connection.call(self.definition.method, params, meta, deadline=started + remaining / left, run_s=member.run_s)
        except RejectedError as error:
            self.answered(request, member, started, Outcome.REJECTED, reason=error.reject_code)
            raise
        except CallTimeoutError as error:
            tell_whose_limit(error, budget_s=self.definition.budget_s)
            raise
        finally:
            if connection.is_patient:  # what it took counts for nothing
                request.deadline += monotonic() - started
        if response.meta.state:
            request.change_state(plugin, response.meta.state, method=self.definition.method)
        return response

    def _params(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return wire_params(self.definition.params, values, method=self.definition.method)

    def _to_send(self, value_type: ValueType, value: Any) -> Any:
        try:
            return value_type.to_send(value)
        except InvalidValueError as error:
            raise unsendable(self.definition.qualified, error, method=self.definition.method) from error

    def _encode(self, connection: Connection, wire: Any) -> bytes | None:
        """Encode a value; None where it holds blobs, which each connection puts into memory of its own."""
        try:
            return connection.codec.encode(wire)
        except BlobsFound:
            return None
        except ENCODE_FAULTS as error:
            raise unsendable(self.definition.qualified, error, method=self.definition.method) from error

    def _decode(self, member: HookMember, value_type: ValueType, response: Response) -> Any:
        try:
            return value_type.decoders[response.codec](response.result)
        except InvalidValueError as error:
            plugin, hook = member.provider.id, self.definition.qualified
            at = member.provider.where(hook)
            raise invalid_result(hook, error, plugin=plugin, method=self.definition.method, hook=hook, at=at) from error

    # What is noted.

    def answered(
        self,
        request: Request,
        member: HookMember,
        started: float,
        outcome: Outcome,
        before: Any = None,
        after: Any = None,
        codec: Any = None,
        reason: str | None = None,
    ) -> None:
        """Note an answer."""
        now = monotonic()
        member.figures.add(now - started)
        if member.breaker.failures:
            self._breaker_closes(member, now)
        member.breaker.succeeded()
        self.note(request, member, started, now, outcome, reason, before, after, codec)

    def note(
        self,
        request: Request,
        member: HookMember,
        started: float,
        ended: float,
        outcome: Outcome,
        reason: str | None,
        before: Any = None,
        after: Any = None,
        codec: Any = None,
    ) -> None:
        """Add a step to what explain shows of the request."""
        record = request.record
        if record is None:
            record = request.record = self._explain.start(request.id, self._now())
        if self.absent:
            record.add_absent(self.definition.qualified, self.absent)
        hook = self.definition.qualified
        record.add_step(member.provider.id, hook, started, ended, outcome, reason, before, after, codec, request.caller)

    def failed(self, request: Request, member: HookMember, started: float, error: CallError) -> None:
        """Note a failure and apply the policy: returns to go on, raises ``HookError`` to stop."""
        if isinstance(error, InvalidParamsError) and "reported" not in error.data:
            raise error  # the application's own mistake, whatever the policy
        now = monotonic()
        plugin, hook = member.provider.id, self.definition.qualified
        member.figures.add_failure(now - started, error.code)
        if not isinstance(error, _NOT_THE_PLUGINS_FAULT):
            self._breaker_fails(member, now)
        # What never reached the plugin was skipped; what reached it failed.
        outcome = Outcome.SKIPPED if isinstance(error, (PluginUnavailableError, PluginBusyError)) else Outcome.FAILED
        self.note(request, member, started, now, outcome, f"{error.code}: {error.message}")
        if isinstance(error, InvalidResultError):
            where = {name: error.data[name] for name in ("path", "expected", "actual") if name in error.data}
            self._events.add(EventKind.INVALID_RESULT, plugin=plugin, reason=error.message, hook=hook, request=request.id, **where)
        kind = EventKind.HOOK_FAILED if member.closed else EventKind.HOOK_SKIPPED
        self._events.add(kind, plugin=plugin, reason=error.message, hook=hook, code=error.code, request=request.id)
        if member.closed:
            text = f"{hook} failed closed: {error.message}"
            raise HookError(text, plugin=plugin, hook=hook, reason=error.code) from error

    def _breaker_fails(self, member: HookMember, now: float) -> None:
        member.breaker.failed(now)
        if not member.failing and member.breaker.state(now) is BreakerState.OPEN:
            member.failing = True
            reason = f"{member.breaker.failures} failures in a row"
            self._events.add(EventKind.BREAKER_OPENED, plugin=member.provider.id, reason=reason, hook=self.definition.qualified)

    def _breaker_closes(self, member: HookMember, now: float) -> None:
        if member.failing and member.breaker.state(now) is not BreakerState.OPEN:
            member.failing = False
            self._events.add(EventKind.BREAKER_CLOSED, plugin=member.provider.id, reason="it answers again", hook=self.definition.qualified)
