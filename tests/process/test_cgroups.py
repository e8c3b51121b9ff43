"""Control groups with real processes, on whatever this machine gives: each limit, and the same without it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.sandbox.cgroup import ControlGroups, Group, GroupLimits
from annexe.sandbox.cgroup_probe import find_control_groups
from tests.process.conftest import needs_other

MIB = 1 << 20
LIMIT_BYTES = 48 * MIB
BOMB_BYTES = 160 * MIB
# Waits for its start, so that whoever starts it can put it into a group first.
PREAMBLE = "import os, sys, time, signal, mmap, _thread\nsys.stdin.readline()\n"


@pytest.fixture(scope="module")
def machine_groups() -> Iterator[tuple[ControlGroups, str]]:
    found = find_control_groups(may_move_host=False)
    yield found
    found[0].close()


@pytest.fixture
def groups(machine_groups: tuple[ControlGroups, str]) -> ControlGroups:
    found, why = machine_groups
    if not found.controllers:
        pytest.skip(f"this machine gives no control groups: {why}")
    return found


@contextlib.contextmanager
def made(groups: ControlGroups, limits: GroupLimits) -> Iterator[Group]:
    """Give a group whose every limit is really kept; else skip."""
    group = groups.make(f"test-{uuid.uuid4().hex}", limits)
    try:
        yield group
    finally:
        group.kill()
        assert group.remove()


def needs(groups: ControlGroups, controller: str) -> None:
    if controller not in groups.controllers:
        pytest.skip(f"this machine's groups do not limit {controller}")


def start(code: str, *arguments: str, group: Group | None = None) -> subprocess.Popen[str]:
    """Start Python code, in a group, and let it go once it is there."""
    command = [sys.executable, "-I", "-S", "-c", PREAMBLE + textwrap.dedent(code), *arguments]
    if group is None:
        child = _popen(command)
    else:
        with group.entered():
            child = _popen([*group.prefix, *command])
        group.add(child.pid)
        assert group.holds(child.pid)
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    return child


def _popen(command: list[str]) -> subprocess.Popen[str]:
    # /dev/null: what is killed for want of memory may say so.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit status and output of what ends by itself or was killed."""
    output, _ = child.communicate()
    return child.returncode, output


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


BOMBS = {
    "private": """
        kept = []
        for _ in range(int(sys.argv[1]) >> 20):
            kept.append(bytearray(b'x' * (1 << 20)))
        """,
    "shared-anonymous": """
        size = int(sys.argv[1])
        kept = mmap.mmap(-1, size)
        for at in range(0, size, 4096):
            kept[at] = 1
        """,
    "memfd": """
        fd = os.memfd_create('bomb')
        for _ in range(int(sys.argv[1]) >> 20):
            os.write(fd, b'x' * (1 << 20))
        """,
    "tmpfs": """
        fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        for _ in range(int(sys.argv[1]) >> 20):
            os.write(fd, b'x' * (1 << 20))
        """,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_memory_bomb_is_killed_at_the_limit_and_counted(groups: ControlGroups, kind: str) -> None:
    needs(groups, "memory")
    path = Path("/dev/shm") / f"annexe-test-{uuid.uuid4().hex}"
    if kind == "tmpfs" and "\ntmpfs /dev/shm " not in Path("/proc/mounts").read_text():
        pytest.skip("there is no tmpfs at /dev/shm")
    code = textwrap.dedent(BOMBS[kind]) + "print('through', flush=True)\n"
    try:
        assert finish(start(code, str(BOMB_BYTES), str(path))) == (0, "through\n")
        path.unlink(missing_ok=True)
        with made(groups, GroupLimits(memory_bytes=LIMIT_BYTES)) as group:
            assert finish(start(code, str(BOMB_BYTES), str(path), group=group)) == (-9, "")
            usage = group.usage()
        # All of it is killed at once, and systemd may have removed an empty scope before anybody could read what happened in it.
        assert usage.oom_kills or (groups.flavour == "v2-scope" and usage.oom_kills is None)
        assert usage.memory_peak_bytes is None or usage.memory_peak_bytes <= LIMIT_BYTES
    finally:
        path.unlink(missing_ok=True)


def test_memory_of_all_processes_of_a_group_counts_together(groups: ControlGroups) -> None:
    needs(groups, "memory")
    code = """
        for _ in range(4):
            if not os.fork():
                kept = bytearray(b'x' * (20 << 20))
                print('x', flush=True)
                time.sleep(1000)
        time.sleep(1000)
        """
    with made(groups, GroupLimits(memory_bytes=LIMIT_BYTES)) as group:
        child = start(code, group=group)
        while group.usage().oom_kills == 0:
            assert (group.usage().memory_bytes or 0) <= LIMIT_BYTES
        assert group.kill()
        finish(child)


SWARMS = {
    "forks": """
        count = 0
        try:
            for _ in range(60):
                if not os.fork():
                    time.sleep(1000)
                count += 1
        except OSError:
            pass
        print(count, flush=True)
        time.sleep(1000)
        """,
    "threads": """
        count = 0
        try:
            for _ in range(60):
                _thread.start_new_thread(time.sleep, (1000,))
                count += 1
        except RuntimeError:
            pass
        print(count, flush=True)
        time.sleep(1000)
        """,
}


@pytest.mark.parametrize("kind", SWARMS)
def test_processes_and_threads_are_capped_and_refusals_counted(groups: ControlGroups, kind: str) -> None:
    needs(groups, "pids")
    with made(groups, GroupLimits()) as group:
        child = start(SWARMS[kind], group=group)
        assert line_of(child) == "60"
        assert group.kill()
        finish(child)
    with made(groups, GroupLimits(tasks=12)) as group:
        child = start(SWARMS[kind], group=group)
        assert line_of(child) == "11"
        usage = group.usage()
        assert (usage.tasks, usage.tasks_refused) == (12, 1)
        assert group.kill()
        finish(child)


# From its first line on: what systemd-run and the interpreter's start took may have been used outside the group.
SPIN = """
    before, end = time.process_time(), time.monotonic() + 1.0
    while time.monotonic() < end:
        pass
    print(time.process_time() - before, before, flush=True)
    time.sleep(1000)
    """


def test_spinning_gets_no_more_of_the_processor_than_its_share(groups: ControlGroups) -> None:
    needs(groups, "cpu")
    with made(groups, GroupLimits(cpu=0.1)) as group:
        child = start(SPIN, group=group)
        used_s, before_s = map(float, line_of(child).split())
        usage = group.usage()
        group.kill()
        finish(child)
    assert 0.02 < used_s < 0.25
    assert usage.cpu_s is None or used_s - 0.2 < usage.cpu_s < used_s + before_s + 0.2
    assert usage.throttled_s
    free_s = 0.0
    for _ in range(3):  # others use this machine, too
        free = start(SPIN)
        free_s = max(free_s, float(line_of(free).split()[0]))
        free.kill()
        finish(free)
        if free_s > 0.25:
            break
    assert free_s > 0.25


def test_usage_tells_what_a_process_does(groups: ControlGroups) -> None:
    code = """
        before = time.process_time()
        kept = bytearray(b'x' * (20 << 20))
        for _ in range(3):
            _thread.start_new_thread(time.sleep, (1000,))
        while time.process_time() < before + 0.1:
            pass
        print('x', flush=True)
        time.sleep(1000)
        """
    with made(groups, GroupLimits()) as group:
        child = start(code, group=group)
        line_of(child)
        usage = group.usage()
        group.kill()
        finish(child)
    if "memory" in groups.controllers:
        assert usage.memory_bytes is not None
        assert 20 * MIB <= usage.memory_bytes <= 60 * MIB
        assert usage.memory_peak_bytes is None or usage.memory_peak_bytes >= usage.memory_bytes
        assert usage.oom_kills == 0
    if "pids" in groups.controllers:
        assert (usage.tasks, usage.tasks_refused) == (4, 0)
    if usage.cpu_s is not None:
        assert 0.1 <= usage.cpu_s <= 2.0


def test_limits_are_read_back_from_the_kernel(groups: ControlGroups) -> None:
    asked = GroupLimits(memory_bytes=LIMIT_BYTES + 1, cpu=0.25, tasks=17)
    with made(groups, asked) as group:
        child = start("time.sleep(1000)", group=group)
        actual = group.read_limits()
        assert group.controllers == groups.controllers
        assert asked.kept_by(actual) == groups.controllers
        if "memory" in groups.controllers:
            assert actual.memory_bytes == LIMIT_BYTES  # whole pages
        assert not group.holds(os.getpid())
        group.kill()
        finish(child)
        assert not group.holds(child.pid)


def test_kill_ends_what_ignores_signals_and_what_left_its_session(groups: ControlGroups) -> None:
    code = """
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        pids = [os.getpid()]
        reader, writer = os.pipe()
        if not os.fork():
            os.setsid()
            if not os.fork():
                os.setpgid(0, 0)
                os.write(writer, b'%d\\n' % os.getpid())
                time.sleep(1000)
            os.write(writer, b'%d\\n' % os.getpid())
            os._exit(0)
        got = b''
        while got.count(b'\\n') < 2:
            got += os.read(reader, 100)
        print(os.getpid(), *got.split() and [int(pid) for pid in got.split()], flush=True)
        time.sleep(1000)
        """
    with made(groups, GroupLimits()) as group:
        child = start(code, group=group)
        pids = [int(pid) for pid in line_of(child).split()]
        assert len(pids) == 3
        child.terminate()
        assert not group.remove()
        assert group.kill()
        assert all(is_gone(pid) for pid in pids)
        assert finish(child)[0] == -9


def test_kill_outruns_a_fork_bomb(groups: ControlGroups) -> None:
    needs(groups, "pids")
    code = """
        print('x', flush=True)
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """
    with made(groups, GroupLimits(tasks=64)) as group:
        child = start(code, group=group)
        line_of(child)
        while (group.usage().tasks_refused or 0) < 100:
            pass
        assert group.kill()
        assert group.remove()
        finish(child)


def test_what_is_started_by_a_thread_inside_is_born_there(groups: ControlGroups) -> None:
    if groups.flavour != "v1":
        pytest.skip("only version 1 lets a thread in")
    with made(groups, GroupLimits(memory_bytes=LIMIT_BYTES, tasks=5)) as group:
        before = Path("/proc/thread-self/cgroup").read_text()
        with group.entered():
            child = _popen(
                [sys.executable, "-I", "-S", "-c", "print(open('/proc/self/cgroup').read().count('annexe-'), flush=True); input()"]
            )
        assert Path("/proc/thread-self/cgroup").read_text() == before
        assert int(line_of(child)) >= len(groups.controllers)
        assert group.holds(child.pid)
        assert not group.holds(os.getpid())
        group.kill()
        finish(child)


HOST = """
import subprocess, sys
from annexe.sandbox.cgroup import GroupLimits
from annexe.sandbox.cgroup_probe import find_control_groups
groups, _ = find_control_groups(may_move_host=False)
group = groups.make("sample-1", GroupLimits(tasks=9))
with group.entered():
    child = subprocess.Popen([*group.prefix, "sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
group.add(child.pid)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_groups_of_a_killed_host_are_swept_and_those_of_a_living_one_are_not(groups: ControlGroups) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    host = subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
    leftover = int(line_of(host))
    groups.sweep()
    assert not is_gone(leftover)
    line = Path(f"/proc/{leftover}/cgroup").read_text()
    assert f"/annexe-{host.pid}-" in line
    host.kill()
    host.communicate()
    groups.sweep()
    assert is_gone(leftover)
    names = {found.rpartition("/")[2] for found in line.splitlines() if f"/annexe-{host.pid}-" in found}
    assert not [path for name in names for path in Path("/sys/fs/cgroup").rglob(name)]


def test_closing_leaves_nothing_of_a_host_behind(groups: ControlGroups) -> None:
    ours, _ = find_control_groups(may_move_host=False)
    group = ours.make("sample-1", GroupLimits())
    child = start("time.sleep(1000)", group=group)
    ours.close()
    assert finish(child)[0] == -9
    assert group.remove()


@needs_other
def test_a_host_that_is_given_none_is_told_why_and_what_mends_it(machine_groups: tuple[ControlGroups, str]) -> None:
    groups, why = machine_groups
    assert bool(why) is (len(groups.controllers) < 3)
    assert not why or any(cure in why for cure in ("run the host", "systemd", "mount"))
