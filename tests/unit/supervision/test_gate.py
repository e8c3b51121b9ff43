"""How many plugins start at once."""

from __future__ import annotations

import asyncio
import os

import pytest

from annexe.supervision.gate import StartGate


class _Plugin:
    pass


_ONE = _Plugin()


def test_so_many_start_at_once_and_all_do() -> None:
    async def main() -> None:
        gate, running, most = StartGate(3), 0, 0

        async def start(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return number

        assert await asyncio.gather(*(gate.through(start(number), of=_ONE) for number in range(20))) == list(range(20))
        assert most == 3

    asyncio.run(main())


def test_one_that_waits_for_something_else_keeps_nobody_waiting() -> None:
    async def main() -> None:
        gate, held = StartGate(1, hold_s=0.01), asyncio.Event()

        async def waits() -> str:
            await held.wait()
            return "slow"

        async def quick() -> str:
            return "quick"

        slow = asyncio.create_task(gate.through(waits(), of=_ONE))
        await asyncio.sleep(0)
        assert await gate.through(quick(), of=_ONE) == "quick"
        held.set()
        assert await slow == "slow"

    asyncio.run(main())


def test_those_that_hang_again_and_again_keep_nobody_else_waiting() -> None:
    async def main() -> None:
        gate, hanging, order = StartGate(2, hold_s=0.05), [_Plugin() for _ in range(20)], []

        async def start(name: str) -> None:
            order.append(name)
            await asyncio.sleep(0.06 if name == "hangs" else 0)

        await asyncio.gather(*(gate.through(start("hangs"), of=plugin) for plugin in hanging))
        again = [asyncio.create_task(gate.through(start("hangs again"), of=plugin)) for plugin in hanging]
        await asyncio.sleep(0)
        order.clear()
        await gate.through(start("is well"), of=_ONE)
        assert order.index("is well") <= 1  # beside the one that is let in of those that hang
        await asyncio.gather(*again)
        order.clear()
        again = [asyncio.create_task(gate.through(start("is slow no more"), of=plugin)) for plugin in hanging]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["is slow no more"] * 2
        await asyncio.gather(*again)

    asyncio.run(main())


def test_start_that_fails_says_so_and_gives_its_place_back() -> None:
    async def main() -> None:
        gate = StartGate(1)

        async def fails() -> None:
            raise ValueError("not today")

        for _ in range(3):
            with pytest.raises(ValueError, match="not today"):
                await gate.through(fails(), of=_ONE)

    asyncio.run(main())


def test_start_that_is_called_off_is_ended_wherever_it_is() -> None:
    async def main() -> None:
        gate, begun, ended = StartGate(1), asyncio.Event(), []

        async def start(name: str) -> str:
            try:
                begun.set()
                await asyncio.sleep(60)
            finally:
                ended.append(name)
            return name

        first, second = (asyncio.create_task(gate.through(start(name), of=_ONE)) for name in ("first", "second"))
        await begun.wait()
        second.cancel()
        first.cancel()
        await asyncio.wait([first, second])
        assert first.cancelled()
        assert second.cancelled()
        assert ended == ["first"]  # the other one never began

    asyncio.run(main())


def test_start_that_was_done_just_when_it_was_called_off_is_given_to_whoever_clears_it_away() -> None:
    async def main() -> None:
        gate, go = StartGate(1), asyncio.Event()

        async def start() -> str:
            try:
                await go.wait()
            except asyncio.CancelledError:
                return "launched all the same"
            return "launched"

        starting = asyncio.create_task(gate.through(start(), of=_ONE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        starting.cancel()
        assert await starting == "launched all the same"

    asyncio.run(main())


def test_there_are_places_for_each_processor() -> None:
    async def places() -> int:
        return StartGate()._places._value

    assert asyncio.run(places()) == max(8, 4 * len(os.sched_getaffinity(0)))
