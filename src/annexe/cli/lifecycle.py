"""``annexe enable``, ``disable``, ``start``, ``stop`` and ``restart``: one step of a plugin's life each, all alike."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, check_runs, connect, outcome, plugin_argument, state_option
from annexe.cli.terminal import print_json, print_text

__all__ = ["disable", "enable", "restart", "start", "stop"]


@click.command()
@plugin_argument
@state_option
@as_json
def enable(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Let a plugin run, now and after the host's next start."""
    _step("enable", plugin, state_dir, as_json=as_json, should_run=True)


@click.command()
@plugin_argument
@state_option
@as_json
def disable(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Stop a plugin, now and after the host's next start."""
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
@state_option
@as_json
def stop(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Stop a plugin until it is started again, or the host is."""
    _step("stop", plugin, state_dir, as_json=as_json, should_run=False)


@click.command()
@plugin_argument
@state_option
@as_json
def restart(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Start a plugin afresh, also out of quarantine, with what is in its folder now."""
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
