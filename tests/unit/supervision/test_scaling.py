"""How many instances should run."""

from __future__ import annotations

import pytest

from annexe.supervision.scaling import Scaling


@pytest.mark.parametrize(
    ("in_flight", "wanted"),
    [
        pytest.param(0, 1, id="idle"),
        pytest.param(1, 1, id="one-runs"),
        pytest.param(2, 1, id="one-runs-one-waits"),
        pytest.param(3, 2, id="more-than-two-rounds"),
        pytest.param(4, 2, id="two-full"),
        pytest.param(5, 3, id="one-over-two"),
        pytest.param(8, 4, id="most"),
        pytest.param(5000, 4, id="never-beyond-the-most"),
    ],
)
def test_wanted_follows_calls_in_flight_within_the_bounds(in_flight: int, wanted: int) -> None:
    assert Scaling(most=4).wanted(in_flight) == wanted


@pytest.mark.parametrize(("concurrency", "in_flight", "wanted"), [(4, 8, 1), (4, 9, 2), (4, 64, 8), (256, 512, 1), (256, 513, 2)])
def test_instance_with_more_slots_takes_more_before_another_is_wanted(concurrency: int, in_flight: int, wanted: int) -> None:
    scaling = Scaling(most=64, concurrency=concurrency)
    assert scaling.wanted(in_flight) == wanted
    assert scaling.full == 2 * concurrency


@pytest.mark.parametrize("in_flight", [0, 6, 7, 10**6])
def test_fixed_number_runs_whatever_is_in_flight(in_flight: int) -> None:
    assert Scaling(least=3, most=3).wanted(in_flight) == 3


def test_least_runs_without_a_call_and_more_come_beyond_what_it_takes() -> None:
    scaling = Scaling(least=2, most=5)
    assert [scaling.wanted(calls) for calls in (0, 4, 5, 6, 7)] == [2, 2, 3, 3, 4]


def test_wanted_never_falls_with_more_calls() -> None:
    for scaling in (Scaling(), Scaling(most=7), Scaling(least=3, most=9, concurrency=5)):
        counts = [scaling.wanted(calls) for calls in range(200)]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (scaling.least, scaling.most)
