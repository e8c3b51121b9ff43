"""The instances of one plugin over its life: those that take calls, and those that end behind them.

* Instances beside the first come and go with the calls that wait; one that fails beside others is the pool's loss, not the plugin's end.
* What takes no calls any more ends while the life goes on.

Source: features LC7, LC8 and LC12; ADR-0006, ADR-0093.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from time import monotonic
from typing import Any, final

from annexe.channel import Connection
from annexe.record import PluginLog
from annexe.supervision.ending import Ending
from annexe.supervision.failures import Failures
from annexe.supervision.instance import Instance
from annexe.supervision.policies import Policies
from annexe.supervision.pool import Member, Pool
from annexe.supervision.standing import MAX_REASON_CHARS, Standing
from annexe.supervision.starting import PlanInstance, Starts
from annexe.supervision.state import PluginState
from annexe.supervision.wish import Wish

__all__ = ["Crew"]


@final
class Crew:
    """Those of one plugin.

    Args:
        plan: Makes the plan of one more.
        starts: Starts it.
        ending: Ends what is to go.
        failures: Counts those that failed.
        standing: How the plugin stands.
        wish: Whether it is wanted; told when there is something to look at.
        policies: Rules.
        log: The plugin's log.

    Attributes:
        pool: Those that take calls; None while the plugin takes none.
        sole: Where to send the next call, for a plugin that never has more than one instance.
    """

    def __init__(
        self,
        *,
        plan: PlanInstance,
        starts: Starts,
        ending: Ending,
        failures: Failures,
        standing: Standing,
        wish: Wish,
        policies: Policies,
        log: PluginLog,
    ) -> None:
        self.pool: Pool | None = None
        self.sole: Connection | None = None
        self._plan = plan
        self._starts = starts
        self._ending = ending
        self._failures = failures
        self._standing = standing
        self._wish = wish
        self._policies = policies
        self._log = log
        self._growing: set[asyncio.Task[None]] = set()
        self._grow_at = 0.0  # monotonic time, when an instance beside others failed
        self._ping_at = 0.0
        self._retiring: dict[asyncio.Task[None], Instance] = {}  # ends of what was replaced, was spare, or failed beside others

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that take calls."""
        return tuple(member.instance for member in self.pool.members) if self.pool is not None else ()

    @property
    def first(self) -> Instance | None:
        """The first of them."""
        return self.pool.members[0].instance if self.pool is not None else None

    # Who takes calls.

    def take_over(self, instances: Sequence[Instance]) -> None:
        """Send calls to these from now on; at least one."""
        self.pool = Pool(instances, on_pressure=self._wish.tell)
        self._choose_sole()
        self._ping_at = monotonic() + self._policies.health.ping_interval_s
        for instance in instances:
            instance.plan.on_ready(instance)

    def stand_down(self) -> list[Member]:
        """Send nobody any calls; return those that took them."""
        members, self.pool, self.sole = self.pool.members if self.pool is not None else [], None, None
        return members

    def hold(self) -> None:
        """Have calls wait, within their deadlines."""
        self._standing.hold(is_held=True)
        self.sole = None

    def let_go(self) -> None:
        """Have calls wait no longer."""
        if self._standing.is_held:
            self._standing.hold(is_held=False)
            self._choose_sole()

    def _choose_sole(self) -> None:
        if self.pool is not None:
            self.sole = self.pool.members[0].instance.connection if self.pool.scaling.most == 1 else None

    # Those beside the first.

    async def watch(self) -> None:
        """Have as many run as are needed, and wait until there is something to look at."""
        pool = self.pool
        if pool is not None:
            self._grow(pool)
            await self._wish.wait(*(one.instance.ended for one in pool.members), timeout_s=self._patience_s())

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
            task = asyncio.get_running_loop().create_task(self._add_one(pool), context=Context())
            self._growing.add(task)
            task.add_done_callback(self._growing.discard)
        spare = pool.spare() if missing <= 0 else None
        if spare is not None:
            pool.remove(spare)
            self._retire(self._ending.stop(spare.instance), of=spare.instance)

    async def _add_one(self, pool: Pool) -> None:
        try:
            (instance,) = await self._starts.beside(self._plan, 1)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._note_loss(pool, self._starts.note(error))
            self._grow_at = monotonic() + self._policies.restart.max_delay_s
        else:
            if self.pool is pool and self._wish.is_wanted:
                pool.add(instance)
                instance.plan.on_ready(instance)
            else:
                await self._ending.discard(instance)
        self._wish.tell()

    async def look_after(self) -> Member | None:
        """Ping what is idle, and let go of what has ended; return the last one, if it failed."""
        pool = self.pool
        assert pool is not None
        if monotonic() >= self._ping_at:
            await asyncio.gather(*(member.ping(self._policies.health) for member in pool.members if member.end is None))
            is_well = all(member.is_well for member in pool.members)
            self._ping_at = monotonic() + self._policies.health.pause_s(is_well=is_well)
        for member in [member for member in pool.members if member.end is not None]:
            if len(pool.members) == 1 or member.is_final or self._failures.count + 1 >= self._policies.restart.max_failures:
                return member
            self._lose(pool, member)
        wanted = PluginState.READY if any(member.is_well for member in pool.members) else PluginState.DEGRADED
        if self._standing.state is not wanted and self._standing.state.takes_calls:
            self._standing.move(wanted, "answers slowly" if wanted is PluginState.DEGRADED else "answers again")
        return None

    def _lose(self, pool: Pool, member: Member) -> None:
        """Go on without an instance that failed beside others; another one is started after a while."""
        pool.remove(member)
        reason = self.note_end(member)
        delay_s = self._failures.add(reason[:MAX_REASON_CHARS], ready_s=monotonic() - member.ready_at, for_good=False)
        self._grow_at = monotonic() + delay_s
        self._note_loss(pool, reason)
        self._retire(self._ending.discard(member.instance), of=member.instance)

    def _note_loss(self, pool: Pool, reason: str) -> None:
        self._log.write("error", f"one of {len(pool.members) + 1} instances failed: {reason}", source="host")

    # Ends.

    def fail(self, reason: str, *, for_good: bool, instance: Instance | None) -> None:
        """Have an instance end as failed, the first when none is named."""
        for member in self.pool.members if self.pool is not None else ():
            if instance is None or member.instance is instance:
                member.fault, member.is_final, member.is_by_limit = reason, for_good, True
                self._wish.tell()
                return

    def note_end(self, member: Member) -> str:
        """Tell that one failed; return why, in words."""
        reason = member.end or "failed"
        self._ending.note(member.instance, reason, by_limit=member.is_by_limit)
        return reason

    def replaced(self, members: Sequence[Member]) -> None:
        """Have those end that others took over from."""
        for member in members:
            member.instance.connection.siblings = None
            self._retire(self._ending.retire(member.instance), of=member.instance)

    def _retire(self, ending: Coroutine[Any, Any, None], *, of: Instance) -> None:
        """Have an instance end that takes no calls any more, while the life goes on."""
        retiring = asyncio.get_running_loop().create_task(ending, context=Context())
        self._retiring[retiring] = of
        retiring.add_done_callback(self._retiring.pop)

    async def wait_retired(self) -> None:
        """Wait until those have ended that took no calls any more; their streams have no longer for that."""
        while self._retiring:
            for instance in self._retiring.values():
                instance.end_streams()
            await asyncio.wait(self._retiring)

    def end_served(self, why: str) -> None:
        """End the streams that other plugins have of its services, at those too that take no calls any more."""
        for instance in (*self.instances, *self._retiring.values()):
            instance.connection.end_streams(why, of_services=True)

    async def clear(self, members: Sequence[Member], end: Callable[[Instance], Awaitable[None]]) -> None:
        """End these instances, and those that were still being started."""
        growing = list(self._growing)
        for task in growing:
            task.cancel()
        await asyncio.gather(*(end(member.instance) for member in members), *growing, return_exceptions=True)
