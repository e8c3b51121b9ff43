"""Folders that plugins of other users can reach, and plugins made of a few lines."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from annexe.launch import LaunchRequest, ProcessStrategy, UidAllocator, plugin_environment
from annexe.launch.removal import remove_tree
from tests.support.tools import level_here
from tests.support.uids import claim_uids

IS_ROOT = os.geteuid() == 0
TEST_UIDS = claim_uids()

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only a root host gives plugins users of their own")
needs_namespaces = pytest.mark.skipif(level_here() != "full", reason="bubblewrap is missing, or may not make namespaces here")
needs_other = pytest.mark.skipif(IS_ROOT, reason="about hosts that are not root")

MakePlugin = Callable[..., LaunchRequest]
OpenStrategy = Callable[..., AbstractAsyncContextManager[ProcessStrategy]]


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """Give a folder that every user can pass: pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="annexe-tests-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    remove_tree(folder)


@pytest.fixture(scope="session")
def cache_dir(open_folder: Path) -> Path:
    """Give one cache for all tests: the runtime folder is built once."""
    return open_folder / "cache"


@pytest.fixture(scope="session")
def uids(open_folder: Path) -> UidAllocator:
    return UidAllocator(uids=TEST_UIDS, folder=open_folder / "uids")


@pytest.fixture
def make_plugin(open_folder: Path) -> Iterator[MakePlugin]:
    """Give a function that writes a plugin and a stand-in for the SDK's runner, and returns the request to launch it.

    The stand-in is installed in the plugin's own environment, where a real one may keep its own version of the SDK.
    """
    made = Path(tempfile.mkdtemp(prefix="plugins-", dir=open_folder))
    made.chmod(0o755)

    def make(serve: str, *, plugin: str = "sample", module: str = "", **changes: Any) -> LaunchRequest:
        folder = made / plugin
        packages = folder / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        packages.mkdir(parents=True, exist_ok=True)
        (folder / ".venv" / "pyvenv.cfg").write_text(f"home = {Path(sys._base_executable).parent}\n")  # type: ignore[attr-defined]
        (packages / "stand_in.py").write_text("def main(fd, entry):\n" + "".join(f"    {line}\n" for line in serve.splitlines()))
        (folder / "entry.py").write_text(module)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        fields: dict[str, Any] = {
            "plugin": plugin,
            "instance": f"{plugin}-1",
            "kind": "python",
            "entry": "entry",
            "folder": folder,
            "environment": plugin_environment(os.environ),
        }
        return LaunchRequest(**fields | changes)

    yield make
    remove_tree(made)


@pytest.fixture
def open_strategy(tmp_path: Path, cache_dir: Path, uids: UidAllocator) -> OpenStrategy:
    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[ProcessStrategy]:
        fields: dict[str, Any] = {"state_dir": tmp_path / "state", "cache_dir": cache_dir, "uids": uids, "runner": "stand_in"}
        strategy = ProcessStrategy(**fields | changes)
        try:
            yield strategy
        finally:
            await strategy.close()

    return opened
