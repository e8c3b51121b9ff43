"""Plugins whose folders change while the host runs, and people who act on one plugin at the same time."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from annexe.errors import PluginBlockedError
from annexe.manifest import Manifest
from annexe.manifest.parse import read_document
from annexe.manifest.reader import Problems
from annexe.record import EventKind
from tests.process.hosts import Doc, T, events, open_host, run, write_plugin

pytestmark = pytest.mark.any_user

MARK = """
@plugin.filter("t.edit")
def edit(doc):
    doc["marks"].append("NAME")
    return doc
"""


def write(root: Path, folder: str, *, mark: str = "a", runtime: str = "") -> Path:
    return write_plugin(root / "plugins", "alpha", MARK.replace("NAME", mark), hooks=["t.edit"], folder=folder, runtime=runtime)


@pytest.mark.both_users
@pytest.mark.parametrize("folder", ["alpha", "a-folder-of-another-name"])
def test_broken_manifest_leaves_a_running_plugin_alone_and_stops_its_restart(tmp_path: Path, folder: str) -> None:
    manifest = write(tmp_path, folder) / "plugin.toml"
    text = manifest.read_text()

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            manifest.write_text(text + "\n[nonsense\n")
            for _ in range(2):
                await host.scan()
            assert [one.id for one in host.plugins] == ["alpha"]
            assert plugin.state == "ready"
            (event,) = events(host, EventKind.MANIFEST_REFUSED, "alpha")
            assert "not a valid manifest" in event.reason
            await plugin.restart()
            assert plugin.state == "blocked" and "not a valid manifest" in plugin.reason
            manifest.write_text(text)
            await host.scan()
            assert plugin.state == "ready"
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


def test_manifest_that_changed_between_two_hosts_is_read_anew_and_an_unchanged_one_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def read(text: bytes, *, source: str) -> tuple[Manifest, Problems]:
        parsed.append(source)
        return read_document(text, source=source)

    monkeypatch.setattr("annexe.manifest.load.read_document", read)
    manifest = write(tmp_path, "alpha", runtime="concurrency = 2") / "plugin.toml"
    text, times = manifest.read_text(), (manifest.stat().st_atime_ns, manifest.stat().st_mtime_ns)

    async def concurrency() -> int:
        async with open_host(tmp_path) as host:
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            found = host.plugin("alpha").manifest
            assert found is not None and found.runtime.concurrency is not None
            return found.runtime.concurrency

    async def scenario() -> None:
        assert [await concurrency(), await concurrency()] == [2, 2] and len(parsed) == 1
        manifest.write_text(text.replace("concurrency = 2", "concurrency = 3"))
        os.utime(manifest, ns=times)  # of the same size and time, as a restored one may be
        assert [await concurrency(), await concurrency()] == [3, 3] and len(parsed) == 2

    run(scenario)


def test_second_folder_of_the_same_id_never_takes_a_plugins_place(tmp_path: Path) -> None:
    write(tmp_path, "a")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            second = write(tmp_path, "b", mark="b")
            plugin = host.plugin("alpha")
            await host.scan()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            await plugin.restart()
            assert plugin.state == "blocked" and "in one folder, got it in" in plugin.reason
            shutil.rmtree(second)
            await plugin.restart()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


def test_restart_takes_up_how_a_plugin_is_to_be_started(tmp_path: Path) -> None:
    folder = write(tmp_path, "alpha")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            manifest = folder / "plugin.toml"
            manifest.write_text(manifest.read_text().replace('entry = "main"', 'entry = "main"\nstart = "lazy"'))
            await plugin.restart()
            assert plugin.state == "stopped"
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]
            assert plugin.state == "ready"

    run(scenario)


def test_refused_plugin_that_is_mended_is_started_by_restart(tmp_path: Path) -> None:
    manifest = write(tmp_path, "alpha") / "plugin.toml"
    text = manifest.read_text()
    manifest.write_text("[nonsense")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert host.plugin("alpha").state == "blocked"
            manifest.write_text(text.replace("revision = 1", "revision = true"))
            await host.plugin("alpha").restart()
            assert "revision" in host.plugin("alpha").reason
            manifest.write_text(text)
            await host.plugin("alpha").restart()
            await host.scan()
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["a"]

    run(scenario)


def test_what_is_done_to_one_plugin_at_the_same_time_is_done_one_after_the_other(tmp_path: Path) -> None:
    write_plugin(
        tmp_path / "plugins", "alpha", '@plugin.filter("t.edit")\ndef edit(doc):\n    time.sleep(0.5)\n    return doc', hooks=["t.edit"]
    )

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            call = asyncio.create_task(host.hooks(T).edit(Doc("x")))
            await asyncio.sleep(0.1)
            await asyncio.gather(plugin.disable(), plugin.enable())  # the first waits for the call
            assert (plugin.enabled, plugin.state) == (True, "ready")
            await call

    run(scenario)


def test_disabled_plugin_is_not_started(tmp_path: Path) -> None:
    write(tmp_path, "alpha")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("alpha")
            await plugin.disable()
            with pytest.raises(PluginBlockedError, match="annexe enable alpha"):
                await plugin.start()
            assert plugin.state == "stopped"

    run(scenario)


def test_start_under_way_is_taken_back_when_the_host_closes(tmp_path: Path) -> None:
    write(tmp_path, "alpha")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            restart = asyncio.create_task(host.plugin("alpha").restart())
            await asyncio.sleep(0.01)
        assert host.plugin("alpha").pid is None
        await asyncio.wait([restart])

    run(scenario)
