"""What every memory of failures promises, asked of the one in the store and of the fake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from annexe.host.store_thread import StoredFailures, StoreThread
from annexe.supervision.memory import FailureMemory
from annexe.testing import FakeClock, FakeFailureMemory

Read = Callable[[], Awaitable[tuple[int, str | None]]]
Scenario = Callable[[FailureMemory, Read], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["stored", "fake"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Give a function that runs a scenario with a memory and a way to read failures and quarantine of plugin ``p``."""

    async def stored(scenario: Scenario) -> None:
        clock, thread = FakeClock(), StoreThread()
        await thread.open(tmp_path, now_s=clock.now())

        async def read() -> tuple[int, str | None]:
            state = await thread.run(lambda: thread.store.plugin_state.get("p"))
            assert (state.quarantined_at is None) == (state.quarantine_reason is None)
            return state.failures, state.quarantine_reason

        try:
            await scenario(StoredFailures(thread, clock), read)
        finally:
            await thread.close()

    async def fake(scenario: Scenario) -> None:
        memory = FakeFailureMemory()

        async def read() -> tuple[int, str | None]:
            return len(memory.failures.get("p", [])), memory.quarantines.get("p")

        await scenario(memory, read)

    implementation = {"stored": stored, "fake": fake}[request.param]
    return lambda scenario: asyncio.run(implementation(scenario))


def test_failures_in_a_row_are_counted(run: Run) -> None:
    async def scenario(memory: FailureMemory, read: Read) -> None:
        assert await read() == (0, None)
        for count in (1, 2, 3):
            memory.failed("p", reason=f"reason {count}", count=count)
        memory.failed("other", reason="another", count=1)
        assert await read() == (3, None)

    run(scenario)


def test_first_failure_of_a_new_row_begins_the_count_again(run: Run) -> None:
    async def scenario(memory: FailureMemory, read: Read) -> None:
        memory.failed("p", reason="old", count=1)
        memory.failed("p", reason="old", count=2)
        memory.failed("p", reason="new", count=1)
        assert await read() == (1, None)

    run(scenario)


def test_recovery_ends_the_row(run: Run) -> None:
    async def scenario(memory: FailureMemory, read: Read) -> None:
        memory.failed("p", reason="old", count=1)
        memory.recovered("p")
        memory.recovered("never-failed")
        assert await read() == (0, None)

    run(scenario)


def test_quarantine_lasts_until_it_is_released(run: Run) -> None:
    async def scenario(memory: FailureMemory, read: Read) -> None:
        memory.failed("p", reason="again", count=1)
        memory.quarantined("p", reason="too often")
        assert await read() == (1, "too often")
        memory.released("p")
        assert await read() == (0, None)

    run(scenario)
