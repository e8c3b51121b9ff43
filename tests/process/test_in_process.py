"""Plugins in the host's process run the code of their own folders, as it is when they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.hosts import Doc, T, open_host, run, write_plugin

pytestmark = pytest.mark.any_user

CODE = """
import part
@plugin.filter("t.edit")
def edit(doc, ctx):
    import late
    doc["marks"] = [*doc["marks"], part.NAME, late.NAME]
    return doc
"""


def write(root: Path, plugin: str, name: str) -> None:
    folder = write_plugin(root / "plugins", plugin, CODE, hooks=["t.edit"])
    for module in ("part", "late"):
        (folder / f"{module}.py").write_text(f"NAME = '{module} {name}'\n")


def test_plugins_with_modules_of_the_same_names_run_each_its_own(tmp_path: Path) -> None:
    for plugin in ("alpha", "bravo"):
        write(tmp_path, plugin, plugin)

    async def scenario() -> None:
        async with open_host(tmp_path, strategy="in-process") as host:
            assert (await host.hooks(T).edit(Doc(""))).marks == ["part alpha", "late alpha", "part bravo", "late bravo"]

    run(scenario)


def test_a_plugin_that_was_changed_runs_the_new_code_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, "alpha", "one")

    async def scenario() -> None:
        async with open_host(tmp_path, strategy="in-process") as host:
            assert (await host.hooks(T).edit(Doc(""))).marks == ["part one", "late one"]
            write(tmp_path, "alpha", "two")
            await host.plugin("alpha").restart()
            assert (await host.hooks(T).edit(Doc(""))).marks == ["part two", "late two"]

    run(scenario)
