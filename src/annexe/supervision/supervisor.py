"""The life of one plugin: start it, watch it, restart it, stop it.

One task lives the plugin's life; everything else tells it what is wanted and it acts. So there is one place where the state changes, and
no two starts or stops at once.

* What takes calls is ``connection``: None whenever the plugin must not be called.
* Instances beside the first come and go with the calls that wait; one that fails beside others is the pool's loss, not the plugin's end.
* A failure is counted, stored, and answered with back-off; too many in a row end in quarantine, which a person lifts.
* A lazy plugin is started by its first call, and stopped when it was idle for long.

Source: features LC3 to LC11; ADR-0006.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from time import monotonic
from typing import Any, TypeVar, final

from annexe.channel import Connection
from annexe.clock import Clock
from annexe.errors import (
    AnnexeError,
    CallError,
    LaunchError,
    PluginBlockedError,
    PluginUnavailableError,
    QuarantinedError,
    SandboxError,
    UnsupportedPlatformError,
)
from annexe.launch import LaunchStrategy
from annexe.record import EventKind, Events, PluginLog
from annexe.supervision.attachment import Coming, Guest, WaitingRoom
from annexe.supervision.ending import Ending
from annexe.supervision.failures import Failures
from annexe.supervision.handover import hand_over, hands_over
from annexe.supervision.instance import Instance, InstancePlan
from annexe.supervision.memory import FailureMemory
from annexe.supervision.policies import Policies
from annexe.supervision.pool import Member, Pool
from annexe.supervision.state import Lifecycle, PluginState
from annexe.supervision.succession import Succession

__all__ = ["PlanInstance", "Supervisor"]

_LOG = logging.getLogger("annexe.supervision")
_S = PluginState
V = TypeVar("V")
_MAX_PLACE_CHARS = 256
# Parts of a reason may be the plugin's words; it goes into the history, the store and every list of plugins.
_MAX_REASON_CHARS = 4096
_ATTACHES = "another process takes its place"

PlanInstance = Callable[[int], Awaitable[InstancePlan]]
"""Makes the plan of the next instance, as things stand then; given the instance's number, from 1."""


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
        self.starts = 0
        self.life = Lifecycle.begin(reason="found", at=clock.now())
        self._plan = plan
        self._strategy = strategy
        self._lazy = lazy
        self._idle_stop_s = idle_stop_s
        self._log = log
        self._events = events
        self._clock = clock
        self._policies = policies
        self._ending = Ending(plugin, policy=policies.stop, log=log, events=events)
        self._on_moved = on_moved
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._wanted = False
        self._armed = False  # lazy, and to be started by its first call
        self._stop_reason = "stopped"
        self._settled = asyncio.Event()  # the state is one that lasts
        self._changed = asyncio.Event()  # what is wanted, or what is, has changed
        self._task: asyncio.Task[None] | None = None
        self._sole: Connection | None = None  # of the one instance that a plugin has, where it never has more
        self._pool: Pool | None = None  # while it takes calls
        self._growing: set[asyncio.Task[None]] = set()
        self._grow_at = 0.0  # monotonic time, when an instance beside others failed
        self._ping_at = 0.0
        self._handlers: Mapping[str, str] = {}
        self._succession: Succession | None = None
        self._coming_guest: Coming | None = None  # what is started next, in place of the installed one
        self._waiting_room = WaitingRoom()
        self._is_switching = False  # the next instance is started once the one before has ended; calls wait meanwhile
        self._is_held = False  # state is handed over: calls wait meanwhile
        self._retiring: dict[asyncio.Task[None], Instance] = {}  # ends of what was replaced, was spare, or failed beside others
        self._coming: set[asyncio.Task[Any]] = set()  # starts that whoever wants the plugin stopped calls off

    @property
    def state(self) -> PluginState:
        """Where the plugin is in its life."""
        return self.life.state

    @property
    def connection(self) -> Connection | None:
        """Whom to send the next call: of several instances the one with the fewest in flight; None whenever it must not be called."""
        if self._sole is not None or self._pool is None or self._is_held:
            return self._sole
        return self._pool.choose()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that take calls."""
        return tuple(member.instance for member in self._pool.members) if self._pool is not None else ()

    @property
    def instance(self) -> Instance | None:
        """The first of them."""
        return self._pool.members[0].instance if self._pool is not None else None

    @property
    def guest(self) -> Guest | None:
        """What came by itself and takes its calls; None while it is the installed one's."""
        instance = self.instance
        return instance.plan.guest if instance is not None else None

    @property
    def is_there(self) -> bool:
        """Whether it takes calls, or would start at the first one."""
        return self._pool is not None or self._is_switching or (self._armed and self.state in (_S.STOPPED, _S.DRAINING))

    def where(self, hook: str) -> str | None:
        """Return ``file:line`` of the plugin's handler, as the plugin tells it; for messages alone."""
        return self._handlers.get(hook)

    # What is wanted.

    def block(self, reason: str) -> None:
        """Keep it from starting until a person acts; it must not be running."""
        self._move(_S.BLOCKED, reason)

    def resume_quarantine(self, reason: str) -> None:
        """Take up a quarantine from an earlier life of the host."""
        self.life = Lifecycle.begin(reason=reason, at=self._clock.now(), state=_S.QUARANTINED)

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
            self._wanted = True
            self._changed.clear()
            self._move(_S.STARTING, reason)
            # In an empty context: the first call starts a lazy plugin, and its deadline must not bound every ping and request to come.
            self._task = self._loop.create_task(self._live(), name=f"annexe-{self.id}", context=Context())

    async def stop(self, reason: str = "asked to") -> None:
        """Take it down and wait until it is down."""
        self._wanted = self._armed = False
        self._stop_reason = reason
        self._changed.set()
        self.call_off()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._wait_retired()
        if self.state in (_S.QUARANTINED, _S.BACKING_OFF):
            self._move(_S.STOPPED, reason)

    def call_off(self) -> None:
        """Have a replacement end at once that waits for another instance to become ready: a plugin may take minutes for that."""
        for start in self._coming:
            start.cancel()

    def adopt(self, *, lazy: bool, idle_stop_s: float | None) -> None:
        """Go by what another manifest says, from the next start on."""
        self._lazy, self._idle_stop_s = lazy, idle_stop_s

    def fail(self, reason: str, *, for_good: bool = False, instance: Instance | None = None) -> None:
        """End an instance as failed, the first when none is named: it is started again after a while, ``for_good`` only by a person."""
        for member in self._pool.members if self._pool is not None else ():
            if instance is None or member.instance is instance:
                member.fault, member.is_final, member.is_by_limit = reason, for_good, True
                self._changed.set()
                return

    def forgive(self) -> None:
        """Let the failures before not count any more."""
        self.failures.forgive()

    async def replace(
        self, plan: PlanInstance, *, commit: Callable[[], None], overlap: bool, count: int | None = None, version: str = ""
    ) -> None:
        """Have as many other instances take over from those that run, without losing a call.

        What is under way there goes on to its end, for as long as draining may take.

        Args:
            plan: Makes the plan of a new instance.
            commit: Called at the moment of the switch, between two calls; what it raises calls the switch off.
            overlap: The new ones become ready beside the old ones; else they are started once those have ended, and calls wait meanwhile.
            count: How many new ones; None: as many as there are.
            version: Of the new ones; empty: that of the old ones.

        Raises:
            LaunchError: It did not become ready, of its family. With ``overlap`` the old one goes on.
            PluginUnavailableError: The plugin does not run, or was stopped meanwhile; nothing was changed.
        """
        await self._wait_retired()  # never more than two at once
        self._check_serves()
        instances = await self._start_several(plan, count or len(self.instances)) if overlap else ()
        try:
            old = self._check_serves().members[0].instance
            if len(instances) == 1 and hands_over(old, instances[0]):
                self._hold()
                await hand_over(old, instances[0])
                self._check_serves()
            versions = (old.plan.version, version or old.plan.version)
            succession = self._succession = Succession(instances, commit, self._loop.create_future(), versions)
            self._changed.set()
            await succession.decided
        except BaseException:
            if instances and self.instance not in instances:
                await asyncio.gather(*map(self._ending.discard, instances))
            raise
        finally:
            self._let_go()
        if not overlap:
            await self._unless_called_off(self._loop.create_task(self.wait_settled()))
            if self._pool is None:
                raise LaunchError(f"plugin {self.id!r} was replaced and is {self.state}: {self.life.reason}", plugin=self.id)

    async def attach(self, plan: PlanInstance, *, commit: Callable[[], None], overlap: bool) -> None:
        """Have a guest take the place of what runs, or of what would; once it goes, the installed one is started.

        Args:
            plan: Makes its plan.
            commit: As for ``replace``.
            overlap: It becomes ready beside what runs.

        Raises:
            LaunchError: It did not become ready; what was there is there again.
            PluginUnavailableError: The plugin was stopped meanwhile, or may not run.
        """
        await self.wait_settled()
        if self._pool is not None and overlap:
            await self.replace(plan, commit=commit, overlap=True, count=1)
            return
        if self.state not in (_S.READY, _S.DEGRADED, _S.STOPPED, _S.BACKING_OFF, _S.QUARANTINED):
            text = f"nothing can attach to plugin {self.id!r}: it is {self.state} ({self.life.reason})"
            raise PluginUnavailableError(text, plugin=self.id, state=str(self.state))
        if self._pool is None:
            await self.stop(_ATTACHES)
            commit()
        coming = self._coming_guest = Coming(plan, self._loop.create_future())
        try:
            if self._pool is not None:
                await self.replace(plan, commit=commit, overlap=False)
            else:
                self._armed = self._lazy
                self._begin(_ATTACHES)
            await coming.arrived
        finally:
            if self._coming_guest is coming:
                self._coming_guest = None

    def detach(self, reason: str) -> None:
        """Have the installed one take the place of a guest again; calls wait until it is ready."""
        guest = self.guest
        if guest is not None and self._wanted and not self._is_switching:
            guest.reason = self._stop_reason = reason
            self._waiting_room.rescue(self.instances[0].connection)
            self._is_switching = True
            self._hold()
            self._changed.set()

    async def _unless_called_off(self, *starts: asyncio.Task[V]) -> list[V]:
        """Wait for starts, all or none.

        Raises:
            PluginUnavailableError: They were called off.
        """
        self._coming.update(starts)
        try:
            return await asyncio.gather(*starts)
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if waiting is not None and waiting.cancelling():
                raise
            text = f"plugin {self.id!r} was not replaced: that was called off while the next instance was starting"
            raise PluginUnavailableError(text, plugin=self.id, state=str(self.state)) from None
        finally:
            self._coming.difference_update(starts)

    def _hold(self) -> None:
        """Have calls wait, within their deadlines."""
        self._is_held, self._sole = True, None
        self._settled.clear()

    def _let_go(self) -> None:
        if self._is_held:
            self._is_held = False
            if self._pool is not None:
                self._sole = self._pool.members[0].instance.connection if self._pool.scaling.most == 1 else None
            if self.state is not _S.STARTING and not self._is_switching:
                self._settled.set()

    async def _start_several(self, plan: PlanInstance, count: int) -> tuple[Instance, ...]:
        """Start instances beside those that run, all or none."""
        numbers = range(self.starts + 1, self.starts + 1 + count)
        self.starts += count
        starts = [self._loop.create_task(self._launch(plan, number)) for number in numbers]
        try:
            instances = await self._unless_called_off(*starts)
            # A plugin tells that it is ready before the last imports are done: the first calls would wait for them.
            await asyncio.gather(*(instance.ping(self._policies.health.ping_timeout_s) for instance in instances))
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            begun = [start.result() for start in starts if not start.cancelled() and start.exception() is None]
            await asyncio.gather(*map(self._ending.discard, begun))
            raise
        return tuple(instances)

    def _check_serves(self) -> Pool:
        if self._pool is None or self._succession is not None:
            text = f"plugin {self.id!r} cannot be replaced: it is {self.state} ({self.life.reason})"
            raise PluginUnavailableError(text, plugin=self.id, state=str(self.state))
        return self._pool

    async def wait_ready(self, deadline: float, *, method: str) -> Connection:
        """Return the connection as soon as there is one; starts a lazy plugin.

        Raises:
            PluginUnavailableError: It cannot take calls, or was not ready before ``deadline`` (monotonic time).
        """
        if self._armed and self.state is _S.DRAINING and self._task is not None:
            # Stopped for being idle just now: let that end, then start again.
            await asyncio.wait([self._task], timeout=deadline - monotonic())
        if self._armed and self.state is _S.STOPPED:
            self._begin(f"called: {method}")
        while (connection := self.connection) is None:
            if self.state is not _S.STARTING and not self._is_switching and not self._is_held:
                text = f"plugin {self.id!r} takes no calls: it is {self.state} ({self.life.reason})"
                raise PluginUnavailableError(text, plugin=self.id, method=method, state=str(self.state))
            try:
                async with asyncio.timeout_at(deadline):
                    await self._settled.wait()
            except TimeoutError:
                text = f"plugin {self.id!r} was still starting when the time for {method} was over"
                raise PluginUnavailableError(text, plugin=self.id, method=method, state=str(self.state)) from None
        return connection

    async def wait_settled(self) -> None:
        """Wait while it is starting."""
        while self.state is _S.STARTING or self._is_switching:
            await self._settled.wait()

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
            self._call_off_succession()
            self._turn_guest_away()
            if self._is_switching:  # stopped meanwhile: nobody may wait for what does not come
                self._is_switching = self._is_held = False
                self._waiting_room.turn_away(self.life.reason)
                self._settled.set()

    def _call_off_succession(self) -> None:
        succession, self._succession = self._succession, None
        if succession is not None:
            text = f"plugin {self.id!r} was not replaced: it is {self.state} ({self.life.reason})"
            succession.call_off(PluginUnavailableError(text, plugin=self.id, state=str(self.state)))

    def _turn_guest_away(self) -> None:
        coming, self._coming_guest = self._coming_guest, None
        if coming is not None:
            text = f"nothing attached to plugin {self.id!r}: it is {self.state} ({self.life.reason})"
            coming.settle(PluginUnavailableError(text, plugin=self.id, state=str(self.state)))

    async def _live_on(self) -> None:
        while self._wanted:
            try:
                instance = await self._start_one()
            except (PluginBlockedError, SandboxError, UnsupportedPlatformError) as error:
                self._events.add(EventKind.LAUNCH_FAILED, plugin=self.id, reason=error.message, code=error.code)
                self._move(_S.BLOCKED, error.message)
                return
            except Exception as error:  # noqa: BLE001 - whatever it was, the plugin did not start and the host goes on
                delay_s = self._failed(self._note_launch(error), ready_s=0.0, for_good=False)
                if delay_s is None:
                    return
                await self._back_off(delay_s)
                continue
            if instance is None:
                break
            failed = await self._serve(instance)
            members, self._pool = self._pool.members if self._pool is not None else [], None
            if failed is None:
                if self._is_switching:
                    for member in members:
                        member.instance.end_streams(at_once=True)
                await self._take_down(members)
                if self._is_switching:
                    continue
                return
            # The state first: clearing away takes time, and the plugin takes no calls meanwhile.
            reason = self._note_end(failed)
            delay_s = self._failed(reason, ready_s=monotonic() - failed.ready_at, for_good=failed.is_final)
            self._call_off_succession()
            await self._clear(members, self._ending.discard)
            if delay_s is None:
                return
            await self._back_off(delay_s)
        if self.state is not _S.STOPPED:
            self._move(_S.STOPPED, self._stop_reason)

    async def _start_one(self) -> Instance | None:
        """Start an instance, or a guest that comes; None when it is not wanted any more."""
        if self.state is not _S.STARTING:
            self._is_switching = self._is_held = False
            self._move(_S.STARTING, "starting again")
        coming, self._coming_guest = self._coming_guest, None
        if coming is not None:
            try:
                instance = await self._start(coming.plan)
            except Exception as error:  # noqa: BLE001 - whoever came is told, and the installed one is started
                coming.settle(error)
            else:
                coming.settle(None if instance is not None else PluginUnavailableError(f"plugin {self.id!r} was stopped", plugin=self.id))
                return instance
        return await self._start(self._plan)

    async def _start(self, plan: PlanInstance) -> Instance | None:
        self.starts += 1
        starting = self._loop.create_task(self._launch(plan, self.starts))
        while self._wanted and not starting.done():
            await self._done_or_changed(starting)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            if starting.cancelled() or starting.exception() is not None:
                return None
        return starting.result()

    def _note_launch(self, error: Exception) -> str:
        if isinstance(error, AnnexeError):
            self._events.add(EventKind.LAUNCH_FAILED, plugin=self.id, reason=error.message, code=error.code)
            return error.message
        _LOG.error("starting plugin %r failed inside the host", self.id, exc_info=error)
        return f"the host failed to start it: {error!r}"

    async def _launch(self, plan: PlanInstance, number: int) -> Instance:
        made = await plan(number)
        return await Instance.start(made, self._strategy if made.guest is None else made.guest.strategy, self._log)

    async def _serve(self, instance: Instance) -> Member | None:
        """Let it, and those that come beside it or take over, take calls; return the last one that failed, None when none is wanted."""
        self._take_over((instance,))
        self._move(_S.READY, "activated")
        try:
            while self._wanted and self._pool is not None:
                self._grow(self._pool)
                await self._done_or_changed(*(one.instance.ended for one in self._pool.members), timeout_s=self._patience_s())
                if self._succession is not None and self._wanted:
                    self._switch(self._pool)
                elif self._wanted and not self._is_switching:
                    failed = await self._look_after(self._pool)
                    if failed is not None:
                        return failed
                if self._is_switching:
                    return None
        finally:
            self._sole = None
        return None

    def _take_over(self, instances: Sequence[Instance]) -> None:
        """Send calls to these instances from now on."""
        pool = self._pool = Pool(instances, on_pressure=self._changed.set)
        self._sole = instances[0].connection if pool.scaling.most == 1 else None
        provided = instances[0].provided
        self._handlers = {name: at[:_MAX_PLACE_CHARS] for name, facts in provided.hooks.items() if (at := facts.at) is not None}
        self.last_used = monotonic()
        self._ping_at = self.last_used + self._policies.health.ping_interval_s
        for instance in instances:
            instance.plan.on_ready(instance)
        if not self._waiting_room.is_empty:
            self._waiting_room.let_in(instances[0].connection)
        if instances[0].plan.guest is not None:
            instances[0].connection.siblings = self._waiting_room
            instances[0].on_gone = self.detach
            if instances[0].connection.closed:
                self.detach("its process has ended, or closed the connection")

    def _switch(self, pool: Pool) -> None:
        """Carry a succession through."""
        succession, self._succession = self._succession, None
        assert succession is not None
        if not succession.carry_through():
            return
        before, after = succession.versions
        self._events.add(EventKind.REPLACED, plugin=self.id, reason=succession.told, starts=self.starts, before=before, after=after)
        self._log.write("info", succession.told, source="host")
        if not succession.instances:
            self._is_switching, self._stop_reason = True, "replaced"
            return
        self._is_switching = self._is_held = False  # a guest may have gone just now
        self._settled.set()
        if self.guest is not None:
            self._waiting_room.rescue(pool.members[0].instance.connection)
        self._take_over(succession.instances)
        for member in pool.members:
            member.instance.connection.siblings = None
            self._retire(self._ending.retire(member.instance), of=member.instance)

    def _retire(self, ending: Coroutine[Any, Any, None], *, of: Instance) -> None:
        """Have an instance end that takes no calls any more, while the life goes on."""
        retiring = self._loop.create_task(ending, context=Context())
        self._retiring[retiring] = of
        retiring.add_done_callback(self._retiring.pop)

    async def _wait_retired(self) -> None:
        """Wait until those have ended that took no calls any more; their streams have no longer for that."""
        while self._retiring:
            for instance in self._retiring.values():
                instance.end_streams()
            await asyncio.wait(self._retiring)

    async def _done_or_changed(self, *work: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Wait until something is done, what is wanted has changed, or the time is over."""
        changed = self._loop.create_task(self._changed.wait())
        either: list[asyncio.Future[Any]] = [*work, changed]
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self._wanted:  # who does not want it any more is heard however late
            self._changed.clear()

    # Several instances.

    def _patience_s(self) -> float:
        """Return for how long nothing has to be looked at."""
        wait_s = self._ping_at - monotonic()
        return max(0.0, min(wait_s, self._grow_at - monotonic()) if self._grow_at else wait_s)

    def _grow(self, pool: Pool) -> None:
        """Start as many instances as are missing, and let go of one that is spare."""
        pool.relieved()
        if self._growing or monotonic() < self._grow_at:
            return
        self._grow_at = 0.0
        missing = pool.missing()
        for _ in range(missing):
            task = self._loop.create_task(self._add_one(pool), context=Context())
            self._growing.add(task)
            task.add_done_callback(self._growing.discard)
        spare = pool.spare() if missing <= 0 else None
        if spare is not None:
            pool.remove(spare)
            self._retire(self._ending.stop(spare.instance), of=spare.instance)

    async def _add_one(self, pool: Pool) -> None:
        try:
            (instance,) = await self._start_several(self._plan, 1)
        except Exception as error:  # noqa: BLE001 - the others go on
            reason = self._note_launch(error)
            self._log.write("error", f"one of {len(pool.members) + 1} instances failed: {reason}", source="host")
            self._grow_at = monotonic() + self._policies.restart.max_delay_s
        else:
            if self._pool is pool and self._wanted:
                pool.add(instance)
                instance.plan.on_ready(instance)
            else:
                await self._ending.discard(instance)
        self._changed.set() if self._wanted else None

    async def _look_after(self, pool: Pool) -> Member | None:
        """Ping what is idle, let go of what has ended, stop a lazy plugin that was idle for long; return the last one, if it failed."""
        now = monotonic()
        if self.guest is None:  # whose being well says nothing of the installed one
            self.failures.note_ready(now - pool.members[0].ready_at)
        if self._is_idle(pool, now):
            self._wanted = False
            self._stop_reason = f"idle for {self._idle_stop_s:g} s"
            return None
        if now >= self._ping_at:
            await asyncio.gather(*(member.ping(self._policies.health) for member in pool.members if member.end is None))
            is_well = all(member.is_well for member in pool.members)
            self._ping_at = monotonic() + self._policies.health.pause_s(is_well=is_well)
        for member in [member for member in pool.members if member.end is not None]:
            if len(pool.members) == 1 or member.is_final or self.failures.count + 1 >= self._policies.restart.max_failures:
                return member
            self._lose(pool, member)
        wanted = _S.READY if any(member.is_well for member in pool.members) else _S.DEGRADED
        if self.state is not wanted and self.state.takes_calls:
            self._move(wanted, "answers slowly" if wanted is _S.DEGRADED else "answers again")
        return None

    def _is_idle(self, pool: Pool, now: float) -> bool:
        if not self._lazy or self._idle_stop_s is None or self.guest is not None:
            return False
        return now - self.last_used >= self._idle_stop_s and not pool.is_busy

    def _lose(self, pool: Pool, member: Member) -> None:
        """Go on without an instance that failed beside others; another one is started after a while."""
        pool.remove(member)
        reason = self._note_end(member)
        delay_s = self.failures.add(reason[:_MAX_REASON_CHARS], ready_s=monotonic() - member.ready_at, for_good=False)
        self._grow_at = monotonic() + delay_s
        self._log.write("error", f"one of {len(pool.members) + 1} instances failed: {reason}", source="host")
        self._retire(self._ending.discard(member.instance), of=member.instance)

    def _note_end(self, member: Member) -> str:
        reason = member.end or "failed"
        self._ending.note(member.instance, reason, by_limit=member.is_by_limit)
        return reason

    # Ends.

    def _failed(self, reason: str, *, ready_s: float, for_good: bool) -> float | None:
        """Count a failure; return how long to back off, None when the life ends here."""
        reason, failures = reason[:_MAX_REASON_CHARS], self.failures
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

    async def _back_off(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _take_down(self, members: Sequence[Member]) -> None:
        self._move(_S.DRAINING, self._stop_reason)
        await self._clear(members, self._ending.stop)
        self._move(_S.STOPPED, self._stop_reason)

    async def _clear(self, members: Sequence[Member], end: Callable[[Instance], Awaitable[None]]) -> None:
        """End these instances, and those that were still being started."""
        growing = list(self._growing)
        for task in growing:
            task.cancel()
        await asyncio.gather(*(end(member.instance) for member in members), *growing, return_exceptions=True)

    def _move(self, state: PluginState, reason: str) -> None:
        before = self.life.state
        reason = reason[:_MAX_REASON_CHARS]
        self.life = self.life.moved(state, reason=reason, at=self._clock.now())
        self._events.add(EventKind.STATE_CHANGED, plugin=self.id, reason=reason, before=str(before), after=str(state))
        self._log.write("info", f"{before} → {state}: {reason}", source="host")
        if not self._waiting_room.is_empty and not self._is_switching and state is not _S.STARTING:
            self._waiting_room.turn_away(reason)
        (self._settled.clear if state is _S.STARTING or self._is_switching or self._is_held else self._settled.set)()
        self._on_moved(state)
