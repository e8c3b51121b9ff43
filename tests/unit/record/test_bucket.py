from __future__ import annotations

import pytest

from annexe.record.bucket import TokenBucket


def test_bucket_allows_its_burst_then_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=3)
    assert [bucket.take(1, 5.0) for _ in range(5)] == [True, True, True, False, False]


def test_bucket_after_time_allows_what_came_back_and_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=3)
    for _ in range(3):
        bucket.take(1, 0.0)
    assert [bucket.take(1, 0.5), bucket.take(1, 0.5)] == [True, False]
    assert [bucket.take(1, 1000.0) for _ in range(4)] == [True, True, True, False]


def test_bucket_dear_thing_passes_and_leaves_a_debt() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=2)
    assert bucket.take(10, 0.0)
    assert not bucket.is_open(8.9)
    assert bucket.is_open(9.0)


def test_bucket_charge_takes_without_asking() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=2)
    bucket.charge(2)
    assert not bucket.is_open(0.0)


def test_bucket_time_going_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=1)
    assert bucket.take(1, 100.0)
    assert not bucket.is_open(50.0)
    assert not bucket.is_open(100.5)
    assert bucket.is_open(101.0)


@pytest.mark.parametrize(("rate_per_s", "burst"), [(-1.0, 1.0), (1.0, 0.5)])
def test_bucket_that_makes_no_sense_is_refused(rate_per_s: float, burst: float) -> None:
    with pytest.raises(ValueError, match="expected rate_per_s >= 0 and burst >= 1"):
        TokenBucket(rate_per_s=rate_per_s, burst=burst)
