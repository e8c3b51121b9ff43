"""``annexe scan``."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json, print_text

__all__ = ["scan"]


@click.command()
@state_option
@as_json
def scan(state_dir: Path, as_json: bool) -> None:
    """Have the host look into its plugin folders again: take up what is new, let go of what is gone."""
    with connect(state_dir) as client:
        told = client.call("scan")
    if as_json:
        print_json(told)
        return
    for what in ("added", "removed"):
        for plugin in told[what]:
            print_text(f"{what}: {plugin}")
    print_text("1 plugin is known" if told["known"] == 1 else f"{told['known']} plugins are known")
