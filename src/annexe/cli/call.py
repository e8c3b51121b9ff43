"""``annexe call``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from annexe.cli.options import as_json, connect, plugin_argument, state_option
from annexe.cli.terminal import print_json, safe
from annexe.errors import CallError, RejectedError
from annexe.host.advice import command

__all__ = ["call"]

_EVERY = "-"
_FAILED = ("failed", "skipped")


@click.command()
@plugin_argument
@click.argument("method")
@click.argument("arguments", metavar="[JSON]", default="[]")
@click.option("--deadline", "deadline_s", type=click.FloatRange(0.001, 600.0), metavar="SECONDS", help="The most it may take.")
@click.option("--key", help="The request's key, which plugins see as ctx.key.")
@click.option("--request", "request_id", metavar="ID", help="The request's id; by default a new one.")
@state_option
@as_json
def call(
    plugin: str,
    method: str,
    arguments: str,
    deadline_s: float | None,
    key: str | None,
    request_id: str | None,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Call a hook, an extension method or a service of a running plugin and print the result.

    ID is a plugin, or "-" for all of them, as the application would call. METHOD is for example chat.on_request or
    speech-to-text.transcribe, or svc.tokenizer.count for a service, where "-" stands for the first that offers it. JSON is an array of the
    arguments; anything else stands for the only one. A stream is an array of its items; a service's streams cannot be called here.
    With --json the request's id and each plugin's step are told too.
    """
    if "." in plugin:
        raise click.UsageError(f"{plugin!r} is no plugin's id; who is asked comes first, a plugin or '-' for all: annexe call - {plugin} …")
    params = {"method": method, "plugin": None if plugin == _EVERY else plugin, "args": _args(arguments)}
    with connect(state_dir) as client:
        try:
            told = client.call("call", timeout_s=660.0, **params, deadline_s=deadline_s, key=key, request=request_id)
        except RejectedError as refusal:
            if not as_json:
                code, status = refusal.data.get("reject_code"), refusal.data.get("status")
                click.echo(f"annexe: plugin {safe(str(refusal.plugin))} refused, code {safe(str(code))}, status {status}:", err=True)
            raise
    if as_json:
        print_json(told)
    else:
        print_json(told["value"])
        if told["outcome"] == "responded":
            click.echo("annexe: a plugin responded in place of what the hook was for", err=True)
    failed = [step for step in told["steps"] if step["outcome"] in _FAILED]
    for step in () if as_json else failed:
        click.echo(f"annexe: plugin {safe(step['plugin'])} {step['outcome']}: {safe(step['reason'])}", err=True)
    if failed:
        count = "one plugin" if len(failed) == 1 else f"{len(failed)} plugins"
        see = command(f"explain {told['request']}", state_dir)
        raise CallError(f"{count} did not take part; see: {see}", method=method)


def _args(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"expected JSON, got {text[:60]!r}: {error}", param_hint="JSON") from error
    return value if isinstance(value, list) else [value]
