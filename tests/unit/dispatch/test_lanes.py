"""What waits in lanes."""

from __future__ import annotations

from dataclasses import dataclass

from annexe.dispatch.lanes import Lanes


@dataclass(frozen=True)
class Item:
    lane: str
    number: int
    size_bytes: int = 1


def lanes(most: int = 4, most_bytes: int = 100) -> Lanes[Item]:
    return Lanes(most=most, most_bytes=most_bytes)


def filled(*lanes_of: str, most: int = 4) -> Lanes[Item]:
    waiting = lanes(most)
    for number, lane in enumerate(lanes_of):
        assert waiting.add(Item(lane, number)) == []
    return waiting


def taken(waiting: Lanes[Item]) -> list[int]:
    """Take all that there is, each ended before the next."""
    numbers = []
    while (item := waiting.take()) is not None:
        numbers.append(item.number)
        waiting.ended(item)
    return numbers


def test_each_lane_comes_in_turn_and_in_order() -> None:
    assert taken(filled("a", "a", "a", "b", most=9)) == [0, 3, 1, 2]


def test_a_lane_waits_for_what_was_taken_of_it_and_the_others_do_not() -> None:
    waiting = filled("a", "a", "b")
    first, other = waiting.take(), waiting.take()
    assert (first, other, waiting.take(), len(waiting)) == (Item("a", 0), Item("b", 2), None, 1)
    assert first is not None
    waiting.add(Item("b", 3))
    waiting.ended(first)
    assert (waiting.take(), waiting.take()) == (Item("a", 1), None)


def test_what_is_put_back_comes_next() -> None:
    waiting = filled("a", "b", "a")
    item = waiting.take()
    assert item is not None
    waiting.put_back(item)
    assert len(waiting) == 3
    assert taken(waiting) == [0, 1, 2]


def test_the_oldest_of_the_fullest_lane_goes_for_what_comes() -> None:
    waiting = filled("a", "b", "a", "a")
    assert waiting.add(Item("b", 4)) == [Item("a", 0)]
    assert waiting.add(Item("c", 5)) == [Item("a", 2)]
    assert sorted(taken(waiting)) == [1, 3, 4, 5]


def test_a_lane_that_is_emptied_for_another_is_gone() -> None:
    waiting = filled("a", most=1)
    assert waiting.add(Item("b", 1)) == [Item("a", 0)]
    assert taken(waiting) == [1]


def test_a_lane_that_is_emptied_while_one_of_it_is_under_way_goes_on() -> None:
    waiting = filled("a", most=1)
    first = waiting.take()
    assert first is not None and waiting.add(Item("a", 1)) == []
    assert waiting.add(Item("b", 2)) == [Item("a", 1)]
    waiting.ended(first)
    assert taken(waiting) == [2]


def test_bytes_are_bounded_and_one_thing_always_has_room() -> None:
    waiting = lanes(most=10, most_bytes=10)
    waiting.add(Item("a", 0, size_bytes=4))
    waiting.add(Item("b", 1, size_bytes=6))
    assert waiting.add(Item("a", 2, size_bytes=3)) == [Item("b", 1, size_bytes=6)]
    assert waiting.add(Item("c", 3, size_bytes=50)) == [Item("a", 0, size_bytes=4), Item("a", 2, size_bytes=3)]
    assert taken(waiting) == [3]


def test_all_can_be_let_go_of_while_one_is_under_way() -> None:
    waiting = filled("a", "a", "b", "b")
    first = waiting.take()
    assert first is not None
    assert sorted(item.number for item in waiting.clear()) == [1, 2, 3]
    assert (len(waiting), waiting.take()) == (0, None)
    waiting.add(Item("a", 9))
    assert waiting.take() is None
    waiting.ended(first)
    assert taken(waiting) == [9]
