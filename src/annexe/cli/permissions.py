"""``annexe permissions``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from annexe.cli.options import as_json, complete_plugin, connect, state_option
from annexe.cli.terminal import print_json, print_table, print_text
from annexe.host.advice import command

__all__ = ["permissions"]

_UNSEEN = "not observable: the kernel lets these through without asking the host; `annexe learn` sees their use while tests run"


@click.command()
@click.argument("plugin", metavar="[ID]", required=False, shell_complete=complete_plugin)
@click.option("--unused", is_flag=True, help="Only rights that were granted and never used since.")
@state_option
@as_json
def permissions(plugin: str | None, unused: bool, state_dir: Path, as_json: bool) -> None:
    """Show what plugins may do: asked for, granted by whom and bound to what, used, and refused lately.

    Without ID, of all plugins in short. A use is known to the minute, and of rights that the host serves itself (kv, cap, network); files,
    variables, programs, devices and the private folder are the kernel's, and their use cannot be observed.
    """
    with connect(state_dir) as client:
        ids = [plugin] if plugin is not None else [one["id"] for one in client.call("list")]
        told = [client.call("permissions", plugin=one) for one in ids]
    if unused:
        _show_unused(told, as_json=as_json)
    elif as_json:
        print_json(told[0] if plugin is not None else told)
    elif plugin is not None:
        _show(told[0], state_dir)
    else:
        rows = [(one["id"], *_cells(right)) for one in told for right in one["rights"]]
        _print_rights(("ID", *_COLUMNS), rows, otherwise="no plugin asks for any right")


_COLUMNS = ("RIGHT", "GRANTED", "LAST USED", "WORTH")


def _cells(right: dict[str, Any]) -> tuple[str, str, str, str]:
    return right["right"], "yes" if right["granted"] else "no", _last_used(right), right["worth"]


def _last_used(right: dict[str, Any]) -> str:
    if right["use"] == "unused":
        return "never since granted" if right["last_used"] else "never"
    return str(right["last_used"] or right["use"])


def _print_rights(columns: tuple[str, ...], rows: list[Any], *, otherwise: str) -> None:
    if rows:
        print_table(columns, rows)
    else:
        print_text(otherwise)


def _show(told: dict[str, Any], state_dir: Path) -> None:
    print_text(f"{told['id']} {told['version']} is {told['state']}: {told['reason']}")
    print_text("\nRights it asks for:")
    rows = [(*_cells(right), right["why"]) for right in told["rights"]]
    _print_rights((*_COLUMNS, "WHY"), rows, otherwise="  none")
    print_text("\nGranted:")
    if told["source"] == "manifest":
        print_text('  all that it asks for, by nobody: grants="manifest"')
    elif told["source"] != "stored":
        print_text(f"  by the policy file {told['source']}")
    elif not told["grants"]:
        print_text("  nothing")
    for grant in told["grants"]:
        print_text(_grant_lines(grant))
    print_text("\nRefused lately:")
    if not told["denied"]:
        print_text("  nothing")
    for one in told["denied"]:
        print_text(_denial_lines(one))
    if lines := sorted({line for one in told["denied"] for line in one["manifest_line"].split("\n") if line}):
        print_text("\nTo ask for that, in plugin.toml under [permissions]:")
        for line in lines:
            print_text(f"  {line}")
        if told["source"] == "stored":
            print_text(f"then: {command('grant ' + told['id'], state_dir)}")


def _grant_lines(grant: dict[str, Any]) -> str:
    bound = f"content {grant['digest'][:25]}…" if grant["bound_to"] == "content" else f"folder {grant['folder']}"
    versions = f", versions {grant['versions']}" if grant["versions"] else ""
    note = f" ({grant['note']})" if grant["note"] else ""
    lapsed = "" if grant["holds"] else f"\n    holds no longer: {grant['lapsed']}"
    return f"  {grant['at']} by {grant['by']}, to the {bound}{versions}{note}\n    {', '.join(grant['rights']) or 'nothing'}{lapsed}"


def _denial_lines(one: dict[str, Any]) -> str:
    times = f"{one['count']} times, last {one['time']}" if one["count"] > 1 else one["time"]
    who = "by the host" if one["by"] == "host" else "by the sandbox, as the plugin tells it"
    why = "" if one["manifest_line"] else f"\n    {one['reason']}"
    return f"  {times}, {who}: {one['right'] or _line_kind(one['manifest_line'])}{why}"


def _line_kind(line: str) -> str:
    return line.partition("=")[0].strip()


def _show_unused(told: list[dict[str, Any]], *, as_json: bool) -> None:
    granted = [(one["id"], right) for one in told for right in one["rights"] if right["granted"]]
    idle = [(plugin, right) for plugin, right in granted if right["use"] == "unused"]
    unseen = [{"plugin": plugin, "right": right["right"]} for plugin, right in granted if right["use"] == "not observable"]
    if as_json:
        unused = [{"plugin": plugin, "right": right["right"], "granted_at": right["granted_at"]} for plugin, right in idle]
        print_json({"unused": unused, "not_observable": unseen})
        return
    rows = [(plugin, right["right"], right["granted_at"] or "no use on record") for plugin, right in idle]
    _print_rights(("ID", "RIGHT", "UNUSED SINCE"), rows, otherwise="every right whose use can be observed was used")
    if unseen:
        print_text(f"\n{_UNSEEN}:")
        for one in unseen:
            print_text(f"  {one['plugin']}: {one['right']}")
