"""What it costs to look for a ring of waiting calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from annexe.channel.calls import HostCall
from annexe.channel.deadlock import find_waiting_holder


class Watched:
    """A connection that counts how often its calls are looked through."""

    def __init__(self) -> None:
        self.calls: list[HostCall] = []
        self.looks = 0

    @property
    def open_calls(self) -> Watched:
        self.looks += 1
        return self

    def values(self) -> Iterator[HostCall]:
        return iter(self.calls)


def call_to(connection: Any, *, holds_slot: bool = False, chain: tuple[HostCall, ...] = ()) -> HostCall:
    future = asyncio.get_running_loop().create_future()
    call = HostCall(connection, "svc.a.b", None, None, 0.0, None, future, chain, holds_slot=holds_slot)
    connection.calls.append(call)
    return call


def test_looking_for_a_ring_looks_at_each_place_once() -> None:
    async def scenario() -> None:
        near, far = Watched(), Watched()
        far_holder = call_to(far, holds_slot=True)
        holders = [call_to(near, holds_slot=True) for _ in range(4)]
        for holder in holders:
            holder.inner_calls = {call_to(far) for _ in range(100)}
        call = call_to(near, chain=(call_to(Watched()),))

        assert find_waiting_holder(call) is None
        assert (near.looks, far.looks) == (1, 1)

        far_holder.inner_calls = {call_to(near)}  # waits for one of the holders, which is none of ours
        assert find_waiting_holder(call) is None
        call.chain = (far_holder,)
        assert find_waiting_holder(call) in holders

    asyncio.run(scenario())
