"""Fixtures for plugins' tests, there in every pytest session where annexe is installed.

They are about the plugin whose folder the test file is in: the nearest one above it that has a ``plugin.toml``. Nothing is imported before
a test asks for a fixture.

Source: docs/reference/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from annexe.host.sync import SyncHost
    from annexe.testing.plugin_runner import PluginRunner

__all__ = [
    "annexe_capabilities",
    "annexe_config",
    "annexe_contracts",
    "annexe_folder",
    "annexe_hooks",
    "annexe_host",
    "annexe_plugin",
    "annexe_services",
]


@pytest.fixture
def annexe_folder(request: pytest.FixtureRequest) -> Path:
    """Return the plugin's folder."""
    for folder in request.path.parents:
        if (folder / "plugin.toml").is_file():
            return folder
    raise pytest.UsageError(f"no folder above {request.path} has a plugin.toml; override the fixture annexe_folder to name one")


@pytest.fixture
def annexe_config() -> dict[str, Any]:
    """Return the plugin's configuration; override to give another."""
    return {}


@pytest.fixture
def annexe_capabilities() -> Sequence[Any]:
    """Return the application's capabilities; override to give some."""
    return ()


@pytest.fixture
def annexe_services() -> Mapping[str, object]:
    """Return what stands for other plugins' services in memory, by name; override to give some."""
    return {}


@pytest.fixture
def annexe_hooks() -> Mapping[str, Callable[[Any], Any]]:
    """Return what stands for other plugins at the hooks that this one defines, in memory, by name; override to give some."""
    return {}


@pytest.fixture
def annexe_contracts(annexe_folder: Path) -> Sequence[type[Any]]:
    """Return what the application opens: the contracts in ``contracts.py`` beside ``plugin.toml``; override to give others."""
    from annexe.contract.named import contracts_beside

    return contracts_beside(annexe_folder)


@pytest.fixture
def annexe_plugin(
    annexe_folder: Path,
    annexe_contracts: Sequence[type[Any]],
    annexe_config: dict[str, Any],
    annexe_capabilities: Sequence[Any],
    annexe_services: Mapping[str, object],
    annexe_hooks: Mapping[str, Callable[[Any], Any]],
) -> Iterator[PluginRunner]:
    """Run the plugin in memory, without a host; what it is given and gives is held against the contracts."""
    from annexe.testing.plugin_runner import PluginRunner

    more: dict[str, Any] = {"capabilities": annexe_capabilities, "services": annexe_services, "hooks": annexe_hooks}
    with PluginRunner(annexe_folder, contracts=annexe_contracts, config=annexe_config, **more) as runner:
        yield runner


@pytest.fixture
def annexe_host(
    annexe_folder: Path, annexe_contracts: Sequence[type[Any]], annexe_config: dict[str, Any], annexe_capabilities: Sequence[Any]
) -> Iterator[SyncHost]:
    """Run the plugin in a process of its own, under a host."""
    from annexe.manifest import load_manifest
    from annexe.testing.hosts import host_for

    config = {load_manifest(annexe_folder).manifest.id: annexe_config} if annexe_config else {}
    with host_for(annexe_folder, contracts=annexe_contracts, capabilities=annexe_capabilities, config=config) as host:
        yield host
