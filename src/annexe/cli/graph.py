"""``annexe graph``."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import click

from annexe.cli.graph_picture import as_dot, given_by, picture_of, requirement_text
from annexe.cli.graph_svg import as_svg
from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json, print_table, print_text

__all__ = ["graph"]


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "dot", "svg"]), default="text", show_default=True, help="What to make of it.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there, over what is there.")
@state_option
@as_json
def graph(form: str, output: Path | None, state_dir: Path, as_json: bool) -> None:
    """Show which plugins require which, in the order in which they start, and what is missing.

    Plugins of one wave need only those of the waves before it; one in no wave (-) may not start whatever it requires, and `annexe list`
    says why. DOT is for Graphviz; SVG is a picture that any browser shows.
    """
    with connect(state_dir) as client:
        told = client.call("graph")
    if output is None:
        _print(told, "json" if as_json else form)
        return
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        _print(told, "json" if as_json else form)
    try:
        output.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from error


def _print(told: dict[str, Any], form: str) -> None:
    match form:
        case "json":
            print_json(told)
        case "dot":
            click.echo(as_dot(picture_of(told)), nl=False)
        case "svg":
            click.echo(as_svg(picture_of(told)), nl=False)
        case _:
            _print_text(told)


def _print_text(told: dict[str, Any]) -> None:
    if not told["plugins"]:
        print_text("no plugins; `annexe status` says which folders the host looks into")
        return
    rows: list[tuple[object, ...]] = []
    for plugin in sorted(told["plugins"], key=lambda one: (one["wave"] is None, one["wave"], one["id"])):
        rows.append((plugin["wave"] or "-", plugin["id"], plugin["version"], plugin["state"], "", "", ""))
        rows += [
            ("", "", "", "", requirement_text(one), one["status"], given_by(one))
            for one in told["requirements"]
            if one["plugin"] == plugin["id"]
        ]
    print_table(("WAVE", "PLUGIN", "VERSION", "STATE", "REQUIRES", "", "GIVEN BY"), rows)
    if told["refused"]:
        print_text("\nRefused for what they require:")
    for one in told["refused"]:
        print_text(f"  {' '.join(one['reason'].split())}")
