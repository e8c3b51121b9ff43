"""The system-call filters in a real kernel: what attacks need is refused, and what runtimes need still works.

Each attack is tried under the filters of a plugin without rights, under those of one with all rights, and without filters. One that comes
out the same without them is not counted: plain Unix, or this kernel, refuses it to this user already.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path

import pytest

from annexe.sandbox.seccomp import MACHINES, programs_for
from tests.process.filtered import ATTACKS, ATTACKS_ON_THE_MACHINE
from tests.support.tools import need_tool

ROOT = Path(__file__).resolve().parents[2]
MACHINE = os.uname().machine
EPERM, EACCES, ENOSYS, NO_FAMILY = errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or MACHINE not in MACHINES or sys.maxsize < 1 << 32, reason="there are no filters for this architecture"
)

# Answers to a plugin without rights. Whatever is not here answers EPERM.
ANSWERS = dict.fromkeys(
    (
        "execve", "execveat", "socket inet stream", "socket inet6 stream", "socket inet datagram", "socket unix stream",
        "socket unix datagram", "socketpair of datagrams", "bind", "connect", "disconnect the channel",
        "send descriptors",
    ),
    EACCES,
)  # fmt: skip
ANSWERS |= {name: NO_FAMILY for name in ATTACKS if name.startswith("socket ") and name not in ANSWERS}
ANSWERS |= {"clone3": ENOSYS, "openat2": ENOSYS, "call as i386": -signal.SIGSYS, "call as x32": -signal.SIGSYS}

# What rights give back; all other attacks are refused to whoever has them, too.
GIVEN = {
    "execve", "execveat", "fork", "posix_spawn", "subprocess",
    "socket inet stream", "socket inet6 stream", "connect", "disconnect the channel", "send descriptors",
}  # fmt: skip


def filters(*, programs: bool = False, fork: bool = False, network: bool = False, files: bool = False) -> list[str]:
    found = programs_for(MACHINE, may_run_programs=programs, may_fork=fork, network=network, sees_all_files=files)
    assert found is not None
    return [program.hex() for program in found.values()]


def start(wanted: dict[str, object]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.process.filtered"]
    return subprocess.run(command, cwd=ROOT, input=json.dumps(wanted), capture_output=True, text=True, check=False)


def attacked(programs: list[str], attacks: Collection[str] = ATTACKS) -> dict[str, int]:
    done = start({"programs": programs, "attacks": list(attacks)})
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, int] = json.loads(done.stdout)
    return outcomes


@pytest.fixture(scope="module")
def unfiltered() -> dict[str, int]:
    return attacked([])


@pytest.fixture(scope="module")
def without_rights() -> dict[str, int]:
    return attacked(filters())


@pytest.fixture(scope="module")
def with_all_rights() -> dict[str, int]:
    return attacked(filters(programs=True, fork=True, network=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused_by_the_filters_and_by_nothing_else(
    name: str, unfiltered: dict[str, int], without_rights: dict[str, int], with_all_rights: dict[str, int]
) -> None:
    refused = ANSWERS.get(name, EPERM)
    assert without_rights[name] == refused
    assert with_all_rights[name] == (unfiltered[name] if name in GIVEN else refused)
    if unfiltered[name] == refused:
        pytest.skip(f"not counted: refused to this user without filters, {os.strerror(refused)}")
    if unfiltered[name] == ENOSYS:
        pytest.skip("not counted: this kernel has no such call")


@pytest.mark.parametrize("name", ATTACKS_ON_THE_MACHINE)
def test_attack_is_refused_where_the_machines_files_and_network_are_in_view(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("FILTERED_PORT", str(listener.getsockname()[1]))
        refused = EACCES if name.startswith("connect") else EPERM
        assert attacked(filters(programs=True, fork=True, network=True, files=True), [name]) == {name: refused}
        without = attacked([], [name])[name]
        assert attacked(filters(network=True), [name]) == {name: without}
    if without == errno.EOPNOTSUPP:
        pytest.skip("not counted: this file system has no notes, or this kernel no fast opening")
    # No note is there to be removed: then the kernel has looked for it. A connection may be under way.
    assert without in (0, errno.ENODATA, errno.EINPROGRESS)


def test_nothing_can_be_loaded_after_the_filters() -> None:
    done = start({"programs": [*filters(), filters()[0]], "code": "print('loaded')"})
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


# -- what still works


def works(code: str, **rights: bool) -> None:
    done = start({"programs": filters(**rights), "code": textwrap.dedent(code)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_asyncio_and_threads_work_without_rights() -> None:
    works(
        """
        import asyncio, concurrent.futures, queue, socket, threading

        async def main():
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.sendall(b"hello\\n")
            assert await reader.readline() == b"hello\\n"
            writer.write(b"back")
            await writer.drain()
            assert theirs.recv(4) == b"back"
            assert await asyncio.to_thread(sum, [1, 2]) == 3
            await asyncio.sleep(0.001)
            writer.close()
            theirs.close()

        asyncio.run(main(), debug=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(len, ["a", "bc"])) == 3
        print("fine")
        """
    )


def test_uvloop_and_msgspec_work_without_rights() -> None:
    pytest.importorskip("uvloop")
    works(
        """
        import asyncio, socket
        import msgspec, uvloop

        async def main():
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.sendall(msgspec.msgpack.encode({"a": 1}))
            assert msgspec.msgpack.decode(await reader.read(100)) == {"a": 1}
            assert await asyncio.to_thread(sum, [1, 2]) == 3
            writer.write(bytes(4 << 20))  # more than the other end takes at once
            assert await asyncio.to_thread(lambda: len(theirs.recv(4 << 20, socket.MSG_WAITALL))) == 4 << 20
            await writer.drain()
            writer.close()
            theirs.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
        print("fine")
        """
    )


def test_files_memory_signals_and_time_work_without_rights(tmp_path: Path) -> None:
    works(
        f"""
        import hashlib, json, mmap, os, platform, resource, secrets, select, shutil, signal, sqlite3, ssl, tempfile, time, zoneinfo
        from pathlib import Path

        folder = Path({str(tmp_path)!r})
        (folder / "a").write_text(json.dumps([1, 2]))
        os.rename(folder / "a", folder / "b")
        shutil.copy2(folder / "b", folder / "c")
        os.symlink("c", folder / "d")
        os.chmod(folder / "c", 0o600)
        os.utime(folder / "c", (1, 1))
        assert sorted(entry.name for entry in os.scandir(folder)) == ["b", "c", "d"]
        assert os.stat(folder / "d").st_mtime == 1
        shutil.copytree(folder, folder / "tree", ignore=lambda *_: ["tree"])
        shutil.rmtree(folder / "tree")
        with open(folder / "b", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            assert view[:6] == b"[1, 2]"
            os.fsync(file.fileno())
            os.posix_fallocate(file.fileno(), 0, 4096)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x" * 100_000)
        with sqlite3.connect(folder / "db") as db:
            db.execute("create table t (x)")
            db.execute("insert into t values (1)")
        db.close()

        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGALRM, lambda *_: seen.append(2))
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while len(seen) < 2:
            signal.pause()
        assert sorted(seen) == [1, 2]
        poller = select.epoll()
        poller.poll(0.001)
        poller.close()
        assert os.nice(1) >= 1
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        assert len(os.getrandom(8)) == len(secrets.token_bytes(8)) == 8
        platform.uname(), os.getloadavg(), time.localtime(), time.sleep(0.001), hashlib.sha3_512(b"").digest()
        ssl.create_default_context()
        print("fine")
        """
    )


def test_refusals_are_permission_errors_that_python_programs_expect() -> None:
    works(
        """
        import os, socket, subprocess

        for refused in (
            lambda: subprocess.run(["/bin/true"]),
            lambda: socket.create_connection(("127.0.0.1", 9)),
            lambda: os.fork(),
            lambda: os.execv("/bin/true", ["true"]),
            lambda: os.memfd_create("x"),
        ):
            try:
                refused()
            except PermissionError:
                continue
            raise AssertionError(refused)
        print("fine")
        """
    )


def test_program_is_executed_and_finds_that_it_may_do_no_more() -> None:
    code = "import os\ntry: os.fork()\nexcept PermissionError: print('fine')"
    done = start({"programs": filters(programs=True), "command": [sys.executable, "-I", "-S", "-c", code]})
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_plugin_with_subprocess_runs_shells_and_pools() -> None:
    works(
        """
        import multiprocessing, subprocess

        assert subprocess.run("echo a | tr a b; true & wait", shell=True, capture_output=True, check=True).stdout == b"b\\n"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(len, ["ab"]) == [2]
        print("fine")
        """,
        programs=True,
        fork=True,
    )


def test_plugin_with_network_speaks_tcp() -> None:
    server = textwrap.dedent("""
        import socket
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            listener.accept()[0].sendall(b"hello")
    """)
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        port = int(serving.stdout.readline())
        works(
            f"""
            import asyncio

            async def main():
                reader, writer = await asyncio.open_connection("127.0.0.1", {port})
                assert await reader.read() == b"hello"
                writer.close()

            asyncio.run(main())
            print("fine")
            """,
            network=True,
        )


# -- other runtimes

NODE = """
const fs = require('fs'), os = require('os'), zlib = require('zlib'), crypto = require('crypto');
const { Worker } = require('worker_threads');
fs.writeFileSync(process.env.FILE, 'x'); fs.renameSync(process.env.FILE, process.env.FILE + '2');
os.cpus(); os.totalmem(); crypto.randomBytes(8); zlib.gzipSync('abc');
const refused = [];
try { require('child_process').execFileSync('/bin/true'); } catch (error) { refused.push(error.code); }
require('net').connect(9, '127.0.0.1').on('error', (error) => {
  refused.push(error.code);
  const worker = new Worker('require("worker_threads").parentPort.postMessage(2)', { eval: true });
  worker.on('message', async (value) => console.log(await fs.promises.readFile(process.env.FILE + '2', 'utf8'), value, ...refused));
});
"""


def test_node_works_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tool("node", "nodejs")
    monkeypatch.setenv("FILE", str(tmp_path / "file"))
    done = start({"programs": filters(programs=True), "command": [shutil.which("node"), "-e", NODE]})
    assert (done.returncode, done.stdout, done.stderr) == (0, "x 2 EPERM EACCES\n", "")


GO = """
package main

import ("fmt"; "net"; "os"; "os/exec"; "runtime"; "sync"; "time")

func main() {
	var group sync.WaitGroup
	for i := 0; i < 100; i++ { group.Add(1); go func() { time.Sleep(time.Millisecond); runtime.GC(); group.Done() }() }
	group.Wait()
	_, connected := net.Dial("tcp", "127.0.0.1:9")
	fmt.Println(os.IsPermission(exec.Command("/bin/true").Run()), connected != nil)
}
"""


def test_go_works_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("go") is None:
        pytest.skip("there is no `go` on PATH; `apt install golang-go`")
    (tmp_path / "main.go").write_text(GO)
    monkeypatch.setenv("GOCACHE", str(tmp_path / "cache"))
    subprocess.run(["go", "build", "-o", str(tmp_path / "main"), str(tmp_path / "main.go")], cwd=tmp_path, check=True)
    done = start({"programs": filters(programs=True), "command": [str(tmp_path / "main")]})
    assert (done.returncode, done.stdout, done.stderr) == (0, "true true\n", "")
