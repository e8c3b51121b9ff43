"""What README.md tells a first-time user to do works, and prints what it says."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pages import ROOT, Block, blocks_of, commands_of, reader_in
from tests.support.tools import level_here, need_tool

README = ROOT / "README.md"
SCREEN_LINES = 62

pytestmark = pytest.mark.timeout(240)


def sections() -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in blocks_of(README):
        if block.language == "#":
            found[block.text.removeprefix("## ")] = []
        else:
            found[list(found)[-1]].append(block)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def test_demo_runs_as_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tool("curl", "curl")
    # A make above this one, as in `make test`, has nothing to say to it.
    for name in [name for name in os.environ if name.startswith("MAKE") or name == "MFLAGS"]:
        monkeypatch.delenv(name)
    with reader_in(tmp_path, port=free_port()) as reader:
        reader.here = ROOT
        level = f"isolation: {level_here()}"
        reader.follow([replace(block, text=block.text.replace("isolation: full", level)) for block in sections()["See it"]])


def test_application_and_plugin_run_as_readme_says(tmp_path: Path) -> None:
    with reader_in(tmp_path) as reader:
        reader.follow([*sections()["Embed it"], *sections()["Write a plugin"]])


def test_every_block_is_run() -> None:
    assert [title for title, blocks in sections().items() if blocks] == ["See it", "Embed it", "Write a plugin"]
    assert {block.language for block in blocks_of(README)} == {"#", "console", "python", "toml"}
    assert all(block.file for block in blocks_of(README) if block.language in ("python", "toml"))


@pytest.mark.parametrize("title", ["See it", "Embed it", "Write a plugin"])
def test_each_part_fits_one_screen(title: str) -> None:
    text = README.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    assert len(text.splitlines()) <= SCREEN_LINES


def test_make_targets_that_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    assert "`make test`" in text
    commands = [command.line for block in blocks_of(README) if block.language == "console" for command in commands_of(block)]
    assert "make demo" in commands
    done = subprocess.run(["make", "-n", "demo", "test"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
