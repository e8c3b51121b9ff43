"""The graph of a real host's plugins, and what is said to follow when one goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from annexe import Host
from annexe.cli import main
from annexe.dispatch.graph import Impact, Requirement
from annexe.errors import UnknownPluginError
from annexe.host.control_client import ControlClient
from tests.process.hosts import open_host, run, until, write_plugin

pytestmark = pytest.mark.any_user

WORDS = '@plugin.service("tokenizer")\nclass Tokenizer:\n    def count(self, text):\n        return len(text.split())\n'
OFFERS = '[provides.services]\n"tokenizer" = { version = "1.2.0" }\n'

Annexe = Callable[..., str]


def requires(plugin: str, version: str = ">=1") -> str:
    return f'[requires.plugins]\n"{plugin}" = "{version}"\n'


def asks(service: str = "tokenizer", *, optional: str = "false") -> str:
    return f'[requires.services]\n"{service}" = {{ version = ">=1,<2", optional = {optional} }}\n'


def write_all(root: Path) -> None:
    plugins = root / "plugins"
    write_plugin(plugins, "words", WORDS, extra=OFFERS)
    write_plugin(plugins, "caller", "", extra=asks())
    write_plugin(plugins, "top", "", extra=requires("caller"))
    write_plugin(plugins, "maybe", "", extra=asks(optional="true"))
    write_plugin(plugins, "lost", "", extra=asks("nothing"))
    write_plugin(plugins, "newer", "", extra=requires("words", ">=2"))


async def on_a_thread(host: Host, ask: Callable[[ControlClient], Any], state: Path) -> Any:
    def use() -> Any:
        with ControlClient.connect(state) as client:
            return ask(client)

    return await asyncio.to_thread(use)


def rows(told: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, ...]]:
    return {(one["plugin"], one["name"]): (one["status"], one["optional"], one["providers"], one["others"]) for one in told["requirements"]}


def test_graph_tells_waves_providers_and_what_is_not_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_all(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            told = await on_a_thread(host, lambda client: client.call("graph"), tmp_path / "state")
            assert {one["id"]: (one["wave"], one["state"], one["version"]) for one in told["plugins"]} == {
                "words": (1, "ready", "1.0.0"),
                "caller": (2, "ready", "1.0.0"),
                "top": (3, "ready", "1.0.0"),
                "maybe": (1, "ready", "1.0.0"),
                "lost": (1, "blocked", "1.0.0"),
                "newer": (1, "blocked", "1.0.0"),
            }
            assert rows(told) == {
                ("caller", "tokenizer"): ("met", False, ["words"], {}),
                ("top", "caller"): ("met", False, ["caller"], {}),
                ("maybe", "tokenizer"): ("met", True, ["words"], {}),
                ("lost", "nothing"): ("missing", False, [], {}),
                ("newer", "words"): ("conflict", False, [], {"words": "1.0.0"}),
            }
            assert told["refused"] == []
            await host.plugin("words").stop()
            told = await on_a_thread(host, lambda client: client.call("graph"), tmp_path / "state")
            assert {key: one[0] for key, one in rows(told).items() if key[0] in ("caller", "top", "maybe")} == {
                ("caller", "tokenizer"): "down",
                ("top", "caller"): "down",
                ("maybe", "tokenizer"): "down",
            }

    run(scenario)


def test_plugin_that_would_close_a_ring_is_told_with_its_path(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "first", "", extra=requires("second"))
        async with open_host(tmp_path, control=True) as host:
            before = await on_a_thread(host, lambda client: client.call("graph"), tmp_path / "state")
            assert rows(before) == {("first", "second"): ("missing", False, [], {})}
            write_plugin(tmp_path / "plugins", "second", "", extra=requires("first"))
            await on_a_thread(host, lambda client: client.call("scan"), tmp_path / "state")
            told = await on_a_thread(host, lambda client: client.call("graph"), tmp_path / "state")
            assert [(one["id"], one["wave"], one["state"]) for one in told["plugins"]] == [
                ("first", 1, "blocked"),
                ("second", None, "blocked"),
            ]
            assert [(one["plugin"], one["path"]) for one in told["refused"]] == [("second", ["second", "first", "second"])]
            assert "would close a ring" in told["refused"][0]["reason"]
            assert rows(told) == rows(before)
            write_plugin(tmp_path / "plugins", "second", "")
            await on_a_thread(host, lambda client: client.call("scan"), tmp_path / "state")
            await until(lambda: host.plugin("first").state == "ready", what="the first to start once the ring is gone")
            told = await on_a_thread(host, lambda client: client.call("graph"), tmp_path / "state")
            assert (told["refused"], rows(told)) == ([], {("first", "second"): ("met", False, ["second"], {})})

    run(scenario)


def test_impact_is_what_stopping_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_all(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            lost = Requirement("service", "tokenizer", ">=1,<2", optional=True)
            assert host.plugin("words").impact() == Impact(stops=("top", "caller"), loses={"maybe": (lost,)})
            told = await on_a_thread(host, lambda client: client.call("impact", plugin="words"), tmp_path / "state")
            assert told == {
                "plugin": "words",
                "stops": ["top", "caller"],
                "loses": {"maybe": [{"kind": "service", "name": "tokenizer", "version": ">=1,<2", "optional": True}]},
                "users": ["caller", "maybe"],
            }
            stopped: list[str | None] = []
            host.events.subscribe(lambda event: stopped.append(event.plugin) if event.facts.get("after") == "draining" else None)
            await host.plugin("words").stop()
            assert stopped == ["top", "caller", "words"]
            assert host.plugin("maybe").state == "ready"
            assert host.plugin("words").impact() == Impact(stops=(), loses={"maybe": (lost,)})
            with pytest.raises(UnknownPluginError):
                await on_a_thread(host, lambda client: client.call("impact", plugin="nobody"), tmp_path / "state")

    run(scenario)


def commanded(root: Path, capsys: pytest.CaptureFixture[str], use: Callable[[Annexe], object], *, code: int = 0) -> None:
    """Open a host and use the command beside it; nothing that was running may have changed."""

    def annexe(*arguments: str) -> str:
        assert main([*arguments, "--state", str(root / "state")]) == code
        return capsys.readouterr().out

    async def scenario() -> None:
        write_all(root)
        async with open_host(root, control=True) as host:
            before = {one.id: (one.state, one.pid, one.enabled) for one in host.plugins}
            capsys.readouterr()
            await asyncio.to_thread(use, annexe)
            assert {one.id: (one.state, one.pid, one.enabled) for one in host.plugins} == before

    run(scenario)


def test_dry_run_says_what_would_happen_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def use(annexe: Annexe) -> None:
        for step in ("stop", "disable"):
            assert annexe(step, "words", "--dry-run").splitlines() == [
                f"nothing was changed; {step} would stop words",
                "stopped before it, in this order, and started again once it is back: top, caller",
                "maybe goes on, and can do without it: service tokenizer >=1,<2 (optional)",
            ]
            told = json.loads(annexe(step, "words", "--dry-run", "--json"))
            assert (told["plugin"], told["step"], told["stops"], list(told["loses"]), told["waits"]) == (
                *("words", step, ["top", "caller"], ["maybe"]),
                [],
            )
        assert annexe("stop", "top", "--dry-run").splitlines() == [
            "nothing was changed; stop would stop top",
            "nothing happens to other plugins",
        ]
        assert annexe("restart", "words", "--dry-run").splitlines() == [
            "nothing was changed; restart would start words afresh, and stop no other plugin",
            "calls to it wait meanwhile, where no other offers the same; it is used by: caller, maybe",
        ]
        assert annexe("restart", "top", "--dry-run").endswith("it is used by: no plugin\n")
        assert json.loads(annexe("restart", "words", "--dry-run", "--json")) == {
            "plugin": "words",
            "step": "restart",
            "stops": [],
            "loses": {},
            "waits": ["caller", "maybe"],
            "refusal": None,
        }

    commanded(tmp_path, capsys, use)


def test_command_draws_the_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def use(annexe: Annexe) -> None:
        lines = [" ".join(line.split()) for line in annexe("graph").splitlines()]
        assert lines[0] == "WAVE PLUGIN VERSION STATE REQUIRES GIVEN BY"
        assert lines[lines.index("2 caller 1.0.0 ready") + 1] == "service tokenizer >=1,<2 met words"
        assert lines[lines.index("1 lost 1.0.0 blocked") + 1] == "service nothing >=1,<2 missing nobody"
        assert lines[lines.index("1 newer 1.0.0 blocked") + 1] == "plugin words >=2 conflict words has 1.0.0"
        assert lines[lines.index("1 maybe 1.0.0 ready") + 1] == "service tokenizer >=1,<2 (optional) met words"
        assert lines[-2] == "3 top 1.0.0 ready"
        assert '"caller" -> "words"' in annexe("graph", "--format", "dot")
        assert ElementTree.fromstring(annexe("graph", "--format", "svg")).tag == "{http://www.w3.org/2000/svg}svg"
        told = json.loads(annexe("graph", "--json"))
        assert set(told) == {"plugins", "requirements", "refused"}
        assert annexe("graph", "--format", "svg", "--output", str(tmp_path / "graph.svg")) == ""
        assert ElementTree.parse(tmp_path / "graph.svg").getroot().attrib["role"] == "img"
        assert annexe("graph", "--output", str(tmp_path / "graph.txt")) == ""
        assert (tmp_path / "graph.txt").read_text().startswith("WAVE")

    commanded(tmp_path, capsys, use)


def test_graph_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commanded(tmp_path, capsys, lambda annexe: annexe("graph", "--output", str(tmp_path / "none" / "graph.txt")), code=1)


def test_graph_without_plugins_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        (tmp_path / "plugins").mkdir()
        async with open_host(tmp_path, control=True):
            assert await asyncio.to_thread(main, ["graph", "--state", str(tmp_path / "state")]) == 0

    run(scenario)
    assert "no plugins" in capsys.readouterr().out


def test_refused_plugins_are_told_below_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "one", "", extra=requires("two"))
        write_plugin(tmp_path / "plugins", "two", "", extra=requires("one"))
        async with open_host(tmp_path, control=True):
            assert await asyncio.to_thread(main, ["graph", "--state", str(tmp_path / "state")]) == 0

    run(scenario)
    out = capsys.readouterr().out
    assert "Refused for what they require:" in out and "would close a ring of requirements: two → one → two" in out
