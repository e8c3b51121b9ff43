"""``annexe enable``, ``disable``, ``start``, ``stop``, ``restart`` and ``reload``: one step of a plugin's life each, all alike.

With ``--dry-run`` those that take a plugin away, or change it, say what that does, and the host is only asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from annexe.cli.exit_codes import exit_code_named
from annexe.cli.graph_picture import requirement_text
from annexe.cli.options import as_json, check_runs, connect, outcome, plugin_argument, state_option
from annexe.cli.terminal import print_json, print_text
from annexe.errors import ActivationError, AnnexeError
from annexe.host.advice import command
from annexe.host.control_client import ControlClient

__all__ = ["disable", "enable", "reload", "restart", "start", "stop"]

F = TypeVar("F", bound=Callable[..., Any])
_RUNNING = ("ready", "degraded")
_TAKEN_UP = (*_RUNNING, "stopped")


def _dry_run(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Only say what that would do to other plugins.")(function)


@click.command()
@plugin_argument
@state_option
@as_json
def enable(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Let a plugin run, now and after the host's next start."""
    _step("enable", plugin, state_dir, as_json=as_json, should_run=True, may_wait=True)


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


@click.command()
@plugin_argument
@click.option("--dry-run", is_flag=True, help="Only say what that would change, and what would refuse it; exits as the refusal would.")
@state_option
@as_json
def reload(plugin: str, dry_run: bool, state_dir: Path, as_json: bool) -> None:
    """Take up what is in a plugin's folder now without losing a call; what cannot take over leaves the old one as it is.

    One that does not run is started afresh, as by restart.
    """
    if dry_run:
        _preview(plugin, state_dir, as_json=as_json)
    else:
        _step("reload", plugin, state_dir, as_json=as_json, should_run=True)


def _step(method: str, plugin: str, state_dir: Path, *, as_json: bool, should_run: bool, may_wait: bool = False) -> None:
    with connect(state_dir) as client:
        try:
            after = client.call(method, plugin=plugin)
        except AnnexeError as error:
            if method == "reload" and not as_json:
                _tell_what_goes_on(client, plugin, error, state_dir)
            raise
        idle = client.call("show", plugin=plugin)["passed_over"] if should_run and not as_json else {}
    if as_json:
        print_json(after)
    else:
        said = f"version {after['version']} was taken up; " if method == "reload" and after["state"] in _TAKEN_UP else ""
        print_text(said + outcome(after, may_wait=may_wait) if should_run else f"{plugin} is {after['state']}: {after['reason']}")
        for name, why in idle.items():
            print_text(f"it is not called at {name}: {why}")
    if should_run:
        check_runs(after, state_dir, may_wait=may_wait)


def _tell_what_goes_on(client: ControlClient, plugin: str, error: AnnexeError, state_dir: Path) -> None:
    with contextlib.suppress(AnnexeError):
        now = client.call("show", plugin=plugin)
        if now["state"] in _RUNNING:
            wrote = f"; what the new one wrote: {command('logs ' + plugin, state_dir)}" if error.code == ActivationError.code else ""
            print_text(f"{plugin} goes on as it is, in version {now['version']}{wrote}")


def _tell(method: str, plugin: str, state_dir: Path, *, as_json: bool) -> None:
    with connect(state_dir) as client:
        impact = client.call("impact", plugin=plugin)
        refusal = client.call("reload.preview", plugin=plugin)["refusal"] if method == "restart" else None
    is_back = method == "restart"
    told = {
        "plugin": plugin,
        "step": method,
        "stops": [] if is_back else impact["stops"],
        "loses": {} if is_back else impact["loses"],
        "waits": impact["users"] if is_back else [],
        "refusal": refusal,
    }
    print_json(told) if as_json else print_text("\n".join(_in_words(told)))


def _in_words(told: dict[str, Any]) -> list[str]:
    plugin, step, stops = told["plugin"], told["step"], told["stops"]
    if step == "restart":
        users = ", ".join(told["waits"]) or "no plugin"
        if told["refusal"] is not None:
            return [
                f"nothing was changed; restart would end {plugin} and take up what is in its folder now, which a reload would refuse:",
                f"{told['refusal']['message']}; it is used by: {users}",
            ]
        return [
            f"nothing was changed; restart would start {plugin} afresh, and stop no other plugin",
            f"calls to it wait meanwhile, where no other offers the same; it is used by: {users}",
        ]
    lines = [f"nothing was changed; {step} would stop {plugin}"]
    if stops:
        lines.append(f"stopped before it, in this order, and started again once it is back: {', '.join(stops)}")
    for other, lost in told["loses"].items():
        lines.append(f"{other} goes on, and can do without it: {'; '.join(map(requirement_text, lost))}")
    return lines if len(lines) > 1 else [*lines, "nothing happens to other plugins"]


def _preview(plugin: str, state_dir: Path, *, as_json: bool) -> None:
    with connect(state_dir) as client:
        told = client.call("reload.preview", plugin=plugin)
    print_json(told) if as_json else print_text("\n".join(_preview_in_words(told)))
    if told["refusal"] is not None:
        click.get_current_context().exit(exit_code_named(told["refusal"]["code"]))


def _preview_in_words(told: dict[str, Any]) -> list[str]:
    plugin, refusal = told["plugin"], told["refusal"]
    lines = [f"nothing was changed; {_what_would_be(told)}"]
    if refusal is not None:
        lines.append(f"refused: {plugin} {'would go on as it is' if told['instances'] else 'would not run'}: {refusal['message']}")
    if told["new_version"]:
        lines.append(f"version: {told['version'] or '-'}, then {told['new_version']}")
    lines += [f"{word}: {one['kind']} {one['name']}" for word in ("gains", "loses") for one in told[word]]
    return [*lines, f"used by: {', '.join(told['users']) or 'no plugin'}"]


def _what_would_be(told: dict[str, Any]) -> str:
    plugin, count = told["plugin"], told["instances"]
    if told["refusal"] is not None:
        return f"reload of {plugin} would be refused: {told['refusal']['code']}"
    if not count:
        return f"{plugin} does not run: reload would start it afresh"
    if not told["overlap"]:
        return f"the new instance of {plugin} would start once the old one has ended; calls wait meanwhile"
    new = "another instance" if count == 1 else f"{count} other instances"
    return f"{new} of {plugin} would become ready beside what runs, and take over; no call waits"
