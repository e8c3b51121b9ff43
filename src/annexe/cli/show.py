"""``annexe show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from annexe.cli.graph_picture import given_by, requirement_text
from annexe.cli.options import as_json, connect, plugin_argument, state_option
from annexe.cli.terminal import json_text, print_json, print_table, print_text

__all__ = ["print_rights", "show"]


@click.command()
@plugin_argument
@state_option
@as_json
def show(plugin: str, state_dir: Path, as_json: bool) -> None:
    """Show a plugin: state and history, rights and limits with what each is worth, isolation receipt, configuration."""
    with connect(state_dir) as client:
        told = client.call("show", plugin=plugin)
    if as_json:
        print_json(told)
        return
    _print_head(told)
    print_rights(told)
    _print_limits(told)
    _print_usage(told["usage"], of_first=len(told["instances"]) > 1)
    _print_isolation(told)
    print_text(f"\nConfiguration: {json_text(told['config'])}")
    print_text("\nHistory:")
    for change in told["history"]:
        print_text(f"  {change['time']}  {change['state']}: {_one_line(change['reason'])}")


def print_rights(told: dict[str, Any]) -> None:
    """Print the rights that a plugin asks for, and what each is worth."""
    if not told["rights"]:
        print_text("\nRights: it asks for none")
        return
    print_text("\nRights it asks for:")
    print_table(
        ("RIGHT", "GRANTED", "WORTH", "WHY"),
        [(right["right"], "yes" if right["granted"] else "no", right["worth"], right["why"]) for right in told["rights"]],
    )


def _print_head(told: dict[str, Any]) -> None:
    name = f" ({told['name']})" if told["name"] else ""
    print_text(f"{told['id']} {told['version']}{name}".rstrip())
    if told["description"]:
        print_text(_one_line(told["description"]))
    print_text()
    reason, problems = told["reason"], told["problems"] or ""
    if "\n" in problems:
        reason = reason.split("\n")[0].removesuffix(":")  # they are listed below
    since = f" since {told['since']}" if told["since"] else ""
    print_text(f"state:     {told['state']}{since}: {_one_line(reason)}")
    print_text(f"enabled:   {'yes' if told['enabled'] else 'no'}; starts {told['starts']}, failures in a row {told['failures']}")
    for hook, seconds in told["breakers"].items():
        print_text(f"breaker:   open at {hook}: it failed too often there, and is passed over for {seconds:.0f} s more")
    print_text(f"pid:       {told['pid'] or '-'} ({told['strategy']}, {told['start'] or '-'})")
    if told["attached"]:
        print_text("ATTACHED:  that process was started by hand; the installed plugin is back when it ends, or is let go")
    if len(told["instances"]) > 1:
        each = ", ".join(f"{one['pid']} ({one['in_flight']} in flight)" for one in told["instances"])
        print_text(f"instances: {len(told['instances'])}: {each}")
    print_text(f"isolation: {told['level'] or '-'}; its manifest requires {told['requires_level'] or 'none'}")
    print_text(f"folder:    {told['folder']}")
    print_text(f"content:   {told['digest'] or '-'}")
    print_text(f"provides:  {', '.join(_provided(told)) or 'nothing'}")
    for hook in told["defines"]:
        print_text(f"defines:   {_defined(hook)}")
    for name, why in told["passed_over"].items():
        print_text(f"idle:      it is not called at {name}: {why}")
    for one in told["requires"]:
        print_text(f"requires:  {requirement_text(one)}: {one['status']} ({given_by(one)})")
    if problems and problems not in reason:
        print_text(f"\nProblems:\n{problems}")


def _defined(hook: dict[str, Any]) -> str:
    what = f"hook {hook['hook']} ({hook['kind']}, revision {hook['revision']})"
    if not hook["open"]:
        return f"{what}, which is not its own as long as it is not granted, or another plugin defines it"
    by = f"implemented by {', '.join(hook['implemented_by']) or 'none'}"
    return "; ".join([f"{what}: {by}", *(f"not by {plugin}: {why}" for plugin, why in hook["passed_over"].items())])


def _provided(told: dict[str, Any]) -> list[str]:
    services = [f"service {name} {version}" for name, version in told["services"].items()]
    return [*told["hooks"], *told["extensions"], *services, *(f"topic {name}" for name in told["topics"])]


def _print_limits(told: dict[str, Any]) -> None:
    if told["limits"]:
        print_text("\nLimits:")
        rows = [(limit["name"], _with_unit(limit["name"], limit["value"]), limit["worth"], limit["why"]) for limit in told["limits"]]
        print_table(("LIMIT", "VALUE", "WORTH", "WHY"), rows)


def _print_usage(used: dict[str, Any] | None, *, of_first: bool) -> None:
    if used is None:
        return
    rows = [(name, _with_unit(name, value)) for name, value in _amounts(used) if value is not None]
    over = f"; over its limit: {', '.join(used['over'])}" if used["over"] else ""
    print_text(f"\nUsed{' by the first instance' if of_first else ''} ({used['time']}{over}):")
    print_table(("WHAT", "NOW"), rows)


def _amounts(used: dict[str, Any]) -> list[tuple[str, Any]]:
    cores = used["cpu_cores"]
    return [
        ("memory", used["memory_bytes"]),
        ("cpu", None if cores is None else f"{cores:.2f}"),
        ("processes", used["processes"]),
        ("threads", used["threads"]),
        ("open-files", used["open_files"]),
        ("disk", used["disk_bytes"]),
        ("connections", used["connections"]),
    ]


def _print_isolation(told: dict[str, Any]) -> None:
    text = told["receipt_text"]
    if text is None:
        print_text("\nIsolation: it does not run; what rights and limits are worth is what they would be here")
        return
    print_text("\nIsolation receipt:")
    print_text("\n".join(f"  {line}" for line in text.split("\n")))


def _with_unit(name: str, value: Any) -> str:
    if name.endswith("-timeout"):
        return f"{value:g} s"
    if name not in ("memory", "disk"):
        return str(value)
    for unit in ("B", "KiB", "MiB"):
        if value % 1024 or not value:
            return f"{value} {unit}"
        value //= 1024
    return f"{value} GiB"


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))
