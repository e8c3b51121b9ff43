"""``annexe run``: a ready-made host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from annexe.cli.events import event_line
from annexe.cli.options import python_option, state_option
from annexe.cli.terminal import print_text
from annexe.contract.named import contracts_named
from annexe.errors import ContractError
from annexe.host.advice import command
from annexe.manifest.model import SANDBOX_LEVELS

if TYPE_CHECKING:
    from annexe.host.host import Host
    from annexe.record import Event

__all__ = ["run"]


@click.command()
@click.option(
    "-p", "--plugins", "folders", multiple=True, required=True, metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True), help="Folder of plugins, or one plugin; may be given several times.",
)  # fmt: skip
@click.option(
    "-c", "--contracts", "contracts", multiple=True, metavar="MODULE:SPEC",
    help="What to open: a hook spec, an extension point, a list of them, or all of a module; looked for in the current folder too.",
)  # fmt: skip
@click.option(
    "-g", "--grants", default="stored", show_default=True, metavar="stored|manifest|FILE",
    help="Where rights come from: what was granted with `annexe grant`, all that is asked for (for development), or a policy file.",
)  # fmt: skip
@click.option(
    "--isolation", default="none", show_default=True, type=click.Choice(SANDBOX_LEVELS),
    help="The lowest sandbox level at which a plugin may run.",
)  # fmt: skip
@python_option
@click.option("--attach", is_flag=True, help="Let processes take the place of plugins with `annexe attach`, as --grants manifest does.")
@click.option("--production", is_flag=True, help="Refuse what is for development.")
@click.option("--name", default="annexe run", show_default=True, help="Name of the host, as told to plugins.")
@state_option
def run(
    folders: Sequence[Path],
    contracts: Sequence[str],
    grants: str,
    isolation: str,
    pythons: Sequence[Path],
    attach: bool,
    production: bool,
    name: str,
    state_dir: Path,
) -> None:
    """Run a host: find the plugins, start them, keep them running, and answer the other commands until SIGTERM or Ctrl-C.

    Plugins whose hooks or extension points are not opened with --contracts stay blocked, and say which is missing.
    """
    from annexe.host.host import Host
    from annexe.host.loop_thread import fastest_loop

    if grants not in ("stored", "manifest") and not Path(grants).is_file():
        raise click.BadParameter(f"{grants!r} is neither 'stored' nor 'manifest' nor a file", param_hint="--grants")
    if production and grants == "manifest":
        raise click.BadParameter("'manifest' is for development; with --production grant with `annexe grant ID`", param_hint="--grants")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    host = Host(
        plugins=list(folders),
        contracts=_contracts(contracts),
        grants=grants,
        isolation=isolation,
        pythons=pythons,
        production=production,
        attach=attach,
        name=name,
        state_dir=state_dir,
    )
    with asyncio.Runner(loop_factory=fastest_loop) as runner:
        runner.run(_serve(host, state_dir))


async def _serve(host: Host, state_dir: Path) -> None:
    """Run the host until a signal comes, also while it is still starting."""
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows; there Ctrl-C is an exception
            loop.add_signal_handler(number, asked_to_stop.set)
    _say(f"annexe: starting the host, pid {os.getpid()}, state in {state_dir}")
    opening = loop.create_task(host.open())
    stopping = loop.create_task(asked_to_stop.wait())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        await asyncio.wait([opening])
    if opening.cancelled():
        stopping.cancel()
        _say("annexe: called off while starting")
        return
    try:
        opening.result()
        _print_start(host)
        unsubscribe = host.events.subscribe(_print_event)
        await stopping
        _say("annexe: stopping")
        await host.close()
        unsubscribe()
    finally:
        stopping.cancel()
    _say("annexe: stopped")


def _print_start(host: Host) -> None:
    for event in host.events.latest(1000):
        _print_event(event)
    if levels := Counter(str(plugin.receipt.level) for plugin in host.plugins if plugin.receipt is not None):
        below = "" if set(levels) == {"full"} else "; what is missing here says: annexe doctor"
        _say(f"annexe: isolation: {', '.join(f'{count} at {level}' for level, count in sorted(levels.items()))}{below}")
    ready = sum(plugin.state.takes_calls for plugin in host.plugins)
    _say(f"annexe: running; {ready} of {len(host.plugins)} plugins are ready. Try: {command('list', host.state_dir.path)}")


def _print_event(event: Event) -> None:
    told = event.as_dict()
    # An event has no line breaks; a list of problems had some. Indented, so that no line can pass for another event.
    reason, *problems = event.reason.split("\\n  - ")
    line = event_line(told["time"], event.plugin, str(event.kind), reason, told["facts"])
    _say("\n".join([line, *(f"    - {problem}" for problem in problems)]))


def _say(text: str) -> None:
    # Whoever reads our output may be gone; the host goes on, and ends in order all the same.
    with contextlib.suppress(BrokenPipeError):
        print_text(text)


def _contracts(names: Sequence[str]) -> list[Any]:
    try:
        return [contract for name in names for contract in contracts_named(name)]
    except ContractError as error:
        raise click.BadParameter(error.message, param_hint="--contracts") from error
