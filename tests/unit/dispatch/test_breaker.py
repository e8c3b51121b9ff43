from __future__ import annotations

import pytest

from annexe.dispatch.breaker import Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(max_failures=3, open_s=10.0)


def opened(at_s: float = 100.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        assert breaker.admit(at_s)
        breaker.failed(at_s)
    return breaker


def test_closed_breaker_lets_every_call_pass() -> None:
    breaker = Breaker(POLICY)
    assert all(breaker.admit(float(now)) for now in range(10))
    assert (breaker.state(0.0), breaker.retry_in_s(0.0)) == (BreakerState.CLOSED, 0.0)


def test_failures_in_a_row_open_it() -> None:
    breaker = opened(100.0)
    assert breaker.state(100.0) is BreakerState.OPEN
    assert not breaker.admit(109.9)
    assert breaker.retry_in_s(104.0) == 6.0
    assert breaker.failures == 3


def test_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(POLICY)
    for _ in range(4):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert (breaker.failures, breaker.state(0.0)) == (0, BreakerState.CLOSED)


def test_after_the_pause_one_trial_passes() -> None:
    breaker = opened(100.0)
    assert breaker.state(110.0) is BreakerState.HALF_OPEN
    assert breaker.retry_in_s(111.0) == 0.0
    assert breaker.admit(110.0)
    assert not breaker.admit(110.0)
    assert breaker.state(110.0) is BreakerState.HALF_OPEN


def test_trial_that_succeeds_closes_it() -> None:
    breaker = opened(100.0)
    assert breaker.admit(110.0)
    breaker.succeeded()
    assert (breaker.state(110.0), breaker.failures) == (BreakerState.CLOSED, 0)
    assert breaker.admit(110.0)
    breaker.failed(110.0)
    assert breaker.admit(110.0)


def test_trial_that_fails_opens_it_again() -> None:
    breaker = opened(100.0)
    assert breaker.admit(110.0)
    breaker.failed(112.0)
    assert breaker.state(112.0) is BreakerState.OPEN
    assert not breaker.admit(121.9)
    assert breaker.admit(122.0)


def test_trial_never_answered_is_followed_by_another() -> None:
    breaker = opened(100.0)
    assert breaker.admit(110.0)
    assert not breaker.admit(119.9)
    assert breaker.admit(120.0)


def test_late_news_of_earlier_calls_change_nothing_while_open() -> None:
    breaker = opened(100.0)
    breaker.succeeded()
    assert not breaker.admit(105.0)
    breaker.failed(109.0)
    assert breaker.admit(110.0)


@pytest.mark.parametrize(("max_failures", "open_s"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_limits_that_make_no_sense_are_a_mistake_of_the_caller(max_failures: int, open_s: float) -> None:
    with pytest.raises(ValueError, match="expected max_failures >= 1 and open_s > 0"):
        BreakerPolicy(max_failures=max_failures, open_s=open_s)
