"""Who may pass, and when the others may try again."""

from __future__ import annotations

import pytest
from rate_limiter.window import bucket_of, retry_after_s


@pytest.mark.parametrize(("now_s", "expected"), [(0.0, (0, 0.0)), (59.0, (0, 59 / 60)), (60.0, (1, 0.0)), (150.0, (2, 0.5))])
def test_bucket_of_a_moment_gives_number_and_part(now_s: float, expected: tuple[int, float]) -> None:
    assert bucket_of(now_s, 60) == expected


@pytest.mark.parametrize(
    ("current", "previous", "elapsed", "expected"),
    [
        pytest.param(1, 0, 0.0, None, id="first"),
        pytest.param(10, 0, 0.0, None, id="last-place"),
        pytest.param(11, 0, 0.0, 66, id="full-bucket"),
        pytest.param(11, 0, 0.5, 36, id="full-bucket-half-over"),
        pytest.param(1, 10, 0.0, 6, id="previous-slides-out"),
        pytest.param(1, 10, 0.1, None, id="previous-has-slid-out"),
        pytest.param(5, 10, 0.5, None, id="half-and-half"),
        pytest.param(6, 10, 0.5, 6, id="half-and-half-full"),
        pytest.param(10, 1, 0.999, 1, id="never-less-than-a-second"),
    ],
)
def test_retry_after_by_load_says_when(current: int, previous: int, elapsed: float, expected: int | None) -> None:
    assert retry_after_s(current=current, previous=previous, elapsed=elapsed, limit=10, window_s=60) == expected


def test_retry_after_with_no_requests_allowed_always_refuses() -> None:
    assert retry_after_s(current=1, previous=0, elapsed=0.0, limit=0, window_s=60) == 60


@pytest.mark.parametrize("requests", [1, 2, 7])
def test_retry_after_obeyed_by_a_lone_client_lets_it_pass(requests: int) -> None:
    buckets: dict[int, int] = {}

    def attempt(now_s: float) -> int | None:
        bucket, elapsed = bucket_of(now_s, 60)
        buckets[bucket] = buckets.get(bucket, 0) + 1
        wait_s = retry_after_s(current=buckets[bucket], previous=buckets.get(bucket - 1, 0), elapsed=elapsed, limit=requests, window_s=60)
        if wait_s is not None:
            buckets[bucket] -= 1
        return wait_s

    now_s, passed, refused = 3.0, 0, 0
    while passed < 50:
        wait_s = attempt(now_s)
        if wait_s is None:
            passed += 1
            continue
        refused += 1
        now_s += wait_s
    # One refusal for each place that has to come free, at most: the advice is never too early.
    assert refused <= passed


@pytest.mark.parametrize(
    ("current", "previous", "elapsed", "cost", "expected"),
    [
        pytest.param(100, 0, 0.0, 100, None, id="all-at-once"),
        pytest.param(101, 0, 0.0, 101, 60, id="more-than-fits"),
        pytest.param(130, 0, 0.5, 40, 50, id="full-bucket"),
        pytest.param(60, 100, 0.0, 40, 36, id="previous-slides-out"),
        pytest.param(200, 0, 0.0, 100, 120, id="all-of-it-must-slide-out"),
    ],
)
def test_retry_after_by_cost_says_when(current: int, previous: int, elapsed: float, cost: int, expected: int | None) -> None:
    assert retry_after_s(current=current, previous=previous, elapsed=elapsed, limit=100, window_s=60, cost=cost) == expected
