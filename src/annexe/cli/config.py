"""``annexe config``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from annexe.cli.options import as_json, connect, plugin_argument, state_option
from annexe.cli.terminal import print_json

__all__ = ["config"]


@click.group()
def config() -> None:
    """Read and write plugins' configuration."""


@config.command("get")
@plugin_argument
@state_option
@as_json
def _get(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Print a plugin's configuration, defaults filled in; with --json also what was written, and its revision."""
    with connect(state_dir) as client:
        told = client.call("config.get", plugin=plugin)
    print_json(told if as_json else told["value"])


@config.command("set")
@plugin_argument
@click.argument("value", metavar="JSON")
@click.option("--merge", is_flag=True, help="Change these keys and leave the others as they were written.")
@state_option
@as_json
def _set(plugin: str, value: str, merge: bool, state_dir: Path, as_json: bool) -> None:
    """Write a plugin's configuration, check it by the plugin's schema and push it to the running plugin.

    JSON is an object, "-" to read it from standard input. It replaces all that was written before, unless --merge is given.
    """
    wanted = _object(sys.stdin.read() if value == "-" else value)
    with connect(state_dir) as client:
        expected = None
        if merge:
            told = client.call("config.get", plugin=plugin)
            wanted, expected = {**told["written"], **wanted}, told["revision"]
        told = client.call("config.set", plugin=plugin, value=wanted, expected_revision=expected)
    print_json(told if as_json else told["value"])


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"expected JSON, got {text[:60]!r}: {error}", param_hint="JSON") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"expected a JSON object, got {text[:60]!r}", param_hint="JSON")
    return value
