"""``annexe attach``: have a process that is started by hand take the place of a plugin, for as long as it runs.

The host invites, and this connection holds the invitation: when it ends, for whatever reason, the installed plugin is back.

Source: features LC15 and WP8; docs/how-to/attach-a-debugger.md.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import click

from annexe.cli.options import as_json, connect, plugin_argument, state_option
from annexe.cli.terminal import json_text, safe
from annexe.errors import AnnexeError, HostError
from annexe.host.control_client import ControlClient
from annexe.host.control_wire import error_from_dict

__all__ = ["attach"]

_BACK_S = 30.0
_NEWS_S = 0.3  # what has just happened may not have been told yet


@click.command()
@plugin_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@state_option
@as_json
def attach(plugin: str, command: tuple[str, ...], state_dir: Path, as_json: bool) -> int:
    """Have a process that you start, under a debugger, take the place of a plugin in a running host.

    It takes the plugin's calls, with its configuration and rights, for as long as it runs, and no time-out ends a call meanwhile. No
    sandbox stands around it. Without COMMAND this says what to run elsewhere, and tells what becomes of it; Ctrl-C lets it go. With COMMAND
    that is run, for example `annexe attach ID -- python -m pdb plugin.py`, and its exit status is this command's.
    """
    with connect(state_dir) as client:
        told = client.stream("attach", timeout_s=None, plugin=plugin)
        invited = next(told)
        if command:
            return _run(client, command, invited, told, as_json=as_json)
        _show(invited, as_json=as_json)
        try:
            for news in told:
                _show(news, as_json=as_json)
        except KeyboardInterrupt:
            if not as_json:
                click.echo(f"annexe: let go; the installed {safe(plugin)} takes its calls")
            raise
    return 0


def _run(client: ControlClient, words: Sequence[str], invited: dict[str, Any], told: Iterator[dict[str, Any]], *, as_json: bool) -> int:
    """Run a command with the invitation; return its exit status.

    Raises:
        HostError: It cannot be started.
        AnnexeError: It could not attach, and ended as if nothing was wrong.
    """
    # Ctrl-C is the command's: in a debugger it stops the program, and does not end it.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        child = subprocess.Popen(words, env={**os.environ, "ANNEXE_ATTACH": invited["invitation"]})  # noqa: S603 - the user's own command
    except OSError as error:
        raise HostError(f"cannot run {words[0]!r}: {error.strerror}", reason="command") from error
    else:
        following = _Following(told, as_json=as_json)
        status = child.wait()
        following.end(client)
    finally:
        signal.signal(signal.SIGINT, before)
    if following.error is not None and status == 0:
        raise following.error
    return status if status >= 0 else 128 - status


@final
class _Following(threading.Thread):
    """Tells what becomes of an invitation while a command runs, on standard error: the other one is the command's."""

    def __init__(self, told: Iterator[dict[str, Any]], *, as_json: bool) -> None:
        super().__init__(daemon=True)
        self.error: AnnexeError | None = None
        self._told = told
        self._as_json = as_json
        self._has_come = self._is_left = False
        self.start()

    def run(self) -> None:
        try:
            for news in self._told:
                self._has_come = True
                _show(news, as_json=self._as_json, err=True)
        except AnnexeError as error:
            self.error = None if self._is_left else error
        except ValueError:  # hung up from the other thread
            pass

    def end(self, client: ControlClient) -> None:
        """The command has ended: wait until the installed plugin is back, if it ever was away."""
        self.join(_BACK_S if self._has_come else _NEWS_S)
        self._is_left = True
        client.hang_up()
        self.join(_BACK_S)


def _show(news: dict[str, Any], *, as_json: bool, err: bool = False) -> None:
    """Print one piece of news.

    Raises:
        AnnexeError: It is that nothing could attach.
    """
    if as_json:
        click.echo(json_text(news), err=err)
    elif news["state"] != "failed":
        click.echo("\n".join(_in_words(news)), err=err)
    sys.stderr.flush() if err else sys.stdout.flush()
    if news["state"] == "failed":
        raise error_from_dict(news["error"])


def _in_words(news: dict[str, Any]) -> list[str]:
    plugin, state = safe(news["plugin"]), news["state"]
    if state == "invited":
        file = shlex.quote(news["file"]) if news["file"] else "PROGRAM"
        return [
            f"annexe: {plugin} waits {news['valid_s'] / 60:g} minutes for a process to take its place. Run this elsewhere, or have your",
            "editor set the variable; it is good for once. Ctrl-C here lets go.",
            "",
            f"ANNEXE_ATTACH={shlex.quote(news['invitation'])} {'python ' if news['file'] else ''}{safe(file)}",
            "",
        ]
    if state == "coming":
        return [f"annexe: process {news['pid']} has come, and takes over once it is ready"]
    if state == "attached":
        return [f"annexe: process {news['pid']} takes the calls of {plugin}, WITHOUT ANY SANDBOX; no time-out ends a call meanwhile"]
    if state == "detached":
        return [f"annexe: process {news['pid']} is detached: {safe(news['reason'])}"]
    return [f"annexe: the installed {plugin} is {safe(news['plugin_state'])}: {safe(news['reason'])}"]
