"""``annexe status``."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json, print_text

__all__ = ["status"]


@click.command()
@state_option
@as_json
def status(state_dir: Path, as_json: bool) -> None:
    """Show the running host: version, process, folders, what it opens, how many plugins are in which state and at which level."""
    with connect(state_dir) as client:
        told = client.call("status")
    if as_json:
        print_json(told)
        return
    plugins = ", ".join(f"{count} {state}" for state, count in sorted(told["plugins"].items())) or "none"
    print_text(f"host:       {told['name']} {told['application_version']} (annexe {told['version']}), pid {told['pid']}")
    print_text(f"state:      {told['state_dir']}")
    print_text(f"running:    since {told['started']}, {told['uptime_s']:.0f} s")
    print_text(f"grants:     {told['grants']}")
    print_text(f"folders:    {', '.join(told['folders'])}")
    print_text(f"plugins:    {plugins}")
    levels = ", ".join(f"{count} at {level}" for level, count in sorted(told["levels"].items())) or "no plugin runs"
    print_text(f"isolation:  {levels}; lowest allowed: {told['isolation']}")
    for plugin, pid in told["attached"].items():
        print_text(f"attached:   process {pid} in the place of {plugin}, without any sandbox")
    print_text(f"hooks:      {', '.join(told['hooks']) or 'none'}")
    print_text(f"extensions: {', '.join(told['extensions']) or 'none'}")
