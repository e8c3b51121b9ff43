"""What many commands share: which host, how to answer, completion of plugin ids."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from annexe.errors import AnnexeError, DependencyError, LaunchError, PluginBlockedError, QuarantinedError
from annexe.host.advice import command
from annexe.host.control_client import ControlClient
from annexe.host.state_dir import default_state_dir

__all__ = ["as_json", "check_runs", "complete_plugin", "connect", "operator", "outcome", "plugin_argument", "python_option", "state_option"]

F = TypeVar("F", bound=Callable[..., Any])

_NOT_RUNNING: Mapping[str, type[LaunchError]] = {"blocked": PluginBlockedError, "quarantined": QuarantinedError}


def state_option(function: F) -> F:
    """Add ``--state``."""
    option = click.option(
        "--state",
        "state_dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="ANNEXE_STATE",
        default=default_state_dir,
        show_default="a folder of yours, or $ANNEXE_STATE",
        metavar="DIR",
        help="State directory of the host.",
    )
    return option(function)


def as_json(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def python_option(function: F) -> F:
    """Add ``--python``."""
    option = click.option(
        "--python",
        "pythons",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="PATH",
        help="A further Python for plugins, for a .venv that fits neither the host's nor the system's; may be given several times.",
    )
    return option(function)


def plugin_argument(function: F) -> F:
    """Add the argument ``ID``."""
    return click.argument("plugin", metavar="ID", shell_complete=complete_plugin)(function)


def connect(state_dir: Path) -> ControlClient:
    """Return a connection to the host; use it as a context manager.

    Raises:
        HostNotRunningError: None runs there.
    """
    return ControlClient.connect(state_dir)


def operator() -> str:
    """Return who asks, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def outcome(told: dict[str, Any], *, may_wait: bool = False) -> str:
    """Return what became of a plugin that should run now: its state, and the reason unless ``check_runs`` will tell it.

    Args:
        told: Its summary.
        may_wait: As for ``check_runs``.
    """
    text = f"{told['id']} is {told['state']}"
    if may_wait and _lacks(told):
        return f"{text}: {_with_hope(told['reason'])}"
    return text + (f": {told['reason']}" if _is_as_it_should_be(told) else "")


def _is_as_it_should_be(told: dict[str, Any]) -> bool:
    waits = told["state"] == "stopped" and told["start"] == "lazy"
    return told["state"] in ("ready", "degraded") or waits or not told["enabled"]


def _lacks(told: dict[str, Any]) -> bool:
    """Say whether nothing keeps a plugin from running but what it requires of others."""
    return told["state"] == "blocked" and bool(told["lacks"])


def _with_hope(reason: str) -> str:
    return reason if "it starts once" in reason else f"{reason}; it starts once that is there"


def check_runs(told: dict[str, Any], state_dir: Path, *, may_wait: bool = False) -> None:
    """Refuse the summary of a plugin that should run now and does not.

    Args:
        told: The summary.
        state_dir: Of the host.
        may_wait: That it only waits for what it requires is as it should be: it starts by itself then.

    Raises:
        LaunchError: As said; PluginBlockedError or QuarantinedError where a person must act.
        DependencyError: What it requires, or who requires it, keeps it from ever running.
    """
    if not _is_as_it_should_be(told) and not (may_wait and _lacks(told)):
        plugin = told["id"]
        if told["state"] == "blocked":  # none of its code has run
            then = f"after a change in its folder: {command(f'restart {plugin}', state_dir)}"
        else:
            then = f"see: {command(f'logs {plugin}', state_dir)}"
        text = f"plugin {plugin!r} is {told['state']}: {told['reason']}; {then}"
        if told.get("error") == DependencyError.code:
            raise DependencyError(text, plugin=told["id"], path=[])
        raise _NOT_RUNNING.get(told["state"], LaunchError)(text, plugin=told["id"], state=told["state"])


def complete_plugin(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the id of a plugin, asking the host that runs; without one nothing is completed."""
    state_dir = ctx.params.get("state_dir") or default_state_dir()
    with contextlib.suppress(AnnexeError), connect(state_dir) as client:
        return [one["id"] for one in client.call("list", timeout_s=2.0) if one["id"].startswith(incomplete)]
    return []
