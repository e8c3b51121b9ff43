"""``annexe new``, ``dev`` and ``schema``, as a plugin's author uses them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from annexe import Policies, RestartPolicy, SyncHost
from annexe.cli.new import new
from annexe.cli.samples import sample_of
from annexe.cli.schema import schema
from annexe.contract.named import contracts_named, importable_as
from annexe.errors import ContractError
from annexe.manifest import load_manifest
from annexe.testing import PluginRunner
from tests.process.hosts import write_plugin
from tests.process.test_testing import run_pytest

pytestmark = pytest.mark.any_user

CONTRACTS = """
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal
from annexe import ExtensionPoint, HookSpec, hook

@dataclass
class Item:
    name: str
    price: float
    kind: Literal["a", "b"]

@dataclass
class Order:
    items: list[Item]
    first: Item
    note: str | None

class Shop(HookSpec, name="shop", revision=3):
    @hook.filter
    async def on_order(self, order: Order, who: str) -> Order: ...
    @hook.first_result
    async def price(self, item: Item) -> float | None: ...
    @hook.observer
    async def seen(self, text: str) -> None: ...
    @hook.action
    async def act(self) -> None: ...
    @hook.stream_filter
    def lines(self, lines: AsyncIterator[str], count: int) -> AsyncIterator[str]: ...

class Tax(ExtensionPoint, name="sales-tax", revision=2):
    async def tax(self, order: Order, rate: float = 0.2) -> float: ...
    def bill(self, order: Order) -> AsyncIterator[str]: ...
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty folder, with a module of contracts beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shop_contracts.py").write_text(CONTRACTS)
    return tmp_path


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("shop_contracts", "hello", "shop_plug", "kinds", "app", "orders", "broken_contracts"):
            del sys.modules[name]


def invoke(command: click.Command, *args: str) -> Result:
    return CliRunner().invoke(command, args)


# new


def test_new_plugin_passes_its_tests_at_once(here: Path) -> None:
    result = invoke(new, "hello")
    assert result.exit_code == 0, result.output
    said = run_pytest(here / "hello", here)
    assert "2 passed" in said, said


def test_new_plugin_of_an_application_passes_its_tests_at_once(here: Path) -> None:
    result = invoke(new, "shop-plug", "--contracts", "shop_contracts:Shop", "--contracts", "shop_contracts.py:Tax")
    assert result.exit_code == 0, result.output
    said = run_pytest(here / "shop-plug", here)
    assert "6 passed" in said, said
    manifest = load_manifest(here / "shop-plug").manifest
    assert {name: hook.revision for name, hook in manifest.provides.hooks.items()} == dict.fromkeys(
        ("shop.on_order", "shop.price", "shop.seen", "shop.act", "shop.lines"), 3
    )
    assert manifest.provides.extensions["sales-tax"].revision == 2
    code = (here / "shop-plug" / "shop_plug" / "plugin.py").read_text()
    assert "def on_order(order: Order, who: str, ctx: Context)" in code
    assert "def bill(self, order: Order, ctx: Context) -> Iterator[str]:" in code


def test_new_plugin_reads_well(here: Path) -> None:
    invoke(new, "shop-plug", "--contracts", "shop_contracts:Shop")
    invoke(new, "kinds", "--hook", "a.b", "--hook", "a.c:action", "--hook", "d-e.f:stream_filter", "--hook", "a.g:first_result")
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "check", "--isolated", "--line-length", "140", "--select", "E,F,W,I,UP,B,RET,PIE", "shop-plug", "kinds"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_new_plugin_asks_for_rights_in_the_form_that_hints_have(here: Path) -> None:
    invoke(new, "hello")
    manifest = here / "hello" / "plugin.toml"
    text = manifest.read_text().replace("# [permissions]", "[permissions]").replace("# kv", "kv")
    manifest.write_text(text + 'data = { quota = "50MiB" }\n')  # as a hint says, under [permissions]
    assert load_manifest(here / "hello").manifest.permission_set() == {"data", "kv"}


def test_new_plugin_answers_the_hooks_that_were_named(here: Path) -> None:
    assert invoke(new, "hello", "--contracts", "shop_contracts:Shop", "--hook", "shop.price").exit_code == 0
    assert list(load_manifest(here / "hello").manifest.provides.hooks) == ["shop.price"]
    invoke(
        new,
        "kinds",
        "--hook",
        "a.b",
        "--hook",
        "a.c:action",
        "--hook",
        "d-e.f:stream_filter",
        "--hook",
        "a.g:first_result",
        "--hook",
        "a.h:observer",
    )
    with PluginRunner(here / "kinds") as runner:
        hooks = runner.plugin.provides()["hooks"]
        kinds = {"a.b": "filter", "a.c": "action", "d-e.f": "stream_filter", "a.g": "first_result", "a.h": "observer"}
        assert {name: facts["kind"] for name, facts in hooks.items()} == kinds
    assert "6 passed" in run_pytest(here / "kinds", here)


def test_new_says_what_it_made_and_what_to_do_next(here: Path) -> None:
    said = invoke(new, "hello").output
    assert "Made hello/:" in said
    for name in re.findall(r"^  (\S+)  ", said.partition("Next:")[0], re.MULTILINE):
        assert (here / "hello" / name).exists(), name


def test_new_says_next_what_can_be_pasted_in_order(here: Path) -> None:
    said = invoke(new, "plugins/hello").output
    lines = [line.strip() for line in said.partition("Next, from here:")[2].splitlines() if line.strip()]
    assert [line.partition("  #")[0].rstrip() for line in lines] == ["pytest plugins/hello", "annexe dev plugins/hello"]
    assert "2 passed" in run_pytest(here / "plugins" / "hello", here)
    script = "\n".join(lines).replace("annexe dev", "test -d")  # it would run on
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("folder", "named", "python_path"),
    [
        pytest.param("plugins/shop-plug", "shop_contracts:Shop", ". ../..", id="module"),
        pytest.param("plugins/shop-plug", "shop_contracts.py:Shop", ". ../..", id="file"),
        pytest.param("shop-plug", "app/orders.py:Shop", ". ../app", id="file-elsewhere"),
        pytest.param("shop-plug", "app.orders:Shop", ". ..", id="package"),
        pytest.param("plugins/shop-plug", "our app/contracts.py:Shop", "'../../our app' .", id="contracts"),
    ],
)
def test_new_plugin_finds_the_application_where_it_is(here: Path, folder: str, named: str, python_path: str) -> None:
    for copy in ("app/orders.py", "our app/contracts.py"):
        (here / copy).parent.mkdir()
        (here / copy).write_text(CONTRACTS)
    result = invoke(new, folder, "--contracts", named)
    assert result.exit_code == 0, result.output
    assert f"pythonpath = {python_path}\n" in (here / folder / "pytest.ini").read_text()
    assert "6 passed" in (said := run_pytest(here / folder, here)), said


def test_new_plugin_one_folder_up_from_where_one_is_finds_the_application(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "plugins").mkdir()
    monkeypatch.chdir(here / "plugins")
    result = invoke(new, "shop-plug", "--contracts", "../shop_contracts.py:Shop")
    assert result.exit_code == 0, result.output
    assert "from shop_contracts import Shop\n" in (here / "plugins" / "shop-plug" / "contracts.py").read_text()
    assert "6 passed" in (said := run_pytest(here / "plugins" / "shop-plug", here)), said
    with running(here / "plugins" / "shop-plug") as dev:
        dev.until("is ready")
        dev.stop()


def test_new_overwrites_nothing(here: Path) -> None:
    (here / "hello").mkdir()
    (here / "hello" / "mine").write_text("mine")
    (here / "gone").symlink_to(here / "nowhere")
    for name in ("hello", "gone"):
        result = invoke(new, name)
        assert result.exit_code == 1
        assert f"{name} is there already" in result.output and "Nothing was changed" in result.output
    assert [path.name for path in (here / "hello").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param(["Hello World"], "lower-case words joined by hyphens", id="name"),
        pytest.param(["hello/.."], "lower-case words joined by hyphens", id="path"),
        pytest.param(["hello", "--hook", "nothing"], "SPEC.HOOK", id="hook"),
        pytest.param(["hello", "--hook", "a.b:sieve"], "first_result", id="kind"),
        pytest.param(["hello", "--contracts", "shop_contracts:Shop", "--hook", "shop.cost"], "they open: shop.act", id="unknown"),
    ],
)
def test_new_refuses_what_makes_no_sense_and_makes_nothing(here: Path, args: list[str], said: str) -> None:
    result = invoke(new, *args)
    assert result.exit_code == 2
    assert said in re.sub(r"\s+", " ", result.output)
    assert not (here / "hello").exists()


def test_new_with_contracts_that_are_not_there_makes_nothing(here: Path) -> None:
    result = invoke(new, "hello", "--contracts", "shop_contracts:Store")
    assert isinstance(result.exception, ContractError)
    result = invoke(new, "hello", "--contracts", "kitchen:Store")
    assert isinstance(result.exception, ContractError)
    assert f"looked for in {here}" in str(result.exception) and "run this where kitchen.py lies, set PYTHONPATH" in str(result.exception)
    (here / "shop-two.py").write_text(CONTRACTS)
    result = invoke(new, "hello", "--contracts", "shop-two.py")
    assert "call the file shop_two.py" in str(result.exception)
    assert not (here / "hello").exists()


def test_what_a_module_of_contracts_imports_itself_is_named_alone(here: Path) -> None:
    (here / "broken_contracts.py").write_text("import nowhere_to_be_found\n")
    result = invoke(schema, "broken_contracts")
    assert str(result.exception).endswith("No module named 'nowhere_to_be_found'")
    assert importable_as("json") == ("json", None)
    assert importable_as("sys") == ("sys", None)


def test_new_plugin_named_like_a_module_of_python_gets_a_package_of_its_own(here: Path) -> None:
    invoke(new, "json")
    assert load_manifest(here / "json").manifest.runtime.entry == "json_plugin.plugin"
    assert "2 passed" in run_pytest(here / "json", here)


def test_sample_has_the_shape_of_its_schema() -> None:
    shape = {
        "$ref": "#/$defs/Order",
        "$defs": {
            "Order": {
                "type": "object",
                "required": ["id", "first", "tags", "pair"],
                "properties": {
                    "id": {"type": "integer"},
                    "first": {"anyOf": [{"$ref": "#/$defs/Item"}, {"type": "null"}]},
                    "tags": {"type": "array"},
                    "pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": "x"}]},
                    "more": {"type": "string"},
                },
            },
            "Item": {
                "type": "object",
                "required": ["kind", "price"],
                "properties": {"kind": {"enum": ["b", "a"]}, "price": {"type": "number"}},
            },
        },
    }
    assert sample_of(shape) == {"id": 1, "first": {"kind": "b", "price": 1.5}, "tags": [], "pair": [True, "x"]}
    assert sample_of(
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}}}}
    )


# schema


def test_schema_prints_json_schema(here: Path) -> None:
    result = invoke(schema, "shop_contracts:Shop", "shop_contracts:Tax")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert printed["hook_specs"]["shop"]["hooks"]["on_order"]["kind"] == "filter"
    assert printed["extensions"]["sales-tax"]["revision"] == 2
    assert json.loads(invoke(schema, "shop_contracts").output) == printed


def test_schema_prints_a_stub_that_is_python(here: Path) -> None:
    result = invoke(schema, "shop_contracts:Shop", "--stub")
    compile(result.output, "stub", "exec")
    assert "def on_order(order: Order, who: str, ctx: Context) -> Order:" in result.output


def test_no_stub_is_printed_of_a_service(here: Path) -> None:
    (here / "words.py").write_text(
        "from annexe_sdk import Service\n\nclass Words(Service, name='words'):\n    def count(self, text: str) -> int: ...\n"
    )
    result = invoke(schema, "words.py", "--stub")
    assert (result.exit_code, "share the contract's class for a service" in result.output) == (2, True)


def test_schema_of_nothing_is_refused(here: Path) -> None:
    assert invoke(schema).exit_code == 2
    assert isinstance(invoke(schema, "shop_contracts:Nothing").exception, ContractError)
    assert isinstance(invoke(schema, "shop_contracts:Shop", "shop_contracts:Shop").exception, ContractError)


# dev


class Dev:
    """A running ``annexe dev``, read line by line."""

    def __init__(self, here: Path, *args: str) -> None:
        program = "import sys; from annexe.cli.dev import dev; dev(sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *args], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.seen: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def until(self, pattern: str) -> str:
        """Read on until a line has the pattern; return it."""
        deadline = time.monotonic() + 10
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError("\n".join([f"no line with {pattern!r} in:", *self.seen])) from None
            self.seen.append(line)
            if re.search(pattern, line):
                return line

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        status = self.process.wait(10)
        with contextlib.suppress(queue.Empty):
            while True:
                self.seen.append(self._lines.get(timeout=0.2))
        return status


@contextlib.contextmanager
def running(here: Path, *args: str) -> Iterator[Dev]:
    dev = Dev(here, *args)
    try:
        yield dev
    finally:
        dev.process.kill()
        dev.process.wait()
        assert dev.process.stdout is not None
        time.sleep(0)  # lets the reader see the end
        dev.process.stdout.close()


def pid_of(line: str) -> int:
    found = re.search(r"pid (\d+)", line)
    assert found is not None
    return int(found[1])


def test_dev_runs_the_plugin_reloads_it_on_save_and_stops_in_order(here: Path) -> None:
    invoke(new, "hello")
    code = here / "hello" / "hello" / "plugin.py"
    with running(here, "hello") as dev:
        dev.until('grants="manifest": every plugin is granted all that it asks for')
        first = pid_of(dev.until(r"hello 0\.1\.0 is ready \(pid \d+\); granted: nothing"))
        code.write_text(code.read_text() + 'print("said by \\x1b[31mthe plugin")\n')
        dev.until("plugin.py changed: reloading")
        either = "stdout .*said by|is ready"  # a pipe and a channel: either may be read first
        ready, said = sorted([dev.until(either), dev.until(either)], key=lambda line: "said by" in line)
        assert "\\x1b[31m" in said  # escaped, for it could be anything
        second = pid_of(ready)
        assert sum('grants="manifest"' in line for line in dev.seen) == 1, "once is enough"
        assert first != second
        dev.until("stop: shutdown worked")
        assert dev.stop() == 0
        assert dev.seen[-1] == "annexe dev: stopped"
        assert any("draining → stopped" in line for line in dev.seen)
        assert not Path(f"/proc/{first}").exists() and not Path(f"/proc/{second}").exists()
        assert not any("\x1b" in line for line in dev.seen), "no colours where nobody sees them"


@pytest.mark.both_users  # root keeps them outside of the state directory
def test_dev_leaves_no_private_folder(here: Path) -> None:
    invoke(new, "hello")
    manifest, code = here / "hello" / "plugin.toml", here / "hello" / "hello" / "plugin.py"
    manifest.write_text(manifest.read_text().partition("# What it may use")[0] + '[permissions]\ndata = { quota = "1MiB" }\n')
    told = '\n@plugin.on_activate\ndef tell(ctx):\n    open(ctx.data_dir + "/kept", "w").close()\n    print("kept in", ctx.data_dir)\n'
    code.write_text(code.read_text() + told)
    with running(here, "hello") as dev:
        folder = Path(dev.until("kept in ").partition("kept in ")[2])
        assert (folder / "kept").is_file()
        assert dev.stop() == 0
    assert not folder.exists() and not folder.parent.exists()


def test_dev_shows_what_is_broken_with_file_and_line_and_goes_on_when_it_is_mended(here: Path) -> None:
    invoke(new, "hello")
    manifest, code = here / "hello" / "plugin.toml", here / "hello" / "hello" / "plugin.py"
    good_manifest, good_code = manifest.read_text(), code.read_text()
    code.write_text(good_code + "raise RuntimeError('not yet')\n")
    with running(here, "hello") as dev:
        line = len(good_code.splitlines()) + 1
        dev.until(rf"RuntimeError: not yet \(at plugin.py:{line}\)")
        dev.until("waiting for a change")
        manifest.write_text(good_manifest.replace('id = "hello"', 'idd = "hello"'))
        dev.until(r"line 4: plugin.idd: expected 'id'")
        dev.until("waiting for a change")
        manifest.write_text(good_manifest)
        code.write_text(good_code)
        dev.until("is ready")
        assert dev.stop(signal.SIGTERM) == 0
        assert any("starting → backing-off" in line for line in dev.seen)
        assert not any("started again in" in line for line in dev.seen), "that is for who saves a file to do"


def test_dev_lets_the_plugin_go_on_as_it_was_while_what_is_saved_is_broken(here: Path) -> None:
    invoke(new, "hello")
    code = here / "hello" / "hello" / "plugin.py"
    good = code.read_text()
    with running(here, "hello") as dev:
        first = pid_of(dev.until("is ready"))
        code.write_text(good + "raise RuntimeError('not yet')\n")
        dev.until(r"RuntimeError: not yet \(at plugin.py:\d+\)")
        dev.until("hello 0.1.0 goes on as it was; waiting for a change")
        assert Path(f"/proc/{first}").exists()
        code.write_text(good)
        assert pid_of(dev.until("is ready")) != first
        dev.stop()


def test_dev_starts_a_plugin_that_failed_so_often_that_it_is_in_quarantine(here: Path) -> None:
    invoke(new, "hello")
    code = here / "hello" / "hello" / "plugin.py"
    good = code.read_text()
    code.write_text("raise RuntimeError('not yet')\n")
    contracts = contracts_named(str(here / "hello" / "contracts.py"))
    once = Policies(restart=RestartPolicy(max_failures=1))
    with SyncHost(plugins=here / "hello", contracts=contracts, grants="manifest", state_dir=here / "kept", policies=once) as host:
        assert host.plugin("hello").state == "quarantined"
    code.write_text(good)
    with running(here, "hello", "--state", "kept") as dev:
        dev.until("is ready")
        dev.stop()


def test_dev_runs_what_the_plugin_requires_beside_it(here: Path) -> None:
    invoke(new, "hello")
    manifest = here / "hello" / "plugin.toml"
    manifest.write_text(manifest.read_text() + '\n[requires.services]\n"words" = { version = ">=1" }\n')
    extra = '[provides.services]\n"words" = { version = "1.0.0" }'
    write_plugin(here / "others", "words", '@plugin.service("words")\nclass Words:\n    def count(self, text): ...\n', extra=extra)
    with running(here, "hello") as dev:
        dev.until("it requires service 'words' >=1: no plugin offers it")
        dev.until("to run others beside it: annexe dev … --plugins DIR")
        dev.stop()
    with running(here, "hello", "--plugins", "others") as dev:
        assert "hello" in dev.until("is ready")
        dev.stop()


def test_dev_reads_the_contracts_again(here: Path) -> None:
    invoke(new, "hello")
    contracts = here / "hello" / "contracts.py"
    good = contracts.read_text()
    contracts.write_text(good.replace("async def on_text", "async def_ on_text"))
    with running(here, "hello") as dev:
        dev.until(r"contracts cannot be imported: SyntaxError.*contracts.py:\d+\)")
        contracts.write_text(good.replace("revision=1", "revision=2"))
        dev.until("revision")
        contracts.write_text(good)
        dev.until("is ready")
        dev.stop()


def test_dev_ignores_what_is_made(here: Path) -> None:
    invoke(new, "hello")
    with running(here, "hello") as dev:
        dev.until("is ready")
        for name in ("__pycache__/x.pyc", ".venv/lib/x.py", "hello/__pycache__/y.pyc", ".git/index"):
            path = here / "hello" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        (here / "hello" / "README.md").write_text("changed")
        assert dev.until("changed: ") == "annexe dev: README.md changed: reloading"
        dev.stop()


def test_dev_takes_contracts_by_name_and_says_so_when_there_are_none(here: Path) -> None:
    invoke(new, "hello", "--contracts", "shop_contracts:Shop")
    (here / "hello" / "contracts.py").unlink()
    with running(here, "hello") as dev:
        dev.until(r"annexe dev hello --contracts module:Spec")
        dev.stop()
    with running(here, "hello", "--contracts", "shop_contracts:Shop", "--state", str(here / "kept")) as dev:
        dev.until("is ready")
        dev.stop()
    assert (here / "kept" / "logs" / "hello" / "log.jsonl").exists()


def test_dev_of_no_folder_is_refused(here: Path) -> None:
    with running(here, "nowhere") as dev:
        dev.until("does not exist")
        assert dev.process.wait(10) == 2
