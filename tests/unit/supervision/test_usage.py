"""What real processes use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.supervision import usage
from annexe.supervision.usage import ProcessMeter, ProcessUsage, SocketTables, family_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
MIB = 1024**2
NOBODYS_PID = 2**22 + 1  # above the highest that the kernel gives


class Child:
    """A Python that does what it is told, a line at a time."""

    def __init__(self, first: str = "") -> None:
        loop = "import sys\nfor line in sys.stdin:\n    exec(line)\n    print('done', flush=True)\n"
        self.process = subprocess.Popen([sys.executable, "-c", first + loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.do("pass")

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.end()


def test_meter_sees_memory_that_is_taken_and_given_back(child: Child) -> None:
    meter = ProcessMeter()
    before = meter.measure([child.pid])
    child.do("x = bytearray(50 * 1024**2); x[::4096] = b'1' * len(x[::4096])")
    grown = meter.measure([child.pid])
    child.do("del x")
    after = meter.measure([child.pid])
    assert 50 * MIB <= grown.memory_bytes - before.memory_bytes < 55 * MIB
    assert after.memory_bytes - before.memory_bytes < 5 * MIB


def test_meter_counts_shared_memory_and_no_pages_of_files(child: Child) -> None:
    meter = ProcessMeter()
    before = meter.measure([child.pid])
    child.do("import mmap; m = mmap.mmap(-1, 20 * 1024**2); m.write(b'x' * 20 * 1024**2)")
    shared = meter.measure([child.pid])
    assert 20 * MIB <= shared.memory_bytes - before.memory_bytes < 45 * MIB
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(20 * MIB)
        child.do(f"f = open({file.name!r}, 'rb'); n = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); s = sum(n[::4096])")
        mapped = meter.measure([child.pid])
    assert mapped.memory_bytes - shared.memory_bytes < 5 * MIB


def test_meter_sees_threads_files_and_time(child: Child) -> None:
    meter = ProcessMeter()
    before = meter.measure([child.pid])
    child.do("import threading; e = threading.Event(); ts = [threading.Thread(target=e.wait) for _ in range(5)]; [t.start() for t in ts]")
    child.do("fs = [open('/dev/null') for _ in range(20)]")
    child.do("import time; t = time.process_time() + 0.1; exec('while time.process_time() < t: pass')")
    after = meter.measure([child.pid])
    assert (before.threads, after.threads) == (1, 6)
    assert before.open_files is not None
    assert after.open_files == before.open_files + 20
    assert 0.08 <= after.cpu_s - before.cpu_s < 2
    child.do("e.set()")


def test_meter_adds_processes_up_and_takes_the_most_open_files(child: Child) -> None:
    other = Child()
    try:
        other.do("fs = [open('/dev/null') for _ in range(20)]")
        one, two = ProcessMeter().measure([child.pid]), ProcessMeter().measure([other.pid])
        both = ProcessMeter().measure([child.pid, other.pid])
        assert (both.memory_bytes, both.processes, both.threads) == (one.memory_bytes + two.memory_bytes, 2, 2)
        assert both.cpu_s == pytest.approx(one.cpu_s + two.cpu_s)
        assert both.open_files == two.open_files
    finally:
        other.end()


def test_meter_leaves_out_what_vanished_and_what_is_dead(child: Child) -> None:
    meter = ProcessMeter()
    assert meter.measure([child.pid, NOBODYS_PID]).processes == 1
    child.process.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    assert meter.measure([child.pid]) == ProcessUsage()
    child.process.wait()
    assert meter.measure([child.pid]) == ProcessUsage()


def test_meter_reads_a_process_with_a_name_made_to_deceive() -> None:
    name = ") Z 1 1 ("
    child = Child(f"open('/proc/self/comm', 'w').write({name!r})\n")
    try:
        assert Path(f"/proc/{child.pid}/comm").read_text() == name + "\n"
        assert ProcessMeter().measure([child.pid]).processes == 1
    finally:
        child.end()


def test_idle_process_costs_one_file_and_is_looked_into_again_in_time(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def listened(path: str) -> bytes:
        read.append(path.rpartition("/")[2])
        return real(path)

    real = usage._read
    monkeypatch.setattr(usage, "_read", listened)
    meter = ProcessMeter()
    seen = [meter.measure([child.pid]) for _ in range(5)]
    assert read == ["stat", "status", *["stat"] * 3, "stat", "status"]
    assert len(set(seen)) == 1
    assert meter.is_same and not meter.is_still  # the last look went into it, and found nothing new


def test_process_that_got_the_number_of_another_is_not_taken_for_it(child: Child) -> None:
    meter = ProcessMeter()
    meter.measure([child.pid])
    known = meter._known[child.pid]
    known.start, known.memory_bytes = known.start - 1, 10**12
    assert meter.measure([child.pid]).memory_bytes < 10**10


def test_open_files_of_a_process_that_may_not_be_looked_into_are_not_known(tmp_path: Path) -> None:
    assert usage._open_files(str(tmp_path / "none")) is None


def test_open_files_are_counted_where_the_kernel_does_not_tell() -> None:
    counted = sum(1 for _ in os.scandir("/proc/self/fd"))
    assert usage._open_files("/proc/self/fd") in (counted - 1, counted)
    assert usage._open_files("/proc/self/attr") == len(os.listdir("/proc/self/attr"))  # a folder without a size


def test_memory_of_a_process_of_the_kernels_is_nothing() -> None:
    assert usage._memory_bytes(b"Name:\tkthreadd\nThreads:\t1\n") == 0
    assert (
        usage._memory_bytes(b"Name:\tx\nRssAnon:\t 10 kB\nRssFile:\t 100 kB\nRssShmem:\t 5 kB\nVmSwap:\t 2 kB\nThreads:\t1\n") == 17 * 1024
    )


def test_read_of_what_fails_is_empty(tmp_path: Path) -> None:
    assert usage._read(str(tmp_path / "none")) == usage._read(str(tmp_path)) == usage._whole(str(tmp_path)) == b""


def test_family_is_found_down_to_grandchildren(child: Child) -> None:
    assert family_of(child.pid) == [child.pid]
    child.do(
        "import subprocess; p = subprocess.Popen(['/bin/sh', '-c', 'sleep 1000 & echo; wait'], stdout=-1, text=True); p.stdout.readline()"
    )
    family = family_of(child.pid)
    assert len(family) == 3
    assert ProcessMeter().measure(family).processes == 3
    os.kill(family[2], 9)
    child.do("p.communicate()")
    assert family_of(child.pid) == [child.pid]
    assert family_of(NOBODYS_PID) == [NOBODYS_PID]


def test_sockets_are_counted_if_they_are_of_the_internet(child: Child) -> None:
    child.do("import socket; a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen()")
    child.do("b = socket.create_connection(a.getsockname()); c = a.accept()[0]")
    child.do("d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.bind(('127.0.0.1', 0)); e = socket.socketpair()")
    assert SocketTables().count([child.pid]) == 4
    assert SocketTables().count([child.pid, child.pid, NOBODYS_PID]) == 4


def test_sockets_of_others_are_not_counted(child: Child) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert SocketTables().count([child.pid]) == 0


def test_sockets_of_nobody_are_not_known() -> None:
    assert SocketTables().count([]) is None
    assert SocketTables().count([NOBODYS_PID]) is None


def test_tables_are_read_once_for_all_plugins_of_a_network(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = usage._whole
    monkeypatch.setattr(usage, "_whole", lambda path: read.append(path) or real(path))  # type: ignore[func-returns-value]
    child.do("import socket; a = socket.socketpair()")
    tables = SocketTables()
    tables.count([child.pid])
    tables.count([child.pid])
    assert [path.rpartition("/")[2] for path in read] == ["tcp", "tcp6", "udp", "udp6"]


def test_sockets_in_a_network_of_its_own_are_counted_by_the_kernel(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    new_network, new_user = 0x4000_0000, 0x1000_0000
    before = usage._network_of(child.pid)
    child.do(f"import ctypes; ctypes.CDLL(None).unshare({new_network | (0 if os.geteuid() == 0 else new_user)})")
    if usage._network_of(child.pid) == before:
        pytest.skip("this machine gives this user no network of its own")
    monkeypatch.setattr(usage, "_whole", None)  # the machine's tables are not looked at
    assert SocketTables().count([child.pid]) == 0
    child.do("import socket; a = socket.socket(); a.bind(('0.0.0.0', 0)); a.listen(); e = socket.socketpair()")
    child.do(
        "b = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); b.bind(('::', 0)); c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    )
    child.do("c.bind(('0.0.0.0', 0))")
    assert SocketTables().count([child.pid]) == 3
    assert SocketTables().count([child.pid, child.pid, NOBODYS_PID]) == 3  # one network is counted once
