from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.dispatch.budget import deadline_share_s, share_s


@pytest.mark.parametrize(
    ("remaining_s", "plugins", "budget_s", "timeout_s", "waited_s", "expected_s"),
    [
        pytest.param(2.0, 4, None, None, 0.0, 0.5, id="share-of-the-deadline"),
        pytest.param(2.0, 1, 0.05, 1.0, 0.0, 0.05, id="budget"),
        pytest.param(2.0, 1, 3.0, 1.0, 0.0, 1.0, id="call-timeout"),
        pytest.param(2.0, 1, 0.05, None, 0.0, 0.05, id="budget-alone"),
        pytest.param(0.0, 2, 0.05, 1.0, 0.0, 0.0, id="deadline-now"),
        pytest.param(-1.0, 2, 0.05, 1.0, 0.0, 0.0, id="deadline-passed"),
        pytest.param(2.0, 2, 0.8, 1.0, 0.5, 0.5, id="waiting-is-paid-from-the-share"),
        pytest.param(2.0, 2, 0.05, 1.0, 0.5, 0.05, id="waiting-is-not-paid-from-the-budget"),
        pytest.param(2.0, 2, None, 1.0, 1.5, 0.0, id="waited-too-long"),
    ],
)
def test_plugin_gets_its_share(
    remaining_s: float, plugins: int, budget_s: float | None, timeout_s: float | None, waited_s: float, expected_s: float
) -> None:
    assert share_s(remaining_s, plugins, budget_s, timeout_s, waited_s=waited_s) == pytest.approx(expected_s)


def test_share_among_nobody_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least 1 remaining plugin, got 0"):
        deadline_share_s(1.0, 0)


@given(st.floats(0, 100), st.integers(1, 20))
def test_plugins_that_use_their_whole_share_leave_the_same_for_each(deadline_s: float, plugins: int) -> None:
    remaining_s = deadline_s
    for left in range(plugins, 0, -1):
        share = deadline_share_s(remaining_s, left)
        assert share == pytest.approx(deadline_s / plugins, abs=1e-9)
        remaining_s -= share
