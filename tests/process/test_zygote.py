"""Real fork servers: instances forked behind a plugin's own walls."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annexe.errors import SandboxError
from annexe.launch import LaunchedPlugin, LaunchRequest, ProcessStrategy, orders
from annexe.launch.forked import ForkedProcess
from annexe.launch.offer import OfferFinder, landlock_abi
from annexe.launch.processes import parent_of
from annexe.sandbox import IsolationLevel, Profile
from annexe.sandbox.cgroup import NoControlGroups
from tests.process.conftest import IS_ROOT, MakePlugin, OpenStrategy, needs_namespaces
from tests.process.hosts import Doc, T, children_of, cmdline, is_alive, open_host, until, wait_state, without_walls, write_plugin
from tests.process.test_launch import REPORT, WAIT, read_all, read_line, wait

TELL = "import json, os, sys\ndef tell(**facts):\n    os.write(fd, json.dumps(facts).encode() + b'\\n')\n"
STAY = "\nwhile os.read(fd, 1): pass"


async def forked(strategy: ProcessStrategy, request: LaunchRequest) -> ForkedProcess:
    plugin = await strategy.launch(replace(request, warm=True))
    assert isinstance(plugin, ForkedProcess)
    return plugin


async def told(strategy: ProcessStrategy, request: LaunchRequest) -> dict[str, Any]:
    """Launch warm, return what the plugin tells, and end it."""
    plugin = await forked(strategy, request)
    facts: dict[str, Any] = json.loads(await read_line(plugin))
    await plugin.close()
    return facts


async def server_of(plugin: LaunchedPlugin) -> int:
    """Return the number of the fork server of a fork."""
    assert plugin.pid is not None
    server = parent_of(plugin.pid)
    assert server is not None
    return server


async def server_for(strategy: ProcessStrategy, request: LaunchRequest) -> int:
    """Launch an instance warm, end it, and return the number of the server it came from."""
    plugin = await forked(strategy, request)
    await read_line(plugin)
    server = await server_of(plugin)
    await plugin.close()
    return server


def children() -> list[int]:
    """Return our own children besides wardens."""
    return [pid for pid in children_of(os.getpid()) if b"warden_main" not in cmdline(pid)]


def test_forks_come_from_one_server_and_their_walls_are_read_back(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            servers = set()
            for number in range(3):
                plugin = await forked(strategy, make_plugin(WAIT, instance=f"sample-{number}"))
                assert await read_line(plugin) == b"up\n"
                servers.add(await server_of(plugin))
                plugin.confirm()
                cold = await strategy.launch(make_plugin(WAIT, plugin="cold", instance=f"cold-{number}"))
                assert await read_line(cold) == b"up\n"
                cold.confirm()
                assert plugin.receipt.level is cold.receipt.level
                assert plugin.receipt.walls == cold.receipt.walls
                layers = {layer.name: layer for layer in plugin.receipt.layers}
                for layer in cold.receipt.layers:
                    assert (layers[layer.name].state, layers[layer.name].confirmed) == (layer.state, layer.confirmed), layer.name
                assert "forked from a fork server of its own" in layers["python"].detail
                assert plugin.receipt.tree_kill == "hard"
                for launched in (plugin, cold):
                    report = await launched.close()
                    assert report.gone
            assert len(servers) == 1

    asyncio.run(scenario())


def test_fork_finds_what_a_cold_start_finds(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            cold = await strategy.launch(make_plugin(REPORT))
            expected = json.loads(await read_line(cold))
            await cold.close()
            for number in range(2):
                found = await told(strategy, make_plugin(REPORT, instance=f"sample-{number + 2}"))
                # Its own user, what it was told of its parent, and one process more that counts, its server.
                for name in ("uid", "gid", "groups", "ppid", "session", "environ"):
                    expected.pop(name, None), found.pop(name)
                expected["limits"]["NPROC"] = found["limits"].pop("NPROC")
                found["limits"]["NPROC"] = expected["limits"]["NPROC"]
                assert found == expected

    asyncio.run(scenario())


def test_fork_writes_to_standard_streams_of_its_own(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    serve = "import os, sys\nprint('out', os.getpid())\nprint('err', os.getpid(), file=sys.stderr)\nos.write(fd, b'%d\\n' % os.getpid())"

    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(serve)
            plugins = [await forked(strategy, replace(request, instance=f"sample-{number}")) for number in range(2)]
            for plugin in plugins:
                pid = (await read_line(plugin)).decode().strip()
                await wait(plugin)
                assert read_all(plugin.stdout).decode() == f"out {pid}\n"
                assert read_all(plugin.stderr).decode() == f"err {pid}\n"
                await plugin.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("serve", "code", "number"),
    [
        pytest.param("pass", 0, None, id="returns"),
        pytest.param("raise SystemExit(7)", 7, None, id="status"),
        pytest.param("raise ValueError", 1, None, id="exception"),
        pytest.param("import os\nos._exit(255)", 255, None, id="exit-255"),
        pytest.param("import os\nos.abort()", None, signal.SIGABRT, id="abort"),
        pytest.param("import os\nos.kill(os.getpid(), 9)", None, signal.SIGKILL, id="killed"),
        pytest.param("import os\nos.kill(0, 15)", None, signal.SIGTERM, id="own-group"),
    ],
)
def test_end_of_a_fork_is_told_right_and_its_server_serves_on(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, serve: str, code: int | None, number: int | None
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            for instance in ("sample-1", "sample-2"):
                plugin = await forked(strategy, make_plugin(serve, instance=instance))
                ended = await wait(plugin)
                assert (ended.code, ended.signal) == (code, number), read_all(plugin.stderr)
                await plugin.close()
            assert len(children()) == 1

    asyncio.run(scenario())


def test_fifty_forks_leave_nothing(make_plugin: MakePlugin, open_strategy: OpenStrategy, tmp_path: Path, cache_dir: Path) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            await server_for(strategy, request)  # whatever is made once is made
            groups = set(Path("/sys/fs/cgroup").glob(f"*/**/annexe-{os.getpid()}-*"))
            before = sorted(os.listdir("/proc/self/fd")), children(), sorted((cache_dir / "scratch").iterdir())
            for number in range(50):
                plugin = await forked(strategy, replace(request, instance=f"sample-{number}"))
                assert await read_line(plugin) == b"up\n"
                if number % 3 == 0:
                    plugin.kill()
                report = await plugin.close()
                assert report.gone and report.stragglers == 0
                assert not is_alive(plugin.pid or 0)
            assert (sorted(os.listdir("/proc/self/fd")), children(), sorted((cache_dir / "scratch").iterdir())) == before
            assert set(Path("/sys/fs/cgroup").glob(f"*/**/annexe-{os.getpid()}-*")) <= groups
            assert len(list((tmp_path / "state" / "launched").iterdir())) == 1  # its server's
        assert children() == []
        assert list((tmp_path / "state" / "launched").iterdir()) == []

    asyncio.run(scenario())


def test_siblings_have_ends_of_their_own_and_one_that_is_killed_takes_no_other_along(
    make_plugin: MakePlugin, open_strategy: OpenStrategy
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(TELL + "tell(pid=os.getpid())\nwhile True:\n    said = os.read(fd, 9)\n    os.write(fd, said)")
            plugins = await asyncio.gather(*(forked(strategy, replace(request, instance=f"sample-{n}")) for n in range(3)))
            assert len({json.loads(await read_line(plugin))["pid"] for plugin in plugins}) == 3
            plugins[1].kill()
            assert (await wait(plugins[1])).signal == signal.SIGKILL
            for number, plugin in ((0, plugins[0]), (2, plugins[2])):
                plugin.sock.send(b"%d\n" % number)
                assert await read_line(plugin) == b"%d\n" % number
            reports = await asyncio.gather(*(plugin.close() for plugin in plugins))
            assert all(report.gone for report in reports)

    asyncio.run(scenario())


def test_forks_end_with_their_server_and_the_next_start_has_another(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            plugins = [await forked(strategy, replace(request, instance=f"sample-{number}")) for number in range(2)]
            for plugin in plugins:
                await read_line(plugin)
            server = await server_of(plugins[0])
            os.kill(server, signal.SIGKILL)
            for plugin in plugins:
                assert (await wait(plugin)).signal == signal.SIGKILL
                assert (await plugin.close()).gone
            await until(lambda: not strategy._servers._servers)
            assert "the fork server of plugin sample" in caplog.text
            another = await server_for(strategy, replace(request, instance="sample-3"))
            assert another != server

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())


def test_server_that_does_not_answer_is_ended_and_the_plugin_started_cold(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            server = await server_for(strategy, request)
            strategy._servers._servers["sample"].process.sock.settimeout(0.2)
            os.kill(server, signal.SIGSTOP)
            plugin = await strategy.launch(replace(request, instance="sample-2", warm=True))
            assert not isinstance(plugin, ForkedProcess)
            assert await read_line(plugin) == b"up\n"
            assert "started cold" in caplog.text
            await plugin.close()
            await until(lambda: not is_alive(server))
            assert await server_for(strategy, replace(request, instance="sample-3")) != server

    asyncio.run(scenario())


def test_plugin_whose_server_fails_again_and_again_gets_no_other(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = orders.server_orders

    def broken(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        return replace(made, serves={**(made.serves or {}), "private": ["/nonexistent"]})

    async def scenario() -> None:
        async with open_strategy() as strategy:
            for number in range(5):
                plugin = await strategy.launch(make_plugin(WAIT, instance=f"sample-{number}", warm=True))
                assert not isinstance(plugin, ForkedProcess)
                assert await read_line(plugin) == b"up\n"
                await plugin.close()
            assert caplog.text.count("started cold") == 3
            assert "No such file or directory: '/nonexistent'" in caplog.text

    monkeypatch.setattr("annexe.launch.zygote.server_orders", broken)
    asyncio.run(scenario())
    assert children() == []


REACH = (
    TELL
    + """
import errno, fcntl, signal
def outcome(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def is_open(number):
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True
server = os.getppid()
tell(
    open=[number for number in range(4096) if is_open(number)],
    probe=outcome(lambda: os.kill(server, 0)),
    term=outcome(lambda: os.kill(server, signal.SIGTERM)),
    pidfd=outcome(lambda: signal.pidfd_send_signal(os.pidfd_open(server), signal.SIGTERM)),
    memory=outcome(lambda: open(f"/proc/{server}/mem", "rb")),
    environ=outcome(lambda: open(f"/proc/{server}/environ", "rb")),
    stat=outcome(lambda: open(f"/proc/{server}/stat", "rb")),
    fds=outcome(lambda: os.listdir(f"/proc/{server}/fd")),
    priority=outcome(lambda: os.setpriority(os.PRIO_PROCESS, server, 19)),
)
"""
    + STAY
)


@needs_namespaces
@pytest.mark.skipif(landlock_abi() < 6, reason="before Landlock 6 (Linux 6.12) a warm plugin can signal its own fork server")
def test_plugin_reaches_nothing_of_its_server(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(REACH)
            facts = await told(strategy, request)
            assert facts.pop("open") == [0, 1, 2, 3]  # no control socket, no pipe, nothing of a sibling's
            assert set(facts.values()) <= {"EPERM", "EACCES", "ESRCH"}, facts
            assert await told(strategy, replace(request, instance="sample-2"))

    asyncio.run(scenario())


TRACE = (
    TELL
    + """
import ctypes
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
done = ptrace(16, os.getppid(), None, None)
tell(done=done, errno=ctypes.get_errno())
"""
    + STAY
)


def test_plugin_cannot_trace_its_server(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            assert await told(strategy, make_plugin(TRACE)) == {"done": -1, "errno": 1}

    asyncio.run(scenario())


PLANTED = "import os\nLOADED_BY = os.getpid()\n"
LOADED = (
    TELL
    + """
names = ("uuid", "msgspec", "annexe_sdk")
found = {name: name in sys.modules for name in names}
import importlib
for name in names:
    module = importlib.import_module(name)
    found[name] = [found[name], getattr(module, "LOADED_BY", None) == os.getpid(), module.__file__]
tell(**found)
"""
    + STAY
)


def test_code_of_the_plugin_is_never_loaded_in_its_server(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    """Modules named like those of the standard library and the SDK, in the plugin's folder and in its packages."""

    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(LOADED)
            packages = next((request.folder / ".venv").glob("lib/python3.*/site-packages"))
            for path in (request.folder / "uuid.py", packages / "msgspec.py", packages / "annexe_sdk.py"):
                path.write_text(PLANTED)
                path.chmod(0o644)
            cold = await strategy.launch(request)
            expected = json.loads(await read_line(cold))
            await cold.close()
            for instance in ("sample-1", "sample-2"):
                facts = await told(strategy, replace(request, instance=instance))
                assert {name: found[1:] for name, found in facts.items()} == {name: found[1:] for name, found in expected.items()}
                # Not there before the plugin asked, and loaded by its own process then.
                for name, (was_there, by_itself, _) in facts.items():
                    assert by_itself and not was_there, (name, facts)

    asyncio.run(scenario())


def test_server_has_the_sdk_and_msgspec_of_the_runtime_folder_loaded(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    serve = TELL + "tell(loaded=[n for n in ('annexe_sdk.convert', 'msgspec') if n in sys.modules], path=sys.path)" + STAY

    async def scenario() -> None:
        async with open_strategy() as strategy:
            facts = await told(strategy, make_plugin(serve))
            assert "annexe_sdk.convert" in facts["loaded"]
            assert len(facts["path"]) == len(set(facts["path"]))

    asyncio.run(scenario())


def test_the_server_not_used_for_longest_goes_and_busy_ones_stay(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(most_fork_servers=2) as strategy:
            requests = {name: make_plugin(WAIT, plugin=name, instance=f"{name}-1") for name in ("a", "b", "c")}
            servers = {name: await server_for(strategy, requests[name]) for name in ("a", "b")}
            assert await server_for(strategy, replace(requests["a"], instance="a-2")) == servers["a"]
            servers["c"] = await server_for(strategy, requests["c"])
            await until(lambda: not is_alive(servers["b"]))
            assert is_alive(servers["a"])
            busy = [await forked(strategy, replace(requests[name], instance=f"{name}-3")) for name in ("a", "c")]
            cold = await strategy.launch(replace(requests["b"], instance="b-3", warm=True))
            assert not isinstance(cold, ForkedProcess)
            for plugin in (cold, *busy):
                assert await read_line(plugin) == b"up\n"
                await plugin.close()
            assert is_alive(servers["a"]) and is_alive(servers["c"])
        assert not any(map(is_alive, servers.values()))

    asyncio.run(scenario())


def test_server_is_exchanged_when_what_it_was_made_from_has_changed(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, open_folder: Path
) -> None:
    granted = open_folder / "granted"
    granted.mkdir(exist_ok=True)
    granted.chmod(0o755)

    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            server = await server_for(strategy, request)
            assert await server_for(strategy, replace(request, instance="sample-2")) == server
            (request.folder / "entry.py").write_text("changed = True\n")  # imported by each fork for itself
            assert await server_for(strategy, replace(request, instance="sample-3")) == server

            seen = [server]
            changed = replace(request, profile=Profile(read=(str(granted),)))
            for number, again in enumerate((changed, replace(changed, environment={**changed.environment, "MORE": "1"}))):
                seen.append(await server_for(strategy, replace(again, instance=f"sample-{number + 4}")))
            (request.folder / "enum.py").write_text("")
            seen.append(await server_for(strategy, replace(again, instance="sample-6")))
            (request.folder / "enum.py").unlink()
            request.folder.rename(request.folder.with_name("before"))
            make_plugin(WAIT)  # the same path, another folder: what was mounted is the one before
            seen.append(await server_for(strategy, replace(again, instance="sample-7")))
            assert len(set(seen)) == len(seen)
            await until(lambda: not any(map(is_alive, seen[:-1])))

    asyncio.run(scenario())


def test_server_that_is_exchanged_serves_on_until_its_forks_have_ended(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            old = await forked(strategy, request)
            assert await read_line(old) == b"up\n"
            server = await server_of(old)
            more = replace(request, instance="sample-2", environment={**request.environment, "MORE": "1"})
            assert await server_for(strategy, more) != server
            assert is_alive(server) and is_alive(old.pid or 0)
            assert (await old.close()).gone
            await until(lambda: not is_alive(server))

    asyncio.run(scenario())


LITTER = (
    TELL
    + """
tmp = os.environ["TMPDIR"]
before = sorted(os.listdir(tmp))
here = tmp
os.umask(0)
for _ in range(300):
    here += "/d"
    os.chdir(os.path.dirname(here)) if len(here) < 1000 else None
    try:
        os.mkdir("d", 0o700)
        os.chdir("d")
    except OSError:
        break
os.chdir("/")
open(f"{tmp}/file", "w").write("left")
os.mkdir(f"{tmp}/closed")
open(f"{tmp}/closed/file", "w").write("left")
os.chmod(f"{tmp}/closed", 0)
os.chmod(tmp, 0)
tell(before=before)
"""
    + STAY
)


@needs_namespaces
def test_what_an_instance_left_in_its_temporary_folder_is_gone_and_what_was_granted_there_is_not(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, open_folder: Path
) -> None:
    granted = open_folder / "kept"
    granted.mkdir(exist_ok=True)
    granted.chmod(0o777)
    (granted / "mine").mkdir(exist_ok=True)
    (granted / "mine" / "file").write_text("kept")

    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(LITTER, profile=Profile(write=(str(granted),)))
            first = await told(strategy, request)
            server = strategy._servers._servers["sample"]
            assert await told(strategy, replace(request, instance="sample-2")) == first
            assert strategy._servers._servers["sample"] is server
            assert (granted / "mine" / "file").read_text() == "kept"

    asyncio.run(scenario())


def test_random_numbers_differ_between_forks(make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "_PRELOADED", ("random",))
    serve = TELL + "loaded = 'random' in sys.modules\nimport random\ntell(loaded=loaded, drawn=random.random())" + STAY

    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(serve)
            facts = [await told(strategy, replace(request, instance=f"sample-{number}")) for number in range(3)]
            assert all(fact["loaded"] for fact in facts)
            assert len({fact["drawn"] for fact in facts}) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        pytest.param({"profile": Profile(subprocess=True)}, (), id="may-have-children"),
        pytest.param({}, ("namespaces", "landlock", "seccomp"), id="no-filters"),
    ],
)
def test_plugin_whose_tree_may_be_more_than_one_process_is_started_cold(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, changes: dict[str, Any], without: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=OfferFinder(unsafe_without=without)) as strategy:
            for number in range(2):
                plugin = await strategy.launch(make_plugin(WAIT, warm=True, instance=f"sample-{number}", **changes))
                assert not isinstance(plugin, ForkedProcess)
                assert await read_line(plugin) == b"up\n"
                await plugin.close()
            assert children() == []

    asyncio.run(scenario())


def test_forks_without_namespaces_are_behind_the_other_walls(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=OfferFinder(unsafe_without=("namespaces",)), groups=NoControlGroups()) as strategy:
            for number in range(2):
                plugin = await forked(strategy, make_plugin(REPORT, instance=f"sample-{number}"))
                await read_line(plugin)
                plugin.confirm()
                assert plugin.receipt.level in (IsolationLevel.LANDLOCK, IsolationLevel.LANDLOCK_PARTIAL, IsolationLevel.LIMITS)
                assert (await plugin.close()).gone

    asyncio.run(scenario())


@pytest.mark.skipif(not IS_ROOT, reason="control groups of version 1 are root's")
def test_fork_has_a_control_group_of_its_own(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            plugin = await forked(strategy, make_plugin(WAIT))
            await read_line(plugin)
            if not plugin.receipt.walls.cgroup:
                pytest.skip("there are no control groups here")
            assert plugin.pid is not None
            of_fork, of_server = (Path(f"/proc/{pid}/cgroup").read_text() for pid in (plugin.pid, await server_of(plugin)))
            assert ".sample-1\n" in of_fork and ".sample-1.server\n" in of_server
            usage = plugin.group_usage()
            assert usage is not None and usage.tasks == 1
            await plugin.close()

    asyncio.run(scenario())


def test_level_that_cannot_be_had_is_refused_warm_as_cold(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=without_walls()) as strategy:
            with pytest.raises(SandboxError):
                await strategy.launch(make_plugin(WAIT, warm=True, floor=IsolationLevel.FULL))
            assert children() == []

    asyncio.run(scenario())


def test_warm_launch_that_is_called_off_leaves_nothing(make_plugin: MakePlugin, open_strategy: OpenStrategy, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            await server_for(strategy, request)
            before = sorted(os.listdir("/proc/self/fd"))
            launch = asyncio.create_task(strategy.launch(replace(request, instance="sample-2", warm=True)))
            await asyncio.sleep(0)
            launch.cancel()
            with suppress(asyncio.CancelledError):
                await launch
            await asyncio.gather(*strategy._discarding)
            assert sorted(os.listdir("/proc/self/fd")) == before
        assert list((tmp_path / "state" / "launched").iterdir()) == []
        assert children() == []

    asyncio.run(scenario())


def write_sleepy(folder: Path) -> None:
    write_plugin(
        folder,
        "sleepy",
        "@plugin.filter('t.edit')\ndef edit(doc):\n    doc['marks'].append('awake')\n    return doc\n",
        hooks=["t.edit"],
        runtime='start = "lazy"\n',
    )


def test_second_wake_of_a_lazy_plugin_is_warm(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    async def scenario() -> None:
        write_sleepy(tmp_path / "plugins")
        async with open_host(tmp_path) as host:
            sleepy = host.plugin("sleepy")
            servers = set()
            for _ in range(2):
                await sleepy.start()
                assert (await host.hooks(T).edit(Doc("x"))).marks == ["awake"]
                assert sleepy.pid is not None and sleepy.receipt is not None
                assert any("warm" in layer.detail for layer in sleepy.receipt.layers)
                servers.add(parent_of(sleepy.pid))
                await sleepy.stop()
                await wait_state(sleepy, "stopped")
            assert len(servers) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["disabled", "removed"])
def test_plugin_that_is_not_to_run_soon_keeps_no_server(tmp_path: Path, how: str) -> None:
    tmp_path.chmod(0o755)

    async def scenario() -> None:
        write_sleepy(tmp_path / "plugins")
        async with open_host(tmp_path) as host:
            sleepy = host.plugin("sleepy")
            await sleepy.start()
            await host.hooks(T).edit(Doc("x"))
            assert sleepy.pid is not None
            server = parent_of(sleepy.pid)
            assert server is not None
            await sleepy.stop()
            assert is_alive(server)
            if how == "disabled":
                await sleepy.disable()
            else:
                shutil.rmtree(tmp_path / "plugins" / "sleepy")
                await host.scan()
            await until(lambda: not is_alive(server))

    asyncio.run(scenario())


def test_server_that_was_being_made_for_a_plugin_that_is_released_ends(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            launching = asyncio.ensure_future(strategy.launch(replace(make_plugin(WAIT), warm=True)))
            await asyncio.sleep(0)  # it has begun, and nothing is made yet
            launching.cancel()
            await asyncio.wait([launching])
            strategy.release("sample")
            await until(lambda: not strategy._discarding)
            await until(lambda: not children())

    asyncio.run(scenario())
