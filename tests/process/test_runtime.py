"""The runtime folder, and the real SDK in it."""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch.python_env import Interpreter, PythonChoice, PythonFinder
from annexe.launch.runtime import RuntimeFolders
from tests.process.conftest import IS_ROOT, TEST_UIDS, MakePlugin, OpenStrategy, needs_root
from tests.process.hosts import Doc, T, no_walls, open_host, run, write_plugin
from tests.process.test_launch import WAIT, read_line
from tests.process.test_stub import frame
from tests.process.test_stub import run as run_stub

MARK = """
@plugin.filter("t.edit")
def edit(doc):
    doc["marks"].append("new")
    return doc
"""

PROBE = """
import annexe_sdk.runner, os, sys
def main(fd, entry):
    import annexe_sdk.streams, inspect
    source = inspect.getsource(annexe_sdk.errors.Reject).partition("(")[0]
    os.write(fd, repr((annexe_sdk.__file__, len(sys.meta_path), source)).encode())
"""

SYSTEM = Path("/usr/bin/python3").resolve()


@pytest.fixture
def here() -> Interpreter:
    return PythonFinder().find(plugin="p", folder=None, requires_python="", uid=None).interpreter


def test_runtime_folder_is_built_once_for_hosts_that_agree(here: Interpreter, tmp_path: Path) -> None:
    first = RuntimeFolders(tmp_path / "runtime").for_interpreter(here)
    built = first.stub.stat()
    second = RuntimeFolders(tmp_path / "runtime").for_interpreter(here)
    assert second == first
    assert second.stub.stat() == built
    assert os.listdir(tmp_path / "runtime") == [first.folder.name]


def test_runtime_folder_can_be_read_by_every_user_and_written_by_none(here: Interpreter, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        runtime = RuntimeFolders(tmp_path / "runtime").for_interpreter(here)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in [runtime.folder, *runtime.folder.rglob("*")]} == {0o755, 0o644}


def test_runtime_folder_holds_compiled_sdk_and_msgspec_of_the_same_abi(here: Interpreter, tmp_path: Path) -> None:
    runtime = RuntimeFolders(tmp_path / "runtime").for_interpreter(here)
    program = "import sys; sys.path = sys.path[:] + [sys.argv[1]]; import annexe_sdk.runner, msgspec; print(msgspec.msgpack.encode([1]))"
    command = [str(here.path), "-I", "-S", "-v", "-c", program, str(runtime.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == r"b'\x91\x01'"
    assert f"code object from '{runtime.folder / 'annexe_sdk' / '__pycache__'}" in done.stderr


@pytest.mark.parametrize("is_own", [False, True], ids=["that of the host", "its own"])
def test_sdk_that_starts_a_plugin_comes_from_one_file_unless_it_has_its_own(here: Interpreter, tmp_path: Path, is_own: bool) -> None:
    runtime = RuntimeFolders(tmp_path / "runtime").for_interpreter(here)
    sdk, packages = runtime.folder / "annexe_sdk", tmp_path / "packages"
    packages.mkdir()
    (packages / "probe.py").write_text(PROBE)
    if is_own:
        shutil.copytree(sdk, packages / "annexe_sdk")
    for path in (sdk / "session.py", *sdk.glob("__pycache__/session.*")):  # one that is found in the file alone
        path.unlink()
    orders = frame(libraries=[str(packages), str(runtime.folder)], runner="probe")
    expected = str((packages / "annexe_sdk" if is_own else sdk) / "__init__.py"), 3, "class Reject"
    assert run_stub(orders, runtime.stub) == (0, repr(expected).encode(), b"")


def test_sdk_that_is_installed_for_the_interpreter_is_not_the_one_that_is_built(here: Interpreter, tmp_path: Path) -> None:
    subprocess.run([str(here.path), "-m", "venv", "--copies", "--without-pip", str(tmp_path / "venv")], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "annexe_sdk").mkdir()
    (packages / "annexe_sdk" / "__init__.py").write_text("raise SystemExit('another SDK')\n")
    python = replace(here, path=tmp_path / "venv" / "bin" / "python")
    runtime = RuntimeFolders(tmp_path / "runtime").for_interpreter(python)
    codes = marshal.loads((runtime.folder / "annexe_sdk.bundle").read_bytes())
    assert {code.co_filename for code in codes.values()} <= {str(path) for path in runtime.folder.glob("annexe_sdk/*.py")}
    assert "annexe_sdk.runner" in codes


def test_runtime_folder_of_another_abi_has_no_msgspec(here: Interpreter, tmp_path: Path) -> None:
    runtime = RuntimeFolders(tmp_path / "runtime").for_interpreter(replace(here, suffix=".cpython-399-x86_64-linux-gnu.so"))
    assert not (runtime.folder / "msgspec").exists()
    assert (runtime.folder / "annexe_sdk").is_dir()


def test_runtime_folder_that_was_removed_is_built_again(here: Interpreter, tmp_path: Path) -> None:
    folders = RuntimeFolders(tmp_path / "runtime")
    shutil.rmtree(folders.for_interpreter(here).folder)
    assert folders.for_interpreter(here).stub.is_file()


def test_runtime_folder_that_cannot_be_compiled_is_a_named_error_and_leaves_nothing(here: Interpreter, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="cannot compile") as caught:
        RuntimeFolders(tmp_path / "runtime").for_interpreter(replace(here, path=Path("/bin/false")))
    assert caught.value.data == {"python": "/bin/false"}
    assert os.listdir(tmp_path / "runtime") == []


def test_real_sdk_answers_hello_before_the_plugins_code_is_loaded(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    hello = [0, 1, "annexe.hello", {"protocols": [1], "codecs": ["json"], "host": {}, "plugin": {}, "limits": {}, "arenas": None}, {}]

    async def scenario() -> None:
        async with open_strategy(runner="annexe_sdk.runner") as strategy:
            plugin = await strategy.launch(make_plugin(WAIT, module="raise SystemExit('plugin code ran before activate')"))
            loop, packed = asyncio.get_running_loop(), json.dumps(hello).encode()
            await loop.sock_sendall(plugin.sock, len(packed).to_bytes(4, "big") + packed)
            async with asyncio.timeout(10):
                head = await loop.sock_recv(plugin.sock, 4)
                answer = json.loads(await loop.sock_recv(plugin.sock, int.from_bytes(head, "big")))
            assert answer[:3] == [1, 1, None]
            assert answer[3]["protocol"] == 1
            await plugin.close()

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None, reason="Node.js is not installed")
def test_node_plugin_finds_the_channel(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            connect = "const channel = new (require('net').Socket)({fd: +process.env.ANNEXE_FD});"
            (request.folder / "main.js").write_text(connect + " channel.write('up ' + process.argv.length + '\\n'); channel.resume()")
            plugin = await strategy.launch(replace(request, kind="node", entry="main.js"))
            assert await read_line(plugin) == b"up 2\n"
            await plugin.close()

    asyncio.run(scenario())


def test_node_plugin_without_node_is_refused_with_the_cure(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT, environment={"PATH": "/nonexistent"})
            (request.folder / "main.js").touch()
            with pytest.raises(LaunchError, match="apt install nodejs") as caught:
                await strategy.launch(replace(request, kind="node", entry="main.js"))
            assert caught.value.plugin == "sample"

    asyncio.run(scenario())


def test_host_that_forbids_writing_bytecode_still_launches_compiled_code(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    async def scenario() -> None:
        async with open_strategy() as strategy:
            serve = "import sys, os\nsys.dont_write_bytecode = True\nimport entry\nos.write(fd, entry.__cached__.encode() + b'\\n')"
            plugin = await strategy.launch(make_plugin(serve))
            cached = Path((await read_line(plugin)).decode().strip())
            assert cached.is_file()
            assert cached.stat().st_uid == os.geteuid()
            assert f"cpython-{sys.version_info.major}" in cached.name
            await plugin.close()

    asyncio.run(scenario())


@needs_root
def test_interpreter_in_a_home_that_plugins_cannot_enter_is_left_for_one_they_can(open_folder: Path, tmp_path: Path) -> None:
    home = open_folder / "home"
    (home / "versions").mkdir(parents=True)
    inside = home / "versions" / "python3"
    inside.write_text(f'#!/bin/sh\nexec {SYSTEM} "$@"\n')
    inside.chmod(0o755)

    def found() -> PythonChoice:
        finder = PythonFinder(host=inside, given=[], system=[str(SYSTEM)])
        return finder.find(plugin="p", folder=tmp_path, requires_python="", uid=TEST_UIDS[0])

    assert found().notes == ()
    home.chmod(0o700)
    choice = found()
    assert choice.interpreter.path == SYSTEM
    assert choice.notes == (f"{SYSTEM} is used, since: {inside}: a plugin's user cannot reach it ({home} is closed to others)",)


def test_plugin_runs_on_a_python_that_the_operator_names(open_folder: Path, tmp_path: Path) -> None:
    """With one that says of itself to be newer than any: nobody would take it by mistake. It is a script: no wall lets one run."""
    uid = TEST_UIDS[0] if IS_ROOT else None
    here = PythonFinder().find(plugin="p", folder=None, requires_python="", uid=uid).interpreter
    named = open_folder / "python3.99"
    said = f"3\\n99\\n0\\n{here.cache_tag}\\n{here.suffix}\\n{here.prefix}\\n"
    named.write_text(f'#!/bin/sh\ncase "$*" in *"sys.version_info"*) printf \'{said}\';; *) exec {here.path} "$@";; esac\n')
    named.chmod(0o755)
    write_plugin(tmp_path / "plugins", "newer", MARK, hooks=["t.edit"], runtime='requires-python = ">=3.99"')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert "annexe run --python PATH" in host.plugin("newer").reason
        async with open_host(tmp_path, pythons=[str(named)]) as host:
            assert host.plugin("newer").state == "ready", host.plugin("newer").reason
            assert (await host.hooks(T).edit(Doc("x"))).marks == ["new"]

    with no_walls():
        run(scenario)
