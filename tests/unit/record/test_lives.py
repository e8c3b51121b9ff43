"""What is counted of a plugin's life, and how it is told to a scraper."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from annexe.record import EventKind, Events, Metrics, as_prometheus_text
from tests.unit.record.clocks import StillClock


class Told:
    """The events of one plugin, and the figures that come of them."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.events = Events(StillClock(), count=self.metrics.count_event)

    def move(self, *states: str) -> Told:
        for before, after in itertools.pairwise(states):
            self.events.add(EventKind.STATE_CHANGED, plugin="one", before=before, after=after)
        return self

    def add(self, kind: EventKind, **facts: Any) -> Told:
        self.events.add(kind, plugin="one", **facts)
        return self

    @property
    def life(self) -> dict[str, Any]:
        life: dict[str, Any] = self.metrics.snapshot()["one"]["life"]
        return life


@pytest.mark.parametrize(
    ("states", "exits"),
    [
        pytest.param(["stopped", "starting", "ready", "degraded", "ready"], {}, id="runs"),
        pytest.param(["stopped", "starting", "ready", "draining", "stopped"], {"stopped": 1}, id="stopped"),
        pytest.param(["stopped", "starting", "stopped"], {"stopped": 1}, id="called-off"),
        pytest.param(["stopped", "starting", "blocked", "stopped"], {"start-failed": 1}, id="blocked"),
        pytest.param(["stopped", "starting", "backing-off", "stopped"], {"start-failed": 1}, id="back-off-ended"),
        pytest.param(["stopped", "starting", "quarantined"], {"start-failed": 1}, id="quarantined"),
        # Told by an event of its own, with the cause.
        pytest.param(["stopped", "starting", "ready", "backing-off"], {}, id="failed-when-ready"),
    ],
)
def test_each_start_and_its_end_are_counted_once(states: list[str], exits: dict[str, int]) -> None:
    told = Told().move("installed", *states)
    assert (told.life["starts"], told.life["exits"]) == (1, exits)


def test_failures_of_running_instances_are_counted_by_cause() -> None:
    told = Told()
    for cause in ("exited", "exited", "protocol-error"):
        told.move("stopped", "starting", "ready").add(EventKind.PLUGIN_EXITED, cause=cause).move("ready", "backing-off")
    assert (told.life["starts"], told.life["exits"]) == (3, {"exited": 2, "protocol-error": 1})


def test_denials_are_counted_by_kind_of_right() -> None:
    told = Told()
    for right in ("kv", "cap:orders", "cap:other", "network:api.example.org:443"):
        told.add(EventKind.PERMISSION_DENIED, permission=right)
    assert told.life["denials"] == {"kv": 1, "cap": 2, "network": 1}


def test_violations_are_counted_when_they_begin() -> None:
    told = Told()
    for phase in ("began", "lasts", "ended", "began", "gone"):
        told.add(EventKind.VIOLATION, resource="disk", phase=phase, action="stop")
    told.add(EventKind.VIOLATION, resource="memory", phase="began", action="restart")
    told.add(EventKind.VIOLATION, resource="memory", phase="prevented", action="warn")
    assert told.life["violations"] == {"disk": {"stop": 2}, "memory": {"restart": 1, "kill": 1}}


def test_events_that_were_lost_are_counted_and_those_never_published_are_not() -> None:
    told = Told().add(EventKind.EVENT_DROPPED, dropped=2).add(EventKind.EVENT_DROPPED, dropped=998).add(EventKind.EVENT_DROPPED)
    assert told.life["events_dropped"] == 1000


def test_what_is_too_much_for_the_list_of_events_is_counted_all_the_same() -> None:
    told = Told()
    for _ in range(1000):
        told.add(EventKind.PERMISSION_DENIED, permission="kv")
    assert len(told.events.latest(1000)) == 50
    assert told.life["denials"] == {"kv": 1000}


def test_other_events_and_the_hosts_own_are_not_counted() -> None:
    told = Told().add(EventKind.CALL_FAILED)
    told.events.add(EventKind.HOST_STARTED)
    assert told.metrics.snapshot() == {}


def test_lives_of_removed_plugins_are_forgotten() -> None:
    told = Told().move("stopped", "starting")
    told.metrics.forget("one")
    assert told.metrics.snapshot() == {}


def test_lives_are_told_to_a_scraper() -> None:
    told = Told().move("stopped", "starting", "ready").add(EventKind.PLUGIN_EXITED, cause="stuck").move("ready", "backing-off", "starting")
    told.add(EventKind.PERMISSION_DENIED, permission="env:HOME")
    told.add(EventKind.VIOLATION, resource="open-files", phase="began", action="warn")
    told.add(EventKind.EVENT_DROPPED, dropped=3)
    told.metrics.method("two", "m").add(0.1)
    assert [line for line in as_prometheus_text(told.metrics.snapshot()).splitlines() if "annexe_call" not in line] == [
        "# TYPE annexe_plugin_starts_total counter",
        'annexe_plugin_starts_total{plugin="one"} 2',
        'annexe_plugin_starts_total{plugin="two"} 0',
        "# TYPE annexe_plugin_exits_total counter",
        'annexe_plugin_exits_total{plugin="one",reason="stuck"} 1',
        "# TYPE annexe_permission_denials_total counter",
        'annexe_permission_denials_total{plugin="one",right="env"} 1',
        "# TYPE annexe_violations_total counter",
        'annexe_violations_total{plugin="one",resource="open-files",action="warn"} 1',
        "# TYPE annexe_events_dropped_total counter",
        'annexe_events_dropped_total{plugin="one"} 3',
        'annexe_events_dropped_total{plugin="two"} 0',
    ]
