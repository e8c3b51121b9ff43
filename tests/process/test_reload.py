"""Replacing a plugin while it is called: no call is lost, and what cannot take over leaves the old one as it was."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.dispatch.breaker import BreakerPolicy
from annexe.errors import (
    ActivationError,
    AnnexeError,
    ContractError,
    DependencyError,
    HookError,
    LaunchError,
    ManifestError,
    PluginBlockedError,
    PluginUnavailableError,
)
from annexe.record import EventKind
from annexe.supervision.instance import StopPolicy
from tests.process.hosts import Doc, T, children_of, events, open_host, outcome_of, policies, run, until, wait_state, write_plugin
from tests.process.test_requirements import write as write_requiring

pytestmark = pytest.mark.any_user

ANSWERS = """
@plugin.filter("t.strict")
def strict(doc, ctx):
    doc["marks"] += ["{version}", ctx.config.get("word", "")]
    if doc["text"].startswith("sleep "):
        time.sleep(float(doc["text"][6:]))
    return doc
{more}
"""
SCHEMA = '{"type": "object", "properties": {"word": {"type": "string"}}, "additionalProperties": false}'


def write(root: Path, version: str = "1.0.0", *, more: str = "", extra: str = "", hooks: Any = ("t.strict",), runtime: str = "") -> Path:
    code = ANSWERS.replace("{version}", version).replace("{more}", more)
    return write_plugin(root / "plugins", "p", code, hooks=hooks, version=version, extra=extra, runtime=runtime, schema=SCHEMA)


@asynccontextmanager
async def load(host: Host, seen: Counter[str], *, callers: int = 4) -> AsyncIterator[None]:
    """Call a hook that fails closed all the time; any fault fails the test."""
    over = asyncio.Event()

    async def calls() -> None:
        while not over.is_set():
            seen[(await host.hooks(T).strict(Doc("x"))).marks[0]] += 1

    tasks = [asyncio.create_task(calls()) for _ in range(callers)]
    try:
        yield
        await asyncio.sleep(0.05)
    finally:
        over.set()
        await asyncio.gather(*tasks)


@pytest.mark.both_users
@pytest.mark.parametrize("strategy", ["process", "zygote", "in-process"])
def test_no_call_is_lost_however_often_a_plugin_is_replaced(tmp_path: Path, strategy: Any) -> None:
    async def scenario() -> None:
        write(tmp_path)
        seen: Counter[str] = Counter()
        async with open_host(tmp_path, strategy=strategy) as host:
            first = host.plugin("p").history
            async with load(host, seen):
                for minor in range(1, 6):
                    write(tmp_path, f"1.{minor}.0")
                    await host.plugin("p").reload()
                    assert host.plugin("p").version == f"1.{minor}.0"
            assert (await host.hooks(T).strict(Doc("x"))).marks[0] == "1.5.0"
            if strategy != "in-process":  # which starts the next one once the one before has ended
                assert host.plugin("p").history == first
            assert len(events(host, EventKind.REPLACED, "p")) == 5
        assert set(seen) == {"1.0.0", *(f"1.{minor}.0" for minor in range(1, 6))} or strategy == "in-process"

    run(scenario)


def test_call_under_way_ends_where_it_began(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, extra='[resources]\ncall-timeout = "5s"\n')
        async with open_host(tmp_path, policies=policies(stop=StopPolicy(drain_s=10.0))) as host:
            pid = host.plugin("p").pid
            assert pid is not None
            call = asyncio.ensure_future(host.hooks(T).strict(Doc("sleep 2")))
            await asyncio.sleep(0.05)
            write(tmp_path, "2.0.0", extra='[resources]\ncall-timeout = "5s"\n')
            await host.plugin("p").reload()
            assert (await host.hooks(T).strict(Doc("x"))).marks[0] == "2.0.0"  # at once, while the other one still sleeps
            assert not call.done()
            assert (await call).marks[0] == "1.0.0"
            await until(lambda: not Path(f"/proc/{pid}").exists(), what="the old instance to end")

    run(scenario)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"more": "raise ValueError('broken')"}, ActivationError, id="code"),
        pytest.param({"hooks": ("t.strict", "t.edit")}, ActivationError, id="undelivered"),
        pytest.param({"hooks": ("t.nothing",)}, ContractError, id="contract"),
        pytest.param({"extra": "[permissions\n"}, ManifestError, id="manifest"),
        pytest.param({"extra": '[requires.plugins]\n"other" = ">=1"\n'}, PluginBlockedError, id="requirement"),
        pytest.param({"extra": '[requires.plugins]\n"p" = ">=1"\n'}, DependencyError, id="ring"),
        pytest.param({"more": "@plugin.on_activate\ndef die(ctx):\n    os._exit(3)\n"}, AnnexeError, id="death"),
        pytest.param(
            {"more": "@plugin.on_activate\ndef hang(ctx):\n    time.sleep(60)\n", "extra": '[resources]\nstart-timeout = "300ms"\n'},
            AnnexeError,
            id="never-ready",
        ),
    ],
)
def test_what_cannot_take_over_leaves_the_old_one_serving(tmp_path: Path, change: Any, error: type[Exception]) -> None:
    async def scenario() -> None:
        write(tmp_path)
        seen: Counter[str] = Counter()
        async with open_host(tmp_path) as host:
            plugin = host.plugin("p")
            pid, manifest = plugin.pid, plugin.manifest
            async with load(host, seen):
                write(tmp_path, "2.0.0", **change)
                fault = await outcome_of(plugin.reload())
                assert isinstance(fault, error) and isinstance(fault, AnnexeError), fault
                assert (plugin.pid, plugin.manifest, plugin.state) == (pid, manifest, "ready")
                (told,) = events(host, EventKind.RELOAD_FAILED, "p")
                assert told.reason == fault.message.replace("\n", "\\n")
            assert set(seen) == {"1.0.0"}
            assert len(children_of(os.getpid())) == 1 + len([None])  # the warden, and the old one
            write(tmp_path, "2.0.1")
            await plugin.reload()
            assert (await host.hooks(T).strict(Doc("x"))).marks[0] == "2.0.1"

    run(scenario)


def test_reload_of_what_is_gone_or_lacks_something_names_the_command_that_mends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path) as host:
            plugin, command = host.plugin("p"), f"annexe scan --state {tmp_path / 'state'}"
            write(tmp_path, "2.0.0", extra='[requires.plugins]\n"other" = ">=1"\n')
            lacks = await outcome_of(plugin.reload())
            assert str(lacks).endswith(f"there is no such plugin; put what is missing into a folder of plugins, then: {command}")
            shutil.rmtree(tmp_path / "plugins" / "p")
            gone, dry = await outcome_of(plugin.reload()), await host._registry.preview_reload("p")
            assert str(gone).endswith(f"/plugins/p any more; put it back, or let the plugin go with: {command}")
            assert str(dry.refusal) == str(gone) and plugin.state == "ready"
            await host.scan()
            assert [plugin.id for plugin in host.plugins] == []

    run(scenario)


def test_nothing_is_kept_of_an_instance_that_was_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path) as host:
            gone: list[weakref.ref[Any]] = []
            for minor in range(1, 4):
                supervisor = host.plugin("p")._known.supervisor
                assert supervisor is not None and supervisor.instance is not None
                gone += [weakref.ref(supervisor.instance), weakref.ref(supervisor.instance.connection)]
                write(tmp_path, f"1.{minor}.0")
                await host.plugin("p").reload()

            def is_left() -> list[Any]:
                gc.collect()
                return [one for ref in gone if (one := ref()) is not None]

            await until(lambda: not is_left(), what="the replaced instances to be let go of")

    run(scenario)


def test_plugin_that_keeps_files_never_runs_twice_and_calls_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        more = """
@plugin.on_activate
def take(ctx):
    os.mkdir(ctx.data_dir + "/here")  # fails while another one is

@plugin.on_shutdown
def leave(ctx):
    os.rmdir(ctx.data_dir + "/here")
"""
        extra = '[permissions]\ndata = { quota = "1MiB" }\n'
        write(tmp_path, more=more, extra=extra)
        seen: Counter[str] = Counter()
        async with open_host(tmp_path) as host:
            async with load(host, seen):
                for minor in range(1, 4):
                    write(tmp_path, f"1.{minor}.0", more=more, extra=extra)
                    await host.plugin("p").reload()
            assert (await host.hooks(T).strict(Doc("x"))).marks[0] == "1.3.0"
        assert {"1.0.0", "1.3.0"} <= set(seen)

    run(scenario)


def test_hooks_of_the_new_manifest_hold_from_the_switch_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path) as host:
            assert (await host.hooks(T).edit(Doc("x"))).marks == []
            more = '@plugin.filter("t.edit")\ndef edit(doc, ctx):\n    doc["marks"].append("edited")\n    return doc\n'
            write(tmp_path, "1.1.0", more=more, hooks=("t.strict", "t.edit"))
            await host.plugin("p").reload()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["edited"]
            write(tmp_path, "1.2.0")
            await host.plugin("p").reload()
            assert (await host.hooks(T).edit(Doc("x"))).marks == []

    run(scenario)


def test_breaker_that_the_old_code_opened_is_closed_for_the_new(tmp_path: Path) -> None:
    async def scenario() -> None:
        broken = '@plugin.filter("t.strict")\ndef strict(doc, ctx):\n    raise ValueError("broken")\n'
        write_plugin(tmp_path / "plugins", "p", broken, hooks=("t.strict",))
        async with open_host(tmp_path, breaker=BreakerPolicy(max_failures=2, open_s=3600.0)) as host:
            for why in ("broken", "broken", "failed too often"):
                with pytest.raises(HookError, match=why):
                    await host.hooks(T).strict(Doc("x"))
            write(tmp_path, "1.1.0")
            await host.plugin("p").reload()
            assert (await host.hooks(T).strict(Doc("x"))).marks == ["1.1.0", ""]

    run(scenario)


def test_configuration_that_needs_a_restart_is_taken_without_losing_a_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        more = '@plugin.on_configure\ndef again(ctx):\n    return "restart"\n'
        write(tmp_path, more=more)
        seen: Counter[str] = Counter()
        async with open_host(tmp_path) as host:
            async with load(host, seen):
                await host.plugin("p").configure({"word": "hello"})
            assert (await host.hooks(T).strict(Doc("x"))).marks == ["1.0.0", "hello"]
            assert len(events(host, EventKind.REPLACED, "p")) == 1

    run(scenario)


def test_plugin_that_is_stopped_while_the_next_one_starts_stays_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path) as host:
            plugin = host.plugin("p")
            supervisor = plugin._known.supervisor
            assert supervisor is not None
            write(tmp_path, "2.0.0", more="@plugin.on_activate\ndef slow(ctx):\n    time.sleep(1.5)\n")
            reload = asyncio.ensure_future(outcome_of(plugin.reload()))
            await until(lambda: supervisor.starts == 2, what="the next one to be started")
            await supervisor.stop("asked to")  # past the lock that reload holds, as the host's end does
            assert isinstance(await reload, PluginUnavailableError)
            assert plugin.state == "stopped"
            await until(lambda: len(children_of(os.getpid())) == 1, what="both to be gone")

    run(scenario)


@pytest.mark.parametrize("data", [pytest.param("", id="overlap"), pytest.param('[permissions]\ndata = { quota = "1MiB" }\n', id="switch")])
@pytest.mark.parametrize("act", ["stop", "disable", "revoke"])
def test_who_stops_a_plugin_waits_for_no_reload(tmp_path: Path, act: str, data: str) -> None:
    async def scenario() -> None:
        write(tmp_path, extra=data)
        async with open_host(tmp_path) as host:
            plugin = host.plugin("p")
            hang = "@plugin.on_activate\ndef hang(ctx):\n    time.sleep(60)\n"
            write(tmp_path, "2.0.0", more=hang, extra=data + '[resources]\nstart-timeout = "60s"\n')
            reloads = [asyncio.create_task(outcome_of(plugin.reload())) for _ in range(2)]  # the second one waits for the first
            await until(lambda: len(children_of(os.getpid())) > 2 or plugin.state == "starting")
            async with asyncio.timeout(8.0):
                await outcome_of(getattr(plugin, act)())
                faults = await asyncio.gather(*reloads)
            assert all(isinstance(fault, AnnexeError) for fault in faults), faults
            if act != "revoke":  # what its manifest asks for is granted here whatever is revoked
                assert plugin.state == "stopped"

    run(scenario)


def test_host_that_closes_waits_for_no_reload(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path) as host:
            hang = "@plugin.on_activate\ndef hang(ctx):\n    time.sleep(60)\n"
            write(tmp_path, "2.0.0", more=hang, extra='[resources]\nstart-timeout = "60s"\n')
            reloading = asyncio.create_task(outcome_of(host.plugin("p").reload()))
            await until(lambda: len(children_of(os.getpid())) > 2)
            async with asyncio.timeout(8.0):
                await host.close()
                assert isinstance(await reloading, PluginUnavailableError)

    run(scenario)


def test_old_instance_that_dies_meanwhile_is_restarted_and_the_reload_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, policies=policies(first_delay_s=2.5)) as host:
            plugin = host.plugin("p")
            supervisor, pid = plugin._known.supervisor, plugin.pid
            assert supervisor is not None and pid is not None
            write(tmp_path, "2.0.0", more="@plugin.on_activate\ndef slow(ctx):\n    time.sleep(0.8)\n")
            reload = asyncio.ensure_future(outcome_of(plugin.reload()))
            await until(lambda: supervisor.starts == 2, what="the next one to be started")
            os.kill(pid, signal.SIGKILL)
            fault = await reload
            assert isinstance(fault, PluginUnavailableError) and "cannot be replaced: it is backing-off" in fault.message
            await wait_state(plugin, "ready")

    run(scenario)


def test_reloads_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        seen: Counter[str] = Counter()
        async with open_host(tmp_path) as host:
            async with load(host, seen):
                await asyncio.gather(*(host.plugin("p").reload() for _ in range(4)))
            assert len(events(host, EventKind.REPLACED, "p")) == 4
            await until(lambda: len(children_of(os.getpid())) == 2, what="one instance to be left")

    run(scenario)


def test_reload_that_would_take_a_service_from_a_plugin_that_runs_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_requiring(tmp_path, "words", offers="words", version="1.0.0")
        write_requiring(tmp_path, "caller", services={"words": 'version = ">=1,<2"'})
        async with open_host(tmp_path) as host:
            caller, words = host.plugin("caller"), host.plugin("words")
            pid = caller.pid
            write_requiring(tmp_path, "words", offers="words", version="2.0.0")
            fault = await outcome_of(words.reload())
            assert isinstance(fault, DependencyError)
            assert "plugin 'caller' requires service 'words' >=1,<2: words offers 2.0.0" in fault.message
            assert (words.version, caller.pid) == ("1.0.0", pid)
            write_requiring(tmp_path, "words", offers="words", version="1.4.0")
            await words.reload()
            assert (words.version, caller.pid) == ("1.4.0", pid)
            (replaced,) = events(host, EventKind.REPLACED, "words")
            assert replaced.reason == "version 1.4.0 takes over from 1.0.0"
            assert (replaced.facts["before"], replaced.facts["after"]) == ("1.0.0", "1.4.0")

    run(scenario)


def test_plugin_that_does_not_run_is_started_by_a_reload(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path)
        async with open_host(tmp_path) as host:
            await host.plugin("p").stop()
            write(tmp_path, "2.0.0")
            await host.plugin("p").reload()
            assert (host.plugin("p").state, host.plugin("p").version) == ("ready", "2.0.0")
            shutil.rmtree(folder)
            fault = await outcome_of(host.plugin("p").reload())
            assert isinstance(fault, AnnexeError) and host.plugin("p").state == "ready"

    run(scenario)


def test_plugin_that_is_stopped_between_the_old_instance_and_the_next_leaves_nobody_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        extra = '[permissions]\ndata = { quota = "1MiB" }\n'
        write(tmp_path, more="@plugin.on_shutdown\ndef slow(ctx):\n    time.sleep(0.2)\n", extra=extra)
        async with open_host(tmp_path) as host:
            plugin = host.plugin("p")
            supervisor = plugin._known.supervisor
            assert supervisor is not None
            reload = asyncio.ensure_future(outcome_of(plugin.reload()))
            await until(lambda: plugin.state == "draining", what="the old one to be stopped")
            call = asyncio.ensure_future(outcome_of(host.hooks(T).strict(Doc("x"))))
            await supervisor.stop("asked to")
            assert plugin.state == "stopped"
            assert isinstance(await asyncio.wait_for(reload, 5), AnnexeError)
            assert isinstance(await asyncio.wait_for(call, 5), AnnexeError)
            await plugin.start()
            assert (await host.hooks(T).strict(Doc("x"))).marks[0] == "1.0.0"

    run(scenario)


@pytest.mark.parametrize("strategy", ["process", "zygote"])
def test_rights_and_limits_of_the_new_manifest_hold_for_the_new_instance(tmp_path: Path, strategy: Any) -> None:
    async def scenario() -> None:
        answer = '[os.environ.get("ANSWER", "none"), str(ctx.grants)]'
        more = f'@plugin.filter("t.edit")\ndef edit(doc, ctx):\n    doc["marks"] = {answer}\n    return doc\n'
        write(tmp_path, more=more, hooks=("t.strict", "t.edit"), extra='[resources]\nmemory = "64MiB"\n')
        async with open_host(tmp_path, strategy=strategy) as host:
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["none", "[]"]
            write(
                tmp_path, more=more, hooks=("t.strict", "t.edit"), extra='[resources]\nmemory = "96MiB"\n[permissions]\nenv = ["ANSWER"]\n'
            )
            await host.plugin("p").reload()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["42", "['env:ANSWER']"]
            supervisor = host.plugin("p")._known.supervisor
            assert supervisor is not None and supervisor.instance is not None
            assert supervisor.instance.plan.launch.profile.memory_bytes == 96 * 1024 * 1024

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSWER", "42")
        run(scenario)


COUNTS = """
seen = 0

@plugin.save_state
{kind} save(ctx):
    return {"seen": seen}

@plugin.load_state
{kind} load(state, ctx):
    global seen
    seen = state["seen"]

@plugin.filter("t.strict")
def strict(doc, ctx):
    global seen
    seen += 1
    if doc["text"].startswith("sleep "):
        time.sleep(float(doc["text"][6:]))
    doc["marks"].append(str(seen))
    return doc
"""


def write_counting(root: Path, *, kind: str = "def", version: str = "1.0.0", change: tuple[str, str] = ("", ""), slow: str = "1s") -> None:
    code = COUNTS.replace("{kind}", kind).replace(*change)
    extra = f'[resources]\ncall-timeout = "{slow}"\n'
    write_plugin(root / "plugins", "p", code, hooks=["t.strict"], version=version, extra=extra)


@pytest.mark.both_users
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("codecs", [("msgpack", "json"), ("json",)])
def test_state_is_handed_over_whole_however_busy_the_plugin_is(tmp_path: Path, kind: str, codecs: Any) -> None:
    async def scenario() -> None:
        write_counting(tmp_path, kind=kind)
        seen: Counter[str] = Counter()
        async with open_host(tmp_path, codecs=codecs) as host:
            async with load(host, seen):
                for minor in range(1, 4):
                    write_counting(tmp_path, kind=kind, version=f"1.{minor}.0")
                    await host.plugin("p").reload()
            last = int((await host.hooks(T).strict(Doc("x"))).marks[0])
            assert last == sum(seen.values()) + 1  # every call was counted, by one instance or the next
            assert max(seen.values()) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(('return {"seen": seen}', 'raise ValueError("lost")'), "ValueError: lost", id="not-saved"),
        pytest.param(('return {"seen": seen}', 'return "x" * 1_100_000'), "expected at most 1048576", id="too-large"),
        pytest.param(('return {"seen": seen}', "time.sleep(60)"), "within its deadline", id="never-saved"),
        pytest.param(('return {"seen": seen}', "os._exit(1)"), "went away", id="died"),
    ],
)
def test_state_that_cannot_be_saved_leaves_the_old_instance(
    tmp_path: Path, change: tuple[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annexe.supervision.handover.HAND_OVER_S", 0.5)

    async def scenario() -> None:
        write_counting(tmp_path, change=change)
        async with open_host(tmp_path) as host:
            await host.hooks(T).strict(Doc("x"))
            fault = await outcome_of(host.plugin("p").reload())
            assert isinstance(fault, AnnexeError) and text in str(fault), fault
            if "os._exit" not in change[1] and "sleep" not in change[1]:
                assert (await host.hooks(T).strict(Doc("x"))).marks == ["2"]
            await until(lambda: host.plugin("p").state == "ready", what="it to be there")

    run(scenario)


def test_state_that_the_next_instance_does_not_take_stays_with_the_old_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_counting(tmp_path)
        async with open_host(tmp_path) as host:
            await host.hooks(T).strict(Doc("x"))
            write_counting(tmp_path, version="2.0.0", change=('seen = state["seen"]', 'seen = state["nothing"]'))
            fault = await outcome_of(host.plugin("p").reload())
            assert isinstance(fault, LaunchError) and "KeyError: 'nothing'" in fault.message
            assert (await host.hooks(T).strict(Doc("x"))).marks == ["2"] and host.plugin("p").version == "1.0.0"
            write_counting(tmp_path, version="3.0.0", change=("@plugin.load_state", ""))  # wants none, and gets none
            await host.plugin("p").reload()
            assert (await host.hooks(T).strict(Doc("x"))).marks == ["1"]

    run(scenario)


def test_state_waits_for_the_calls_under_way_and_new_calls_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        write_counting(tmp_path, slow="9s")
        async with open_host(tmp_path) as host:
            slow = asyncio.ensure_future(host.hooks(T).strict(Doc("sleep 1")))
            await asyncio.sleep(0.05)
            reload = asyncio.ensure_future(host.plugin("p").reload())
            await until(lambda: host.plugin("p")._known.supervisor._standing.is_held, what="calls to be held")  # type: ignore[union-attr]
            waiting = asyncio.ensure_future(host.hooks(T).strict(Doc("x")))
            assert (await slow).marks == ["1"] and not reload.done()
            await reload
            assert (await waiting).marks == ["2"]
            monkeypatch.setattr("annexe.supervision.handover.HAND_OVER_S", 0.1)
            slow = asyncio.ensure_future(host.hooks(T).strict(Doc("sleep 2")))
            await asyncio.sleep(0.05)
            fault = await outcome_of(host.plugin("p").reload())
            assert isinstance(fault, LaunchError) and "its calls did not end within 0.1 s" in fault.message
            assert (await slow).marks == ["3"] and (await host.hooks(T).strict(Doc("x"))).marks == ["4"]

    run(scenario)


@pytest.mark.parametrize("at_once", [1, 3])
def test_reload_of_a_lazy_plugin_that_does_not_run_loses_no_call(tmp_path: Path, at_once: int) -> None:
    async def scenario() -> None:
        write(tmp_path, runtime='start = "lazy"\n')
        seen: Counter[str] = Counter()
        async with open_host(tmp_path) as host:
            for number in range(1, 6):
                assert host.plugin("p").state == "stopped"
                write(tmp_path, f"1.{number}.0", runtime='start = "lazy"\n')
                reload = asyncio.gather(*(host.plugin("p").reload() for _ in range(at_once)))
                while not reload.done():
                    await asyncio.sleep(0)
                    seen[(await host.hooks(T).strict(Doc("x"))).marks[0]] += 1
                await reload
                await host.plugin("p").stop()
                await host.plugin("p").start()
        assert seen.total() >= 5

    run(scenario)
