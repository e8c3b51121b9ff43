"""``annexe revoke``."""

from __future__ import annotations

from pathlib import Path

import click

from annexe.cli.options import as_json, connect, operator, plugin_argument, state_option
from annexe.cli.terminal import print_json, print_text

__all__ = ["revoke"]


@click.command()
@plugin_argument
@click.option("--right", "rights", multiple=True, metavar="RIGHT", help="Only this right, as `annexe permissions` shows it.")
@state_option
@as_json
def revoke(plugin: str, rights: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    """Take back all that a plugin was granted; it is stopped if it asks for any right.

    With --right only that is taken back. A plugin never runs with fewer rights than it asks for, so it is stopped all the same, until its
    manifest asks for no more than it has and somebody grants it again.
    """
    with connect(state_dir) as client:
        after = client.call("revoke", plugin=plugin, by=operator(), rights=list(rights))
    if as_json:
        print_json(after)
    else:
        print_text(f"revoked; {plugin} is {after['state']}: {after['reason']}")
