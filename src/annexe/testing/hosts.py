"""A real host for one plugin, with its state in a folder that is gone afterwards.

Source: docs/reference/testing.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from annexe.errors import ActivationError
from annexe.host.host import Host
from annexe.host.plugin_handle import PluginView
from annexe.host.sync import SyncHost
from annexe.host.temporary_state import temporary_state
from annexe.supervision.state import PluginState
from annexe.testing.learning import session

__all__ = ["async_host_for", "host_for"]


@contextmanager
def host_for(plugin: str | Path, *, contracts: Sequence[type[Any]] = (), **settings: Any) -> Iterator[SyncHost]:
    """Run a plugin in a process of its own, under a ``SyncHost`` that grants all it asks for.

    Args:
        plugin: Its folder, or a folder of plugins.
        contracts: What the host opens.
        settings: More of ``Host``'s arguments; they win.

    Raises:
        ActivationError: A plugin did not become ready; the text says why.
    """
    with temporary_state("annexe-test-") as state, SyncHost(**_settings(plugin, contracts, state, settings)) as host:
        _check_ready(host.plugins)
        yield host


@asynccontextmanager
async def async_host_for(plugin: str | Path, *, contracts: Sequence[type[Any]] = (), **settings: Any) -> AsyncIterator[Host]:
    """Do what ``host_for`` does, under a ``Host`` in the running loop."""
    with temporary_state("annexe-test-") as state:
        async with Host(**_settings(plugin, contracts, state, settings)) as host:
            _check_ready(host.plugins)
            yield host


def _settings(plugin: str | Path, contracts: Sequence[type[Any]], state: Path, settings: dict[str, Any]) -> dict[str, Any]:
    learn = session()  # below `annexe learn`
    learning = {"grants": "manifest", "strategy": "process", "unsafe_learning": learn.learning} if learn is not None else {}
    return {"plugins": plugin, "contracts": contracts, "grants": "manifest", "state_dir": state, "control": False, **settings, **learning}


def _check_ready(plugins: Sequence[PluginView]) -> None:
    for plugin in plugins:
        is_lazy = plugin.manifest is not None and plugin.manifest.runtime.start == "lazy"
        if plugin.state is not PluginState.READY and not (is_lazy and plugin.state is PluginState.STOPPED):
            raise ActivationError(f"plugin {plugin.id!r} is {plugin.state}: {plugin.reason}", plugin=plugin.id, state=str(plugin.state))
