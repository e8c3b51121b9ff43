"""Attacks on processes, descriptors and folders that no wall is needed to stop work on a host that is careless.

What the host's own code, the clean start of a process and its privileges stop is never off. So each of these attacks is made on a host with
exactly that care taken out, and without walls: then it must succeed. Where the care is about clearing up, a harmless attack goes before it,
which the careless host must still clear away: what is seen is the trap, not a host that clears up nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import annexe.sandbox.stub
import annexe_sdk
from annexe.attack import suite
from annexe.attack.catalogue import attacks
from annexe.attack.suite import AttackResult, run_attacks
from annexe.channel.transport import Transport
from annexe.launch import runtime
from annexe.launch.become import as_user
from annexe.launch.launched import LaunchedProcess
from annexe.launch.preparation import Preparation
from annexe.launch.removal import remove_tree
from annexe.launch.uids import UidAllocator
from tests.security import test_careless_channel
from tests.security.test_attacks import without_walls

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
STUB = Path(annexe.sandbox.stub.__file__)
UIDS = range(63100, 63164)  # with a table of their own: nobody else's hosts give them out
THROUGH = "through"
SURVIVOR = re.compile(r"process (\d+) is alive")
ALWAYS_ON = {"host", "environment", "descriptors", "no-new-privileges"}
MAKES_ROOM_FOR_TWO = 64  # numbers of descriptors that the stub uses for nothing
LEADING_A_SESSION = """
import os, sys
from pathlib import Path
name, terminal, folder, *sys.path = sys.argv[1:]
os.open(terminal, os.O_RDWR)  # a leader of a session without a terminal gets this one
from tests.security.test_careless_processes import made_on_a_careless_host
for result in made_on_a_careless_host(name, Path(folder)):
    print(result.outcome, result.detail)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a host is made careless.

    Attributes:
        patch: Takes the care out.
        folder: Its cache, which every user can pass.
        undoing: What is to be done afterwards.
    """

    patch: pytest.MonkeyPatch
    folder: Path
    undoing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


Careless = Callable[[Ground], None]


# How plugins are started.


def popen(ground: Ground, change: Callable[[dict[str, Any]], object]) -> list[subprocess.Popen[bytes]]:
    """Have plugins started with other arguments of ``Popen``, and return a list to which they will be added."""

    def start(command: list[str], **arguments: Any) -> subprocess.Popen[bytes]:
        change(arguments)
        started.append(subprocess.Popen(command, **arguments))
        return started[-1]

    started: list[subprocess.Popen[bytes]] = []
    ground.patch.setattr("annexe.launch.starter.subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    return started


def stub(ground: Ground, *changes: tuple[str, str]) -> None:
    """Have the host hand out a stub in which some lines are written otherwise."""
    text = STUB.read_text()
    for line, instead in changes:
        assert text.count(line) == 1, f"the stub has no longer what is taken off here: {line}"
        text = text.replace(line, instead)
    source, found = ground.folder / "careless_stub.py", runtime._source_of
    source.write_text(text)
    ground.patch.setattr(runtime, "_source_of", lambda module: source if module == annexe.sandbox.stub.__name__ else found(module))


def letting_descriptors_through(ground: Ground) -> None:
    """Start programs as ``fork`` and ``exec`` do when nobody says anything, with a stub that closes what it was told of and no more."""

    def change(arguments: dict[str, Any]) -> None:
        for fd in arguments.pop("pass_fds"):
            os.set_inheritable(fd, True)
        arguments["close_fds"] = False

    popen(ground, change)
    stub(
        ground,
        ("    for at, target in enumerate(range(_CHANNEL", "    told = kept[:]\n    for at, target in enumerate(range(_CHANNEL"),
        ("posix.closerange(_CHANNEL + len(kept), 1 << 20)", "[posix.close(fd) for fd in told if fd >= _CHANNEL + len(kept)]"),
    )


def sharing_standard_input(ground: Ground) -> None:
    """Start programs with the host's own standard input, to which somebody types."""
    popen(ground, lambda arguments: arguments.update(stdin=None))
    reader, writer = os.pipe()
    os.write(writer, b"a password\n")
    kept = os.dup(0)
    ground.undoing.callback(os.close, kept)
    ground.undoing.callback(os.dup2, kept, 0)
    ground.undoing.callback(os.close, writer)
    os.dup2(reader, 0)
    os.close(reader)


def sharing_session(ground: Ground) -> None:
    """Start programs in the host's own session and process group, and end them by their number."""

    def signalled(process: LaunchedProcess, which: signal.Signals) -> None:
        if not process._ended.done():
            os.kill(process._spawned.child.pid, which)

    popen(ground, lambda arguments: arguments.update(start_new_session=False))
    ground.patch.setattr(LaunchedProcess, "_signal_group", signalled)


def leaving_privileges(ground: Ground) -> None:
    """Never tell the kernel that this process gains none, and do not look."""
    stub(ground, ("(_PR_SET_NO_NEW_PRIVS, 1), ", ""))
    ground.patch.setattr("annexe.launch.confined.differences", lambda *_, **__: [])


def leaving_memory_open(ground: Ground) -> None:
    """Run all plugins as one user, and leave them as readable to it as any process is."""
    stub(ground, (", (_PR_SET_DUMPABLE, 0)", ""))
    taken: list[int] = []
    acquire = UidAllocator.acquire

    def one_for_all(uids: UidAllocator) -> int:
        if not taken:
            taken.append(acquire(uids))
        return taken[0]

    ground.patch.setattr(UidAllocator, "acquire", one_for_all)
    ground.patch.setattr("annexe.launch.launched.kill_user", lambda *_, **__: (0, True))  # it would be all plugins


def keeping_orders(ground: Ground) -> None:
    """Keep what the host said in a variable of the stub's."""
    stub(ground, ("        frame = _prepare()\n", "        global orders\n        frame = orders = _prepare()\n"))


def staying_in_main(ground: Ground) -> None:
    """Run the plugin in the stub's own module."""
    stub(ground, ('    sys.modules["__main__"] = type(sys)("__main__")\n', ""))


# The channel.


def taking_descriptors(ground: Ground) -> None:
    """Read messages together with whatever descriptors come with them, as who uses ``recvmsg`` for some of them does."""
    ground.patch.setattr("annexe.launch.descriptors.let_descriptors_pass", lambda *_: None)
    made = Transport.__init__

    def make(transport: Transport, sock: socket.socket, **settings: Any) -> None:
        made(transport, sock, **settings)

        def receive(size: int, flags: int = 0) -> bytes:
            content, came, _, _ = socket.recv_fds(sock, size, 64, flags)
            for fd in came:
                ground.undoing.callback(os.close, fd)
            return content

        transport._recv = receive

    ground.patch.setattr(Transport, "__init__", make)


def channel_by_tcp(ground: Ground) -> None:
    """Speak with plugins by TCP on loopback: whoever has an end of that can end the connection and make another."""

    def ends(ours_in: contextlib.ExitStack, theirs_in: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = theirs_in.enter_context(socket.create_connection(server.getsockname()))
            ours = ours_in.enter_context(server.accept()[0])
        return ours, theirs

    ground.patch.setattr("annexe.launch.starter.channel_ends", ends)


class Pipes:
    """Two pipes as a socket: one to read from, one to write to."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer

    def recv(self, size: int, flags: int = 0) -> bytes:
        import os

        if flags:  # whether there is more already: nothing that has to be known
            raise BlockingIOError
        return os.read(self.reader, size)

    def sendall(self, content: bytes) -> None:
        import os

        while content:
            content = content[os.write(self.writer, content) :]

    def send(self, content: bytes) -> int:
        self.sendall(content)
        return len(content)

    def setblocking(self, flag: bool) -> None:
        import os

        os.set_blocking(self.reader, flag)

    def setsockopt(self, *_: object) -> None:
        raise OSError

    def fileno(self) -> int:
        return self.reader

    def shutdown(self, _how: int) -> None:
        self.close()

    def close(self) -> None:
        import os

        for fd in {self.reader, self.writer} - {-1}:
            os.close(fd)
        self.reader = self.writer = -1


def channel_of_pipes(ground: Ground) -> None:
    """Speak with plugins by two pipes, which anybody may open: who has an end of a pipe can open the other one by its name in /proc."""

    def ends(ours_in: contextlib.ExitStack, theirs_in: contextlib.ExitStack) -> tuple[Pipes, Pipes]:
        (theirs_reads, ours_writes), (ours_reads, writes) = os.pipe(), os.pipe()
        theirs_writes = fcntl.fcntl(writes, fcntl.F_DUPFD_CLOEXEC, MAKES_ROOM_FOR_TWO)
        os.close(writes)
        os.fchmod(theirs_reads, 0o666)
        ours, theirs = Pipes(ours_reads, ours_writes), Pipes(theirs_reads, theirs_writes)
        ours_in.callback(ours.close)
        theirs_in.callback(theirs.close)
        writers.append(theirs_writes)
        return ours, theirs

    def change(arguments: dict[str, Any]) -> None:
        arguments["pass_fds"].append(writers[-1])
        arguments["env"]["ANNEXE_WRITER"] = str(writers[-1])

    writers: list[int] = []
    ground.patch.setattr("annexe.launch.starter.channel_ends", ends)
    popen(ground, change)
    stub(ground, ("posix.closerange(_CHANNEL + len(kept), 1 << 20)", "pass"))
    package = ground.folder / "careless_sdk" / "annexe_sdk"
    shutil.copytree(Path(annexe_sdk.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    runner, made = package / "runner.py", "socket(AF_UNIX, SOCK_STREAM, 0, fd)"
    text = runner.read_text()
    assert text.count(made) == 1
    reads_number = "int(__import__('os').environ['ANNEXE_WRITER'])"
    runner.write_text(text.replace(made, f"Pipes(fd, {reads_number})") + "\n\n" + inspect.getsource(Pipes))
    found = runtime._source_of
    ground.patch.setattr(runtime, "_source_of", lambda name: package / "__init__.py" if name == "annexe_sdk" else found(name))
    ground.undoing.callback(shutil.rmtree, package.parent)


# The end of a plugin.


def ending_its_group(ground: Ground) -> None:
    """End the process group of a plugin, and take that for all there is."""
    for name in ("kill_user", "kill_matching"):
        ground.patch.setattr(f"annexe.launch.launched.{name}", lambda *_, **__: (0, True))


def asking_to_end(ground: Ground) -> None:
    """Ask a plugin to end, and never force it. The kernel does, when the host has come to its own end."""
    ending_its_group(ground)
    started = popen(ground, lambda _: None)
    ground.undoing.callback(lambda: [child.wait() for child in started])
    ground.patch.setattr(LaunchedProcess, "kill", LaunchedProcess.terminate)
    ground.patch.setattr("annexe.launch.confined.CLOSE_DEADLINE_S", 0.2)
    ground.patch.setattr(suite, "_POLICIES", replace(suite._POLICIES, stop=replace(suite._POLICIES.stop, kill_s=0.1)))


def one_folder_for_all_its_life(ground: Ground) -> None:
    """Give every instance of a plugin the folder that the one before had, and never clear it."""

    def kept(preparation: Preparation, name: str, uid: int | None) -> Path:
        folder = ground.folder / "scratch" / f"{name}-kept"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if uid is not None:
            os.chown(folder, uid, uid)
        return folder

    ground.patch.setattr(Preparation, "_scratch", kept)
    ground.patch.setattr("annexe.launch.launched.remove_tree", lambda _: None)


def clearing_up(careless: Callable[[Path], object]) -> Careless:
    """Return that plugins' private folders are cleared up in another way; what goes wrong is nobody's business."""

    def remove(folder: Path) -> None:
        with contextlib.suppress(OSError, RecursionError, subprocess.SubprocessError):
            careless(folder)

    return lambda ground: ground.patch.setattr("annexe.launch.launched.remove_tree", remove)


def through_links(folder: Path) -> None:
    """Take a link to a folder for a folder."""
    for parent, folders, files in os.walk(folder, topdown=False, followlinks=True):
        for name in (*folders, *files):
            path = Path(parent, name)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


def by_recursion(folder: Path) -> None:
    """Go down by calling itself."""
    for path in folder.iterdir():
        by_recursion(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


def as_its_owner(folder: Path) -> None:
    """Have ``rm`` do it with the plugin's own rights, so that no link leads to what is the host's; what it closed stays closed to it."""
    become, user = as_user(folder.lstat().st_uid if os.geteuid() == 0 else None)
    subprocess.run([*become, "/bin/rm", "-rf", "--", folder], cwd="/", env={}, stderr=subprocess.DEVNULL, check=False, **user)
    folder.rmdir()


def by_lines(folder: Path) -> None:
    """Read names as text, one a line."""
    told = subprocess.run(["find", folder, "-depth"], stdout=subprocess.PIPE, check=True).stdout
    for line in told.decode("utf-8", "replace").splitlines():
        path = Path(line)
        with contextlib.suppress(OSError):
            if path.is_relative_to(folder):  # so careless that it harms others, this test is not
                path.rmdir() if path.is_dir() else path.unlink()


def read_first(folder: Path) -> None:
    """Read each file before it is removed, to know what was lost; half a second each, where a host would wait for ever."""
    for parent, _, files in os.walk(folder):
        for name in files:
            subprocess.run(["cat", Path(parent, name)], timeout=0.5, capture_output=True, check=True)
    remove_tree(folder)


def a_thousand(folder: Path) -> None:
    """Look once, at no more than a thousand names in one folder."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in islice(files, 1000):
            Path(parent, name).unlink()
        for name in folders:
            Path(parent, name).rmdir()
    folder.rmdir()


def in_a_folder_open_to_all(ground: Ground) -> None:
    """Make private folders where everybody may rename them, and remove what is found under their names."""

    def open_folder(path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        if path.name == "scratch":
            path.chmod(0o777)
            ground.undoing.callback(path.chmod, 0o755)
        return path

    ground.patch.setattr("annexe.launch.preparation.owned_folder", open_folder)
    clearing_up(lambda folder: shutil.rmtree(folder.resolve()))(ground)


CARELESS: dict[str, Careless] = {
    "inherited-descriptors": letting_descriptors_through,
    "standard-input": sharing_standard_input,
    "descriptors-for-host": taking_descriptors,
    "channel-elsewhere": channel_by_tcp,
    "channel-second-end": channel_of_pipes,
    "setuid-program": leaving_privileges,
    "new-privileges": leaving_privileges,
    "read-other-plugin": leaving_memory_open,
    "other-plugin-environment": leaving_memory_open,
    "private-frame": keeping_orders,
    "stub-remains": staying_in_main,
    "daemon": ending_its_group,
    "deaf-daemon": ending_its_group,
    "stopped-daemon": ending_its_group,
    "channel-keeper": ending_its_group,
    "deaf-to-the-end": asking_to_end,
    "leave-work-folder": one_folder_for_all_its_life,
    "trap-link": clearing_up(through_links),
    "trap-depth": clearing_up(by_recursion),
    "trap-modes": clearing_up(as_its_owner),
    "trap-top-mode": clearing_up(as_its_owner),
    "trap-names": clearing_up(by_lines),
    "trap-fifo": clearing_up(read_first),
    "trap-socket": clearing_up(read_first),
    "trap-many": clearing_up(a_thousand),
    "trap-swap": in_a_folder_open_to_all,
}
IN_A_SESSION: dict[str, tuple[Careless, str]] = {  # with what the attack says
    "shared-group": (sharing_session, "it does"),
    "own-terminal": (sharing_session, "opened it"),
}
CLEARED_ALL_THE_SAME = {
    name: "trap-names" if CARELESS[name] is not CARELESS["trap-names"] else "trap-socket" for name in CARELESS if "trap" in name
}
NOT_HERE: dict[str, Callable[[], str]] = {
    "setuid-program": lambda: "" if os.geteuid() == 0 else "only a root host can lay one out",
    "read-other-plugin": lambda: "the kernel lets processes read their children alone (Yama)" if yama() else "",
}


def yama() -> int:
    path = Path("/proc/sys/kernel/yama/ptrace_scope")
    return int(path.read_text()) if path.exists() else 0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a cache of hosts that every user can pass, as theirs is."""
    made = Path(tempfile.mkdtemp(prefix="annexe-careless-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    remove_tree(made)


def made_on_a_careless_host(name: str, folder: Path) -> tuple[AttackResult, ...]:
    """Make an attack without walls, on a host without the care that stops it; a harmless one goes before it where there is such."""
    before = CLEARED_ALL_THE_SAME.get(name)
    by_name = {attack.name: attack for attack in attacks()}
    with contextlib.ExitStack() as undoing, pytest.MonkeyPatch.context() as patch:
        settings = {"cache_dir": folder, "uids": UidAllocator(uids=UIDS, folder=folder / "uids")}
        patch.setattr("annexe.host.host.ProcessStrategy", partial(without_walls(), **settings))
        careless = IN_A_SESSION[name][0] if name in IN_A_SESSION else CARELESS[name]
        careless(Ground(patch=patch, folder=folder, undoing=undoing))
        results = asyncio.run(run_attacks([by_name[one] for one in (before, name) if one is not None])).results
    survivor = SURVIVOR.search(results[-1].detail)
    if survivor is not None:
        with contextlib.suppress(ProcessLookupError):  # it ended with the host
            os.kill(int(survivor[1]), signal.SIGKILL)
    return results


@pytest.mark.parametrize("name", CARELESS)
def test_attack_works_on_a_careless_host(name: str, folder: Path) -> None:
    reason = NOT_HERE.get(name, str)()
    if reason:
        pytest.skip(reason)
    *before, result = made_on_a_careless_host(name, folder)
    assert result.outcome == THROUGH, result.detail
    assert [one.outcome for one in before] in ([], ["stopped"]), before


@pytest.mark.parametrize("name", IN_A_SESSION)
def test_attack_on_the_session_works_on_a_careless_host(name: str, folder: Path) -> None:
    """Make it on a host that leads a session with a terminal; this process's may be led from outside a container, and have no number."""
    person, programs = os.openpty()
    try:
        command = [
            sys.executable,
            "-c",
            LEADING_A_SESSION,
            name,
            os.ttyname(programs),
            str(folder),
            str(ROOT),
            *filter(None, sys.path),
        ]
        done = subprocess.run(command, capture_output=True, start_new_session=True, check=False, cwd="/", timeout=30)
    finally:
        os.close(person)
        os.close(programs)
    assert done.stdout.decode() == f"through {IN_A_SESSION[name][1]}\n", done.stderr.decode()


def test_every_attack_that_is_held_by_what_is_never_off_is_made_on_a_careless_host() -> None:
    held = {attack.name for attack in attacks() if not attack.unix and ALWAYS_ON & set(attack.stopped_by)}
    elsewhere = {"own-environment"}  # in test_attacks
    assert held == CARELESS.keys() | IN_A_SESSION.keys() | test_careless_channel.CARELESS.keys() | elsewhere
