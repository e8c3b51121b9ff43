"""The table of a plugin's life."""

from __future__ import annotations

import pytest

from annexe.supervision.state import HISTORY, TRANSITIONS, Change, Lifecycle, PluginState


def _life(state: PluginState) -> Lifecycle:
    return Lifecycle.begin(reason="taken up again", at=1.0, state=state)


def test_new_life_is_installed_with_reason_and_time() -> None:
    life = Lifecycle.begin(reason="found in plugins/", at=7.5)
    assert (life.state, life.reason, life.since) == (PluginState.INSTALLED, "found in plugins/", 7.5)


def test_moved_keeps_every_change_in_order() -> None:
    life = (
        _life(PluginState.STOPPED)
        .moved(PluginState.STARTING, reason="host opened", at=2.0)
        .moved(PluginState.READY, reason="activated", at=3.0)
    )
    assert life.changes == (
        Change(PluginState.STOPPED, "taken up again", 1.0),
        Change(PluginState.STARTING, "host opened", 2.0),
        Change(PluginState.READY, "activated", 3.0),
    )


@pytest.mark.parametrize("source", PluginState)
@pytest.mark.parametrize("target", PluginState)
def test_moved_follows_the_table_and_nothing_else(source: PluginState, target: PluginState) -> None:
    life = _life(source)
    assert life.allows(target) is (target in TRANSITIONS[source])
    if life.allows(target):
        assert life.moved(target, reason="because", at=2.0).state is target
    else:
        with pytest.raises(ValueError, match=f"from {source} to one of .*, got {target} \\(because\\)"):
            life.moved(target, reason="because", at=2.0)


def test_history_is_bounded_and_keeps_the_newest() -> None:
    life = _life(PluginState.READY)
    for step in range(HISTORY * 2):
        life = life.moved(PluginState.DEGRADED if step % 2 == 0 else PluginState.READY, reason=str(step), at=float(step))
    assert len(life.changes) == HISTORY
    assert life.reason == str(HISTORY * 2 - 1)


@pytest.mark.parametrize("source", PluginState)
def test_stopped_can_be_reached_from_everywhere(source: PluginState) -> None:
    reached, frontier = {source}, {source}
    while frontier:
        frontier = {state for at in frontier for state in TRANSITIONS[at]} - reached
        reached |= frontier
    assert PluginState.STOPPED in reached


def test_only_ready_and_degraded_take_calls() -> None:
    assert {state for state in PluginState if state.takes_calls} == {PluginState.READY, PluginState.DEGRADED}
    assert {state for state in PluginState if state.has_process} == {
        PluginState.STARTING,
        PluginState.READY,
        PluginState.DEGRADED,
        PluginState.DRAINING,
    }


def test_quarantine_is_left_by_a_person_only_never_by_backing_off() -> None:
    assert TRANSITIONS[PluginState.QUARANTINED] == {PluginState.STARTING, PluginState.STOPPED, PluginState.BLOCKED}
