"""Room in a memory file: never given out twice, never lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe_sdk.arena import ALIGNED_BYTES, Arena

KIB = 1024


def test_arena_gives_room_from_the_front() -> None:
    arena = Arena(4 * KIB)
    assert [arena.take(1000), arena.take(24), arena.take(64)] == [0, 1024, 1088]


def test_arena_without_room_gives_none_and_keeps_what_it_has() -> None:
    arena = Arena(4 * KIB)
    assert arena.take(3 * KIB) == 0
    assert arena.take(KIB + 1) is None
    assert arena.take(KIB) == 3 * KIB
    assert arena.take(1) is None


def test_arena_larger_than_the_file_is_never_given() -> None:
    assert Arena(KIB).take(KIB + 1) is None


def test_arena_uses_only_whole_lines_of_the_file() -> None:
    arena = Arena(ALIGNED_BYTES + 63)
    assert arena.size_bytes == ALIGNED_BYTES
    assert arena.take(ALIGNED_BYTES + 1) is None


def test_arena_takes_the_first_gap_that_is_long_enough() -> None:
    arena = Arena(4 * KIB)
    short, long, _ = (arena.take(size) for size in (KIB, 2 * KIB, KIB))
    assert (short, long) == (0, KIB)
    assert arena.give_back(0, KIB)
    assert arena.give_back(KIB, 2 * KIB)
    assert arena.take(3 * KIB) == 0  # the two became one


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_arena_is_whole_again_in_whatever_order_regions_come_back(order: tuple[int, ...]) -> None:
    arena = Arena(3 * KIB)
    regions = [(arena.take(KIB), KIB) for _ in range(3)]
    for index in order:
        offset, length = regions[index]
        assert offset is not None
        assert arena.give_back(offset, length)
    assert arena.is_empty
    assert arena.take(3 * KIB) == 0


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(KIB, KIB, id="never-taken"),
        pytest.param(0, KIB - 1, id="shorter"),
        pytest.param(0, 2 * KIB, id="longer"),
        pytest.param(64, 64, id="within"),
        pytest.param(-64, KIB, id="before-the-file"),
        pytest.param(2**70, KIB, id="far-beyond"),
    ],
)
def test_arena_takes_back_only_what_it_gave(offset: int, length: int) -> None:
    arena = Arena(4 * KIB)
    assert arena.take(KIB) == 0
    assert not arena.give_back(offset, length)
    assert arena.take(KIB) == KIB


def test_arena_takes_a_region_back_once() -> None:
    arena = Arena(KIB)
    arena.take(100)
    assert arena.give_back(0, 100)
    assert not arena.give_back(0, 100)


@given(st.lists(st.one_of(st.integers(1, 900), st.integers(-20, -1)), max_size=80))
def test_arena_never_gives_a_byte_twice_and_loses_none(steps: list[int]) -> None:
    """A positive step takes so many bytes, a negative one gives back one of those taken."""
    arena, taken = Arena(4 * KIB), dict[int, int]()
    for step in steps:
        if step > 0:
            offset = arena.take(step)
            if offset is None:
                continue
            assert 0 <= offset <= 4 * KIB - step
            assert all(offset + step <= other or other + length <= offset for other, length in taken.items())
            taken[offset] = step
        elif taken:
            offset = sorted(taken)[step % len(taken)]
            assert arena.give_back(offset, taken.pop(offset))
    for offset, length in taken.items():
        assert arena.give_back(offset, length)
    assert arena.is_empty
    assert arena.take(4 * KIB) == 0
