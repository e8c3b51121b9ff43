"""What a plugin's own files say does not widen what it sees."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.hosts import Doc, T, open_host, run, without_walls, write_plugin

pytestmark = pytest.mark.both_users

LOOK = """
import json
def tried(path):
    try:
        return open(path).read()
    except OSError as error:
        return os.strerror(error.errno)
@plugin.filter("t.edit")
def edit(doc, ctx):
    doc["marks"] = [tried(path) for path in json.loads(doc["text"])] + [json.dumps(sys.path)]
    return doc
"""


@pytest.fixture
def secret(open_folder: Path) -> Iterator[Path]:
    """Give a file that every user of the machine may read."""
    folder = open_folder / "somebody"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "key").write_text("hunter2")
    (folder / "key").chmod(0o644)
    yield folder / "key"


@pytest.fixture
def root(open_folder: Path, tmp_path: Path) -> Path:
    """Give a folder for a host that plugins can be run from where they lie: a copy has no links that lead out of it."""
    made = open_folder / tmp_path.name
    made.mkdir()
    made.chmod(0o755)
    return made


def plugin_with_environment(root: Path, secret: Path, *, how: str, extra: str = "") -> None:
    folder = write_plugin(root / "plugins", "looker", LOOK, hooks=["t.edit"], extra=extra)
    packages = folder / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.parent.mkdir(parents=True)
    (folder / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    if how == "link":
        packages.symlink_to(secret.parent)
        return
    packages.mkdir()
    lines = {"line": secret.parent, "relative line": os.path.relpath(secret.parent, packages)}
    (packages / "more.pth").write_text(f"{lines[how]}\n/etc\n/proc\n{root}/state\n")


def seen(root: Path, secret: Path) -> tuple[list[str], Any]:
    async def scenario() -> tuple[list[str], Any]:
        async with open_host(root) as host:
            done = await host.hooks(T).edit(Doc(json.dumps([str(secret), "/etc/passwd", f"{root}/state/host.lock"])))
            receipt = host.plugin("looker").receipt
            assert receipt is not None and done.marks, host.plugin("looker").reason
            return done.marks, receipt

    return run(scenario)


@pytest.mark.parametrize("how", ["line", "relative line", "link"])
def test_environment_of_a_plugin_does_not_show_it_somebodys_files(root: Path, secret: Path, how: str) -> None:
    plugin_with_environment(root, secret, how=how)
    (key, passwd, state, path), receipt = seen(root, secret)
    assert receipt.level == "full"
    assert (key, passwd, state) == ("No such file or directory",) * 3
    assert str(secret.parent) not in path
    assert any(f'filesystem = {{ read = ["{os.path.realpath(secret.parent)}"] }}' in note for note in receipt.notes)


def test_environment_shows_what_was_granted(root: Path, secret: Path) -> None:
    plugin_with_environment(root, secret, how="line", extra=f'[permissions]\nfilesystem = {{ read = ["{secret.parent}"] }}\n')
    (key, passwd, _, path), _ = seen(root, secret)
    assert (key, passwd) == ("hunter2", "No such file or directory")
    assert str(secret.parent) in path


def test_somebodys_files_are_there_without_walls(root: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle: nothing but the walls keeps this file from the plugin."""
    from functools import partial

    from annexe.launch import ProcessStrategy

    monkeypatch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=without_walls()))
    plugin_with_environment(root, secret, how="line")
    (key, *_), receipt = seen(root, secret)
    assert (key, receipt.level) == ("hunter2", "limits")
