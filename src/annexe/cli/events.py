"""``annexe events``."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json_line, print_text, safe

__all__ = ["event_line", "events"]


@click.command()
@click.option("-p", "--plugin", metavar="ID", help="Only this plugin's.")
@click.option("-k", "--kind", metavar="KIND", help="Only of this kind, for example state-changed.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each new event until interrupted.")
@click.option("-n", "--lines", "count", type=click.IntRange(0, 10_000), default=50, show_default=True, help="How many of the last events.")
@state_option
@as_json
def events(plugin: str | None, kind: str | None, follow: bool, count: int, state_dir: Path, as_json: bool) -> None:
    """Show what happened to plugins and why: changes of state, refusals, faults, decisions."""
    with connect(state_dir) as client:
        for event in client.stream("events", timeout_s=None, plugin=plugin, kind=kind, count=count, follow=follow):
            if as_json:
                print_json_line(event)
            else:
                print_text(event_line(event["time"], event["plugin"], event["kind"], event["reason"], event["facts"]))


def event_line(time: str, plugin: str | None, kind: str, reason: str, facts: dict[str, object]) -> str:
    """Return one event in one line."""
    what = f"{facts.get('before')} → {facts.get('after')}" if kind == "state-changed" else kind
    return f"{time} {safe(plugin or '[host]')}: {safe(what)}: {safe(reason)}"
