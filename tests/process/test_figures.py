"""What a real host counts of its plugins' lives."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.record import as_prometheus_text
from annexe.supervision.health import HealthPolicy
from annexe.supervision.monitor import MonitorPace
from annexe.supervision.violations import Action, MonitorPolicy, Resource, Rule
from tests.process.hosts import Doc, T, open_host, policies, run, until, wait_state, write_plugin

pytestmark = pytest.mark.both_users

PLUGIN = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    if doc["text"] == "die":
        os._exit(9)
    if doc["text"] == "garbage":
        os.write(int(os.environ["ANNEXE_FD"]), b"no frame at all" * 100)
        time.sleep(60)
    try:
        ctx.kv.get("key")
    except PermissionDenied:
        pass
    return doc
"""


def life(host: Host) -> dict[str, Any]:
    figures: dict[str, Any] = host.metrics.snapshot()["alpha"]["life"]
    return figures


def test_starts_exits_and_denials_of_a_plugin_are_counted(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", PLUGIN, hooks=["t.edit"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert life(host) == {"starts": 1, "exits": {}, "denials": {}, "violations": {}, "events_dropped": 0}
            for _ in range(60):
                await host.hooks(T).edit(Doc("ask"))
            assert life(host)["denials"] == {"kv": 60}
            for text in ("die", "garbage"):
                await host.hooks(T).edit(Doc(text))
                await until(lambda: host.plugin("alpha").state != "ready")
                await wait_state(host.plugin("alpha"), "ready")
            assert (life(host)["starts"], life(host)["exits"]) == (3, {"exited": 1, "protocol-error": 1})
            await host.plugin("alpha").stop()
            assert (life(host)["starts"], life(host)["exits"]["stopped"]) == (3, 1)
            assert 'annexe_plugin_exits_total{plugin="alpha",reason="exited"} 1' in as_prometheus_text(host.metrics.snapshot())

    run(scenario)


def test_plugin_that_answers_no_pings_is_counted_as_such(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", PLUGIN, hooks=["t.edit"])
    health = HealthPolicy(ping_interval_s=0.05, ping_timeout_s=0.4, max_missed=2)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=health)) as host:
            pid = host.plugin("alpha").pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: life(host)["exits"])
            assert life(host)["exits"] == {"no-answer": 1}

    run(scenario)


def test_plugin_that_does_not_start_is_counted_as_such(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", "raise RuntimeError('no')", hooks=["t.edit"])

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(max_failures=2)) as host:
            await wait_state(host.plugin("alpha"), "quarantined")
            assert (life(host)["starts"], life(host)["exits"]) == (2, {"start-failed": 2})

    run(scenario)


def test_plugin_that_is_ended_over_a_limit_is_counted_as_such(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", PLUGIN, hooks=["t.edit"])
    rules = MonitorPolicy(rules={Resource.OPEN_FILES: Rule(action=Action.RESTART, limit=0)})
    often = replace(policies(max_failures=2), monitor=rules, pace=MonitorPace(interval_s=0.05))

    async def scenario() -> None:
        async with open_host(tmp_path, policies=often) as host:
            await wait_state(host.plugin("alpha"), "quarantined")
            figures = life(host)
            assert (figures["starts"], figures["exits"]) == (2, {"limit": 2})
            assert figures["violations"] == {"open-files": {"restart": 2}}

    run(scenario)
