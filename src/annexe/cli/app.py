"""The ``annexe`` command itself: finds subcommands by name, and turns errors into text and exit codes.

A subcommand's module is imported when it is used, never before: `annexe list` must not wait for what `annexe run` needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, final

import click

from annexe import __version__
from annexe.cli.exit_codes import INTERRUPTED, exit_code_of
from annexe.cli.terminal import error_text, json_text
from annexe.errors import AnnexeError

__all__ = ["COMMANDS", "cli", "run"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("run", "run"),
    "status": ("status", "status"),
    "list": ("list", "list_plugins"),
    "show": ("show", "show"),
    "logs": ("logs", "logs"),
    "events": ("events", "events"),
    "call": ("call", "call"),
    "explain": ("explain", "explain"),
    "graph": ("graph", "graph"),
    "permissions": ("permissions", "permissions"),
    "grant": ("grant", "grant"),
    "revoke": ("revoke", "revoke"),
    "enable": ("lifecycle", "enable"),
    "disable": ("lifecycle", "disable"),
    "start": ("lifecycle", "start"),
    "stop": ("lifecycle", "stop"),
    "restart": ("lifecycle", "restart"),
    "reload": ("lifecycle", "reload"),
    "attach": ("attach", "attach"),
    "config": ("config", "config"),
    "scan": ("scan", "scan"),
    "metrics": ("metrics", "metrics"),
    "schema": ("schema", "schema"),
    "new": ("new", "new"),
    "dev": ("dev", "dev"),
    "learn": ("learn", "learn"),
    "doctor": ("doctor", "doctor"),
    "attack": ("attack", "attack"),
    "completion": ("completion", "completion"),
}
"""By command: the module in this package and the name in it."""


@final
class _LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        home = COMMANDS.get(cmd_name)
        if home is None:
            return None
        command: click.Command = getattr(import_module(f"annexe.cli.{home[0]}"), home[1])
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="annexe", message="%(prog)s %(version)s")
def cli() -> None:
    """Run other people's plugins next to your own code, and operate the host that runs them.

    All commands but run, new, dev, learn, schema, doctor, attack and completion talk to a running host, over the control socket in its
    state directory.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: Without the command's own name; None: of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result: Any = cli.main(given, prog_name="annexe", standalone_mode=False)
        sys.stdout.flush()
    except AnnexeError as error:
        as_json = "--json" in given
        click.echo(json_text({"error": error.as_dict()}) if as_json else error_text(error.message), err=True)
        return exit_code_of(error)
    except click.exceptions.Abort:
        click.echo("annexe: given up", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        if "--json" in given:
            click.echo(json_text({"error": {"code": "usage", "message": error.format_message(), "plugin": None, "data": {}}}), err=True)
        else:
            error.show()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0
