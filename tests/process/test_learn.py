"""``annexe learn``, with tests that run a plugin in memory and in a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MANIFEST = """# Asks for what it does not need, and not for what it does.
manifest-version = 1

[plugin]
id = "shop"
version = "0.1.0"

[runtime]
kind = "python"
entry = "shop"

[provides.hooks]
"box.on_put" = { revision = 1 }

[permissions]
kv = { quota = "64KiB" }  # little
subprocess = true
"""
PLUGIN = """
import os
from pathlib import Path
from annexe_sdk import Plugin
plugin = Plugin()

@plugin.on_activate
def start(ctx):
    Path("GIVEN/model").read_text()

@plugin.filter("box.on_put")
def on_put(thing, ctx):
    ctx.kv.increment(thing)
    dict(os.environ)
    return f"{thing} {ctx.cap('orders').count()} {os.environ.get('SHOP_MODE', 'slow')}"
"""
CONTRACTS = """
from annexe import HookSpec, hook
class Box(HookSpec, name="box", revision=1):
    @hook.filter
    async def on_put(self, thing: str) -> str: ...
"""
TESTS = """
import pytest
class Orders:
    name = "orders"
    async def count(self) -> int:
        return int(open("/etc/hostname").read() is not None)

@pytest.fixture
def annexe_capabilities():
    return [Orders()]

def test_in_memory(annexe_plugin):
    assert annexe_plugin.call("box.on_put", "apple") == "apple 1 fast"

def test_in_a_process(annexe_host, annexe_contracts):
    [Box] = annexe_contracts
    assert annexe_host.hooks(Box).on_put("pear") == "pear 1 fast"
"""


@pytest.fixture
def given() -> Iterator[Path]:
    """Give a folder that is no temporary one, so that it can be granted, and that every user reaches."""
    place = Path("/srv") if os.access("/srv", os.W_OK) else Path.home()
    if not os.access(place, os.W_OK) or "tmp" in place.parts:
        pytest.skip("there is no place for a folder that can be granted")
    folder = Path(tempfile.mkdtemp(prefix="annexe-test-", dir=place))
    folder.chmod(0o755)
    (folder / "model").write_text("x")
    yield folder
    shutil.rmtree(folder)


def write(folder: Path, *, given: Path | str = "/etc", plugin: str = PLUGIN, tests: str = TESTS, manifest: str = MANIFEST) -> Path:
    at = folder / "shop"
    at.mkdir()
    for name, text in (("plugin.toml", manifest), ("shop.py", plugin), ("contracts.py", CONTRACTS), ("test_shop.py", tests)):
        (at / name).write_text(text.replace("GIVEN", str(given)))
    return at


def learn(plugin: Path, *words: str, status: int = 0) -> tuple[Any, str]:
    """Run the command; return what it printed as JSON, and its messages."""
    tests = ["--", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(plugin)]
    environment = {**os.environ, "SHOP_MODE": "fast"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "annexe.cli", "learn", str(plugin), "--json", *words, *tests]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=plugin.parent)
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout else None, done.stderr


def test_a_plugin_asks_for_what_its_tests_need_and_they_pass_with_that(tmp_path: Path, given: Path) -> None:
    plugin = write(tmp_path, given=given)
    told, said = learn(plugin, "--write")
    assert told["rights"] == ["cap:orders", "env:SHOP_MODE", f"filesystem.read:{given}/model", "kv"]
    assert (told["checked"], told["written"], told["notes"]) == (True, True, [])
    assert "memory" in told["levels"] and len(told["levels"]) == 2
    assert "NO SANDBOX stands around the plugin" in said
    assert (plugin / "plugin.toml").read_text() == MANIFEST.replace(
        "subprocess = true\n",
        f'filesystem = {{ read = ["{given}/model"] }}\nenv = ["SHOP_MODE"]\ncapabilities = ["orders"]\n',
    )


@pytest.mark.any_user
def test_tests_that_fail_without_walls_teach_nothing(tmp_path: Path) -> None:
    plugin = write(tmp_path, plugin="import nothing_of_that_name")
    told, said = learn(plugin, "--write", status=1)
    assert told is None
    assert "nothing was learned" in said
    assert (plugin / "plugin.toml").read_text() == MANIFEST


@pytest.mark.any_user
def test_tests_that_do_not_run_the_plugin_are_told_how(tmp_path: Path) -> None:
    plugin = write(tmp_path, tests="def test_nothing(): pass")
    _, said = learn(plugin, status=6)
    assert "annexe_host" in json.loads(said.splitlines()[-1])["error"]["message"]


@pytest.fixture
def drawn() -> Iterator[Path]:
    """Give a temporary folder that every user reaches: pytest's own are shut again by each pytest that starts meanwhile."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_what_nobody_is_granted_fails_behind_the_walls_and_is_not_written(tmp_path: Path, drawn: Path) -> None:
    secret = drawn / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    plugin = write(tmp_path, plugin=PLUGIN.replace("GIVEN/model", str(secret)))
    told, _ = learn(plugin, "--no-check")
    assert (told["checked"], told["levels"], told["written"]) == (None, [], False)
    assert any(str(secret) in note and "temporary files of its own" in note for note in told["notes"])
    walls = learn(plugin, "--write", status=1)[0]
    assert (walls["checked"], walls["written"]) == (False, False)
    assert (plugin / "plugin.toml").read_text() == MANIFEST


def test_a_file_in_the_machines_tmp_is_learned_and_the_plugins_own_are_not(tmp_path: Path) -> None:
    shared = Path(tempfile.mkdtemp(prefix="annexe-learned-", dir="/tmp"))
    try:
        shared.chmod(0o755)
        (shared / "model").write_text("x")
        (shared / "model").chmod(0o644)
        own = """
import tempfile
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "x").write_text("x")
    (Path(folder) / "x").read_text()
"""
        told, _ = learn(write(tmp_path, given=shared, plugin=PLUGIN + own))
        assert told["rights"] == ["cap:orders", "env:SHOP_MODE", f"filesystem.read:{shared}/model", "kv"]
        assert (told["checked"], told["notes"]) == (True, [])
    finally:
        shutil.rmtree(shared)


@pytest.mark.any_user
def test_a_manifest_in_a_form_of_its_own_is_left_to_its_author(tmp_path: Path, given: Path) -> None:
    manifest = MANIFEST.replace("[permissions]\n", "").replace('kv = { quota = "64KiB" }  # little\nsubprocess', "permissions.subprocess")
    manifest = manifest.replace("permissions.subprocess = true\n", "").replace(
        "manifest-version", "permissions.subprocess = true\nmanifest-version"
    )
    plugin = write(tmp_path, given=given, manifest=manifest)
    told, _ = learn(plugin, "--write", "--no-check", status=1)
    assert told["written"] is False
    assert 'capabilities = ["orders"]' in told["lines"]
    assert (plugin / "plugin.toml").read_text() == manifest
