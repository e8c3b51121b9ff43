"""What every clock promises, asked of the machine's and of the fake."""

from __future__ import annotations

import time

import pytest

from annexe.clock import Clock, SystemClock
from annexe.testing import FakeClock


@pytest.fixture(params=[SystemClock, FakeClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


def pass_time(clock: Clock, seconds: float) -> None:
    if isinstance(clock, FakeClock):
        clock.advance(seconds)
    else:
        time.sleep(seconds)


def test_clock_never_goes_back_and_goes_on_with_time(clock: Clock) -> None:
    first = clock.monotonic()
    assert clock.monotonic() >= first
    pass_time(clock, 0.0625)
    assert 0.0625 <= clock.monotonic() - first < 5.0


def test_clock_says_a_unix_time_that_goes_on(clock: Clock) -> None:
    first = clock.now()
    assert 1_600_000_000 < first < 10_000_000_000
    pass_time(clock, 0.0625)
    assert clock.now() > first
