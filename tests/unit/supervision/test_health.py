"""Verdicts on pings and slots."""

from __future__ import annotations

import pytest

from annexe.supervision.health import Health, HealthPolicy, HealthStatus


def _after(*latencies: float | None) -> Health:
    health = Health()
    for latency_s in latencies:
        health = HealthPolicy().after_ping(health, latency_s=latency_s)
    return health


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        pytest.param([], Health(), id="nothing seen yet"),
        pytest.param([0.01], Health(), id="prompt"),
        pytest.param([1.0], Health(), id="just in time"),
        pytest.param([1.01], Health(HealthStatus.DEGRADED), id="slow"),
        pytest.param([None], Health(HealthStatus.DEGRADED, 1), id="one missed"),
        pytest.param([None, None], Health(HealthStatus.DEGRADED, 2), id="two missed"),
        pytest.param([None, None, None], Health(HealthStatus.UNHEALTHY, 3), id="three missed"),
        pytest.param([None, None, 0.1, None], Health(HealthStatus.DEGRADED, 1), id="an answer between"),
        pytest.param([None, None, None, 0.1], Health(), id="well again"),
    ],
)
def test_after_ping_judges_by_the_last_answers(latencies: list[float | None], expected: Health) -> None:
    assert _after(*latencies) == expected


@pytest.mark.parametrize(
    ("holders", "concurrency", "expected"),
    [
        pytest.param([], 1, False, id="idle"),
        pytest.param([None], 1, False, id="working"),
        pytest.param([4.9], 1, False, id="cancelled a moment ago"),
        pytest.param([5.0], 1, True, id="cancelled long ago"),
        pytest.param([9.0, None], 2, False, id="one still working"),
        pytest.param([9.0], 2, False, id="one slot free"),
        pytest.param([9.0, 5.0], 2, True, id="all cancelled long ago"),
    ],
)
def test_is_stuck_needs_every_slot_cancelled_long_ago(holders: list[float | None], concurrency: int, expected: bool) -> None:
    assert HealthPolicy().is_stuck(holders, concurrency=concurrency) is expected
