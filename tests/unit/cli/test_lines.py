"""Lines of logs and events for a terminal: nothing a plugin says can be taken for the host's words."""

from __future__ import annotations

import pytest

from annexe.cli.events import event_line
from annexe.cli.list import _why
from annexe.cli.logs import _line
from annexe.cli.run import _print_event
from annexe.cli.show import _print_head, _with_unit
from annexe.clock import SystemClock
from annexe.record.events import EventKind, Events

RECORD: dict[str, object] = {"time": "T", "level": "info", "source": "log", "message": "m", "request": None, "fields": {}}


def test_source_and_request_come_before_what_the_plugin_says() -> None:
    assert _line({**RECORD, "request": "r-1", "fields": {"a": 1}}) == "T info [log] (r-1) m a=1"


@pytest.mark.parametrize("message", ["[host] starting → ready: activated", "x\nT info [host] ready", "m request=r-2"])
def test_a_message_that_plays_the_host_stays_behind_its_source(message: str) -> None:
    line = _line({**RECORD, "message": message})
    assert line.startswith("T info [log] ")
    assert "\n" not in line


def test_the_hosts_own_events_bear_a_name_no_plugin_can_have() -> None:
    assert event_line("T", None, "host-started", "opened", {}) == "T [host]: host-started: opened"
    assert event_line("T", "host", "plugin-added", "found", {}) == "T host: plugin-added: found"


def test_why_in_a_list_is_the_first_problem_and_where_the_others_are() -> None:
    assert _why("activated\nmore", "a") == "activated"
    assert _why("x is not a valid manifest:\n  - line 1: one", "a") == "line 1: one"
    assert _why("x is not a valid manifest:\n  - line 1: one\n  - line 2: two", "a") == "line 1: one (and 1 more; see: annexe show a)"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("memory", 256 * 2**20, "256 MiB"),
        ("memory", 3 * 2**40, "3072 GiB"),
        ("disk", 1000, "1000 B"),
        ("disk", 5120, "5 KiB"),
        ("disk", 0, "0 B"),
        ("call-timeout", 0.5, "0.5 s"),
        ("start-timeout", 10.0, "10 s"),
        ("cpu", 0.5, "0.5"),
        ("streams", 8, "8"),
    ],
)
def test_limits_are_shown_with_their_units(name: str, value: float, shown: str) -> None:
    assert _with_unit(name, value) == shown


HEAD: dict[str, object] = {
    "id": "a",
    "version": "",
    "name": "",
    "description": "",
    "state": "blocked",
    "since": None,
    "reason": "",
    "problems": None,
    "enabled": True,
    "starts": 0,
    "failures": 0,
    "breakers": {},
    "pid": None,
    "level": None,
    "requires_level": None,
    "strategy": "process",
    "start": "",
    "folder": "f",
    "digest": None,
    "hooks": {},
    "extensions": {},
    "services": {},
    "topics": [],
    "defines": [],
    "passed_over": {},
    "instances": [],
    "attached": False,
    "requires": [],
}


def test_head_tells_problems_once(capsys: pytest.CaptureFixture[str]) -> None:
    listed = "f is not a valid manifest:\n  - line 1: one"
    _print_head({**HEAD, "reason": listed, "problems": listed})
    said = capsys.readouterr().out
    assert "state:     blocked: f is not a valid manifest\n" in said
    assert said.count("line 1: one") == 1
    _print_head({**HEAD, "reason": "wrong; worse", "problems": "wrong", "since": "T"})
    said = capsys.readouterr().out
    assert "state:     blocked since T: wrong; worse\n" in said and "Problems" not in said
    _print_head({**HEAD, "reason": "stopped by a person", "problems": "wrong"})
    assert "\nProblems:\nwrong\n" in capsys.readouterr().out


def test_head_tells_the_level_that_was_reached_and_the_one_required(capsys: pytest.CaptureFixture[str]) -> None:
    _print_head({**HEAD, "level": "limits", "requires_level": "none"})
    assert "isolation: limits; its manifest requires none\n" in capsys.readouterr().out
    _print_head({**HEAD, "requires_level": "full"})
    assert "isolation: -; its manifest requires full\n" in capsys.readouterr().out


def test_head_tells_hooks_that_it_defines_and_those_at_which_it_is_not_called(capsys: pytest.CaptureFixture[str]) -> None:
    hook = {"hook": "sums.add", "kind": "filter", "revision": 2, "on_failure": "open", "open": True}
    called = hook | {"implemented_by": ["b", "c"], "passed_over": {"d": "it implements revision 1"}}
    idle = hook | {"hook": "sums.take", "open": False, "implemented_by": [], "passed_over": {}}
    _print_head({**HEAD, "defines": [called, idle], "passed_over": {"other.hook": "no plugin that takes part defines it"}})
    said = capsys.readouterr().out
    assert "defines:   hook sums.add (filter, revision 2): implemented by b, c; not by d: it implements revision 1\n" in said
    assert "defines:   hook sums.take (filter, revision 2), which is not its own as long as it is not granted, or another" in said
    assert "idle:      it is not called at other.hook: no plugin that takes part defines it\n" in said


def test_problems_of_an_event_have_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(SystemClock())
    events.subscribe(_print_event)
    events.add(EventKind.MANIFEST_REFUSED, plugin="a", reason="f is not a valid manifest:\n  - line 1: one\nT b: ready\n  - line 2: two")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("a: manifest-refused: f is not a valid manifest:")
    assert rest == ["    - line 1: one\\nT b: ready", "    - line 2: two"]
