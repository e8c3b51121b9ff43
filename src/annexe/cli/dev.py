"""``annexe dev``: run a plugin in a host, and take up what is saved.

A plugin that runs is replaced without losing a call; what is broken is told with file and line, mended by the next save, and leaves what
runs as it was. Everything begins anew where nothing runs, and when the contracts have changed. Ctrl-C stops the plugin in order.

Source: features DX3, LC10; docs/reference/cli.md; ADR-0057.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, final

import click
from watchfiles import Change, DefaultFilter, awatch

from annexe.cli.options import python_option
from annexe.cli.terminal import safe
from annexe.contract.named import BESIDE, contracts_beside, contracts_named
from annexe.errors import AnnexeError, ContractError
from annexe.host.host import Host
from annexe.host.plugin_handle import PluginHandle
from annexe.host.temporary_state import temporary_state
from annexe.manifest.load import read_manifest
from annexe.supervision.state import PluginState

__all__ = ["dev"]

_DEBOUNCE_MS = 50
_AGAIN = re.compile(r"; failure \d+, started again in [\d.]+ s\Z")
_WAITING = "waiting for a change"
_COLOURS = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}


@click.command()
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--contracts", multiple=True, metavar="MODULE:SPEC", help=f"What the host opens; by default what PATH/{BESIDE} has.")
@click.option(
    "--plugins",
    "others",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Run the plugins in this folder beside it, such as those that it requires; may be given several times.",
)
@python_option
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Keep state here; by default it is gone afterwards.")
def dev(path: Path, contracts: tuple[str, ...], others: tuple[Path, ...], pythons: tuple[Path, ...], state: Path | None) -> None:
    """Run the plugin in the folder PATH, and reload it whenever a file of it is saved.

    It is granted everything it asks for, and so are plugins beside it: for development alone.
    """
    with contextlib.ExitStack() as stack:
        kept = state or stack.enter_context(temporary_state("annexe-dev-"))
        kept.chmod(0o700) if kept.exists() else None
        logger, once = logging.getLogger("annexe.host"), _OnceFilter()
        logger.addFilter(once)
        stack.callback(logger.removeFilter, once)
        session = _Session(path.resolve(), contracts, others=others, pythons=pythons, state=kept)
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(session.run())
        _say("stopped")


@final
class _OnceFilter(logging.Filter):
    """Lets each warning through once: a host says the same at each start, and here there is one after every save."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._told
        self._told.add(text)
        return is_new or record.levelno != logging.WARNING


@final
class _Session:
    """One ``annexe dev``, from start to Ctrl-C."""

    def __init__(self, folder: Path, contracts: Sequence[str], *, others: Sequence[Path], pythons: Sequence[Path], state: Path) -> None:
        self._folder = folder
        self._names = contracts
        self._others = others
        self._pythons = pythons
        self._state = state
        self._contract_files = {BESIDE, *(f"{name.partition(':')[0].rpartition('.')[2]}.py" for name in contracts)}
        self._up: PluginHandle | None = None  # while it runs

    async def run(self) -> None:
        """Run the plugin again and again, until cancelled."""
        me = asyncio.current_task()
        assert me is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
        _say(f"watching {self._folder}; Ctrl-C stops", bold=True)
        changes = awatch(self._folder, watch_filter=DefaultFilter(), debounce=_DEBOUNCE_MS, step=_DEBOUNCE_MS, recursive=True)
        async with aclosing(changes):
            while True:
                running = asyncio.create_task(self._run_once())
                try:
                    names = await self._changed(changes)
                    while self._up is not None and self._contract_files.isdisjoint(names):
                        await self._reload(self._up, names)
                        names = await self._changed(changes)
                finally:
                    running.cancel()
                    await asyncio.wait([running])
                _say(f"{_listed(names)} changed: starting again", bold=True)

    @staticmethod
    async def _changed(changes: AsyncGenerator[set[tuple[Change, str]], None]) -> list[str]:
        """Wait for a change; return the names of the files."""
        return sorted({Path(path).name for _, path in await anext(changes)})

    @staticmethod
    async def _reload(plugin: PluginHandle, names: Sequence[str]) -> None:
        """Have the plugin as it is now take over from the one that runs."""
        _say(f"{_listed(names)} changed: reloading", bold=True)
        try:
            await plugin.reload()
        except AnnexeError as error:
            _complain(error.message, then=f"{plugin.id} {plugin.version} goes on as it was; waiting for a change")
        else:
            _is_up(plugin)

    async def _run_once(self) -> None:
        """Run the plugin until cancelled; tell what keeps it from running, and return."""
        try:
            manifest = read_manifest(self._folder)
            contracts = self._contracts()
        except AnnexeError as error:
            _complain(error.message)
            return
        except Exception as error:  # noqa: BLE001 - the contracts' own module may raise anything
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (at.filename, at.lineno)
            _complain(f"the contracts cannot be imported: {type(error).__name__}: {error} (at {where[0]}:{where[1]})")
            return
        host = Host(
            plugins=[self._folder, *self._others],
            contracts=contracts,
            grants="manifest",
            pythons=self._pythons,
            state_dir=self._state,
            name="annexe dev",
        )
        following = asyncio.create_task(_follow(host, manifest.id))
        try:
            async with host:
                plugin = host.plugin(manifest.id)
                if plugin.state is PluginState.QUARANTINED:
                    await plugin.restart()  # who saved a file had a look at it
                if _is_up(plugin):
                    self._up = plugin
                    await asyncio.Event().wait()
        except AnnexeError as error:
            _complain(error.message)
        finally:
            self._up = None
            # The log ends when the host is closed, and what was said until then is still to be shown.
            await asyncio.wait([following], timeout=1.0)
            following.cancel()

    def _contracts(self) -> Sequence[type[Any]]:
        if self._names:
            return [contract for name in self._names for contract in contracts_named(name)]
        found = contracts_beside(self._folder)
        if not found:
            raise ContractError(
                f"it is not known what the application opens: there is no {self._folder / BESIDE}, and --contracts was not given. "
                f"Name the classes that the application passes to Host(contracts=[…]): annexe dev {self._folder.name} --contracts "
                "module:Spec. A manifest names hooks, but neither their kinds nor their types."
            )
        return found


async def _follow(host: Host, plugin: str) -> None:
    """Show the plugin's log until the host is closed; begins before the plugin does."""
    while not hasattr(host, "logs"):  # noqa: ASYNC110 - there from the first steps of opening on; nothing tells
        await asyncio.sleep(0.01)
    records: AsyncIterator[Mapping[str, Any]]
    async with aclosing(host.logs.follow(plugin)) as records:
        async for record in records:
            _show(record)


def _show(record: Mapping[str, Any]) -> None:
    level, source = str(record["level"]), str(record["source"])
    fields = " ".join(f"{name}={value!r}" for name, value in record["fields"].items())
    time = str(record["time"])[11:23]
    shown = level if source == "log" else source
    # Here nobody starts it again but who saves a file.
    message = _AGAIN.sub("", record["message"]) if source == "host" else record["message"]
    text = safe(f"{time} {shown:<7} {message}{'  ' + fields if fields else ''}")
    click.echo(click.style(text, fg=_COLOURS.get(level)))


def _is_up(plugin: PluginHandle) -> bool:
    """Tell how the plugin came up; False: it did not, and trying the same code again would help nobody."""
    if plugin.state is PluginState.READY:
        granted = ", ".join(sorted(plugin.granted)) or "nothing"
        _say(f"{plugin.id} {plugin.version} is ready (pid {plugin.pid}); granted: {granted}", bold=True)
        return True
    if plugin.state is PluginState.STOPPED:
        _say(f"{plugin.id} {plugin.version} starts at its first call", bold=True)
        return True
    reason = plugin.reason.rpartition("; failure ")[0] or plugin.reason
    needs_others = "it requires " in reason or "[provides.hook-specs]" in reason
    _complain(reason, then=_WAITING + ("; to run others beside it: annexe dev … --plugins DIR" if needs_others else ""))
    return False


def _say(text: str, *, bold: bool = False) -> None:
    click.echo(click.style(f"annexe dev: {safe(text)}", bold=bold))
    sys.stdout.flush()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


def _complain(text: str, *, then: str = _WAITING) -> None:
    """Show an error; its lines stay lines."""
    for line in text.splitlines():
        click.echo(click.style(f"annexe dev: {safe(line)}", fg="red"))
    _say(then)
