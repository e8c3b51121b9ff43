"""A plugin's ``/tmp`` is its own: it is told so where it takes it for the machine's, and loses nothing there in silence."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import HookError, PluginRaisedError
from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder
from annexe.sandbox import IsolationLevel
from tests.process.hosts import Doc, T, open_host, run, write_plugin

TOOL = """
@plugin.filter("t.strict")
def do(doc, ctx):
    what, _, path = doc["text"].partition(" ")
    if what == "read":
        doc["marks"] = [open(path).read()]
    elif what == "write":
        open(path, "w").write("kept")
    else:
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            open(folder + "/words", "w").write("own")
            os.mkdir("/tmp/made-by-alpha")
            open("/tmp/made-by-alpha/words", "w").close()
            doc["marks"] = [open(folder + "/words").read()]
            open("/tmp/made-by-alpha/other")
    return doc
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a folder in the machine's ``/tmp`` that every user reads, with a file in a folder in it."""
    folder = Path(tempfile.mkdtemp(prefix="annexe-shared-", dir="/tmp"))
    (folder / "deep").mkdir()
    (folder / "deep" / "words").write_text("given")
    for path in (folder, folder / "deep"):
        path.chmod(0o755)
    (folder / "deep" / "words").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


def write(root: Path, *, read: Path | str = "/srv") -> None:
    asks = f'[permissions]\nfilesystem = {{ read = ["{read}"] }}' if read != "/srv" else ""
    write_plugin(root / "plugins", "alpha", TOOL, hooks=["t.strict"], extra=asks)


async def done(host: Host, what: str) -> Any:
    """Return what the plugin read, or what it told of its error."""
    try:
        return (await host.hooks(T).strict(Doc(what))).marks
    except HookError as error:
        assert isinstance(error.__cause__, PluginRaisedError)
        return {**error.__cause__.data["reported"], "message": error.__cause__.message}


def level_of(host: Host) -> IsolationLevel:
    receipt = host.plugin("alpha").receipt
    assert receipt is not None
    if not receipt.walls.keep_files:
        pytest.skip(f"no file is kept from a plugin at level {receipt.level}")
    return receipt.level


@pytest.mark.parametrize("without", [(), ("namespaces",)], ids=["namespaces", "landlock"])
def test_writing_beside_a_granted_file_fails_and_says_what_to_ask_for(
    tmp_path: Path, shared: Path, without: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = shared / "deep" / "words"
    write(tmp_path, read=granted)
    if without:
        monkeypatch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=OfferFinder(unsafe_without=without)))

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            level_of(host)
            assert await done(host, f"read {granted}") == ["given"]
            for path in (f"{shared}/deep/out", f"{shared}/out"):
                told = await done(host, f"write {path}")
                folder = os.path.dirname(path)
                assert told["manifest_line"] == f'filesystem = {{ read = ["{granted}"], write = ["{folder}"] }}'
                assert not Path(path).exists()

    run(scenario)


def test_a_file_of_the_machines_tmp_that_was_not_granted_is_named(tmp_path: Path, shared: Path) -> None:
    write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            level_of(host)
            told = await done(host, f"read {shared}/deep/words")
            assert told["manifest_line"] == f'filesystem = {{ read = ["{shared}/deep/words"] }}'

    run(scenario)


def test_what_the_plugin_made_in_its_tmp_is_not_asked_for(tmp_path: Path) -> None:
    write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            if level_of(host) not in (IsolationLevel.FULL, IsolationLevel.NAMESPACES):
                pytest.skip("its /tmp is not its own here")
            told = await done(host, "make")
            assert "made-by-alpha/other" in told["message"]
            assert "manifest_line" not in told

    run(scenario)
