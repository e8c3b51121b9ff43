"""What is wanted of a plugin reaches the task that lives its life, whenever it is said."""

from __future__ import annotations

import asyncio

from annexe.supervision.wish import Wish


async def _wait(wish: Wish, *work: asyncio.Future[None], timeout_s: float | None = 5.0) -> None:
    async with asyncio.timeout(1):
        await wish.wait(*work, timeout_s=timeout_s)


def test_a_change_that_was_told_before_is_heard_once() -> None:
    async def scenario() -> None:
        wish = Wish()
        wish.begin()
        wish.tell()
        await _wait(wish)
        try:
            await _wait(wish)
        except TimeoutError:
            return
        raise AssertionError("heard twice")

    asyncio.run(scenario())


def test_work_that_is_done_or_time_that_is_over_ends_the_wait() -> None:
    async def scenario() -> None:
        wish = Wish()
        wish.begin()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        await _wait(wish, done)
        await _wait(wish, asyncio.get_running_loop().create_future(), timeout_s=0.0)

    asyncio.run(scenario())


def test_the_end_of_the_wish_is_heard_however_late_and_however_often() -> None:
    async def scenario() -> None:
        wish = Wish()
        wish.begin()
        wish.end("asked to")
        for _ in range(2):
            await _wait(wish)
        async with asyncio.timeout(1):
            await wish.wait_ended(5.0)
        assert (wish.is_wanted, wish.reason) == (False, "asked to")

    asyncio.run(scenario())


def test_a_new_wish_forgets_what_was_told_before() -> None:
    async def scenario() -> None:
        wish = Wish()
        wish.end("asked to")
        wish.begin()
        started = asyncio.get_running_loop().time()
        await wish.wait_ended(0.02)
        assert asyncio.get_running_loop().time() - started >= 0.01

    asyncio.run(scenario())


def test_what_else_is_told_does_not_shorten_the_wait_for_the_end_of_the_wish() -> None:
    async def scenario() -> None:
        wish = Wish()
        wish.begin()
        wish.tell()
        waiting = asyncio.create_task(wish.wait_ended(5.0))
        for _ in range(3):
            await asyncio.sleep(0)
            wish.tell()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        wish.end("asked to")
        async with asyncio.timeout(1):
            await waiting

    asyncio.run(scenario())
