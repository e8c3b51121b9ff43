"""Real plugins in real processes, through the strategy."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import queue
import re
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest

from annexe.errors import HostClosedError, LaunchError, SandboxError, UnsupportedPlatformError
from annexe.launch import ExitStatus, LaunchedPlugin, plugin_environment, starter
from annexe.launch.data_folders import DataFolders
from annexe.launch.offer import OfferFinder, landlock_abi
from annexe.launch.processes import identity_of
from annexe.launch.python_env import PythonFinder
from annexe.sandbox import IsolationLevel, Profile, Walls
from annexe.sandbox.cgroup import CONTROLLERS, ControlGroups, Flavour, Group, GroupLimits, GroupUsage, NoControlGroups
from tests.process.conftest import IS_ROOT, TEST_UIDS, MakePlugin, OpenStrategy, needs_namespaces, needs_other, needs_root
from tests.process.hosts import without_walls
from tests.unit.launch.test_project_quota import FakeKernel

REPORT = """
import json, os, sys, resource, threading
print("on stdout"); print("on stderr", file=sys.stderr)
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
facts = {
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv,
    "environ": dict(os.environ), "fds": sorted(int(n) for n in os.listdir("/proc/self/fd")), "stdin": os.readlink("/proc/self/fd/0"),
    "umask": os.umask(0), "nice": os.nice(0), "no_new_privs": status["NoNewPrivs"].strip(), "fd": fd, "entry": entry,
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0] for name in "DATA AS NOFILE FSIZE CORE NPROC".split()},
    "main": sorted(vars(sys.modules["__main__"])), "flags": [sys.flags.isolated, sys.flags.no_site], "session": os.getsid(0) == os.getpid(),
    "stack": threading.stack_size(), "python": os.path.realpath(sys.executable), "ppid": os.getppid(),
}
os.write(fd, json.dumps(facts).encode() + b"\\n")
while os.read(fd, 1): pass
"""
WAIT = "import os\nos.write(fd, b'up\\n')\nwhile os.read(fd, 1): pass"


async def read_line(plugin: LaunchedPlugin) -> bytes:
    loop, line = asyncio.get_running_loop(), b""
    async with asyncio.timeout(10):
        while not line.endswith(b"\n"):
            chunk = await loop.sock_recv(plugin.sock, 1)
            assert chunk, f"the plugin ended early: {await plugin.wait()}: {read_all(plugin.stderr)!r}"
            line += chunk
    return line


def read_all(fd: int | None) -> bytes:
    """Return what a pipe of an ended plugin holds; its namespaces end a moment after it."""
    assert fd is not None
    text = b""
    while select.select([fd], [], [], 5)[0] and (chunk := os.read(fd, 65536)):
        text += chunk
    return text


async def wait(plugin: LaunchedPlugin) -> ExitStatus:
    async with asyncio.timeout(10):
        return await plugin.wait()


def facts_of(make_plugin: MakePlugin, open_strategy: OpenStrategy, *, offers: OfferFinder | None = None, **changes: Any) -> dict[str, Any]:
    async def scenario() -> dict[str, Any]:
        async with open_strategy(offers=offers) as strategy:
            plugin = await strategy.launch(make_plugin(REPORT, **changes))
            facts: dict[str, Any] = json.loads(await read_line(plugin))
            facts["receipt"] = plugin.receipt
            await plugin.close()
            return facts

    return asyncio.run(scenario())


def test_launched_plugin_inherits_the_channel_and_standard_streams_only(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        facts = facts_of(make_plugin, open_strategy)
    finally:
        os.close(leak)
    assert facts["fd"] == 3
    assert facts["fds"] == [0, 1, 2, 3, 4]  # 4 is the folder being listed
    assert facts["stdin"] == "/dev/null"


def test_launched_plugin_sees_the_allowed_environment_only(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "hunter2")
    monkeypatch.setenv("PYTHONPATH", "/tmp/evil")
    monkeypatch.setenv("GRANTED", "yes")
    facts = facts_of(make_plugin, open_strategy, environment=plugin_environment(os.environ, granted=["GRANTED"]))
    known = {"LANG", "TZ", "PATH", "HOME", "TMPDIR", "ANNEXE_FD", "GRANTED"}
    assert {name for name in facts["environ"] if not name.startswith("LC_")} <= known
    assert facts["environ"]["ANNEXE_FD"] == "3"
    assert facts["environ"]["GRANTED"] == "yes"
    assert "hunter2" not in json.dumps(facts["environ"])


def test_host_secret_reaches_a_plugin_when_the_allow_list_is_off(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "hunter2")
    facts = facts_of(make_plugin, open_strategy, environment=dict(os.environ))
    assert facts["environ"]["HOST_SECRET"] == "hunter2"


def test_launched_plugin_has_its_limits_on_before_its_code_runs(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    profile = Profile(memory_bytes=96 << 20, tasks=20, open_files=40, file_bytes=1 << 20, nice=3)
    facts = facts_of(make_plugin, open_strategy, profile=profile)
    assert {name: facts["limits"][name] for name in ("DATA", "NOFILE", "FSIZE", "CORE")} == {
        "DATA": 96 << 20,
        "NOFILE": 40,
        "FSIZE": 1 << 20,
        "CORE": 0,
    }
    assert facts["limits"]["AS"] > facts["limits"]["DATA"]
    # Counted per user, and within a namespace of users by itself: only where that user is the plugin's alone.
    assert (facts["limits"]["NPROC"] == 20) is (IS_ROOT or facts["receipt"].walls.namespaces)
    assert facts["nice"] == os.nice(0) + 3
    assert facts["umask"] == 0o077
    assert facts["no_new_privs"] == "1"
    assert facts["stack"] == profile.thread_stack_bytes


def test_launched_plugin_leads_a_session_of_its_own_and_finds_an_empty_main(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    facts = facts_of(make_plugin, open_strategy)
    inside = facts["receipt"].walls.namespaces
    assert facts["session"] is not inside  # within its namespaces nobody else is there to lead
    assert facts["ppid"] == (1 if inside else os.getpid())
    assert facts["cwd"] == "/"
    assert facts["argv"] == [facts["entry"]] == ["entry"]
    assert facts["flags"] == [1, 1]
    assert set(facts["main"]) <= {"__name__", "__doc__", "__package__", "__loader__", "__spec__"}


def test_launched_plugin_path_has_its_folder_first_and_the_runtime_folder_last(
    make_plugin: MakePlugin, open_strategy: OpenStrategy
) -> None:
    facts = facts_of(make_plugin, open_strategy)
    assert facts["path"][0].endswith("/sample")
    assert facts["path"][-2].endswith("site-packages")
    assert "/cache/runtime/cpython-" in facts["path"][-1]
    stdlib = next(i for i, path in enumerate(facts["path"]) if re.search(r"/lib/python3\.\d+$", path))
    assert 0 < stdlib < len(facts["path"]) - 2


@needs_root
def test_root_host_gives_each_launch_a_user_of_its_own(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> list[dict[str, Any]]:
        async with open_strategy() as strategy:
            plugins = [await strategy.launch(make_plugin(REPORT, plugin=name)) for name in ("one", "two")]
            facts = [json.loads(await read_line(plugin)) for plugin in plugins]
            for plugin, found in zip(plugins, facts, strict=True):
                assert plugin.receipt.uid == found["uid"]
                assert plugin.receipt.tree_kill == "hard"
                await plugin.close()
            return facts

    one, two = asyncio.run(scenario())
    assert one["uid"] != two["uid"]
    assert 0 not in (one["uid"], two["uid"])
    assert one["gid"] == one["uid"]
    assert one["groups"] == []


@needs_other
def test_other_host_shares_its_user_and_the_receipt_says_so(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    facts = facts_of(make_plugin, open_strategy, offers=without_walls())
    assert facts["uid"] == os.getuid()
    assert facts["receipt"].tree_kill == "soft"
    assert any("host's own user" in note for note in facts["receipt"].notes)


@needs_other
def test_other_host_keeps_its_plugins_off_itself_where_there_are_walls(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    facts = facts_of(make_plugin, open_strategy)
    assert facts["uid"] == os.getuid()
    assert facts["receipt"].tree_kill == "hard"
    assert not any("host's own user" in note for note in facts["receipt"].notes)


def test_stdout_and_stderr_are_captured_line_by_line(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            plugin = await strategy.launch(make_plugin(REPORT))
            await read_line(plugin)
            assert plugin.stdout is not None
            assert os.read(plugin.stdout, 100) == b"on stdout\n"  # it is still running: nothing waited for a full buffer
            plugin.kill()
            await wait(plugin)
            assert read_all(plugin.stderr) == b"on stderr\n"
            await plugin.close()

    asyncio.run(scenario())


def test_plugin_module_named_like_the_standard_library_is_not_loaded_before_the_runner(
    make_plugin: MakePlugin, open_strategy: OpenStrategy
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin("import os, json\nos.write(fd, json.dumps(json.__file__).encode() + b'\\n')")
            packages = next(request.folder.glob(".venv/lib/*/site-packages"))
            (packages / "stand_in.py").write_text("import json\n" + (packages / "stand_in.py").read_text())
            (request.folder / "json.py").write_text("raise SystemExit('plugin code ran before the handshake')")
            plugin = await strategy.launch(request)
            assert "sample" not in json.loads(await read_line(plugin))
            await plugin.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("serve", "expected", "text"),
    [
        pytest.param("raise SystemExit(3)", ExitStatus(code=3), "exited with status 3", id="exit"),
        pytest.param("pass", ExitStatus(code=0), "exited with status 0", id="return"),
        pytest.param("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", ExitStatus(signal=9), "killed by SIGKILL", id="killed"),
        pytest.param("import ctypes\nctypes.string_at(0)", ExitStatus(signal=11), "killed by SIGSEGV", id="crash"),
    ],
)
def test_wait_tells_how_the_plugin_ended(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, serve: str, expected: ExitStatus, text: str
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            plugin = await strategy.launch(make_plugin(serve))
            status = await wait(plugin)
            assert status == expected
            assert status.text == text
            assert await wait(plugin) == expected
            assert (await plugin.close()).gone

    asyncio.run(scenario())


def _without_pidfds(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "python":
        monkeypatch.delattr(os, "pidfd_open")
    else:

        def refuse(_pid: int) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", refuse)
    if missing == "waitid":
        monkeypatch.delattr(os, "waitid")


@pytest.mark.parametrize("missing", ["python", "kernel", "waitid"])
def test_without_pidfds_plugins_leave_the_threads_of_the_application_alone(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    _without_pidfds(monkeypatch, missing)

    async def scenario() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=2))
        async with open_strategy() as strategy, asyncio.timeout(15):
            request = make_plugin(WAIT)
            plugins = [await strategy.launch(replace(request, instance=f"sample-{number}")) for number in range(4)]
            for plugin in plugins:
                await read_line(plugin)
            await asyncio.to_thread(int)
            plugins[0].kill()
            assert await wait(plugins[0]) == ExitStatus(signal=signal.SIGKILL)
            plugins[1].sock.close()  # it sees the end of its channel
            assert await wait(plugins[1]) == ExitStatus(code=0)
            assert all(report.gone for report in await asyncio.gather(*(plugin.close() for plugin in plugins)))
            for thread in threading.enumerate():
                if thread.name.startswith("annexe-wait"):
                    thread.join(5)
                    assert not thread.is_alive()

    asyncio.run(scenario())


def test_without_pidfds_the_group_is_still_killed_before_its_leader_is_reaped(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_pidfds(monkeypatch, "kernel")
    leader_there: list[bool] = []
    killpg = os.killpg

    def note(group: int, which: int) -> None:
        leader_there.append(Path(f"/proc/{group}").exists())
        killpg(group, which)

    async def scenario() -> None:
        async with open_strategy(offers=without_walls()) as strategy:
            plugin = await strategy.launch(
                make_plugin(f"import os\nif os.fork() == 0:\n    import time; time.sleep(60)\n{WAIT}\nos._exit(3)")
            )
            await read_line(plugin)
            monkeypatch.setattr(os, "killpg", note)
            plugin.sock.shutdown(socket.SHUT_WR)
            assert await wait(plugin) == ExitStatus(code=3)
            report = await plugin.close()
            assert (report.gone, report.stragglers) == (True, 0)
            assert leader_there == [True]

    asyncio.run(scenario())


def test_terminate_then_kill_end_a_plugin_that_ignores_the_first(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            serve = "import signal\nsignal.signal(15, lambda *_: os.write(fd, b'no\\n'))\nimport os\n" + WAIT
            plugin = await strategy.launch(make_plugin(serve))
            await read_line(plugin)
            plugin.terminate()
            assert await read_line(plugin) == b"no\n"
            plugin.kill()
            assert await wait(plugin) == ExitStatus(signal=signal.SIGKILL)
            plugin.terminate()  # no effect any more, on nobody
            plugin.kill()
            await plugin.close()

    asyncio.run(scenario())


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(fd, b"%d\\n" % os.getpid())
        for n in (0, 1, 2, 3): os.close(n)
        time.sleep(1000)
    os._exit(0)
os.wait()
while os.read(fd, 1): pass
"""


def test_close_hunts_down_a_descendant_that_daemonised(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=without_walls()) as strategy:
            plugin = await strategy.launch(make_plugin(DAEMON))
            daemon = int(await read_line(plugin))
            plugin.kill()
            await wait(plugin)
            os.kill(daemon, 0)  # it outlived its process group
            report = await plugin.close()
            assert report.gone
            assert report.stragglers == 1
            assert identity_of(daemon) is None

    asyncio.run(scenario())


def test_crash_of_the_main_process_takes_its_group_along(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=without_walls()) as strategy:
            serve = "import os, time\nif os.fork() == 0: time.sleep(1000)\nos.write(fd, b'up\\n')\nos.read(fd, 1)\nos._exit(1)"
            plugin = await strategy.launch(make_plugin(serve))
            await read_line(plugin)
            await asyncio.get_running_loop().sock_sendall(plugin.sock, b"x")
            assert await wait(plugin) == ExitStatus(code=1)
            report = await plugin.close()
            assert (report.gone, report.stragglers) == (True, 0)  # the group was gone before anything had to be hunted

    asyncio.run(scenario())


def test_close_gives_everything_back_and_can_be_repeated(make_plugin: MakePlugin, open_strategy: OpenStrategy, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            await (await strategy.launch(make_plugin(WAIT))).close()
            before = sorted(os.listdir("/proc/self/fd"))
            plugin = await strategy.launch(make_plugin("import os, tempfile\nopen(tempfile.gettempdir() + '/f', 'w')\n" + WAIT))
            await read_line(plugin)
            assert len(list((tmp_path / "state" / "launched").iterdir())) == 1
            first, second = await asyncio.gather(plugin.close(), plugin.close())
            assert first is second
            assert first.gone
            assert sorted(os.listdir("/proc/self/fd")) == before
            assert list((tmp_path / "state" / "launched").iterdir()) == []

    asyncio.run(scenario())


def test_close_that_cannot_give_everything_back_is_a_launch_error_each_time(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            plugin = await strategy.launch(make_plugin(WAIT))
            await read_line(plugin)
            (record,) = (tmp_path / "state" / "launched").iterdir()
            record.unlink()
            record.mkdir()  # unlink refuses it, also to root
            for _ in range(2):
                with pytest.raises(LaunchError) as caught:
                    await plugin.close()
                assert caught.value.data == {"pid": plugin.pid}
            assert await wait(plugin) == ExitStatus(signal=signal.SIGKILL)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("function", "error"),
    [
        pytest.param("annexe.launch.preparation.tempfile.mkdtemp", OSError(errno.ENOSPC, "No space left on device"), id="disk-full"),
        pytest.param("annexe.launch.bytecode._signature", FileNotFoundError(errno.ENOENT, "No such file"), id="file-vanished"),
        pytest.param("annexe.launch.descriptors.socket.socketpair", OSError(errno.EMFILE, "Too many open files"), id="no-descriptor"),
    ],
)
def test_fault_of_the_machine_at_launch_is_a_launch_error_and_leaves_nothing_behind(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: OSError
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    async def scenario() -> None:
        async with open_strategy() as strategy:
            await (await strategy.launch(make_plugin(WAIT))).close()
            request = make_plugin(WAIT, module="changed = True")
            before = sorted((cache_dir / "scratch").iterdir())
            with monkeypatch.context() as patch:
                patch.setattr(function, fail)
                with pytest.raises(LaunchError) as caught:
                    await strategy.launch(request)
            assert caught.value.plugin == "sample"
            assert caught.value.__cause__ is error
            assert sorted((cache_dir / "scratch").iterdir()) == before

    asyncio.run(scenario())


def test_sweep_removes_from_the_cache_what_no_host_has_used_for_long(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, open_folder: Path, tmp_path: Path
) -> None:
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=open_folder))
    cache.chmod(0o755)

    def kept() -> set[str]:
        return {f"{path.parent.name}/{path.name}" for name in ("bytecode", "runtime", "plugins") for path in (cache / name).glob("*")}

    def age() -> None:
        for path in kept():
            os.utime(cache / path, (1000.0, 1000.0))

    async def scenario() -> None:
        for name in ("runtime/older-sdk/inner", "plugins/removed/copy", "bytecode"):
            (cache / name).mkdir(parents=True)
        (cache / "bytecode" / "stamp").touch()
        others = tmp_path / "other-state"
        async with open_strategy(cache_dir=cache, state_dir=others) as other, open_strategy(cache_dir=cache) as strategy:
            request = make_plugin(WAIT)
            if IS_ROOT:
                request.folder.chmod(0o700)  # so it is copied
            plugin = await other.launch(request)
            await read_line(plugin)
            used = kept() - {"runtime/older-sdk", "plugins/removed", "bytecode/stamp"}
            assert {path.partition("/")[0] for path in used} == {"bytecode", "runtime", *(["plugins"] if IS_ROOT else [])}
            assert kept() != used
            assert await strategy.sweep() == ()
            assert kept() >= used and len(kept()) == len(used) + 3  # all of it is new
            age()
            await strategy.sweep()
            assert kept() == {path for path in used if not path.startswith("bytecode/")}  # a stamp is no plugin's business
            assert (await plugin.close()).gone
        async with open_strategy(cache_dir=cache) as strategy:
            await strategy.sweep()
            assert any(path.startswith("runtime/") for path in kept())  # used until that host ended
            age()
            await strategy.sweep()
            assert kept() == set()

    asyncio.run(scenario())


def test_private_folder_is_the_plugins_own_and_removed_with_it(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=without_walls()) as strategy:
            serve = "import os\nos.chdir(os.environ['TMPDIR'])\nfor n in range(3000): os.mkdir('d'), os.chdir('d')\n"
            plugin = await strategy.launch(make_plugin(serve + "os.write(fd, os.environ['TMPDIR'].encode() + b'\\n')\n" + WAIT))
            scratch = Path((await read_line(plugin)).decode().strip())
            assert scratch.stat().st_mode & 0o777 == 0o700
            assert scratch.stat().st_uid == plugin.receipt.uid
            await plugin.close()
            assert not scratch.exists()

    asyncio.run(scenario())


def test_host_with_more_than_a_thousand_descriptors_launches_as_any_other(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"this user may have {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]

    async def scenario() -> None:
        async with open_strategy() as strategy:
            plugin = await strategy.launch(make_plugin(WAIT))
            await read_line(plugin)
            await plugin.close()

    try:
        asyncio.run(scenario())
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs_root
@pytest.mark.parametrize(
    ("kernel", "walled", "expected"),
    [
        pytest.param(FakeKernel(), True, True, id="kept", marks=needs_namespaces),
        pytest.param(FakeKernel(), False, False, id="could-be-evaded"),
        pytest.param(FakeKernel(enforced=False), True, False, id="not-kept"),
    ],
)
def test_receipt_says_when_the_kernel_keeps_the_quota_of_the_private_folder(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, open_folder: Path, kernel: FakeKernel, walled: bool, expected: bool
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=open_folder))
    data = DataFolders(folder / "data", plugin_uids=TEST_UIDS, quotas=kernel)
    profile = Profile(data=str(data.folder_of("sample")), data_quota_bytes=1 << 20)

    async def scenario() -> None:
        walls = {} if walled else {"offers": without_walls()}
        folder.chmod(0o711)
        async with open_strategy(data=data, **walls) as strategy:
            plugin = await strategy.launch(make_plugin(WAIT, profile=profile))
            await read_line(plugin)
            plugin.confirm()
            assert ("the quota of its private folder is kept by the kernel" in plugin.receipt.notes) is expected
            await plugin.close()

    asyncio.run(scenario())


def test_plugin_survives_the_end_of_the_thread_that_asked_for_it(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    """The parent-death signal follows the spawning thread; worker threads that end must not take plugins along."""

    async def scenario() -> None:
        async with open_strategy() as strategy:
            workers = ThreadPoolExecutor()
            asyncio.get_running_loop().set_default_executor(workers)
            plugin = await strategy.launch(make_plugin(WAIT.replace("os.read(fd, 1)", "(c := os.read(fd, 1)) and os.write(fd, c)")))
            await read_line(plugin)
            workers.shutdown()
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
            await asyncio.get_running_loop().sock_sendall(plugin.sock, b"\n")
            assert await read_line(plugin) == b"\n"
            await plugin.close()

    asyncio.run(scenario())


def test_end_of_the_spawner_thread_kills_what_it_started(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            plugin = await strategy.launch(make_plugin(WAIT))
            await read_line(plugin)
            await strategy.close()
            assert await wait(plugin) == ExitStatus(signal=signal.SIGKILL)
            await plugin.close()
            with pytest.raises(HostClosedError):
                await strategy.launch(make_plugin(WAIT))

    asyncio.run(scenario())


def test_launch_cancelled_while_it_waits_for_the_fork_leaves_nothing_behind(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            await (await strategy.launch(make_plugin(WAIT))).close()
            before = set(os.listdir("/proc/self/fd"))
            go_on = threading.Event()
            blocked = strategy._starter._spawner.submit(lambda: go_on.wait(10))
            while not blocked.running():
                await asyncio.sleep(0)
            launch = asyncio.create_task(strategy.launch(make_plugin(WAIT)))
            while strategy._starter._spawner._work.qsize() == 0:
                await asyncio.sleep(0)  # until the fork is queued behind that
            launch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launch
            go_on.set()
        assert set(os.listdir("/proc/self/fd")) < before  # what the strategy held of the cache is given back too
        assert list((tmp_path / "state" / "launched").iterdir()) == []
        assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""

    asyncio.run(scenario())


@final
class CountingGroups(ControlGroups):
    """Groups that limit nothing, and count how often the wait for one was taken."""

    def __init__(self, flavour: Flavour) -> None:
        self.controllers = frozenset()
        self.flavour = flavour
        self.waits: queue.SimpleQueue[int] = queue.SimpleQueue()

    def make(self, name: str, limits: GroupLimits) -> Group:
        return NoControlGroups().make(name, limits)

    def take_wait(self) -> None:
        self.waits.put(threading.get_ident())

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("flavour", "expected"), [("v2", 1), ("v1", 0), ("v2-scope", 0), ("none", 0)])
def test_wait_for_a_control_group_is_taken_beside_the_start_where_there_is_one(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, flavour: Flavour, expected: int
) -> None:
    groups = CountingGroups(flavour)

    async def scenario() -> None:
        async with open_strategy(groups=groups) as strategy:
            plugin = await strategy.launch(make_plugin(REPORT))
            await plugin.close()

    asyncio.run(scenario())
    waits = [groups.waits.get(timeout=10) for _ in range(expected)]
    assert groups.waits.empty()
    assert threading.get_ident() not in waits


@final
class ScopeLike(Group):
    """A group that claims nothing before a process is in it, as those of ``systemd-run`` do; what it limits is played."""

    def __init__(self, name: str, limits: GroupLimits, claims: frozenset[str], usage: GroupUsage) -> None:
        self.name = name
        self.controllers = frozenset()
        self.notes = ()
        self._limits, self._claims, self._usage, self._pids = limits, claims, usage, set[int]()

    def add(self, pid: int) -> None:
        self._pids.add(pid)
        self.controllers = self._claims

    def usage(self) -> GroupUsage:
        return self._usage

    def holds(self, pid: int) -> bool:
        return bool(self._pids)

    def read_limits(self) -> GroupLimits:
        return self._limits

    def kill(self, *, deadline_s: float = 5.0) -> bool:
        return True

    def remove(self) -> bool:
        return True


@final
class ScopesLike(ControlGroups):
    def __init__(self, claims: frozenset[str] = CONTROLLERS, *, usage: GroupUsage | None = None) -> None:
        self.controllers = CONTROLLERS
        self.flavour = "v2-scope"
        self._claims = claims
        self._usage = usage or GroupUsage()

    def make(self, name: str, limits: GroupLimits) -> Group:
        return ScopeLike(name, limits, self._claims, self._usage)

    def take_wait(self) -> None:
        pass

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.mark.parametrize("claims", [CONTROLLERS, frozenset({"pids"})], ids=["all", "some"])
def test_receipt_claims_what_a_group_limits_that_is_there_only_once_the_process_is(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, claims: frozenset[str]
) -> None:
    async def scenario() -> None:
        async with open_strategy(groups=ScopesLike(claims)) as strategy:
            plugin = await strategy.launch(make_plugin(WAIT))
            try:
                await read_line(plugin)
                for confirmed in (False, True):
                    if confirmed:
                        plugin.confirm()
                    rights = plugin.receipt.rights
                    by_group = {
                        name for name, found in rights.items() if found.state == "enforced" and found.why.startswith("a control group")
                    }
                    assert by_group == ({"memory", "cpu", "processes"} if claims == CONTROLLERS else {"processes"})
                layers = {layer.name: layer for layer in plugin.receipt.layers}
                assert layers["memory"].state == ("on" if "memory" in claims else "soft")
                assert layers["tasks"].confirmed
            finally:
                await plugin.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("usage", "serve", "expected"),
    [
        pytest.param(GroupUsage(oom_kills=2), "os.kill(os.getpid(), 9)", ExitStatus(signal=9, out_of_memory=True), id="killed-for-it"),
        pytest.param(GroupUsage(oom_kills=0), "os.kill(os.getpid(), 9)", ExitStatus(signal=9), id="killed-by-another"),
        pytest.param(GroupUsage(), "os.kill(os.getpid(), 9)", ExitStatus(signal=9), id="group-is-gone"),
        pytest.param(GroupUsage(oom_kills=2), "raise SystemExit(3)", ExitStatus(code=3), id="only-a-child-was-killed"),
    ],
)
def test_end_for_want_of_memory_is_told(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, usage: GroupUsage, serve: str, expected: ExitStatus
) -> None:
    """Such a group may be killed whole: the monitor, which looks now and then, comes too late."""

    async def scenario() -> None:
        async with open_strategy(groups=ScopesLike(usage=usage)) as strategy:
            plugin = await strategy.launch(make_plugin(f"import os\n{serve}"))
            assert await wait(plugin) == expected
            await plugin.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("may_move", [True, False])
def test_groups_are_looked_for_without_moving_a_host_that_may_not_be_moved(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, monkeypatch: pytest.MonkeyPatch, may_move: bool
) -> None:
    asked: list[bool] = []

    def find(*, may_move_host: bool) -> tuple[ControlGroups, str]:
        asked.append(may_move_host)
        return NoControlGroups(), "none are wanted"

    monkeypatch.setattr(starter, "find_control_groups", find)

    async def scenario() -> None:
        async with open_strategy(may_move_host=may_move) as strategy:
            await (await strategy.launch(make_plugin(WAIT))).close()

    asyncio.run(scenario())
    assert asked == [may_move]


def test_memory_beyond_the_limit_is_refused_to_the_plugin_alone(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            serve = (
                "import os\ntry:\n    hog = [bytearray(1 << 20) for _ in range(400)]\n    os.write(fd, b'through\\n')\n"
                "except MemoryError: os.write(fd, b'refused\\n')"
            )
            plugin = await strategy.launch(make_plugin(serve, profile=Profile(memory_bytes=64 << 20)))
            assert await read_line(plugin) == b"refused\n"
            await plugin.close()
            roomy = await strategy.launch(make_plugin(serve, profile=Profile(memory_bytes=1 << 30)))
            assert await read_line(roomy) == b"through\n"
            await roomy.close()

    asyncio.run(scenario())


def test_failing_stub_says_why_on_stderr(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(runner="no_such_runner") as strategy:
            plugin = await strategy.launch(make_plugin(WAIT))
            assert await wait(plugin) == ExitStatus(code=71)
            assert b"annexe stub: ModuleNotFoundError: No module named 'no_such_runner'" in read_all(plugin.stderr)
            await plugin.close()

    asyncio.run(scenario())


def test_binary_plugin_gets_limits_and_channel_and_no_private_frame(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            program = request.folder / "run.sh"
            program.write_text(
                '#!/bin/sh\nread line <&$ANNEXE_FD\necho "$ANNEXE_FD $(ulimit -n) $line $(ls /proc/$$/fd | tr "\\n" ,)" >&3\n'
            )
            program.chmod(0o755)
            plugin = await strategy.launch(replace(request, kind="binary", entry="run.sh", profile=Profile(open_files=33, subprocess=True)))
            await asyncio.get_running_loop().sock_sendall(plugin.sock, b"first\n")
            said = (await read_line(plugin)).decode()
            channel, open_files, line, descriptors = said.split()
            assert (channel, open_files, line) == ("3", "33", "first")
            assert set(descriptors.strip(",").split(",")) <= {"0", "1", "2", "3", "4", "10"}  # the last two are the shell's own
            await plugin.close()

    asyncio.run(scenario())


def test_binary_that_cannot_be_run_ends_with_a_reason(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            (request.folder / "run.sh").write_text("echo\n")
            (request.folder / "run.sh").chmod(0o644)
            plugin = await strategy.launch(replace(request, kind="binary", entry="run.sh"))
            assert (await wait(plugin)).code == 71
            assert b"PermissionError" in read_all(plugin.stderr)
            await plugin.close()

    asyncio.run(scenario())


def test_expected_walls_are_those_that_a_launch_then_gets(make_plugin: MakePlugin, open_strategy: OpenStrategy, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            expected = await strategy.expected_walls()
            assert not (tmp_path / "state").exists()  # nothing was launched
            plugin = await strategy.launch(make_plugin(WAIT))
            assert plugin.receipt.walls == expected == await strategy.expected_walls()
            await plugin.close()

    asyncio.run(scenario())


def test_no_walls_are_expected_where_nothing_could_be_launched(open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(pythons=PythonFinder(host=Path("/nonexistent/python"), system=[])) as strategy:
            assert await strategy.expected_walls() == Walls()

    asyncio.run(scenario())


def test_launch_on_windows_is_a_named_error_with_the_way_out(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(platform="win32") as strategy:
            assert await strategy.expected_walls() == Walls()
            with pytest.raises(UnsupportedPlatformError, match="WSL 2") as caught:
                await strategy.launch(make_plugin(WAIT))
            assert (caught.value.plugin, caught.value.data["platform"]) == ("sample", "win32")

    asyncio.run(scenario())


def test_launch_below_the_required_level_is_refused(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy(offers=OfferFinder(bubblewrap=None)) as strategy:
            with pytest.raises(SandboxError) as caught:
                await strategy.launch(make_plugin(WAIT, floor=IsolationLevel.FULL))
            achieved = "landlock" if landlock_abi() >= 6 else "landlock-partial"
            assert caught.value.data == {"required": "full", "achieved": achieved}
            assert "bubblewrap is not to be used (apt install bubblewrap" in caught.value.message

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        pytest.param({"kind": "wasm"}, {"kind": "wasm"}, id="kind"),
        pytest.param({"entry": "no.such"}, {"entry": "no.such"}, id="entry"),
    ],
)
def test_launch_of_what_cannot_be_run_is_refused(
    make_plugin: MakePlugin, open_strategy: OpenStrategy, changes: dict[str, Any], facts: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(WAIT)
            (request.folder / "entry").touch()
            with pytest.raises(LaunchError) as caught:
                await strategy.launch(replace(request, **changes))
            assert caught.value.data == facts

    asyncio.run(scenario())


@needs_root
def test_plugin_in_a_closed_folder_runs_from_a_copy_and_the_receipt_says_so(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(REPORT)
            request.folder.chmod(0o700)
            plugin = await strategy.launch(request)
            facts = json.loads(await read_line(plugin))
            assert "/cache/plugins/sample/" in facts["path"][0]
            assert any("/cache/plugins/sample/" in note and str(request.folder) in note for note in plugin.receipt.notes)
            await plugin.close()

    asyncio.run(scenario())


@needs_root
@pytest.mark.skipif(not os.path.realpath(sys.executable).startswith("/root/"), reason="the host's Python can be reached by all")
def test_unreachable_host_interpreter_is_replaced_and_the_receipt_says_so(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    facts = facts_of(make_plugin, open_strategy)
    assert not facts["python"].startswith("/root/")
    assert any("/root is closed to others" in note for note in facts["receipt"].notes)


def test_instances_launched_at_once_share_one_compilation(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(REPORT, module="x = 1")
            plugins = await asyncio.gather(*(strategy.launch(replace(request, instance=f"sample-{n}")) for n in range(6)))
            folders = {json.loads(await read_line(plugin))["path"][0] for plugin in plugins}
            assert folders == {str(request.folder)}
            reports = await asyncio.gather(*(plugin.close() for plugin in plugins))
            assert all(report.gone for report in reports)

    asyncio.run(scenario())


@needs_other
def test_plugin_in_a_read_only_folder_runs_from_a_copy_without_its_bytecode(make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    async def scenario() -> None:
        async with open_strategy() as strategy:
            request = make_plugin(REPORT)
            request.folder.chmod(0o500)
            plugin = await strategy.launch(request)
            request.folder.chmod(0o700)
            assert "/cache/plugins/sample/" in json.loads(await read_line(plugin))["path"][0]
            assert any("cannot be written to" in note for note in plugin.receipt.notes)
            await plugin.close()

    asyncio.run(scenario())
