"""The command line as a whole: every command is there, documented, and loads nothing it does not need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from annexe.cli import main
from annexe.cli.app import cli
from annexe.cli.exit_codes import exit_code_named, exit_code_of
from annexe.cli.options import check_runs, outcome
from annexe.errors import DependencyError, LaunchError, PluginBlockedError, QuarantinedError

NEEDS_A_HOST = {
    "status",
    "list",
    "show",
    "events",
    "call",
    "explain",
    "grant",
    "revoke",
    "enable",
    "disable",
    "start",
    "stop",
    "restart",
    "reload",
}
NEEDS_A_HOST |= {"config", "graph", "scan", "metrics", "logs"}


def commands(command: click.Command = cli, path: str = "annexe") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, f"{path} {name}")


def leaves() -> list[tuple[str, click.Command]]:
    return [(path, command) for path, command in commands() if not isinstance(command, click.Group)]


@pytest.mark.parametrize(("path", "command"), list(commands()), ids=[path for path, _ in commands()])
def test_command_and_its_options_say_what_they_do(path: str, command: click.Command) -> None:
    assert command.help and command.help[0].isupper() and "." in command.help
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{path} {param.opts[0]} has no help"


@pytest.mark.parametrize(("path", "command"), leaves(), ids=[path for path, _ in leaves()])
def test_command_that_asks_a_host_says_which_and_answers_scripts(path: str, command: click.Command) -> None:
    options = {option for param in command.params for option in param.opts}
    if path.split()[1] in NEEDS_A_HOST:
        assert {"--state", "--json"} <= options


@pytest.mark.parametrize("name", sorted(NEEDS_A_HOST - {"config"}))
def test_command_without_a_host_says_how_to_get_one(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"call": ["one", "t.edit"]}.get(
        name, ["one"] if name not in ("status", "list", "events", "explain", "graph", "scan", "metrics") else []
    )
    assert main([name, *arguments, "--state", str(tmp_path / "none")]) == 3
    assert "annexe run --plugins DIR" in capsys.readouterr().err
    assert main([name, *arguments, "--state", str(tmp_path / "none"), "--json"]) == 3
    assert '"code": "host-not-running"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["show"],
        ["call", "one", "t.edit", "{"],
        ["call", "t.edit", "{}"],
        ["config", "set", "one", "[]"],
        ["logs", "one", "-n", "x"],
    ],
)
def test_command_written_wrongly_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing-there:X", "os", "os:nope", "os:path"])
def test_contract_that_is_none_is_a_usage_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--plugins", str(tmp_path), "--state", str(tmp_path / "state"), "--contracts", name]) == 2
    assert "--contracts" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--grants", "nonsense"], ["--grants", "manifest", "--production"]])
def test_grants_that_cannot_be_are_a_usage_error(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--plugins", str(tmp_path), "--state", str(tmp_path / "state"), *arguments]) == 2
    assert "--grants" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_every_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_ANNEXE_COMPLETE" in capsys.readouterr().out


def test_state_directory_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANNEXE_STATE", str(tmp_path / "elsewhere"))
    assert main(["list"]) == 3
    assert str(tmp_path / "elsewhere") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "start", "enabled", "error"),
    [
        ("ready", "eager", True, None),
        ("degraded", "eager", True, None),
        ("stopped", "lazy", True, None),
        ("stopped", "eager", True, LaunchError),
        ("quarantined", "lazy", True, QuarantinedError),
        ("blocked", "eager", True, PluginBlockedError),
        ("blocked", "eager", False, None),
    ],
)
def test_plugin_that_should_run_and_does_not_is_an_error(state: str, start: str, enabled: bool, error: type[LaunchError] | None) -> None:
    told = {"id": "one", "state": state, "start": start, "enabled": enabled, "reason": "so", "lacks": ""}
    if error is None:
        check_runs(told, Path("/somewhere"))
        return
    with pytest.raises(LaunchError) as caught:
        check_runs(told, Path("/somewhere"))
    assert type(caught.value) is error
    assert (caught.value.plugin, caught.value.data) == ("one", {"state": state})
    then = "after a change in its folder: annexe restart" if state == "blocked" else "see: annexe logs"
    assert caught.value.message == f"plugin 'one' is {state}: so; {then} one --state /somewhere"


WAITS = {
    "id": "one",
    "state": "blocked",
    "start": "eager",
    "enabled": True,
    "reason": "it requires service 'words'",
    "lacks": "service 'words'",
}


@pytest.mark.parametrize(
    ("told", "text"),
    [
        pytest.param(WAITS, "one is blocked: it requires service 'words'; it starts once that is there", id="waits"),
        pytest.param(WAITS | {"reason": "so; it starts once all is there"}, "one is blocked: so; it starts once all is there", id="said"),
    ],
)
def test_plugin_that_only_waits_for_what_it_requires_is_as_it_should_be_where_that_will_do(told: dict[str, Any], text: str) -> None:
    check_runs(told, Path("/somewhere"), may_wait=True)
    assert outcome(told, may_wait=True) == text
    assert outcome(told) == "one is blocked"
    with pytest.raises(PluginBlockedError):
        check_runs(told, Path("/somewhere"))


def test_plugin_that_would_close_a_ring_is_an_error_of_its_own() -> None:
    told = {"id": "one", "state": "blocked", "start": "eager", "enabled": True, "reason": "so", "lacks": "", "error": "dependency-refused"}
    with pytest.raises(DependencyError) as caught:
        check_runs(told, Path("/somewhere"))
    assert exit_code_of(caught.value) == exit_code_named("dependency-refused") == 19
    assert exit_code_named("of-tomorrow") == 1


@pytest.mark.parametrize("change", [{"lacks": ""}, {"state": "quarantined"}, {"state": "stopped"}])
def test_plugin_that_something_else_keeps_from_running_is_an_error_however_patient_one_is(change: dict[str, Any]) -> None:
    with pytest.raises(LaunchError):
        check_runs(WAITS | change, Path("/somewhere"), may_wait=True)


@pytest.mark.parametrize("arguments", [["--version"], ["list", "--state", "/nowhere"], ["show", "one", "--state", "/nowhere"]])
def test_asking_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom annexe.cli import main\n"
        f"main({arguments!r})\n"
        "print([name for name in ('asyncio', 'sqlalchemy', 'rich', 'msgspec', 'alembic', 'annexe.host.host') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
