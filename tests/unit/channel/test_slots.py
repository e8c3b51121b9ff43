from __future__ import annotations

from typing import Any

import pytest

from annexe.channel import ChannelLimits, HostCall, RequestMeta
from annexe.channel.slots import Slots


def call(*, deadline: float = 10.0, run_s: float | None = None, stream: str | None = None, nested: bool = False) -> HostCall:
    made = HostCall(None, "hook.a.b", (), RequestMeta(stream=stream), deadline, run_s, None, ())
    made.nested = nested
    return made


def entered(slots: Slots, made: HostCall, now: float = 0.0) -> float:
    if made.meta.stream is not None:
        slots.streams += 1
    elif not made.nested:
        slots.taken += 1
    return slots.enter(made, now)


def test_the_oldest_calls_hold_the_slots_and_their_time_counts() -> None:
    slots = Slots(ChannelLimits(concurrency=2, sent_ahead=3))
    assert slots.most == 5
    first, second, third = call(run_s=4.0), call(), call(run_s=4.0)
    assert [entered(slots, made, 1.0) for made in (first, second, third)] == [4.0, 9.0, 4.0]
    assert [made.holds_slot for made in (first, second, third)] == [True, True, False]
    assert (first.deadline, second.deadline, third.deadline) == (5.0, 10.0, 10.0)
    assert list(slots.ahead) == [third]
    assert slots.leave(second)
    slots.ahead.popleft()
    slots.start(third, 5.0)
    assert (third.holds_slot, third.deadline) == (True, 9.0)


def test_a_call_sent_ahead_is_told_the_least_it_may_have() -> None:
    slots = Slots(ChannelLimits(concurrency=1))
    entered(slots, call())
    assert [entered(slots, made) for made in (call(run_s=3.0), call(run_s=30.0), call())] == [3.0, 10.0, 10.0]


def test_streams_and_nested_calls_take_no_slot() -> None:
    slots = Slots(ChannelLimits(concurrency=1))
    streamed, nested = call(stream="out"), call(nested=True)
    entered(slots, call())
    entered(slots, streamed)
    entered(slots, nested)
    assert (slots.taken, slots.streams, streamed.holds_slot, nested.holds_slot) == (1, 1, False, False)
    assert not slots.leave(streamed)
    assert not slots.leave(nested)
    assert (slots.taken, slots.streams) == (1, 0)


def test_a_call_that_was_sent_ahead_and_ends_frees_no_slot() -> None:
    slots = Slots(ChannelLimits(concurrency=1))
    first, second = call(), call()
    entered(slots, first)
    entered(slots, second)
    assert not slots.leave(second)
    assert slots.taken == 1
    slots.ahead.clear()
    assert not slots.leave(first)


def test_a_call_that_could_not_be_sent_ahead_waits_no_more() -> None:
    slots = Slots(ChannelLimits(concurrency=1))
    first, second, third = call(), call(), call()
    for made in (first, second, third):
        entered(slots, made)
    slots.take_back(third)
    assert list(slots.ahead) == [second]
    slots.take_back(first)  # it has its slot: ``leave`` sees to that
    assert list(slots.ahead) == [second]


def test_slots_are_given_up_when_every_holder_was_long_ago() -> None:
    slots = Slots(ChannelLimits(concurrency=2))
    calls = [call(), call(), call()]
    for made in calls:
        entered(slots, made)
    slots.give_up(calls[0], 1.0)
    assert not slots.are_given_up(calls, 9.0)
    slots.give_up(calls[1], 2.0)
    slots.give_up(calls[2], 0.5)  # sent ahead: it holds none
    assert slots.given_up == 2
    assert slots.are_given_up(calls, 2.0)
    assert not slots.are_given_up(calls, 1.5)
    slots.leave(calls[0])
    assert slots.given_up == 1


def test_a_call_given_up_while_it_waited_counts_from_its_slot() -> None:
    slots = Slots(ChannelLimits(concurrency=1))
    first, second = call(), call()
    entered(slots, first)
    entered(slots, second)
    slots.give_up(second, 1.0)
    assert slots.given_up == 0
    slots.leave(first)
    slots.start(second, 5.0)
    assert (slots.given_up, second.given_up_at) == (1, 5.0)
    assert not slots.are_given_up([second], 4.0)


def test_records_of_calls_compare_by_identity() -> None:
    one: Any = call()
    assert one != call()


@pytest.mark.parametrize("kind", [{}, {"stream": "out"}, {"nested": True}], ids=["plain", "stream", "nested"])
def test_a_plugin_is_stuck_when_all_there_may_be_of_one_kind_were_given_up(kind: dict[str, Any]) -> None:
    slots = Slots(ChannelLimits(concurrency=2, streams=2, nested=2))
    calls = [call(**kind), call(**kind)]
    for made in calls:
        entered(slots, made)
    slots.give_up(calls[0], 1.0)
    assert not slots.is_stuck(calls, 5.0)
    slots.give_up(calls[1], 4.0)
    assert not slots.is_stuck(calls, 3.0)
    assert slots.is_stuck(calls, 4.0)
