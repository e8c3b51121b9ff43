"""``annexe logs``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from annexe.cli.options import as_json, connect, plugin_argument, state_option
from annexe.cli.terminal import json_text, print_json_line, print_text
from annexe.errors import HostNotRunningError

__all__ = ["logs"]


@click.command()
@plugin_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with each new record until interrupted.")
@click.option("-n", "--lines", "count", type=click.IntRange(0, 10_000), default=50, show_default=True, help="How many of the last records.")
@state_option
@as_json
def logs(plugin: str, follow: bool, count: int, state_dir: Path, as_json: bool) -> None:
    """Show what a plugin logged and printed, and what the host says about it. Without --follow it needs no running host."""
    for record in _records(state_dir, plugin, count, follow=follow):
        if as_json:
            print_json_line(record)
        else:
            print_text(_line(record))


def _records(state_dir: Path, plugin: str, count: int, *, follow: bool) -> Iterator[dict[str, Any]]:
    try:
        client = connect(state_dir)
    except HostNotRunningError:
        if follow or not (state_dir / "logs").is_dir():
            raise
        from annexe.clock import SystemClock
        from annexe.record import LogStore

        yield from LogStore(state_dir / "logs", SystemClock()).tail(plugin, count)
        return
    with client:
        yield from client.stream("logs", timeout_s=None, plugin=plugin, count=count, follow=follow)


def _line(record: Mapping[str, Any]) -> str:
    """Return one record in one line: what the host knows first, so that nothing a plugin says can be taken for it."""
    request = f" ({record['request']})" if record.get("request") else ""
    fields = "".join(f" {name}={json_text(value)}" for name, value in record.get("fields", {}).items())
    return f"{record['time']} {record['level']} [{record['source']}]{request} {record['message']}{fields}".replace("\n", "\\n")
