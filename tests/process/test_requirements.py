"""What plugins require of each other: the order of their starts and stops, and what happens when something is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from annexe import Host
from annexe.record import EventKind
from tests.process.hosts import Doc, T, events, open_host, run, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

SERVES = """
@plugin.service("{name}")
class Service:
    def here(self):
        return "{plugin}"
"""


def write(
    root: Path,
    plugin: str,
    *,
    offers: str = "",
    plugins: dict[str, str] | None = None,
    services: dict[str, str] | None = None,
    version: str = "1.0.0",
    code: str = "",
    runtime: str = "",
) -> Path:
    """Write a plugin; ``offers`` names a service, and services are required by name and the rest of their line."""
    lines = [f'[provides.services]\n"{offers}" = {{ version = "{version}" }}'] if offers else []
    lines += ["[requires.plugins]", *(f'"{name}" = "{wanted}"' for name, wanted in (plugins or {}).items())]
    lines += ["[requires.services]", *(f'"{name}" = {{ {wanted} }}' for name, wanted in (services or {}).items())]
    served = SERVES.replace("{name}", offers).replace("{plugin}", plugin) if offers else ""
    return write_plugin(root / "plugins", plugin, served + code, extra="\n".join(lines) + "\n", version=version, runtime=runtime)


def order_of(host: Host, state: str) -> list[str | None]:
    """Return plugins in the order in which they came to a state."""
    return [event.plugin for event in events(host, EventKind.STATE_CHANGED) if event.facts["after"] == state]


@pytest.mark.both_users
def test_plugins_start_after_what_they_require_and_stop_before_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "a-top", plugins={"b-middle": ">=1"}, services={"words": 'version = ">=1"'})
        write(tmp_path, "b-middle", services={"words": 'version = ">=1,<2"'})
        write(tmp_path, "c-words", offers="words", version="1.3.0", code="@plugin.on_activate\ndef slow(ctx):\n    time.sleep(1)\n")
        write(tmp_path, "d-alone")
        async with open_host(tmp_path) as host:
            assert [plugin.state for plugin in host.plugins] == ["ready"] * 4
            assert [plugin for plugin in order_of(host, "ready") if plugin != "d-alone"] == ["c-words", "b-middle", "a-top"]
            assert order_of(host, "ready")[0] == "d-alone"  # it waits for nobody
            log = host.events
        stopped = [event.plugin for event in log.latest(1000, kind=EventKind.STATE_CHANGED) if event.facts["after"] == "stopped"]
        ends = [plugin for plugin in stopped[4:] if plugin != "d-alone"]  # each was stopped once before its start, too
        assert ends == ["a-top", "b-middle", "c-words"]

    run(scenario)


def test_plugin_waits_for_one_that_is_missing_and_starts_when_it_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(
            tmp_path, "caller", plugins={"base": ">=2"}, services={"words": 'version = ">=1"', "nice": 'version = ">=1", optional = true'}
        )
        write(tmp_path, "base", version="1.0.0")
        async with open_host(tmp_path) as host:
            caller = host.plugin("caller")
            assert caller.state == "blocked"
            assert caller.reason == (
                "it requires plugin 'base' >=2: version 1.0.0 is there; service 'words' >=1: no plugin offers it; "
                f"put what is missing into a folder of plugins, then: annexe scan --state {tmp_path / 'state'}; "
                "it starts once all is there"
            )
            write(tmp_path, "words", offers="words")
            await host.scan()
            await until(lambda: caller.state == "blocked" and "words" not in caller.reason, what="the caller to miss less")
            assert "annexe scan" not in caller.reason
            write(tmp_path, "base", version="2.1.0")
            await host.plugin("base").restart()
            await wait_state(caller, "ready")

    run(scenario)


def test_plugin_whose_provider_fails_is_blocked_until_that_is_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "caller", services={"words": 'version = ">=1"'})
        folder = write(
            tmp_path,
            "words",
            offers="words",
            code='\nif not os.path.exists(os.path.dirname(__file__) + "/well"):\n    raise ValueError("ill")\n',
        )
        async with open_host(tmp_path) as host:
            caller = host.plugin("caller")
            await wait_state(caller, "blocked")
            assert "it requires service 'words' >=1: plugin 'words' is" in caller.reason and "ill" in caller.reason
            (folder / "well").touch()
            await wait_state(host.plugin("words"), "ready")
            await wait_state(caller, "ready")

    run(scenario)


def test_ring_is_refused_with_its_path_and_the_others_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "a", plugins={"b": ">=1"})
        write(tmp_path, "b", services={"c": 'version = ">=1"'})
        write(tmp_path, "c", offers="c", plugins={"a": ">=1"})
        write(tmp_path, "d", plugins={"d": ">=1"})
        write(tmp_path, "e")
        async with open_host(tmp_path) as host:
            refused = host.plugin("c")
            assert refused.state == "blocked"
            assert "it would close a ring of requirements: c → a → b → c" in refused.reason
            assert "it requires itself" in host.plugin("d").reason
            assert host.plugin("e").state == "ready"
            assert "no plugin offers it" in host.plugin("b").reason and "plugin 'b' is blocked" in host.plugin("a").reason
            write(tmp_path, "c", offers="c")
            await host.plugin("c").restart()
            for plugin in ("c", "b", "a"):
                await wait_state(host.plugin(plugin), "ready")

    run(scenario)


def test_stop_disable_and_removal_take_dependents_first_and_give_them_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "top", plugins={"middle": ">=1"})
        write(tmp_path, "middle", services={"words": 'version = ">=1"'})
        words = write(tmp_path, "words", offers="words")
        write(tmp_path, "fan", services={"words": 'version = ">=1", optional = true'})
        async with open_host(tmp_path) as host:
            provider = host.plugin("words")
            for take, give, command in ((provider.stop, provider.start, "start"), (provider.disable, provider.enable, "enable")):
                await take()
                assert [host.plugin(plugin).state for plugin in ("words", "middle", "top", "fan")] == [
                    "stopped",
                    "blocked",
                    "blocked",
                    "ready",
                ]
                stopped = order_of(host, "blocked")[-2:]
                assert stopped == ["top", "middle"]
                assert "it requires service 'words' >=1, and plugin 'words' was stopped" in host.plugin("middle").reason
                assert f"it starts once that is there again, with: annexe {command} words --state " in host.plugin("middle").reason
                await give()
                for plugin in ("middle", "top"):
                    await wait_state(host.plugin(plugin), "ready")
            shutil.rmtree(words)
            await host.scan()
            assert host.plugin("middle").state == "blocked" and host.plugin("top").state == "blocked"
            write(tmp_path, "words", offers="words")
            await host.scan()
            for plugin in ("words", "middle", "top"):
                await wait_state(host.plugin(plugin), "ready")

    run(scenario)


def test_crash_or_restart_of_a_provider_leaves_its_dependents_running(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "caller", services={"words": 'version = ">=1"'})
        write(tmp_path, "words", offers="words")
        async with open_host(tmp_path) as host:
            pid = host.plugin("caller").pid
            await host.plugin("words").restart()
            assert host.plugin("caller").pid == pid and host.plugin("caller").state == "ready"

    run(scenario)


def test_lazy_provider_is_there_before_it_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        code = '@plugin.filter("t.edit")\ndef edit(doc, ctx):\n    doc["marks"].append(ctx.service("words").here())\n    return doc\n'
        extra = (
            '[requires.services]\n"words" = { version = ">=1" }\n[permissions]\nservices = ["words"]\n[resources]\ncall-timeout = "5s"\n'
        )
        write_plugin(tmp_path / "plugins", "caller", code, hooks=["t.edit"], extra=extra)
        write(tmp_path, "words", offers="words", runtime='start = "lazy"')
        async with open_host(tmp_path) as host:
            assert [plugin.state for plugin in host.plugins] == ["ready", "stopped"]
            assert (await host.hooks(T).edit(Doc(""))).marks == ["words"]
            assert host.plugin("words").state == "ready"

    run(scenario)


def test_manifest_that_cannot_be_taken_up_leaves_what_was_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "caller", services={"words": 'version = ">=1"'})
        write(tmp_path, "words", offers="words")
        async with open_host(tmp_path) as host:
            write(tmp_path, "words", offers="words", plugins={"caller": ">=1"})
            await host.plugin("words").restart()
            assert "it would close a ring of requirements: words → caller → words" in host.plugin("words").reason
            await until(lambda: host.plugin("caller").state == "blocked", what="the caller to stop with it")
            write(tmp_path, "words", offers="words")
            await host.plugin("words").restart()
            await wait_state(host.plugin("caller"), "ready")

    run(scenario)


def test_hundred_plugins_ten_deep_start_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        for row in range(10):
            for column in range(10):
                needs = {f"p{row - 1}{(column + step) % 10}": ">=1" for step in (0, 3)} if row else {}
                write(tmp_path, f"p{row}{column}", plugins=needs, runtime='start = "lazy"' if (row, column) != (9, 9) else "")
        async with open_host(tmp_path, strategy="in-process") as host:
            graph = host._registry.requirements.graph
            assert [len(wave) for wave in graph.waves()] == [10] * 10
            assert host.plugin("p99").state == "ready"

    run(scenario)


def test_plugin_that_was_granted_nothing_stands_in_nobodys_way(tmp_path: Path) -> None:
    """What claims a name without leave closes no ring, meets no requirement and is told of."""

    async def scenario() -> None:
        write(tmp_path, "a-thief", offers="words", services={"chat": 'version = ">=1"'})
        write(tmp_path, "chat", offers="chat", services={"words": 'version = ">=1"'})
        async with open_host(tmp_path, grants="stored") as host:
            chat, thief = host.plugin("chat"), host.plugin("a-thief")
            assert thief.state == "blocked" and "it asks for provide:words, which nobody has granted" in thief.reason
            await chat.grant()
            assert "a-thief" not in host._registry.requirements.graph
            assert chat.state == "blocked"
            assert (
                "service 'words' >=1: no plugin offers it; plugin 'a-thief' would, and is blocked: it asks for provide:words" in chat.reason
            )
            assert "annexe scan" not in chat.reason
            write(tmp_path, "words", offers="words")
            await host.scan()
            await host.plugin("words").grant()
            await wait_state(chat, "ready")
            await thief.grant()  # it would close the ring, so it is the one to be refused
            assert thief.state == "blocked" and "ring of requirements: a-thief → chat → a-thief" in thief.reason
            assert chat.state == "ready"

    run(scenario)


def test_provider_whose_claim_is_revoked_takes_its_dependents_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, "words", offers="words")
        write(tmp_path, "caller", services={"words": 'version = ">=1"'})
        async with open_host(tmp_path, grants="stored") as host:
            words, caller = host.plugin("words"), host.plugin("caller")
            await words.grant()
            await wait_state(caller, "ready")
            await words.revoke(rights=["provide:words"])
            assert words.state == "blocked" and caller.state == "blocked" and "and plugin 'words' was stopped" in caller.reason
            await words.grant()
            await wait_state(caller, "ready")

    run(scenario)
