"""A host that dies by SIGKILL leaves nothing behind, and what hides is found by the next one."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from annexe.launch import UidAllocator
from annexe.launch.processes import ProcessIdentity, identity_of, parent_of
from annexe.launch.sweep import LaunchRecord, LaunchRecords, Swept
from tests.process import dying_host
from tests.process.conftest import IS_ROOT, TEST_UIDS, MakePlugin, OpenStrategy, needs_namespaces
from tests.process.hosts import wardens_of
from tests.process.test_launch import DAEMON

Host = tuple["subprocess.Popen[str]", dict[str, Any]]
StartHost = Callable[..., Host]


@pytest.fixture
def start_host(tmp_path: Path, cache_dir: Path, open_folder: Path) -> Iterator[StartHost]:
    hosts: list[subprocess.Popen[str]] = []

    def start(folder: Path, *, count: int = 1, state: Path = tmp_path / "state", wait: bool = True, walls: str = "all") -> Host:
        arguments = [state, cache_dir, open_folder / "uids", TEST_UIDS.start, folder, count, walls]
        host = subprocess.Popen(
            [sys.executable, dying_host.__file__, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        )
        hosts.append(host)
        assert host.stdout is not None
        return host, json.loads(host.stdout.readline()) if wait else {}

    yield start
    for host in hosts:
        host.kill()
        host.wait()
        assert host.stdout is not None
        host.stdout.close()


def kill(host: subprocess.Popen[str], *, then_gone: list[int]) -> None:
    """Kill the host and wait until those processes have ended, by event."""
    pidfds = [os.pidfd_open(pid) for pid in then_gone]
    host.kill()
    host.wait()
    for fd in pidfds:
        assert select.select([fd], [], [], 10)[0], "a plugin outlived its host"
        os.close(fd)


def kill_without_its_warden(host: subprocess.Popen[str], *, then_gone: list[int]) -> None:
    """Kill both: what only the next host will find is left alone."""
    (warden,) = wardens_of(host.pid)
    os.kill(warden, 9)
    kill(host, then_gone=then_gone)


DEAF = """
import os, time, signal
signal.signal(15, signal.SIG_IGN)
os.write(fd, b'up')
while True: time.sleep(1000)
"""


def test_plugins_die_with_a_killed_host_even_those_that_do_not_watch_the_channel(make_plugin: MakePlugin, start_host: StartHost) -> None:
    host, facts = start_host(make_plugin(DEAF).folder, count=5)
    assert len(set(facts["main"])) == 5
    kill(host, then_gone=facts["main"])


def test_host_killed_in_the_midst_of_launching_leaves_no_plugin(make_plugin: MakePlugin, start_host: StartHost, cache_dir: Path) -> None:
    folder = make_plugin(DEAF).folder
    for after_launches in (0, 1, 2, 4, 7):
        host, _ = start_host(folder, count=8, wait=False)
        while len(stubs(cache_dir)) < after_launches and host.poll() is None:
            time.sleep(0.001)
        host.kill()
        host.wait()
        for pid in stubs(cache_dir):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            assert select.select([fd], [], [], 10)[0], "a plugin outlived its host"
            os.close(fd)


def stubs(cache_dir: Path) -> list[int]:
    """Return the plugins that run from this cache; nobody else's do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(cache_dir).encode() in path.read_bytes() and b"annexe_stub" in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@needs_namespaces
def test_daemon_behind_walls_dies_with_its_host_though_nobody_watches(
    make_plugin: MakePlugin, start_host: StartHost, open_strategy: OpenStrategy, cache_dir: Path
) -> None:
    host, facts = start_host(make_plugin(DAEMON).folder)
    left = [pid for pid in stubs(cache_dir) if identity_of(pid) is not None]
    assert len(left) == len({*left, *facts["main"]}) >= 4  # bubblewrap twice, the plugin, its daemon
    kill_without_its_warden(host, then_gone=left)

    async def scenario() -> None:
        async with open_strategy() as strategy:
            assert await strategy.sweep() == (Swept(plugin="sample", instance="sample-0", killed=0, gone=True),)

    asyncio.run(scenario())


def test_forks_and_their_server_die_with_their_host_and_are_struck_out(
    make_plugin: MakePlugin, start_host: StartHost, open_strategy: OpenStrategy, cache_dir: Path
) -> None:
    host, facts = start_host(make_plugin(DEAF).folder, count=3, walls="warm")
    left = [pid for pid in stubs(cache_dir) if identity_of(pid) is not None]
    servers = {parent_of(pid) for pid in facts["main"]}
    assert len(servers) == 1 and {*facts["main"], *servers} < {*left, host.pid}
    kill_without_its_warden(host, then_gone=left)

    async def scenario() -> None:
        async with open_strategy() as strategy:
            assert await strategy.sweep() == (Swept(plugin="sample", instance="sample-0.server", killed=0, gone=True),)

    asyncio.run(scenario())


def test_warden_strikes_a_fork_server_out(make_plugin: MakePlugin, start_host: StartHost, tmp_path: Path) -> None:
    host, facts = start_host(make_plugin(DEAF).folder, walls="warm")
    (record,) = (tmp_path / "state" / "launched").iterdir()
    scratch = Path(json.loads(record.read_text())["scratch"])
    (warden,) = wardens_of(host.pid)
    kill(host, then_gone=[*facts["main"], warden])
    assert not record.exists() and not scratch.exists()


def test_warden_removes_the_control_groups_of_its_host(make_plugin: MakePlugin, start_host: StartHost) -> None:
    host, facts = start_host(make_plugin(DEAF).folder)
    lines = Path(f"/proc/{facts['main'][0]}/cgroup").read_text().splitlines()
    names = {line.rpartition("/")[2] for line in lines if f"/annexe-{host.pid}-" in line}
    if not names:
        pytest.skip("there are no control groups here")
    (warden,) = wardens_of(host.pid)
    kill(host, then_gone=[*facts["main"], warden])
    assert [path for name in names for path in Path("/sys/fs/cgroup").rglob(name)] == []


def test_sweep_finds_a_daemon_that_outlived_its_host(
    make_plugin: MakePlugin, start_host: StartHost, open_strategy: OpenStrategy, tmp_path: Path, uids: UidAllocator
) -> None:
    host, facts = start_host(make_plugin(DAEMON).folder, walls="none")
    daemon = int(facts["said"][0])
    kill_without_its_warden(host, then_gone=facts["main"])
    assert identity_of(daemon) is not None

    async def scenario() -> None:
        async with open_strategy() as strategy:
            assert await strategy.sweep() == (Swept(plugin="sample", instance="sample-0", killed=1, gone=True),)
            assert await strategy.sweep() == ()

    asyncio.run(scenario())
    assert identity_of(daemon) is None
    assert list((tmp_path / "state" / "launched").iterdir()) == []


@pytest.mark.skipif(not IS_ROOT, reason="only a root host gives plugins users of their own")
def test_daemon_of_a_dead_host_loses_its_uid_only_with_its_life(
    make_plugin: MakePlugin, start_host: StartHost, open_strategy: OpenStrategy, tmp_path: Path, uids: UidAllocator
) -> None:
    host, facts = start_host(make_plugin(DAEMON).folder, state=tmp_path / "never-swept", walls="none")
    daemon = int(facts["said"][0])
    kill_without_its_warden(host, then_gone=facts["main"])
    assert identity_of(daemon) is not None
    (uids.folder / "uids.next").write_text(str(facts["uids"][0]))  # as if it were its turn again
    taken = uids.acquire()  # the dead host's, after a clean-up
    try:
        assert taken == facts["uids"][0]
        assert identity_of(daemon) is None
    finally:
        uids.release(taken)


@pytest.fixture
def bystander() -> Iterator[ProcessIdentity]:
    child = subprocess.Popen(["/bin/sleep", "1000"])
    identity = identity_of(child.pid)
    assert identity is not None
    yield identity
    child.kill()
    child.wait()


def record_of(main: ProcessIdentity, scratch: Path) -> LaunchRecord:
    return LaunchRecord(plugin="p", instance="p-1", main=main, tag=None, scratch=str(scratch))


def test_sweep_kills_the_very_process_of_a_record(bystander: ProcessIdentity, tmp_path: Path) -> None:
    records = LaunchRecords(tmp_path / "launched")
    (tmp_path / "scratch").mkdir()
    records.add(record_of(bystander, tmp_path / "scratch"))
    assert records.sweep() == (Swept(plugin="p", instance="p-1", killed=1, gone=True),)
    assert identity_of(bystander.pid) is None
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"start_ticks": 1}, id="number given out again"),
        pytest.param({"boot_id": "another"}, id="before a reboot"),
    ],
)
def test_sweep_never_kills_by_number_alone(bystander: ProcessIdentity, tmp_path: Path, other: dict[str, Any]) -> None:
    records = LaunchRecords(tmp_path / "launched")
    records.add(record_of(replace(bystander, **other), tmp_path / "none"))
    assert records.sweep() == (Swept(plugin="p", instance="p-1", killed=0, gone=True),)
    assert identity_of(bystander.pid) == bystander
    assert records.sweep() == ()


def test_sweep_kills_what_was_building_walls_for_a_dead_host_with_these_records(tmp_path: Path) -> None:
    records, others = LaunchRecords(tmp_path / "launched"), LaunchRecords(tmp_path / "others")
    marks = {"this host": records.mark(1000), "the host before": records.mark(999), "another": others.mark(1000)}
    waiting = {name: subprocess.Popen(["/bin/sh", "-c", "read line", mark, "--"], stdin=subprocess.PIPE) for name, mark in marks.items()}
    try:
        records.sweep(host_pid=1000)
        assert {name: identity_of(child.pid) is None for name, child in waiting.items()} == {
            "this host": True,
            "the host before": False,
            "another": False,
        }
        records.sweep()
        assert identity_of(waiting["the host before"].pid) is None
        assert identity_of(waiting["another"].pid) is not None
    finally:
        for child in waiting.values():
            child.kill()
            child.communicate()


@pytest.mark.parametrize("text", ["", "[]", '{"plugin": 1}', '{"main": {}}'])
def test_sweep_sets_a_damaged_record_aside_and_kills_nothing(
    bystander: ProcessIdentity, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    records = LaunchRecords(tmp_path)
    (tmp_path / "1-1.json").write_text(text)
    records.add(record_of(replace(bystander, start_ticks=1), tmp_path / "none"))
    assert len(records.sweep()) == 1
    assert "cannot be read" in caplog.text
    assert (tmp_path / "1-1.unreadable").exists()
    assert identity_of(bystander.pid) == bystander


def test_record_survives_being_written_and_read(bystander: ProcessIdentity, tmp_path: Path) -> None:
    record = record_of(bystander, tmp_path)
    assert json.loads(LaunchRecords(tmp_path).add(record).read_text()) == asdict(record)
