"""The life of one plugin: start it, watch it, restart it, stop it.

One task lives the plugin's life; everything else tells it what is wanted and it acts. So there is one place where the state changes, and
no two starts or stops at once.

* What takes calls is ``connection``: None whenever the plugin must not be called.
* Instances beside the first are the ``Crew``'s affair; how the plugin stands, and who waits for that, is ``Standing``'s.
* A failure is counted, stored, and answered with back-off; too many in a row end in quarantine, which a person lifts.
* A lazy plugin is started by its first call, and stopped when it was idle for long.

Source: features LC3 to LC11; ADR-0006.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from time import monotonic
from typing import Any, final

from annexe.channel import Connection
from annexe.clock import Clock
from annexe.errors import (
    CallError,
    PluginBlockedError,
    PluginUnavailableError,
    QuarantinedError,
    SandboxError,
    UnsupportedPlatformError,
)
from annexe.launch import LaunchStrategy
from annexe.record import EventKind, Events, PluginLog
from annexe.supervision.attachment import Guest
from annexe.supervision.crew import Crew
from annexe.supervision.ending import Ending
from annexe.supervision.failures import Failures
from annexe.supervision.gate import StartGate
from annexe.supervision.guests import Guests
from annexe.supervision.instance import Instance
from annexe.supervision.memory import FailureMemory
from annexe.supervision.policies import Policies
from annexe.supervision.pool import Member
from annexe.supervision.standing import MAX_REASON_CHARS, Standing
from annexe.supervision.starting import PlanInstance, Starts
from annexe.supervision.state import Lifecycle, PluginState
from annexe.supervision.succession import Succession, Successions
from annexe.supervision.wish import Wish

__all__ = ["Supervisor"]

_S = PluginState
_MAX_PLACE_CHARS = 256


@final
class Supervisor:
    """Keeps one plugin in the state that is wanted.

    Args:
        plugin: Its id.
        plan: Makes the plan of the next instance.
        strategy: How it is launched.
        lazy: Start at the first call.
        idle_stop_s: Stop a lazy plugin after this long without a call.
        failures: In a row, from an earlier life of the host.
        gate: The host's: how many plugins start at once.
        log: The plugin's log.
        events: The host's events.
        clock: For times that people read.
        memory: Where failures are remembered.
        policies: Rules.
        command: Makes words of ``annexe`` a command for this host, for people to paste.
        on_moved: Told of every change of state, after it.
    """

    def __init__(
        self,
        plugin: str,
        *,
        plan: PlanInstance,
        strategy: LaunchStrategy,
        lazy: bool,
        idle_stop_s: float | None,
        failures: int,
        gate: StartGate,
        log: PluginLog,
        events: Events,
        clock: Clock,
        memory: FailureMemory,
        policies: Policies,
        command: Callable[[str], str],
        on_moved: Callable[[PluginState], None],
    ) -> None:
        self.id = plugin
        self.last_used = 0.0
        self.failures = Failures(plugin, failures, policy=policies.restart, memory=memory)
        self._plan = plan
        self._lazy = lazy
        self._idle_stop_s = idle_stop_s
        self._log = log
        self._events = events
        self._command = command
        self._wish = Wish()
        self._standing = Standing(plugin, log=log, events=events, clock=clock, on_moved=on_moved)
        self._ending = Ending(plugin, policy=policies.stop, log=log, events=events)
        self._starts = Starts(
            plugin,
            strategy=strategy,
            gate=gate,
            ping_timeout_s=policies.health.ping_timeout_s,
            ending=self._ending,
            standing=self._standing,
            log=log,
            events=events,
        )
        self._crew = Crew(
            plan=plan,
            starts=self._starts,
            ending=self._ending,
            failures=self.failures,
            standing=self._standing,
            wish=self._wish,
            policies=policies,
            log=log,
        )
        self._successions = Successions(
            plugin, crew=self._crew, starts=self._starts, ending=self._ending, standing=self._standing, wish=self._wish
        )
        self._guests = Guests(
            plugin,
            crew=self._crew,
            starts=self._starts,
            successions=self._successions,
            standing=self._standing,
            wish=self._wish,
            begin=self._begin_armed,
            stop=self.stop,
        )
        self._armed = False  # lazy, and to be started by its first call
        self._task: asyncio.Task[None] | None = None
        self._handlers: Mapping[str, str] = {}

    @property
    def state(self) -> PluginState:
        """Where the plugin is in its life."""
        return self._standing.life.state

    @property
    def life(self) -> Lifecycle:
        """What it went through."""
        return self._standing.life

    @property
    def starts(self) -> int:
        """How many instances of it were started."""
        return self._starts.count

    @property
    def connection(self) -> Connection | None:
        """Whom to send the next call: of several instances the one with the fewest in flight; None whenever it must not be called."""
        crew = self._crew
        if crew.sole is not None or crew.pool is None or self._standing.is_held:
            return crew.sole
        return crew.pool.choose()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that take calls."""
        return self._crew.instances

    @property
    def instance(self) -> Instance | None:
        """The first of them."""
        return self._crew.first

    @property
    def guest(self) -> Guest | None:
        """What came by itself and takes its calls; None while it is the installed one's."""
        instance = self.instance
        return instance.plan.guest if instance is not None else None

    @property
    def is_there(self) -> bool:
        """Whether it takes calls, or would start at the first one."""
        return self._crew.pool is not None or self._standing.is_switching or (self._armed and self.state in (_S.STOPPED, _S.DRAINING))

    def where(self, hook: str) -> str | None:
        """Return ``file:line`` of the plugin's handler, as the plugin tells it; for messages alone."""
        return self._handlers.get(hook)

    # What is wanted.

    def block(self, reason: str) -> None:
        """Keep it from starting until a person acts; it must not be running."""
        self._move(_S.BLOCKED, reason)

    def resume_quarantine(self, reason: str) -> None:
        """Take up a quarantine from an earlier life of the host."""
        self._standing.resume(_S.QUARANTINED, reason)

    def allow(self, reason: str) -> None:
        """Let it start when asked: from found or blocked to stopped."""
        if self.state in (_S.INSTALLED, _S.BLOCKED):
            self._move(_S.STOPPED, reason)

    def start(self, reason: str = "asked to") -> None:
        """Have it run: now, or, if it is lazy, from its first call on. Blocked and quarantined ones stay as they are."""
        self._armed = self._lazy
        if self.state is _S.STOPPED and not self._lazy:
            self._begin(reason)

    def _begin(self, reason: str) -> None:
        if self._task is None or self._task.done():
            self._wish.begin()
            self._move(_S.STARTING, reason)
            # In an empty context: the first call starts a lazy plugin, and its deadline must not bound every ping and request to come.
            self._task = asyncio.get_running_loop().create_task(self._live(), name=f"annexe-{self.id}", context=Context())

    def _begin_armed(self, reason: str) -> None:
        self._armed = self._lazy
        self._begin(reason)

    async def stop(self, reason: str = "asked to") -> None:
        """Take it down and wait until it is down."""
        self._armed = False
        self._wish.end(reason)
        self.call_off()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._crew.wait_retired()
        if self.state in (_S.QUARANTINED, _S.BACKING_OFF):
            self._move(_S.STOPPED, reason)

    def call_off(self) -> None:
        """Have a replacement end at once that waits for another instance to become ready: a plugin may take minutes for that."""
        self._starts.call_off()

    def adopt(self, *, lazy: bool, idle_stop_s: float | None) -> None:
        """Go by what another manifest says, from the next start on."""
        self._lazy, self._idle_stop_s = lazy, idle_stop_s

    def fail(self, reason: str, *, for_good: bool = False, instance: Instance | None = None) -> None:
        """End an instance as failed, the first when none is named: it is started again after a while, ``for_good`` only by a person."""
        self._crew.fail(reason, for_good=for_good, instance=instance)

    def end_served(self, why: str) -> None:
        """End the streams that other plugins have of its services, at once."""
        self._crew.end_served(why)

    def forgive(self) -> None:
        """Let the failures before not count any more."""
        self.failures.forgive()

    async def replace(
        self, plan: PlanInstance, *, commit: Callable[[], None], overlap: bool, count: int | None = None, version: str = ""
    ) -> None:
        """Have other instances take over from those that run, without losing a call; see ``Successions.replace``."""
        await self._successions.replace(plan, commit=commit, overlap=overlap, count=count, version=version)

    async def attach(self, plan: PlanInstance, *, commit: Callable[[], None], overlap: bool) -> None:
        """Have a guest take the place of what runs, or of what would; see ``Guests.attach``."""
        await self._guests.attach(plan, commit=commit, overlap=overlap)

    def detach(self, reason: str) -> None:
        """Have the installed one take the place of a guest again; calls wait until it is ready."""
        self._guests.detach(reason)

    async def wait_ready(self, deadline: float, *, method: str) -> Connection:
        """Return the connection as soon as there is one; starts a lazy plugin.

        Raises:
            PluginUnavailableError: It cannot take calls, or was not ready before ``deadline`` (monotonic time).
        """
        if self._armed and self.state is _S.DRAINING and self._standing.lasts and self._task is not None:
            # Stopped for being idle just now: let that end, then start again.
            await asyncio.wait([self._task], timeout=deadline - monotonic())
        while (connection := self.connection) is None:
            if self._armed and self.state is _S.STOPPED and not self._standing.is_awaited:
                self._begin(f"called: {method}")
            elif self._standing.lasts:
                text = f"plugin {self.id!r} takes no calls: it is {self._standing.told}"
                raise PluginUnavailableError(text, plugin=self.id, method=method, state=str(self.state))
            try:
                async with asyncio.timeout_at(deadline):
                    await self._standing.wait()
            except TimeoutError:
                text = f"plugin {self.id!r} was still starting when the time for {method} was over"
                raise PluginUnavailableError(text, plugin=self.id, method=method, state=str(self.state)) from None
        return connection

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Have calls wait while it is down, for whoever holds this starts it again."""
        self._standing.expect(is_awaited=True)
        try:
            yield
        finally:
            self._standing.expect(is_awaited=False)

    async def wait_settled(self) -> None:
        """Wait while it is starting."""
        await self._standing.wait_started()

    async def configure(self, config: Mapping[str, Any], *, timeout_s: float = 10.0) -> bool:
        """Push a new configuration to what runs of the plugin; say whether that is all: not if it wants a restart, or did not take it."""
        try:
            return not any(await asyncio.gather(*(instance.configure(config, timeout_s=timeout_s) for instance in self.instances)))
        except CallError as error:
            self._log.write("warning", f"the new configuration was not taken: {error.message}", source="host")
            return False

    # The life.

    async def _live(self) -> None:
        try:
            await self._live_on()
        finally:
            self._successions.call_off()
            self._guests.turn_away()

    async def _live_on(self) -> None:
        while self._wish.is_wanted:
            try:
                instance = await self._start_one()
            except (PluginBlockedError, SandboxError, UnsupportedPlatformError) as error:
                self._move(_S.BLOCKED, self._starts.note(error))
                return
            except Exception as error:  # noqa: BLE001 - whatever it was, the plugin did not start and the host goes on
                delay_s = self._failed(self._starts.note(error), ready_s=0.0, for_good=False)
                if delay_s is None:
                    return
                await self._wish.wait_ended(delay_s)
                continue
            if instance is None:
                break
            try:
                self._take_over((instance,))
                del instance  # which may be replaced long before this life ends, and would be kept by it
                failed = await self._serve()
            finally:
                members = self._crew.stand_down()
            if failed is None:
                if self._standing.is_switching:
                    for member in members:
                        member.instance.end_streams(at_once=True)
                await self._take_down(members)
                del members
                if self._standing.is_switching:
                    continue
                return
            # The state first: clearing away takes time, and the plugin takes no calls meanwhile.
            reason = self._crew.note_end(failed)
            delay_s = self._failed(reason, ready_s=monotonic() - failed.ready_at, for_good=failed.is_final)
            self._successions.call_off()
            await self._crew.clear(members, self._ending.discard)
            del members, failed  # as above
            if delay_s is None:
                return
            await self._wish.wait_ended(delay_s)
        if self.state is not _S.STOPPED:
            self._move(_S.STOPPED, self._wish.reason)

    async def _start_one(self) -> Instance | None:
        """Start an instance, or a guest that comes; None when it is not wanted any more."""
        if self.state is not _S.STARTING:
            self._standing.start_again()
        guest = await self._guests.start()
        if guest is not None or not self._wish.is_wanted:
            return guest
        return await self._starts.first(self._plan, self._wish)

    async def _serve(self) -> Member | None:
        """Let those take calls that are there, come beside them or take over; return the last that failed, None when none is wanted."""
        self._move(_S.READY, "activated")
        while self._wish.is_wanted:
            await self._crew.watch()
            succession = self._successions.due() if self._wish.is_wanted else None
            if succession is not None:
                self._switch(succession)
            elif self._wish.is_wanted and not self._standing.is_switching:
                failed = await self._look_after()
                if failed is not None:
                    return failed
            if self._standing.is_switching:
                return None
        return None

    def _take_over(self, instances: Sequence[Instance]) -> None:
        """Send calls to these instances from now on."""
        provided = instances[0].provided
        self._handlers = {name: at[:_MAX_PLACE_CHARS] for name, facts in provided.hooks.items() if (at := facts.at) is not None}
        self.last_used = monotonic()
        self._crew.take_over(instances)
        self._guests.take_over(instances[0])

    def _switch(self, succession: Succession) -> None:
        """Carry a succession through."""
        pool = self._crew.pool
        assert pool is not None
        if not succession.carry_through():
            return
        before, after = succession.versions
        self._events.add(EventKind.REPLACED, plugin=self.id, reason=succession.told, starts=self.starts, before=before, after=after)
        self._log.write("info", succession.told, source="host")
        if not succession.instances:
            self._wish.reason = "replaced"
            self._standing.switch()
            return
        self._standing.switched()  # a guest may have gone just now
        self._guests.rescue()
        self._take_over(succession.instances)
        self._crew.replaced(pool.members)

    async def _look_after(self) -> Member | None:
        """See how those are that take calls, and stop a lazy plugin that was idle for long; return the last one, if it failed."""
        pool, now = self._crew.pool, monotonic()
        assert pool is not None
        if self.guest is None:  # whose being well says nothing of the installed one
            self.failures.note_ready(now - pool.members[0].ready_at)
            if self._lazy and self._idle_stop_s is not None and now - self.last_used >= self._idle_stop_s and not pool.is_busy:
                self._wish.end(f"idle for {self._idle_stop_s:g} s")
                return None
        return await self._crew.look_after()

    # Ends.

    def _failed(self, reason: str, *, ready_s: float, for_good: bool) -> float | None:
        """Count a failure; return how long to back off, None when the life ends here."""
        reason, failures = reason[:MAX_REASON_CHARS], self.failures
        try:
            delay_s = failures.add(reason, ready_s=ready_s, for_good=for_good)
        except QuarantinedError as error:
            self._log.write("error", f"failed: {reason}", {"failures_in_a_row": failures.count}, source="host")
            self._events.add(EventKind.QUARANTINED, plugin=self.id, reason=reason, failures=failures.count)
            cure = f"see `{self._command(f'logs {self.id}')}`, then try again with `{self._command(f'restart {self.id}')}`"
            self._move(_S.QUARANTINED, f"{error.message}; {cure}")
            return None
        self._log.write("error", f"failed: {reason}", {"failures_in_a_row": failures.count}, source="host")
        self._move(_S.BACKING_OFF, f"{reason}; failure {failures.count}, started again in {delay_s:.1f} s")
        return delay_s

    async def _take_down(self, members: Sequence[Member]) -> None:
        self._move(_S.DRAINING, self._wish.reason)
        await self._crew.clear(members, self._ending.stop)
        self._move(_S.STOPPED, self._wish.reason)

    def _move(self, state: PluginState, reason: str) -> None:
        self._standing.move(state, reason)
