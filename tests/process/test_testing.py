"""The public test kit over real processes: hosts for one plugin, and the fixtures that come with annexe."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from annexe import HookSpec, hook
from annexe.contract.named import contracts_beside, contracts_named
from annexe.errors import ActivationError, ContractError
from annexe.testing import async_host_for, host_for

pytestmark = pytest.mark.any_user

ROOT = Path(__file__).parents[2]


class Text(HookSpec, name="text", revision=1):
    @hook.filter
    async def on_text(self, text: str) -> str: ...


MANIFEST = """
manifest-version = 1
[plugin]
id = "loud"
version = "0.1.0"
name = "Loud"
[runtime]
kind = "python"
entry = "loud"
[provides.hooks]
"text.on_text" = { revision = 1 }
"""
CODE = """
from annexe_sdk import Plugin
plugin = Plugin()

@plugin.filter("text.on_text")
def loud(text, ctx):
    ctx.log.info("loud", was=text)
    return text.upper() + ctx.config.get("mark", "")
"""
CONTRACTS = """
from annexe import HookSpec, hook

class Text(HookSpec, name="text", revision=1):
    @hook.filter
    async def on_text(self, text: str) -> str: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "loud"
    folder.mkdir()
    (folder / "plugin.toml").write_text(MANIFEST)
    (folder / "loud.py").write_text(CODE)
    return folder


def test_host_for_runs_a_plugin_in_a_process_and_leaves_nothing(folder: Path) -> None:
    with host_for(folder, contracts=[Text], name="mine") as host:
        assert host.hooks(Text).on_text("a") == "A"
        [plugin] = host.plugins
        assert plugin.pid not in (None, os.getpid())
        state = host.run(lambda host: host.state_dir.path)
    assert not state.exists()


@pytest.mark.both_users  # root keeps them outside of the state directory
@pytest.mark.parametrize("fails", [False, True], ids=["passes", "fails"])
def test_host_for_leaves_no_private_folder(folder: Path, fails: bool) -> None:
    asks = '[permissions]\ndata = { quota = "1MiB" }\n'
    (folder / "plugin.toml").write_text(MANIFEST.replace("[runtime]", f"{asks}[runtime]"))
    code = CODE.replace("return text.upper()", 'open(ctx.data_dir + "/kept", "w").close()\n    return ctx.data_dir')
    (folder / "loud.py").write_text(code)
    kept = None
    with contextlib.suppress(AssertionError), host_for(folder, contracts=[Text]) as host:
        kept = Path(host.hooks(Text).on_text(""))
        assert (kept / "kept").is_file() and not fails
    assert kept is not None and kept.name == "loud"
    assert not kept.exists() and not kept.parent.exists()


def test_host_for_takes_more_of_the_hosts_arguments(folder: Path) -> None:
    (folder / "plugin.toml").write_text(MANIFEST.replace("[runtime]", '[config]\nschema = "schema.json"\n[runtime]'))
    (folder / "schema.json").write_text('{"type": "object", "properties": {"mark": {"type": "string"}}}')
    with host_for(folder, contracts=[Text], config={"loud": {"mark": "!"}}, strategy="in-process") as host:
        assert host.hooks(Text).on_text("a") == "A!"
        assert host.plugins[0].pid is None


def test_async_host_for_runs_in_the_loop_at_hand(folder: Path) -> None:
    async def scenario() -> str:
        async with async_host_for(folder, contracts=[Text]) as host:
            return await host.hooks(Text).on_text("a")

    assert asyncio.run(scenario()) == "A"


def test_host_for_a_lazy_plugin_opens_without_starting_it(folder: Path) -> None:
    (folder / "plugin.toml").write_text(MANIFEST.replace("[provides", 'start = "lazy"\n[provides'))
    with host_for(folder, contracts=[Text]) as host:
        assert host.plugins[0].state == "stopped"
        assert host.hooks(Text).on_text("a") == "A"


def test_host_for_a_plugin_that_does_not_start_says_why(folder: Path) -> None:
    (folder / "loud.py").write_text("raise RuntimeError('no such luck')")
    with pytest.raises(ActivationError, match=r"no such luck \(at loud.py:1\)") as failed, host_for(folder, contracts=[Text]):
        pass
    assert failed.value.plugin == "loud"


def test_contracts_are_found_by_module_file_and_class(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert contracts_beside(folder) == []
    (folder / "contracts.py").write_text(CONTRACTS + "class More(Text, name='more'): pass\n")
    beside = contracts_beside(folder)
    assert [contract.__name__ for contract in beside] == ["Text", "More"]
    assert [contract.__name__ for contract in contracts_named(f"{folder}/contracts.py:More")] == ["More"]
    (folder / "contracts.py").write_text(CONTRACTS + "ALL = [Text]\nWRONG = [Text, 1]\n")
    assert [contract.__name__ for contract in contracts_named(f"{folder}/contracts.py:ALL")] == ["Text"]
    with pytest.raises(ContractError, match="has no 'WRONG' that is a HookSpec, an ExtensionPoint or a list of them"):
        contracts_named(f"{folder}/contracts.py:WRONG")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "annexe_test_contracts.py").write_text(CONTRACTS)
    assert [contract.__name__ for contract in contracts_named("annexe_test_contracts:Text")] == ["Text"]


def test_contracts_that_a_test_imported_are_the_ones_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "contracts.py").write_text(CONTRACTS)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.delitem(sys.modules, "contracts", raising=False)
    imported = importlib.import_module("contracts")
    try:
        assert contracts_beside(folder) == [imported.Text]
    finally:
        del sys.modules["contracts"]


def test_contracts_of_another_folder_that_were_imported_are_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "contracts.py").write_text(CONTRACTS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    other = ModuleType("contracts")
    other.__file__ = str(folder / "other" / "contracts.py")
    monkeypatch.setitem(sys.modules, "contracts", other)
    assert [contract.__name__ for contract in contracts_beside(folder)] == ["Text"]


def test_contracts_beside_may_import_what_lies_next_to_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "annexe_test_application.py").write_text(CONTRACTS)
    (folder / "contracts.py").write_text("from annexe_test_application import Text\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert [contract.__name__ for contract in contracts_beside(folder)] == ["Text"]
    del sys.modules["annexe_test_application"]


def test_contracts_that_are_not_there_are_named(folder: Path) -> None:
    (folder / "contracts.py").write_text("from annexe import HookSpec\n")
    path = f"{folder}/contracts.py"
    for name, what in {
        path: "no HookSpec and no ExtensionPoint",
        f"{path}:Text": "has no 'Text'",
        "no_such_module_here:Text": "No module named",
        f"{folder}/nothing.py": "could not be imported",
    }.items():
        with pytest.raises(ContractError, match=what) as missing:
            contracts_named(name)
        assert missing.value.data["name"] in (name, name.partition(":")[0])


def run_pytest(folder: Path, tmp_path: Path) -> str:
    """Run a plugin's tests as its author does, with our entry point as an installed annexe has it; return what was printed."""
    installed = tmp_path / "installed"
    facts = installed / "annexe_entry_points-0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: annexe-entry-points\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(folder)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_fixtures_run_the_plugin_in_whose_folder_the_test_is(folder: Path, tmp_path: Path) -> None:
    (folder / "contracts.py").write_text(CONTRACTS)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_loud.py").write_text(
        textwrap.dedent("""
        import os
        import contracts
        import loud

        def test_in_memory(annexe_plugin):
            assert annexe_plugin.call("text.on_text", "a") == "A"
            assert annexe_plugin.logs[0].fields == {"was": "a"}
            assert annexe_plugin.plugin is loud.plugin

        def test_in_a_process(annexe_host, annexe_contracts):
            from contracts import Text
            assert annexe_contracts == [Text]
            assert annexe_host.hooks(Text).on_text("a") == "A"
            assert annexe_host.plugin("loud").pid != os.getpid()
        """)
    )
    (folder / "conftest.py").write_text("import sys\nsys.path.insert(0, __file__.rpartition('/')[0])\n")
    said = run_pytest(folder, tmp_path)
    assert "2 passed" in said, said


def test_fixtures_can_be_overridden(folder: Path, tmp_path: Path) -> None:
    (folder / "plugin.toml").write_text(MANIFEST.replace("[runtime]", '[config]\nschema = "schema.json"\n[runtime]'))
    (folder / "schema.json").write_text('{"type": "object", "properties": {"mark": {"type": "string"}}}')
    (folder / "test_loud.py").write_text(
        CONTRACTS
        + textwrap.dedent("""
        import pytest

        @pytest.fixture
        def annexe_contracts():
            return [Text]

        @pytest.fixture
        def annexe_config():
            return {"mark": "?"}

        def test_in_memory(annexe_plugin):
            assert annexe_plugin.call("text.on_text", "a") == "A?"

        def test_in_a_process(annexe_host):
            assert annexe_host.hooks(Text).on_text("a") == "A?"
        """)
    )
    said = run_pytest(folder, tmp_path)
    assert "2 passed" in said, said


def test_functions_for_hooks_that_the_plugin_does_not_define_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "test_loud.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef annexe_hooks():\n    return {'loud.other': str}\n\ndef test_lost(annexe_plugin): pass\n"
    )
    assert "hooks['loud.other']: its plugin.toml defines no hook" in run_pytest(folder, tmp_path)


def test_fixtures_without_a_plugin_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "test_lost.py").write_text("def test_lost(annexe_plugin): pass\n")
    assert "override the fixture annexe_folder" in run_pytest(tmp_path, tmp_path)
