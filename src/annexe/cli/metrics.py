"""``annexe metrics``."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json

__all__ = ["metrics"]


@click.command()
@state_option
@as_json
def metrics(state_dir: Path, as_json: bool) -> None:
    """Print counts of starts, ends, refusals, violations and calls, and plugins' own figures, in the text format of Prometheus."""
    with connect(state_dir) as client:
        told = client.call("metrics")
    if as_json:
        print_json(told)
        return
    from annexe.record import as_prometheus_text

    click.echo(as_prometheus_text(told), nl=False)
