"""``annexe grant``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from annexe.cli.options import as_json, check_runs, connect, operator, outcome, plugin_argument, state_option
from annexe.cli.show import print_rights
from annexe.cli.terminal import print_json, print_text

__all__ = ["grant"]


@click.command()
@plugin_argument
@click.option("--content", is_flag=True, help="Bind the grant to the plugin's content as it is now, not to its folder.")
@click.option("--versions", default="", metavar="RANGE", help="Only for versions in this range, for example '>=1,<2'.")
@click.option("--note", default="", help="Why, for the record.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@state_option
@as_json
def grant(plugin: str, content: bool, versions: str, note: str, yes: bool, state_dir: Path, as_json: bool) -> None:
    """Give a plugin the rights that it asks for.

    What plugin.toml asks for now and what each right is worth is shown first; a plugin that was started with another one is started
    afresh. A grant to the folder holds while the plugin asks for exactly these
    rights, whatever its code becomes; one to the content (--content) ends with the first change of a file. Either takes the place of
    an earlier one that is bound alike.
    """
    with connect(state_dir) as client:
        told = client.call("asks", plugin=plugin)
        bound = f"its content as it is now ({told['digest'][:25]}…)" if content else f"the folder {told['folder']}"
        if versions:
            bound += f", for versions {versions}"
        if not as_json:
            print_text(f"{told['id']} {told['version']}, to be bound to {bound}")
            print_rights(told)
            if told["changed"]:
                print_text(f"\nIts plugin.toml has changed since {plugin} was started: a grant starts it afresh.")
            for doubt in told["doubts"]:
                print_text(f"\nWarning: a grant alone will not let it start: {doubt}")
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("nobody is there to be asked: read what it asks for, then say --yes")
            click.confirm("\nGrant all of these?", abort=True)
        rights = [right["right"] for right in told["rights"]]
        digest = told["digest"] if content else None
        after = client.call("grant", plugin=plugin, rights=rights, digest=digest, by=operator(), note=note, versions=versions)
    if as_json:
        print_json(after)
    else:
        print_text(f"granted; {outcome(after, may_wait=True)}")
    check_runs(after, state_dir, may_wait=True)
