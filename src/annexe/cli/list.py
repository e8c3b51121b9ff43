"""``annexe list``."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json, print_table, print_text

__all__ = ["list_plugins"]


@click.command("list")
@state_option
@as_json
def list_plugins(state_dir: Path, as_json: bool) -> None:
    """List every plugin that was found, broken ones included."""
    with connect(state_dir) as client:
        plugins = client.call("list")
    if as_json:
        print_json(plugins)
    elif not plugins:
        print_text("no plugins; `annexe status` says which folders the host looks into")
    else:
        rows = [
            (
                one["id"],
                one["version"],
                one["state"],
                "" if one["enabled"] else "disabled",
                one["pid"] if len(one["pids"]) < 2 else f"{one['pid']} +{len(one['pids']) - 1}",
                one["level"],
                _why(one["reason"], one["id"]),
            )
            for one in plugins
        ]
        print_table(("ID", "VERSION", "STATE", "", "PID", "LEVEL", "WHY"), rows)


def _why(reason: str, plugin: str) -> str:
    """Return a reason in one line: of a list of problems the first."""
    first, *problems = reason.split("\n  - ")
    if not problems:
        return first.split("\n")[0]
    more = f" (and {len(problems) - 1} more; see: annexe show {plugin})" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"
