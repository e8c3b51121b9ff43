"""``annexe reload``, what it says beforehand, and what the control socket tells of several instances and of services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.cli import main
from annexe.errors import ActivationError, AnnexeError, DependencyError, ManifestError, PluginBlockedError, UnknownPluginError
from annexe.host.control_client import ControlClient
from tests.process.hosts import open_host, run, until, write_plugin

pytestmark = pytest.mark.any_user

WORDS = '@plugin.service("tokenizer")\nclass Tokenizer:\n    def count(self, text):\n        return len(text.split())\n'
ASKS = '[requires.services]\n"tokenizer" = { version = ">=1,<2" }\n[permissions]\nservices = ["tokenizer"]\n'
DATA = "[permissions]\ndata = { quota = '1MiB' }\n"
POOL = "instances = { min = 2, max = 4 }"


def words(root: Path, version: str = "1.0.0", *, more: str = "", extra: str = "", runtime: str = POOL) -> None:
    offers = f'[provides.services]\n"tokenizer" = {{ version = "{version}" }}\n'
    write_plugin(root / "plugins", "words", WORDS + more, extra=offers + extra, version=version, runtime=runtime)


def caller(root: Path) -> None:
    write_plugin(root / "plugins", "caller", "", extra=ASKS)


def with_host(root: Path, use: Callable[[Host], Any], **changes: Any) -> None:
    """Open a host over the plugins, wait for those in pools, and use it from another thread, as another process would."""

    async def scenario() -> None:
        async with open_host(root, control=True, **changes) as host:
            for plugin in host.plugins:
                least = plugin.manifest.runtime.instances.min if plugin.manifest is not None else 1
                if plugin.state == "ready" and "data" not in plugin.granted:
                    await until(lambda plugin=plugin, least=least: len(plugin.pids) == least, what="the least to run")  # type: ignore[misc]
            await asyncio.to_thread(use, host)

    run(scenario)


def client_of(root: Path) -> ControlClient:
    return ControlClient.connect(root / "state")


def annexe(root: Path, *arguments: str, code: int = 0) -> None:
    assert main([*arguments, "--state", str(root / "state")]) == code


def test_reload_takes_up_what_is_in_the_folder_and_tells_every_instance(tmp_path: Path) -> None:
    words(tmp_path)
    caller(tmp_path)

    def use(host: Host) -> None:
        with client_of(tmp_path) as client:
            before = client.call("show", plugin="words")
            assert before["pids"] == [one["pid"] for one in before["instances"]] and len(before["pids"]) == 2
            assert [one["name"] for one in before["instances"]] == ["words-1", "words-2"]
            assert [(one["in_flight"], one["queued"]) for one in before["instances"]] == [(0, 0)] * 2
            assert (before["services"], before["topics"], before["requires"]) == ({"tokenizer": "1.0.0"}, [], [])
            words(tmp_path, "1.4.0")
            told = client.call("reload", plugin="words")
            assert (told["state"], told["version"], len(told["pids"])) == ("ready", "1.4.0", 2)
            assert not set(told["pids"]) & set(before["pids"])
            [needs] = client.call("show", plugin="caller")["requires"]
            assert (needs["name"], needs["status"], needs["providers"]) == ("tokenizer", "met", ["words"])
            with pytest.raises(UnknownPluginError):
                client.call("reload", plugin="nobody")

    with_host(tmp_path, use)


@pytest.mark.parametrize(
    ("change", "error", "foreseen"),
    [
        pytest.param({"version": "2.0.0"}, DependencyError, True, id="taken-from-another"),
        pytest.param({"extra": "[permissions\n"}, ManifestError, True, id="manifest"),
        pytest.param({"extra": '[requires.plugins]\n"nobody" = ">=1"\n'}, PluginBlockedError, True, id="requirement"),
        pytest.param({"extra": '[requires.plugins]\n"caller" = ">=1"\n'}, DependencyError, True, id="ring"),
        pytest.param({"more": "raise ValueError('broken')"}, ActivationError, False, id="code"),
    ],
)
def test_what_would_refuse_a_reload_is_told_before_and_refuses_it(
    tmp_path: Path, change: dict[str, Any], error: type[AnnexeError], foreseen: bool
) -> None:
    words(tmp_path)
    caller(tmp_path)

    def use(host: Host) -> None:
        with client_of(tmp_path) as client:
            before = client.call("list"), client.call("graph")
            words(tmp_path, **change)
            told = client.call("reload.preview", plugin="words")
            assert (told["refusal"]["code"] if told["refusal"] is not None else None) == (error.code if foreseen else None)
            assert (client.call("list"), client.call("graph")) == before
            with pytest.raises(error) as caught:
                client.call("reload", plugin="words")
            assert not foreseen or caught.value.message == told["refusal"]["message"]
            assert (client.call("list"), client.call("graph")) == before

    with_host(tmp_path, use)


def test_preview_of_a_plugin_that_was_not_taken_up_leaves_it_out(tmp_path: Path) -> None:
    words(tmp_path)
    caller(tmp_path)

    def use(host: Host) -> None:
        with client_of(tmp_path) as client:
            before = client.call("graph")
            assert before["plugins"][1]["wave"] is None  # claims a service without leave
            told = client.call("reload.preview", plugin="words")
            assert (told["instances"], told["refusal"]["code"], told["users"]) == (0, "blocked", [])
            assert "provide:tokenizer" in told["refusal"]["message"]
            client.call("disable", plugin="words")
            assert "annexe enable words" in client.call("reload.preview", plugin="words")["refusal"]["message"]
            assert client.call("graph")["requirements"] == before["requirements"]

    with_host(tmp_path, use, grants="stored")


def test_command_says_what_a_reload_would_do_and_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words(tmp_path)
    caller(tmp_path)

    def said(*arguments: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        annexe(tmp_path, *arguments, code=code)
        return capsys.readouterr().out.splitlines()

    def use(host: Host) -> None:
        words(tmp_path, "1.4.0", extra="[permissions]\nkv = { quota = '1MiB' }\n")
        expected = [
            "nothing was changed; 2 other instances of words would become ready beside what runs, and take over; no call waits",
            "version: 1.0.0, then 1.4.0",
            "gains: right kv",
            "gains: service tokenizer 1.4.0",
            "loses: service tokenizer 1.0.0",
            "used by: caller",
        ]
        assert said("reload", "words", "--dry-run") == expected
        assert json.loads("".join(said("reload", "words", "--dry-run", "--json")))["instances"] == 2
        assert host.plugin("words").version == "1.0.0"
        assert said("reload", "words") == ["version 1.4.0 was taken up; words is ready: activated"]
        words(tmp_path, "2.0.0")
        assert "would take away what others require" in said("restart", "words", "--dry-run")[1]
        refused = said("reload", "words", "--dry-run", code=19)
        assert refused[0] == "nothing was changed; reload of words would be refused: dependency-refused"
        assert refused[1].startswith("refused: words would go on as it is: plugin 'words' 2.0.0 would take away what others require: ")
        assert refused[1].endswith("; stop those first, or reload them with a range that takes both")
        assert said("reload", "words", code=19) == ["words goes on as it is, in version 1.4.0"]
        words(tmp_path, "1.5.0", more="raise ValueError('broken')")
        wrote = f"what the new one wrote: annexe logs words --state {tmp_path / 'state'}"
        assert said("reload", "words", code=14) == [f"words goes on as it is, in version 1.4.0; {wrote}"]
        assert said("reload", "words", "--json", code=14) == []
        assert [host.plugin(one).state for one in ("words", "caller")] == ["ready", "ready"]

    with_host(tmp_path, use)


def test_command_says_when_calls_would_wait_and_when_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words(tmp_path, extra=DATA)

    def said() -> str:
        capsys.readouterr()
        annexe(tmp_path, "reload", "words", "--dry-run")
        return capsys.readouterr().out.splitlines()[0]

    def use(host: Host) -> None:
        end = "the new instance of words would start once the old one has ended; calls wait meanwhile"
        assert said() == f"nothing was changed; {end}"
        annexe(tmp_path, "stop", "words")
        assert said() == "nothing was changed; words does not run: reload would start it afresh"

    with_host(tmp_path, use)


def test_list_and_show_tell_instances_services_and_requirements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words(tmp_path)
    caller(tmp_path)

    def use(host: Host) -> None:
        first, second = host.plugin("words").pids
        capsys.readouterr()
        annexe(tmp_path, "list")
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert rows[2][:5] == ["words", "1.0.0", "ready", str(first), "+1"]
        annexe(tmp_path, "show", "words")
        lines = capsys.readouterr().out.splitlines()
        assert f"instances: 2: {first} (0 in flight), {second} (0 in flight)" in lines
        assert "provides:  service tokenizer 1.0.0" in lines
        annexe(tmp_path, "show", "caller")
        assert "requires:  service tokenizer >=1,<2: met (words)" in capsys.readouterr().out.splitlines()

    with_host(tmp_path, use)


@pytest.mark.parametrize("step", [("grant", "-y"), ("enable",)], ids=lambda step: str(step[0]))
def test_plugin_that_only_waits_for_another_is_granted_and_enabled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: tuple[str, ...]
) -> None:
    caller(tmp_path)

    def use(host: Host) -> None:
        annexe(tmp_path, "grant", "caller", "-y")
        capsys.readouterr()
        annexe(tmp_path, step[0], "caller", *step[1:])
        last = capsys.readouterr().out.splitlines()[-1]
        assert "caller is blocked: it requires service 'tokenizer' >=1,<2: no plugin offers it" in last
        assert last.endswith("; it starts once all is there")
        with client_of(tmp_path) as client:
            assert "'tokenizer'" in client.call("list")[0]["lacks"]
        annexe(tmp_path, "restart", "caller", code=18)

    with_host(tmp_path, use, grants="stored")


def test_member_of_a_ring_is_refused_with_the_ring_in_words_and_by_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plugin(tmp_path / "plugins", "one", "", extra='[requires.plugins]\n"two" = ">=1"\n')
    write_plugin(tmp_path / "plugins", "two", "", extra='[requires.plugins]\n"one" = ">=1"\n')

    def use(host: Host) -> None:
        for step in ("start", "restart", "enable"):
            capsys.readouterr()
            annexe(tmp_path, step, "two", code=19)
            assert "two → one → two" in capsys.readouterr().err

    with_host(tmp_path, use)
