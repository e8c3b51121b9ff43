"""Lines of logs and events for a terminal: nothing a plugin says can be taken for the host's words."""

from __future__ import annotations

import pytest

from annexe.cli.events import event_line
from annexe.cli.logs import _line

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
