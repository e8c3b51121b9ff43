"""``annexe enable``, ``disable``, ``start``, ``stop`` and ``restart``: one step of a plugin's life each, all alike.

With ``--dry-run`` those that take a plugin away say what that does to others, and the host is only asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from annexe.cli.graph_picture import requirement_text
from annexe.cli.options import as_json, check_runs, connect, outcome, plugin_argument, state_option
from annexe.cli.terminal import print_json, print_text

__all__ = ["disable", "enable", "restart", "start", "stop"]

F = TypeVar("F", bound=Callable[..., Any])


def _dry_run(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Only say what that would do to other plugins.")(function)


@click.command()
@plugin_argument
@state_option
@as_json
def enable(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Let a plugin run, now and after the host's next start."""
    _step("enable", plugin, state_dir, as_json=as_json, should_run=True)


@click.command()
@plugin_argument
@_dry_run
@state_option
@as_json
def disable(plugin: str, dry_run: bool, state_dir: Path, as_json: bool) -> None:
    """Stop a plugin, now and after the host's next start."""
    if dry_run:
        _tell("disable", plugin, state_dir, as_json=as_json)
    else:
        _step("disable", plugin, state_dir, as_json=as_json, should_run=False)


@click.command()
@plugin_argument
@state_option
@as_json
def start(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Start a plugin that is stopped."""
    _step("start", plugin, state_dir, as_json=as_json, should_run=True)


@click.command()
@plugin_argument
@_dry_run
@state_option
@as_json
def stop(plugin: str, dry_run: bool, state_dir: Path, as_json: bool) -> None:
    """Stop a plugin until it is started again, or the host is."""
    if dry_run:
        _tell("stop", plugin, state_dir, as_json=as_json)
    else:
        _step("stop", plugin, state_dir, as_json=as_json, should_run=False)


@click.command()
@plugin_argument
@_dry_run
@state_option
@as_json
def restart(plugin: str, dry_run: bool, state_dir: Path, as_json: bool) -> None:
    """Start a plugin afresh, also out of quarantine, with what is in its folder now."""
    if dry_run:
        _tell("restart", plugin, state_dir, as_json=as_json)
    else:
        _step("restart", plugin, state_dir, as_json=as_json, should_run=True)


def _step(method: str, plugin: str, state_dir: Path, *, as_json: bool, should_run: bool) -> None:
    with connect(state_dir) as client:
        after = client.call(method, plugin=plugin)
    if as_json:
        print_json(after)
    else:
        print_text(outcome(after) if should_run else f"{plugin} is {after['state']}: {after['reason']}")
    if should_run:
        check_runs(after, state_dir)


def _tell(method: str, plugin: str, state_dir: Path, *, as_json: bool) -> None:
    with connect(state_dir) as client:
        impact = client.call("impact", plugin=plugin)
    is_back = method == "restart"
    told = {
        "plugin": plugin,
        "step": method,
        "stops": [] if is_back else impact["stops"],
        "loses": {} if is_back else impact["loses"],
        "waits": impact["users"] if is_back else [],
    }
    print_json(told) if as_json else print_text("\n".join(_in_words(told)))


def _in_words(told: dict[str, Any]) -> list[str]:
    plugin, step, stops = told["plugin"], told["step"], told["stops"]
    if step == "restart":
        users = ", ".join(told["waits"]) or "no plugin"
        return [
            f"nothing was changed; restart would start {plugin} afresh, and stop no other plugin",
            f"calls to it wait meanwhile, where no other offers the same; it is used by: {users}",
        ]
    lines = [f"nothing was changed; {step} would stop {plugin}"]
    if stops:
        lines.append(f"before it stop, in this order, and start again once it is back: {', '.join(stops)}")
    for other, lost in told["loses"].items():
        lines.append(f"{other} goes on, and can do without it: {'; '.join(map(requirement_text, lost))}")
    return lines if len(lines) > 1 else [*lines, "nothing happens to other plugins"]
