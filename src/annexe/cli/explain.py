"""``annexe explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import json_text, print_json, print_table, print_text
from annexe.errors import HostError

__all__ = ["explain"]


@click.command()
@click.argument("request_id", metavar="[REQUEST]", required=False)
@click.option("--latest", "count", type=click.IntRange(1, 1000), metavar="N", help="List the ids of the last N requests instead.")
@state_option
@as_json
def explain(request_id: str | None, count: int | None, state_dir: Path, as_json: bool) -> None:
    """Show what plugins did to a request: who ran, how long, what each changed, who was skipped and why.

    Without REQUEST: the last one.
    """
    with connect(state_dir) as client:
        if count is not None:
            ids = client.call("requests", count=count)
            print_json(ids) if as_json else print_text("\n".join(ids))
            return
        told = client.call("explain", request=request_id or _last(client.call("requests", count=1)))
    if as_json:
        print_json(told)
        return
    print_text(f"request {told['request']}, {told['time']}")
    rows = [
        (
            step["position"],
            f"  {step['plugin']}" if "within" in step else step["plugin"],
            step["hook"],
            step["outcome"],
            f"{step['duration_ms']:.2f} ms",
            _what(step),
        )
        for step in told["steps"]
    ]
    print_table(("", "PLUGIN", "HOOK", "OUTCOME", "TIME", "WHAT"), rows)
    if told["steps_dropped"]:
        print_text(f"{told['steps_dropped']} further steps were not kept")
    for absent in told["absent"]:
        print_text(f"not there, though {absent['hook']} has them in its order: {', '.join(absent['names'])}")


def _last(ids: list[str]) -> str:
    if not ids:
        raise HostError("this host has seen no request yet")
    return ids[0]


def _what(step: dict[str, Any]) -> str:
    if step["reason"]:
        return str(step["reason"])
    if "changes" in step:
        more = " …" if step["changes_cut"] else ""
        return "; ".join(json_text(change) for change in step["changes"]) + more
    return json_text(step["value"]) if "value" in step else ""
