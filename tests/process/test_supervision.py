"""Lives of real plugins: crash, back-off, quarantine, hang, stop, what blocks them, what people change while the host runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import (
    ActivationError,
    AnnexeError,
    ConfigInvalidError,
    ContractError,
    HookError,
    HostAlreadyRunningError,
    HostClosedError,
    LaunchError,
    ManifestError,
    PluginUnavailableError,
    RevisionMismatchError,
    UnknownPluginError,
    WrongContextError,
)
from annexe.launch import TreeReport
from annexe.launch.launched import LaunchedProcess
from annexe.record import EventKind
from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from annexe.supervision.restart import RestartPolicy
from tests.process.hosts import (
    Doc,
    T,
    connection_of,
    events,
    is_alive,
    open_host,
    outcome_of,
    policies,
    run,
    until,
    wait_state,
    write_plugin,
)

pytestmark = pytest.mark.any_user

FINE = """
@plugin.filter("t.edit")
def edit(doc):
    if doc["text"] == "die": os._exit(9)
    if doc["text"] == "hang": time.sleep(1000)
    doc["marks"].append("a")
    return doc
"""


def write_fine(root: Path, plugin: str = "alpha", code: str = FINE, **more: Any) -> Path:
    return write_plugin(root / "plugins", plugin, code, hooks=more.pop("hooks", ["t.edit"]), **more)


async def crash(host: Host, plugin: str = "alpha") -> None:
    """Have a plugin crash, and wait until the host knows."""
    await host.hooks(T).edit(Doc("die"))
    await until(lambda: host.plugin(plugin).state not in ("ready", "degraded"))


async def hang(host: Host) -> None:
    """Have a plugin hang in a call; the second that it has by default is over after this."""
    assert await host.hooks(T).edit(Doc("hang")) == Doc("hang")


def states(host: Host, plugin: str = "alpha") -> list[str]:
    return [str(change.state) for change in host.plugin(plugin).history]


# Crash, back-off, quarantine.


@pytest.mark.both_users
def test_crash_is_answered_with_back_off_and_a_fresh_start(tmp_path: Path) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            first = plugin.pid
            await crash(host)
            await wait_state(plugin, "ready")
            assert plugin.pid not in (first, None)
            assert states(host) == ["installed", "stopped", "starting", "ready", "backing-off", "starting", "ready"]
            assert all(change.reason and change.at > 0 for change in plugin.history)
            (exited,) = events(host, EventKind.PLUGIN_EXITED, "alpha")
            assert exited.reason == "exited with status 9"
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


@pytest.mark.both_users
@pytest.mark.parametrize("error", [LaunchError("the disk is full"), OSError("the disk is full")], ids=["told", "unforeseen"])
def test_plugin_that_cannot_be_cleared_away_is_told_and_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write_fine(tmp_path)
    close = LaunchedProcess.close

    async def fail(plugin: LaunchedProcess) -> TreeReport:
        await close(plugin)
        raise error

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            with monkeypatch.context() as patch:
                patch.setattr(LaunchedProcess, "close", fail)
                await crash(host)
                await wait_state(plugin, "ready")
                await plugin.stop()
            assert plugin.state == "stopped"
            await plugin.start()
            await wait_state(plugin, "ready")
            told = events(host, EventKind.TREE_KILL_SOFT, "alpha")
            assert ["the disk is full" in event.reason for event in told] == [True, True]
            assert all(event.facts["gone"] is False for event in told)

    asyncio.run(scenario())


def test_back_off_doubles_up_to_the_longest(tmp_path: Path) -> None:
    write_fine(tmp_path, code="raise ValueError('at import')\n")

    async def scenario() -> None:
        rules = replace(policies(), restart=RestartPolicy(first_delay_s=0.1, max_delay_s=0.2, max_failures=5, jitter_ratio=0.0))
        async with open_host(tmp_path, policies=rules) as host:
            plugin = host.plugin("alpha")
            await wait_state(plugin, "quarantined")
            waits = [(before.reason, after.at - before.at) for before, after in pairwise(plugin.history) if before.state == "backing-off"]
            assert [reason.rpartition("started again in ")[2] for reason, _ in waits] == ["0.1 s", "0.2 s", "0.2 s", "0.2 s"]
            assert all(waited_s >= told_s for (_, waited_s), told_s in zip(waits, (0.1, 0.2, 0.2, 0.2), strict=True))

    run(scenario)


@pytest.mark.both_users
def test_quarantine_and_counters_outlive_the_host_and_a_restart_lifts_them(tmp_path: Path) -> None:
    write_fine(tmp_path)
    rules = policies(max_failures=4)

    async def first() -> None:
        async with open_host(tmp_path, policies=rules) as host:
            for _ in range(3):
                await crash(host)
                await wait_state(host.plugin("alpha"), "ready")

    async def second() -> None:
        async with open_host(tmp_path, policies=rules) as host:
            plugin = host.plugin("alpha")
            assert plugin.state == "ready"  # three of four: not yet
            await crash(host)
            await wait_state(plugin, "quarantined")
            (event,) = events(host, EventKind.QUARANTINED, "alpha")
            assert event.facts["failures"] == 4 and event.reason == "exited with status 9"
            where = f"alpha --state {host.state_dir.path}"
            assert f"annexe restart {where}" in plugin.reason and f"annexe logs {where}" in plugin.reason

    async def third() -> None:
        async with open_host(tmp_path, policies=rules) as host:
            plugin = host.plugin("alpha")
            assert (plugin.state, plugin.pid) == ("quarantined", None)
            await plugin.start()
            assert plugin.state == "quarantined"  # only a restart lifts it
            await plugin.restart()
            assert plugin.state == "ready"
            await crash(host)  # counted from the beginning again
            await wait_state(plugin, "ready")

    async def fourth() -> None:
        async with open_host(tmp_path, policies=rules) as host:
            assert host.plugin("alpha").state == "ready"

    for scenario in (first, second, third, fourth):
        run(scenario)


def test_count_starts_again_once_the_plugin_was_ready_for_long(tmp_path: Path) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(max_failures=3, healthy_after_s=0.2)) as host:
            for _ in range(5):
                await wait_state(host.plugin("alpha"), "ready")
                await asyncio.sleep(0.25)
                await crash(host)
            await wait_state(host.plugin("alpha"), "ready")

    run(scenario)


def test_restarts_never_stop_the_others(tmp_path: Path) -> None:
    write_fine(tmp_path, code="raise ValueError('at import')\n")
    write_fine(tmp_path, "beta")

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(max_failures=3)) as host:
            while host.plugin("alpha").state != "quarantined":
                assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
                await asyncio.sleep(0.01)

    run(scenario)


# Hang.


def test_stuck_plugin_is_restarted_once_cancelled_calls_hold_every_slot(tmp_path: Path) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=HealthPolicy(stuck_after_s=0.3))) as host:
            plugin, loop = host.plugin("alpha"), asyncio.get_running_loop()
            first, started = plugin.pid, loop.time()
            await hang(host)
            await wait_state(plugin, "backing-off")
            assert 0.4 <= loop.time() - started < 10.0
            assert len(events(host, EventKind.STUCK, "alpha")) == 1
            await wait_state(plugin, "ready")
            assert first is not None and not is_alive(first)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


def test_plugin_with_a_free_slot_is_not_stuck(tmp_path: Path) -> None:
    write_fine(tmp_path, runtime="concurrency = 2")

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=HealthPolicy(stuck_after_s=0.2))) as host:
            first = host.plugin("alpha").pid
            await hang(host)
            await asyncio.sleep(0.5)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            assert host.plugin("alpha").pid == first
            await hang(host)
            await wait_state(host.plugin("alpha"), "backing-off")

    run(scenario)


@pytest.mark.both_users
@pytest.mark.parametrize("concurrency", [1, 4])
def test_idle_plugin_that_hangs_is_found_by_ping(tmp_path: Path, concurrency: int) -> None:
    write_fine(tmp_path, runtime=f"concurrency = {concurrency}")
    health = HealthPolicy(ping_interval_s=0.1, ping_timeout_s=0.3, max_missed=3, stuck_after_s=60.0)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=health)) as host:
            plugin = host.plugin("alpha")
            assert plugin.pid is not None
            os.kill(plugin.pid, signal.SIGSTOP)
            await wait_state(plugin, "degraded")
            await wait_state(plugin, "backing-off")
            assert "did not answer 3 pings" in plugin.reason
            await wait_state(plugin, "ready")
            again = plugin.pid
            await asyncio.sleep(0.3)
            assert plugin.state in ("ready", "degraded") and plugin.pid == again  # one ping may be late

    run(scenario)


def test_slow_plugin_is_degraded_and_still_gets_calls(tmp_path: Path) -> None:
    write_fine(tmp_path)
    health = HealthPolicy(ping_interval_s=0.05, ping_timeout_s=2.0, slow_s=0.15)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=health)) as host:
            plugin = host.plugin("alpha")
            assert plugin.pid is not None
            os.kill(plugin.pid, signal.SIGSTOP)
            await asyncio.sleep(0.4)
            os.kill(plugin.pid, signal.SIGCONT)
            await wait_state(plugin, "degraded", within_s=2)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            await wait_state(plugin, "ready")

    run(scenario)


# Stop ladder.


def ladder(host: Host, plugin: str = "alpha") -> list[tuple[str, float]]:
    lines = [line for line in host.logs.tail(plugin, 200) if str(line["message"]).startswith("stop: ")]
    return [(str(line["message"])[6:], line["fields"]["took_ms"]) for line in lines]


@pytest.mark.both_users
@pytest.mark.parametrize(
    ("code", "rungs", "least_s", "most_s"),
    [
        pytest.param("@plugin.on_shutdown\ndef bye(ctx): ctx.log.info('bye')\n", ["shutdown worked"], 0.0, 5.0, id="answers shutdown"),
        pytest.param(
            "@plugin.on_shutdown\ndef bye(ctx): time.sleep(1000)\n",
            ["shutdown did not work", "SIGTERM worked"],
            0.25,
            5.0,
            id="ignores shutdown",
        ),
        pytest.param(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n@plugin.on_shutdown\ndef bye(ctx): time.sleep(1000)\n",
            ["shutdown did not work", "SIGTERM did not work"],
            0.65,
            5.0,
            id="ignores SIGTERM too",
        ),
        pytest.param(
            "threading.Thread(target=time.sleep, args=(1000,)).start()\n@plugin.on_shutdown\ndef bye(ctx): pass\n",
            ["shutdown did not work", "SIGTERM worked"],
            0.35,
            5.0,
            id="answers shutdown and stays",
        ),
    ],
)
def test_each_rung_of_the_stop_ladder(tmp_path: Path, code: str, rungs: list[str], least_s: float, most_s: float) -> None:
    write_fine(tmp_path, code=FINE + code)
    # Little time for the rungs that shall not work, much for the others: what works takes as long as the machine needs.
    heeds, ends = "shutdown worked" in rungs, "SIGTERM worked" in rungs
    stop = StopPolicy(drain_s=1.0, shutdown_s=10.0 if heeds else 0.3, exit_s=10.0 if heeds else 0.4, terminate_s=10.0 if ends else 0.4)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(stop=stop)) as host:
            plugin, loop = host.plugin("alpha"), asyncio.get_running_loop()
            pid, started = plugin.pid, loop.time()
            await plugin.stop()
            took_s = loop.time() - started
            assert pid is not None and not is_alive(pid)
            assert plugin.state == "stopped"
            assert least_s <= took_s <= most_s
            assert [rung for rung, _ in ladder(host)] == rungs
            assert all(took_ms >= 0 for _, took_ms in ladder(host))
            if rungs == ["shutdown worked"] and "bye(ctx): ctx" in code:
                assert any(line["message"] == "bye" for line in host.logs.tail("alpha", 50))

    run(scenario)


def test_draining_lets_open_calls_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    code = '@plugin.filter("t.strict")\ndef edit(doc):\n    time.sleep(1)\n    doc["marks"].append("a")\n    return doc\n'
    write_fine(tmp_path, code=code, hooks=["t.strict"], extra='[resources]\ncall-timeout = "5s"')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            open_call = asyncio.create_task(host.hooks(T).strict(Doc("x")))
            await asyncio.sleep(0.1)
            stopping = asyncio.create_task(host.plugin("alpha").stop())
            await wait_state(host.plugin("alpha"), "draining")
            refused = await outcome_of(host.hooks(T).strict(Doc("y")))
            assert isinstance(refused, HookError)
            assert isinstance(refused.__cause__, PluginUnavailableError)
            assert refused.__cause__.data["state"] == "draining"
            assert (await open_call).marks == ["a"]
            await stopping

    run(scenario)


def test_call_that_does_not_end_while_draining_is_cancelled(tmp_path: Path) -> None:
    write_fine(tmp_path, hooks={"t.edit": 'on-failure = "closed"'}, extra='[resources]\ncall-timeout = "20s"')
    stop = StopPolicy(drain_s=0.2, shutdown_s=0.1, exit_s=0.1, terminate_s=0.5)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(stop=stop)) as host:
            calls = [asyncio.create_task(outcome_of(host.hooks(T).edit(Doc("hang")))) for _ in range(100)]
            await asyncio.sleep(0.1)
            await host.plugin("alpha").stop()
            async with asyncio.timeout(5.0):
                outcomes = await asyncio.gather(*calls)
            assert {error.reason for error in outcomes} == {"cancelled"}

    run(scenario)


# Starting.


@pytest.mark.both_users
def test_start_that_takes_too_long_fails_with_what_it_was(tmp_path: Path) -> None:
    write_fine(tmp_path, code="time.sleep(1000)\n" + FINE, extra='[resources]\nstart-timeout = "1500ms"')

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(first_delay_s=20.0)) as host:
            plugin = host.plugin("alpha")
            assert plugin.state == "backing-off"
            (failed,) = events(host, EventKind.LAUNCH_FAILED, "alpha")
            assert failed.facts["code"] == "activation-failed"
            assert "within its start timeout of 1.5 s; where it needs longer, raise [resources] start-timeout" in failed.reason

    run(scenario)


def test_host_waits_for_one_start_of_each_and_not_for_what_fails_and_is_started_again(tmp_path: Path) -> None:
    for number in range(3):  # the first takes longest: when it has failed, the others are at it again
        write_fine(
            tmp_path, f"p{number}", code="time.sleep(1000)\n" + FINE, extra=f'[resources]\nstart-timeout = "{1500 - 100 * number}ms"'
        )

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies()) as host:
            assert len(events(host, EventKind.LAUNCH_FAILED, "p0")) == 1
            assert len(events(host, EventKind.LAUNCH_FAILED, "p1")) and len(events(host, EventKind.LAUNCH_FAILED, "p2"))

    run(scenario)


@pytest.mark.parametrize(
    ("code", "hooks", "texts"),
    [
        pytest.param("import no_such_module\n", ["t.edit"], ["ModuleNotFoundError", "no_such_module", "main.py:4"], id="import error"),
        pytest.param("x = 1\ndef broken(:\n", ["t.edit"], ["SyntaxError", "main.py:5"], id="syntax error"),
        pytest.param("def f():\n    raise KeyError('deep')\nf()\n", ["t.edit"], ["KeyError", "main.py:5"], id="raises at import"),
        pytest.param(
            "@plugin.on_activate\ndef start(ctx):\n    raise OSError('no')\n" + FINE, ["t.edit"], ["OSError", "main.py:6"], id="init"
        ),
        pytest.param("raise SystemExit(3)\n", ["t.edit"], ["SystemExit"], id="exits at import"),
        pytest.param("os._exit(3)\n", ["t.edit"], ["its process exited with status 3 before it was ready"], id="dies at import"),
        pytest.param("os.abort()\n", ["t.edit"], ["its process was killed by SIGABRT before it was ready"], id="crashes at import"),
        pytest.param("del plugin\n", ["t.edit"], ["plugin = Plugin()"], id="no plugin object"),
        pytest.param(FINE, ["t.edit", "t.act"], ["'t.act'", "does not answer"], id="missing hook"),
        pytest.param(FINE, ["t.act"], ["'t.edit'", "does not declare", "main.py:5"], id="undeclared hook"),
        pytest.param(FINE.replace("filter", "action"), ["t.edit"], ["expected filter", "@plugin.filter", "main.py:5"], id="wrong kind"),
    ],
)
def test_fault_in_the_plugins_code_is_an_activation_error_that_names_the_place(
    tmp_path: Path, code: str, hooks: list[str], texts: list[str]
) -> None:
    write_fine(tmp_path, code=code, hooks=hooks)
    write_fine(tmp_path, "beta")

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(first_delay_s=20.0)) as host:
            plugin = host.plugin("alpha")
            assert plugin.state == "backing-off"
            (failed,) = events(host, EventKind.LAUNCH_FAILED, "alpha")
            assert failed.facts["code"] == ActivationError.code
            for text in texts:
                assert text in failed.reason
                assert text in plugin.reason
            assert host.plugin("beta").state == "ready"
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


# What blocks.


def test_missing_grant_blocks_with_the_command_and_a_grant_starts_it(tmp_path: Path) -> None:
    write_fine(tmp_path, extra='[permissions]\nkv = { quota = "1MiB" }')

    async def scenario() -> None:
        async with open_host(tmp_path, grants="stored") as host:
            plugin = host.plugin("alpha")
            assert plugin.state == "blocked" and "annexe grant alpha" in plugin.reason
            await plugin.grant()
            assert plugin.state == "ready"
            await plugin.revoke()
            assert plugin.state == "blocked" and plugin.pid is None
            await plugin.grant()
        async with open_host(tmp_path, grants="stored") as host:
            assert host.plugin("alpha").state == "ready"

    run(scenario)


@pytest.mark.parametrize(
    ("runtime", "text"),
    [
        pytest.param('requires-host = ">=99"', ">=99", id="host"),
        pytest.param('requires-python = ">=9.9"', "9.9", id="python"),
        pytest.param('requires-os = ["darwin"]', "darwin", id="os"),
        pytest.param('requires-libs = ["libno-such-thing.so"]', "libno-such-thing.so", id="library"),
    ],
)
def test_unmet_requirement_blocks_and_says_which(tmp_path: Path, runtime: str, text: str) -> None:
    write_fine(tmp_path, runtime=runtime)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            assert plugin.state == "blocked" and text in plugin.reason
            assert await host.hooks(T).edit(Doc("x")) == Doc("x")

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        pytest.param({"order": {"t.edti": ["alpha"]}}, "order names 't.edti', which the host does not open; expected 't.edit'", id="order"),
        pytest.param({"on_failure": {"t.edti": "closed"}}, "on_failure names 't.edti'", id="policy of a hook"),
        pytest.param({"on_failure": {"Alpha": "closed"}}, "on_failure names 'Alpha'", id="policy of no plugin"),
    ],
)
def test_policy_for_what_is_not_open_is_refused(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        with pytest.raises(ContractError) as caught:
            async with open_host(tmp_path, **settings):
                pass
        assert text in caught.value.message

    run(scenario)


def test_settings_of_a_plugin_that_is_not_there_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, config={"alhpa": {}}):
            pass

    run(scenario)
    assert "config names plugin 'alhpa', which is in none of the folders" in caplog.text


def test_unknown_hook_and_wrong_revision_block_with_data(tmp_path: Path) -> None:
    write_fine(tmp_path, "unknown", hooks=["t.edti"])
    folder = write_fine(tmp_path, "newer")
    (folder / "plugin.toml").write_text((folder / "plugin.toml").read_text().replace("revision = 1", "revision = 2"))

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            unknown, newer = host.plugin("unknown"), host.plugin("newer")
            assert (unknown.state, newer.state) == ("blocked", "blocked")
            assert isinstance(unknown._known.error, ContractError)
            assert "t.edti" in unknown.reason and "t.edit" in unknown.reason
            error = newer._known.error
            assert isinstance(error, RevisionMismatchError)
            assert (error.plugin, error.contract, error.expected, error.actual) == ("newer", "hook t.edit", 1, 2)
            assert "the host must be upgraded" in newer.reason

    run(scenario)


SCHEMA = json.dumps(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {"word": {"type": "string", "default": "fine"}, "count": {"type": "integer", "minimum": 1}},
    }
)
CONFIGURED = """
seen = []
@plugin.on_configure
def configure(ctx):
    seen.append(ctx.config.get("word"))
    return "restart" if ctx.config.get("count") == 7 else None
@plugin.filter("t.edit")
def edit(doc, ctx):
    doc["text"] = ctx.config["word"]
    doc["marks"] = [str(word) for word in seen]
    return doc
"""


def test_config_is_checked_stored_pushed_and_a_restart_only_if_asked_for(tmp_path: Path) -> None:
    write_fine(tmp_path, code=CONFIGURED, schema=SCHEMA)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            pid = plugin.pid
            assert await host.hooks(T).edit(Doc("x")) == Doc("fine", [])
            await plugin.configure({"word": "new"})
            assert await host.hooks(T).edit(Doc("x")) == Doc("new", ["new"])
            assert plugin.pid == pid
            with pytest.raises(ConfigInvalidError) as caught:
                await plugin.configure({"word": 5, "count": 0, "no": 1})
            assert {problem["path"] for problem in caught.value.data["problems"]} >= {"/word", "/count"}
            assert len(events(host, EventKind.CONFIG_REFUSED, "alpha")) == 1
            assert (await host.hooks(T).edit(Doc("x"))).text == "new"
            await plugin.configure({"word": "again", "count": 7})
            await wait_state(plugin, "ready")
            assert plugin.pid != pid
            assert await host.hooks(T).edit(Doc("x")) == Doc("again", [])
        async with open_host(tmp_path) as host:
            assert (await host.hooks(T).edit(Doc("x"))).text == "again"

    run(scenario)


def test_configuration_that_does_not_fit_blocks_and_a_fitting_one_starts_it(tmp_path: Path) -> None:
    needed = json.dumps({"type": "object", "required": ["word"], "properties": {"word": {"type": "string"}}})
    write_fine(tmp_path, code=CONFIGURED, schema=needed)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            assert plugin.state == "blocked" and "word" in plugin.reason
            assert isinstance(plugin._known.error, ConfigInvalidError)
            await plugin.configure({"word": "there"})
            await wait_state(plugin, "ready")
            assert (await host.hooks(T).edit(Doc("x"))).text == "there"

    run(scenario)


def test_schema_with_a_remote_reference_is_refused_and_nothing_is_fetched(tmp_path: Path) -> None:
    asked = []
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def serve() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            asked.append(address)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        # The server would count a visit.
        socket.create_connection(("127.0.0.1", port)).close()
        for number, reference in enumerate([f"http://127.0.0.1:{port}/schema.json", "file:///etc/passwd", "other.json"]):
            write_fine(tmp_path, f"alpha-{number}", schema=json.dumps({"properties": {"a": {"$ref": reference}}}))

        async def scenario() -> None:
            async with open_host(tmp_path) as host:
                for number, plugin in enumerate(host.plugins):
                    assert plugin.state == "blocked", plugin
                    assert isinstance(plugin._known.error, ConfigInvalidError)
                    assert plugin._known.error.data["what"] == "schema"
                    assert plugin.id == f"alpha-{number}"

        run(scenario)
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
    assert len(asked) == 1


# What people change.


def test_enable_and_disable_outlive_the_host(tmp_path: Path) -> None:
    write_fine(tmp_path, hooks={"t.edit": 'on-failure = "closed"'})

    async def first() -> None:
        async with open_host(tmp_path) as host:
            pid = host.plugin("alpha").pid
            await host.plugin("alpha").disable()
            assert (host.plugin("alpha").state, host.plugin("alpha").enabled) == ("stopped", False)
            assert pid is not None and not is_alive(pid)
            assert await host.hooks(T).edit(Doc("x")) == Doc("x")  # the operator's choice is no failure

    async def second() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            assert (plugin.state, plugin.enabled, plugin.pid) == ("stopped", False, None)
            await plugin.enable()
            assert plugin.state == "ready"

    async def third() -> None:
        async with open_host(tmp_path) as host:
            assert (host.plugin("alpha").state, host.plugin("alpha").enabled) == ("ready", True)

    for scenario in (first, second, third):
        run(scenario)


BROKEN: list[Any] = [
    pytest.param(b"", id="empty"),
    pytest.param(b"not toml [[[", id="not TOML"),
    pytest.param(b"\xff\xfe\x00", id="not UTF-8"),
    pytest.param(b"manifest-version = 1\n[plugin]\nid = 'Bad Id'\nverison = '1'\n", id="wrong fields"),
    pytest.param(b"#" * 1_000_001, id="1 MB"),
]


@pytest.mark.parametrize("manifest", BROKEN)
def test_broken_manifest_is_listed_and_never_stops_the_others(tmp_path: Path, manifest: bytes) -> None:
    write_fine(tmp_path, "good")
    (tmp_path / "plugins" / "broken").mkdir()
    (tmp_path / "plugins" / "broken" / "plugin.toml").write_bytes(manifest)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert [(plugin.id, str(plugin.state)) for plugin in host.plugins] == [("broken", "blocked"), ("good", "ready")]
            broken = host.plugin("broken")
            assert isinstance(broken._known.error, ManifestError)
            assert broken.reason and broken.pid is None and broken.version == ""
            assert len(events(host, EventKind.MANIFEST_REFUSED, "broken")) == 1
            for work in (broken.start(), broken.stop(), broken.restart(), broken.enable(), broken.disable()):
                await work
            for work in (broken.grant(), broken.configure({})):
                assert isinstance(await outcome_of(work), AnnexeError)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


def test_manifest_that_was_mended_is_taken_up_by_the_next_scan(tmp_path: Path) -> None:
    folder = write_fine(tmp_path)
    good = (folder / "plugin.toml").read_text()
    (folder / "plugin.toml").write_text("broken =")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert host.plugin("alpha").state == "blocked"
            await host.scan()
            assert host.plugin("alpha").state == "blocked"
            (folder / "plugin.toml").write_text(good)
            await host.scan()
            assert host.plugin("alpha").state == "ready"
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


def test_folder_with_a_broken_manifest_takes_nobodys_id(tmp_path: Path) -> None:
    write_fine(tmp_path, "alpha", folder="zulu")
    (tmp_path / "plugins" / "alpha").mkdir()
    (tmp_path / "plugins" / "alpha" / "plugin.toml").write_text("broken =")
    write_fine(tmp_path, "beta", folder="aaa")
    (tmp_path / "plugins" / "beta").mkdir()
    (tmp_path / "plugins" / "beta" / "plugin.toml").write_text("broken =")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert host.plugin("alpha").state == "ready"
            assert host.plugin("beta").state == "ready"
            refused = {event.plugin for event in events(host, EventKind.MANIFEST_REFUSED)}
            assert refused == {"alpha", "beta"}  # by the names of their folders

    run(scenario)


def test_duplicate_ids_are_refused_both_and_name_each_other(tmp_path: Path) -> None:
    write_fine(tmp_path, "alpha", folder="one")
    write_fine(tmp_path, "alpha", folder="two")
    write_fine(tmp_path, "beta")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            alpha = host.plugin("alpha")
            assert alpha.state == "blocked" and alpha.pid is None
            assert "/one" in alpha.reason and "/two" in alpha.reason
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            shutil.rmtree(tmp_path / "plugins" / "two")
            await host.scan()
            assert host.plugin("alpha").state == "ready"

    run(scenario)


def test_scan_takes_up_what_is_new_and_lets_go_of_what_is_gone(tmp_path: Path) -> None:
    write_fine(tmp_path, "alpha", hooks={"t.edit": 'on-failure = "closed"'})

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            pid = host.plugin("alpha").pid
            write_fine(tmp_path, "beta")
            shutil.rmtree(tmp_path / "plugins" / "alpha")
            await host.scan()
            assert [plugin.id for plugin in host.plugins] == ["beta"]
            assert pid is not None and not is_alive(pid)
            with pytest.raises(UnknownPluginError) as caught:
                host.plugin("alpha")
            assert caught.value.plugin == "alpha" and "beta" in str(caught.value)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            assert len(events(host, EventKind.PLUGIN_REMOVED, "alpha")) == 1

    run(scenario)


@pytest.mark.both_users
def test_folder_that_goes_while_the_plugin_runs_and_crashes_is_a_named_failure(tmp_path: Path) -> None:
    folder = write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(max_failures=2)) as host:
            shutil.rmtree(folder)
            await crash(host)
            await wait_state(host.plugin("alpha"), "quarantined", "blocked", "ready")
            assert await outcome_of(host.hooks(T).edit(Doc("x"))) in (Doc("x"), Doc("x", ["a"]))
            await host.plugin("alpha").restart()
            await host.scan()
            assert host.plugins == []

    run(scenario)


# Calls at the wrong time.


def test_calls_wait_for_a_lazy_start_which_happens_once(tmp_path: Path) -> None:
    write_fine(tmp_path, code="time.sleep(0.3)\n" + FINE, runtime='start = "lazy"\nidle-stop = "1s"')
    health = HealthPolicy(ping_interval_s=0.1)

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=health)) as host:
            plugin = host.plugin("alpha")
            assert (plugin.state, plugin.pid) == ("stopped", None)
            edited = await asyncio.gather(*(host.hooks(T).edit(Doc("x")) for _ in range(50)))
            assert all(doc.marks == ["a"] for doc in edited)
            assert states(host).count("starting") == 1
            await wait_state(plugin, "stopped", within_s=5)
            assert "idle for 1 s" in plugin.reason
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            assert states(host).count("starting") == 2

    run(scenario)


def test_plugin_in_use_is_not_stopped_for_being_idle(tmp_path: Path) -> None:
    write_fine(tmp_path, runtime='start = "lazy"\nidle-stop = "2s"')

    async def scenario() -> None:
        async with open_host(tmp_path, policies=policies(health=HealthPolicy(ping_interval_s=0.05))) as host:
            for _ in range(25):
                assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
                await asyncio.sleep(0.1)
            assert states(host).count("starting") == 1

    run(scenario)


def test_call_that_was_open_when_the_plugin_went_says_that_nobody_knows(tmp_path: Path) -> None:
    write_fine(tmp_path, hooks={"t.edit": 'on-failure = "closed"'}, extra='[resources]\ncall-timeout = "20s"')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            calls = [asyncio.create_task(outcome_of(host.hooks(T).edit(Doc("hang")))) for _ in range(100)]
            await asyncio.sleep(0.1)
            pid = host.plugin("alpha").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                outcomes = await asyncio.gather(*calls)
            # 65 had been sent, the others waited in the host.
            reasons = [error.reason for error in outcomes]
            assert (reasons.count("outcome-unknown"), reasons.count("unavailable")) == (65, 35)
            await wait_state(host.plugin("alpha"), "ready")
            assert connection_of(host, "alpha").in_flight == 0

    run(scenario)


def test_more_calls_than_may_wait_are_busy(tmp_path: Path) -> None:
    write_fine(tmp_path, hooks={"t.edit": 'on-failure = "closed"'}, extra='[resources]\ncall-timeout = "20s"')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            first = asyncio.create_task(outcome_of(host.hooks(T).edit(Doc("hang"))))
            await asyncio.sleep(0.05)
            calls = [asyncio.create_task(outcome_of(host.hooks(T).edit(Doc("x")))) for _ in range(64 + 4096 + 10)]
            await until(lambda: sum(task.done() for task in calls) >= 10)
            await asyncio.sleep(0.1)
            busy = [task.result().reason for task in calls if task.done()]
            assert busy == ["busy"] * 10
            await host.plugin("alpha").stop()
            await asyncio.gather(first, *calls)

    run(scenario)


# The host itself.


@pytest.mark.both_users
def test_second_host_of_a_state_directory_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(HostAlreadyRunningError) as caught:
                async with open_host(tmp_path):
                    raise AssertionError("opened twice")
            assert caught.value.data == {"path": str((tmp_path / "state").resolve()), "pid": str(os.getpid())}
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
        async with open_host(tmp_path):
            pass

    run(scenario)


def test_closed_host_says_so(tmp_path: Path) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            hooks = host.hooks(T)
        for use in (lambda: host.hooks(T), host.request):
            with pytest.raises(HostClosedError):
                use()
        # Nobody takes part any more; a kept object does not hang.
        async with asyncio.timeout(5):
            await outcome_of(hooks.edit(Doc("x")))
        await host.close()

    run(scenario)


def in_forked_child(work: Callable[[], Any]) -> Any:
    """Run something in a forked child; return the name of what it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writer, b"nothing raised")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    told = b""
    while chunk := os.read(reader, 4096):
        told += chunk
    os.close(reader)
    os.waitpid(pid, 0)
    return told.decode()


@pytest.mark.both_users
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_may_not_use_its_parents_host(tmp_path: Path) -> None:
    write_fine(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            for use in (lambda: host.hooks(T), host.request, lambda: host.explain("r"), lambda: asyncio.run(host.close())):
                told = in_forked_child(use)
                assert told.startswith(WrongContextError.__name__) and "after the fork" in told
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


@pytest.mark.both_users
def test_host_whose_process_was_killed_can_be_opened_again_at_once(tmp_path: Path) -> None:
    write_fine(tmp_path)
    code = (
        "import asyncio, sys, pathlib\n"
        "from tests.process.hosts import open_host\n"
        "async def main():\n"
        "    async with open_host(pathlib.Path(sys.argv[1])) as host:\n"
        "        print(host.plugin('alpha').pid, flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert host.plugin("alpha").state == "ready"
            await asyncio.sleep(0.6)  # a dead host's warden is about now, and must touch nothing of ours
            assert host.plugin("alpha").state == "ready"
            assert not is_alive(pid)
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)
