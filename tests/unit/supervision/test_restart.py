"""Delays and quarantine."""

from __future__ import annotations

import pytest

from annexe.errors import QuarantinedError
from annexe.supervision.restart import RestartPolicy


@pytest.mark.parametrize(("failures", "delay_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (6, 16.0), (9, 16.0)])
def test_delay_doubles_up_to_its_cap(failures: int, delay_s: float) -> None:
    assert RestartPolicy().delay_s(failures, plugin="p") == delay_s


@pytest.mark.parametrize(("jitter", "delay_s"), [(-1.0, 1.6), (0.0, 2.0), (1.0, 2.4)])
def test_jitter_moves_the_delay_both_ways(jitter: float, delay_s: float) -> None:
    assert RestartPolicy().delay_s(2, plugin="p", jitter=jitter) == pytest.approx(delay_s)


@pytest.mark.parametrize("failures", [10, 11, 5000])
def test_failures_at_the_limit_quarantine(failures: int) -> None:
    with pytest.raises(QuarantinedError) as caught:
        RestartPolicy().delay_s(failures, plugin="p")
    assert (caught.value.plugin, caught.value.data["failures"], caught.value.data["max_failures"]) == ("p", failures, 10)


def test_limit_of_zero_never_launches() -> None:
    with pytest.raises(QuarantinedError):
        RestartPolicy(max_failures=0).delay_s(1, plugin="p")


def test_delay_of_very_many_failures_does_not_overflow() -> None:
    assert RestartPolicy(max_failures=10**6).delay_s(5000, plugin="p") == 16.0


@pytest.mark.parametrize(("before", "ready_s", "expected"), [(0, 0.0, 1), (4, 0.0, 5), (4, 299.9, 5), (4, 300.0, 1), (9, 301.0, 1)])
def test_count_starts_again_only_after_long_enough_ready(before: int, ready_s: float, expected: int) -> None:
    assert RestartPolicy().count(failures_before=before, ready_s=ready_s) == expected
