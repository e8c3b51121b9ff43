"""Private folders, and what becomes of plugins that use too much, in a real host."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe.record import EventKind
from annexe.supervision.monitor import MonitorPace
from annexe.supervision.policies import Policies
from annexe.supervision.violations import DEFAULT_RULES, Action, MonitorPolicy, Resource
from tests.process.hosts import Doc, T, events, open_host, policies, run, until, wait_state, write_plugin

pytestmark = pytest.mark.both_users

KEEPER = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    path = os.path.join(ctx.data_dir, "kept")
    before = open(path).read() if os.path.exists(path) else ""
    with open(path, "a") as file:
        file.write(doc["text"])
    doc["text"] = before
    doc["marks"] = [ctx.data_dir, str(os.getuid()), str(sorted(os.listdir(ctx.data_dir)))]
    return doc
"""
FILLER = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    kind, _, count = doc["text"].partition(" ")
    for number in range(int(count)):
        with open(os.path.join(ctx.data_dir, f"f{number}"), "wb") as file:
            file.write(b"x" * (1 << 16) if kind == "bytes" else b"")
    return doc
"""
EATER = """
import mmap
held = []
@plugin.filter("t.edit")
def edit(doc, ctx):
    shared = mmap.mmap(-1, 160 << 20)  # RLIMIT_DATA does not see it
    held.append(shared)
    for at in range(0, 160 << 20, 4096):
        shared[at] = 1
    return doc
"""
DATA = '[permissions]\ndata = { quota = "1MiB" }\n'


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Give a folder for private folders that plugins of other users can pass."""
    folder = Path(tempfile.mkdtemp(prefix="annexe-data-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder / "data"
    shutil.rmtree(folder)


def looking_often(**rules: Action) -> Policies:
    """Return policies with a quick monitor; ``disk=Action.STOP`` and the like change what is done."""
    changed = {Resource(name.replace("_", "-")): action for name, action in rules.items()}
    judged = {name: replace(rule, action=changed.get(name, rule.action)) for name, rule in DEFAULT_RULES.items()}
    judged[Resource.DISK_ENTRIES] = replace(judged[Resource.DISK_ENTRIES], limit=500)
    monitor = MonitorPolicy(rules=judged)
    return replace(policies(), monitor=monitor, pace=MonitorPace(interval_s=0.05, data_s=0.05, connections_s=60))


def test_private_folder_outlives_the_plugin_and_follows_it_to_its_next_user(tmp_path: Path, data_dir: Path) -> None:
    write_plugin(tmp_path / "plugins", "keeper", KEEPER, hooks=["t.edit"], extra=DATA)

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir) as host:
            first = await host.hooks(T).edit(Doc("one "))
            await host.plugin("keeper").restart()
            second = await host.hooks(T).edit(Doc("two "))
            assert (first.text, second.text) == ("", "one ")
            assert first.marks[0] == str(data_dir / "keeper")
            assert (first.marks[1] != second.marks[1]) is (os.geteuid() == 0)
            rights = {right: found.state for right, found in host.plugin("keeper").receipt.rights.items()}  # type: ignore[union-attr]
            assert rights["data"] == "soft"
        assert (data_dir / "keeper" / "kept").read_text() == "one two "
        assert (data_dir / "keeper").stat().st_mode & 0o777 == 0o700

    run(scenario)


def test_plugin_without_the_right_has_no_private_folder(tmp_path: Path, data_dir: Path) -> None:
    write_plugin(
        tmp_path / "plugins",
        "bare",
        "@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    doc['text'] = ctx.data_dir\n    return doc",
        hooks=["t.edit"],
    )

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir) as host:
            assert (await host.hooks(T).edit(Doc("as it was"))).text == "as it was"
            (skipped,) = events(host, EventKind.HOOK_SKIPPED, "bare")
            assert 'add to plugin.toml under [permissions]: data = { quota = "50MiB" }' in skipped.reason
        assert not (data_dir / "bare").exists()

    run(scenario)


@pytest.mark.parametrize(("what", "resource"), [("bytes 40", "disk"), ("entries 700", "disk-entries")])
def test_plugin_that_fills_its_folder_is_stopped_with_figures(tmp_path: Path, data_dir: Path, what: str, resource: str) -> None:
    write_plugin(tmp_path / "plugins", "filler", FILLER, hooks={"t.edit": ""}, extra=DATA)

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir, policies=looking_often()) as host:
            request: dict[str, Any] = {"deadline_s": 10.0}
            async with host.request(**request) as asked:
                await asked.hooks(T).edit(Doc(what))
            await wait_state(host.plugin("filler"), "stopped")
            (told,) = [event for event in events(host, EventKind.VIOLATION) if event.facts["phase"] == "began"]
            assert (told.plugin, told.facts["resource"], told.facts["action"]) == ("filler", resource, "stop")
            assert told.facts["amount"] > told.facts["limit"]
            assert host.plugin("filler").reason == told.reason
            assert "in its private folder (`data`)" in told.reason
            assert f"clear out {data_dir / 'filler'}" in told.reason
            assert f"start it again with: annexe restart filler --state {host.state_dir.path}" in told.reason
            (after,) = await until(lambda: [event for event in events(host, EventKind.VIOLATION) if event.facts["phase"] != "began"])
            assert after.facts["phase"] == "gone"
            assert after.reason.startswith("its instance ended while it was over its limit")
            shutil.rmtree(data_dir / "filler")
            await host.plugin("filler").restart()
            assert host.plugin("filler").state == "ready"

    run(scenario)


def test_plugin_that_a_policy_quarantines_waits_for_a_person(tmp_path: Path, data_dir: Path) -> None:
    write_plugin(tmp_path / "plugins", "filler", FILLER, hooks=["t.edit"], extra=DATA)

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir, policies=looking_often(disk=Action.QUARANTINE)) as host:
            await host.hooks(T).edit(Doc("bytes 40"))
            await wait_state(host.plugin("filler"), "quarantined")
            assert "annexe restart filler" in host.plugin("filler").reason
            shutil.rmtree(data_dir / "filler")
            await host.plugin("filler").restart()
            assert host.plugin("filler").state == "ready"

    run(scenario)


def test_plugin_over_its_memory_limit_is_ended_by_the_group_or_restarted_by_the_monitor(tmp_path: Path, data_dir: Path) -> None:
    write_plugin(tmp_path / "plugins", "eater", EATER, hooks=["t.edit"], extra='[resources]\nmemory = "96MiB"\ncall-timeout = "5s"\n')

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir, policies=looking_often()) as host:
            eater = host.plugin("eater")
            before, receipt = eater.pid, eater.receipt
            await host.hooks(T).edit(Doc(""))
            await until(lambda: host.plugin("eater").pid not in (None, before))
            told = [event.facts for event in events(host, EventKind.VIOLATION) if event.facts["resource"] == "memory"]
            by_group, by_monitor = any(facts["kills"] for facts in told), any(facts["action"] == "restart" for facts in told)
            if not (by_group or by_monitor):  # the group may be gone before the monitor looks; by itself the plugin would get a MemoryError
                assert receipt is not None and "memory" in receipt.walls.cgroup
                assert [event.reason for event in events(host, EventKind.PLUGIN_EXITED)] == [
                    "killed by SIGKILL; its control group had been at its memory limit"
                ]

    run(scenario)


SPINNER = """
import threading
def spin():
    while True:
        pass
@plugin.on_activate
def begin(ctx):
    for _ in range(2):
        threading.Thread(target=spin, daemon=True).start()
"""


def test_usage_of_a_running_plugin_is_told_with_figures(tmp_path: Path, data_dir: Path) -> None:
    write_plugin(tmp_path / "plugins", "keeper", KEEPER, hooks=["t.edit"], extra=DATA)

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir, policies=looking_often()) as host:
            await host.hooks(T).edit(Doc("some text"))
            plugin = host.plugin("keeper")
            sample = await until(lambda: plugin.usage if plugin.usage and plugin.usage.usage.disk_bytes else None)
            assert 1 << 20 < sample.usage.memory_bytes < 100 << 20
            assert sample.usage.threads >= 1
            assert 3 <= sample.usage.open_files <= 64
            assert sample.usage.disk_entries == 1
            await plugin.stop()
            assert plugin.usage is None

    run(scenario)


def test_plugin_that_a_policy_throttles_runs_after_everybody_else(tmp_path: Path, data_dir: Path) -> None:
    write_plugin(tmp_path / "plugins", "spinner", SPINNER, extra="[resources]\ncpu = 0.2\n")
    looking = looking_often()
    rule = replace(looking.monitor.rules[Resource.CPU], action=Action.THROTTLE, share=0.5, clear_share=0.1, polls=2)
    looking = replace(looking, monitor=MonitorPolicy(rules={Resource.CPU: rule}))

    async def scenario() -> None:
        async with open_host(tmp_path, data_dir=data_dir, policies=looking) as host:
            plugin = host.plugin("spinner")
            pid = plugin.pid
            assert pid is not None
            await until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 19)
            (told,) = [event for event in events(host, EventKind.VIOLATION) if event.facts["phase"] == "began"]
            assert (told.facts["resource"], told.facts["action"]) == ("cpu", "throttle")
            assert plugin.state in ("ready", "degraded")

    run(scenario)
