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


@pytest.mark.parametrize(("is_well", "pause_s"), [pytest.param(True, 30.0, id="well"), pytest.param(False, 10.0, id="not")])
def test_who_is_well_is_pinged_a_third_as_often(is_well: bool, pause_s: float) -> None:
    assert HealthPolicy(ping_interval_s=10.0).pause_s(is_well=is_well) == pause_s
