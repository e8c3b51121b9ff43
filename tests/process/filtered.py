"""A process under system-call filters, which tries what it is told.

Run as a program, with a JSON object on standard input: ``programs`` (filters in loading order, as hexadecimal text) and one of

* ``attacks``: names out of ``ATTACKS`` and ``ATTACKS_ON_THE_MACHINE``; each is tried in a fork of its own, which loads the filters first.
  Prints one JSON object: by name the error number that it ended with, 0 when it succeeded, and minus the signal's number when the process
  was ended.
* ``code``: Python to run under the filters.
* ``command``: a command to execute under them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import pty
import resource
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.bpf import NUMBERS

_LIBC = ctypes.CDLL(None, use_errno=True)
_MACHINE = os.uname().machine
_FAILED = 99  # an attack that came to grief before it was tried
_PR_SET_NO_NEW_PRIVS, _SECCOMP_SET_MODE_FILTER, _SIGCHLD = 38, 1, 17
HIGH = 1 << 32  # a bit that the kernel ignores in an int


def system_call(name: str, *arguments: int | bytes | None) -> int:
    """Make one call, each argument a whole register.

    Raises:
        OSError: The kernel's answer.
    """
    return raw_call(NUMBERS[_MACHINE][name], *arguments)


def raw_call(number: int, *arguments: int | bytes | None) -> int:
    registers = [
        ctypes.c_void_p(value & (2**64 - 1)) if isinstance(value, int) else ctypes.cast(value or None, ctypes.c_void_p)  # type: ignore[arg-type]
        for value in arguments
    ]
    _LIBC.syscall.restype = ctypes.c_long
    result = int(_LIBC.syscall(ctypes.c_long(number), *registers))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def load(programs: Sequence[bytes]) -> None:
    """Put this process under filters for good."""
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    for program in programs:
        instructions = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
        system_call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, header)


# -- attacks


def _execute() -> None:
    os.execv("/bin/true", ["true"])


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _fork_for(flags: int) -> None:
    if system_call("clone", flags | _SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def _socket(family: int, kind: int, protocol: int = 0) -> Callable[[], None]:
    return lambda: socket.socket(family, kind, protocol).close()


def _bind() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


def _connect() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 1))


def _disconnect() -> None:
    system_call("connect", socket.socketpair()[0].detach(), struct.pack("H14x", socket.AF_UNSPEC), 16)


def _steal_descriptor() -> None:
    system_call("pidfd_getfd", os.pidfd_open(os.getpid()), 0, 0)


def _read_memory() -> None:
    target = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(target), 8)
    system_call("process_vm_readv", os.getpid(), vector, 1, vector, 1, 0)


def _type_into_terminal() -> None:
    _leader, follower = pty.openpty()
    os.setsid()
    fcntl.ioctl(follower, 0x540E, 0)  # TIOCSCTTY
    system_call("ioctl", follower, 0x5412 | HIGH, b"x")


def _leave_project() -> None:
    with tempfile.TemporaryFile() as file:
        system_call("ioctl", file.fileno(), 0x401C5820, b"\0" * 28)


def _grow_pipe() -> None:
    fcntl.fcntl(os.pipe()[0], 1031, 65536 * 2)


def _lease() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.touch()
        fcntl.fcntl(os.open(file, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)


def _watch_folder() -> None:
    fcntl.fcntl(os.open("/", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)


def _make_fifo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(Path(folder) / "fifo")


def _peer_handle() -> None:
    socket.socketpair()[0].getsockopt(socket.SOL_SOCKET, 77, 4)


def _handle_with_each_message() -> None:
    socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, 76, 1)


def _filter_in_socket() -> None:
    instruction = ctypes.create_string_buffer(struct.pack("<HBBI", 0x06, 0, 0, 0xFFFF), 8)
    socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction)))


def _send_descriptors() -> None:
    ours, _theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [0] * 8)


def _change_mode(mode: int, change: Callable[[str, int], object]) -> None:
    """Change the mode of a file of one's own; fail unless it has it then, which no test of the kernel's would be."""
    with tempfile.NamedTemporaryFile() as file:
        change(file.name, mode)
        if os.stat(file.name).st_mode & 0o7777 != mode:
            raise ValueError("the mode did not change")


def _change_mode_by_descriptor(name: str, mode: int) -> None:
    os.fchmod(os.open(name, os.O_RDONLY), mode)


def _make_with_mode(flags: int, mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.umask(0)
        fd = os.open(folder if flags & os.O_TMPFILE == os.O_TMPFILE else f"{folder}/file", os.O_WRONLY | flags, mode)
        if os.fstat(fd).st_mode & 0o7777 != mode:
            raise ValueError("the mode is another")


def _creat(mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        system_call("creat", f"{folder}/file\0".encode(), mode)


def _open_with_mode() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.close(raw_call(2, f"{folder}/file\0".encode(), os.O_CREAT | os.O_WRONLY, 0o4700))


def _by_descriptor(change: Callable[[int], object]) -> None:
    with tempfile.NamedTemporaryFile(dir=Path.cwd() if os.access(".", os.W_OK) else None) as file:
        change(os.open(file.name, os.O_RDONLY))


def _fast_open(send: Callable[[socket.socket, int, tuple[str, int]], object]) -> None:
    """Connect by sending, to a listener whose port is in the environment: none can be made under filters."""
    with socket.socket() as sock:
        send(sock, 0x20000000, ("127.0.0.1", int(os.environ["FILTERED_PORT"])))


def _run_machine_code(code: bytes) -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


def _call_as_i386() -> None:
    _run_machine_code(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret


def _calls(name: str, *arguments: int | bytes | None) -> Callable[[], None]:
    def attack() -> None:
        system_call(name, *arguments)

    return attack


# What an unfiltered process can do, or at least what the kernel would look at more closely. These run without filters too, also as root:
# nothing here may touch any process but this one and its parent, or leave anything behind.
ATTACKS: dict[str, Callable[[], object]] = {
    "execve": _execute,
    "execveat": _calls("execveat", -100, b"/bin/true\0", 0, 0, 0),
    "fork": _fork,
    "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "subprocess": lambda: subprocess.run(["/bin/true"], check=True),
    "clone with CLONE_PARENT": lambda: _fork_for(0x8000),
    "clone with CLONE_NEWUSER": lambda: _fork_for(0x10000000),
    "clone with CLONE_NEWUSER, high half set": lambda: _fork_for(0x10000000 | HIGH),
    "clone3": _calls("clone3", None, 0),
    "socket inet stream": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "socket inet6 stream": _socket(socket.AF_INET6, socket.SOCK_STREAM),
    "socket inet datagram": _socket(socket.AF_INET, socket.SOCK_DGRAM),
    "socket unix stream": _socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "socket unix datagram": _socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "socket netlink": _socket(16, socket.SOCK_RAW),
    "socket netlink, high half set": _calls("socket", 16 | HIGH, 3, 0),
    "socket alg": _socket(38, socket.SOCK_SEQPACKET),
    "socket vsock": _socket(40, socket.SOCK_STREAM),
    "socket packet": _socket(17, socket.SOCK_RAW),
    "socket inet raw": _socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "socket inet stream of mptcp": _socket(socket.AF_INET, socket.SOCK_STREAM, 262),
    "socketpair of datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].close(),
    "bind": _bind,
    "connect": _connect,
    "disconnect the channel": _disconnect,
    "ptrace": _calls("ptrace", 0, 0, 0, 0),
    "process_vm_readv": _read_memory,
    "kcmp": lambda: system_call("kcmp", os.getpid(), os.getpid(), 1, 0, 0),
    "pidfd_getfd": _steal_descriptor,
    "process_madvise": _calls("process_madvise", -1, 0, 0, 0, 0),
    "memfd_create": _calls("memfd_create", b"x\0", 0),
    "memfd_secret": _calls("memfd_secret", 0),
    "io_uring_setup": _calls("io_uring_setup", 1, bytes(120)),
    "io_setup": _calls("io_setup", 1, bytes(8)),
    "userfaultfd": _calls("userfaultfd", 1),
    "keyctl": _calls("keyctl", 0, -3, 1),
    "bpf": _calls("bpf", 0, None, 0),
    "perf_event_open": _calls("perf_event_open", None, 0, -1, -1, 0),
    "unshare": _calls("unshare", 0x10000000),
    "setns": _calls("setns", -1, 0),
    "mount": _calls("mount", None, None, None, 0, None),
    "chroot": _calls("chroot", b"/\0"),
    "inotify_init1": _calls("inotify_init1", 0),
    "fanotify_init": _calls("fanotify_init", 0x200, 0),
    "name_to_handle_at": _calls("name_to_handle_at", -100, b"/\0", bytes(8), bytes(4), 0),
    "open_by_handle_at": _calls("open_by_handle_at", -1, None, 0),
    "shmget": _calls("shmget", 0, 0, 0o600),
    "semget": _calls("semget", 0, 0, 0o600),
    "mq_open": _calls("mq_open", None, 0, 0, 0),
    "mkfifo": _make_fifo,
    "vmsplice": _calls("vmsplice", -1, None, 0, 0),
    "mbind": _calls("mbind", 0, 0, 0, 0, 0, 0),
    "personality": _calls("personality", 0xFFFFFFFF),
    "sched_setscheduler": _calls("sched_setscheduler", 0, 3, bytes(4)),
    "setuid": lambda: os.setuid(os.getuid()),
    "TIOCSTI, high half set": _type_into_terminal,
    "FS_IOC_FSSETXATTR": _leave_project,
    "F_SETPIPE_SZ": _grow_pipe,
    "F_SETLEASE": _lease,
    "F_NOTIFY": _watch_folder,
    "SO_PEERPIDFD": _peer_handle,
    "SO_PASSPIDFD": _handle_with_each_message,
    "SO_ATTACH_FILTER": _filter_in_socket,
    "PR_SET_PDEATHSIG": _calls("prctl", 1, 0, 0, 0, 0),
    "PR_SET_PDEATHSIG, high half set": _calls("prctl", 1 | HIGH, 0, 0, 0, 0),
    "PR_SET_DUMPABLE": _calls("prctl", 4, 1, 0, 0, 0),
    "PR_SET_PTRACER": _calls("prctl", 0x59616D61, 1, 0, 0, 0),
    "PR_SET_SECCOMP": _calls("prctl", 22, 2, None, 0, 0),
    "seccomp": _calls("seccomp", _SECCOMP_SET_MODE_FILTER, 0, None),
    "landlock_create_ruleset": _calls("landlock_create_ruleset", None, 0, 1),
    "limits of another process": lambda: system_call("prlimit64", os.getppid(), 7, 0, bytes(16)),
    "niceness of another process": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, 0)),
    "processors of another process": lambda: os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0)),
    "signal to all processes": lambda: os.kill(-1, 0),
    "send descriptors": _send_descriptors,
    "set-user-id by chmod": lambda: _change_mode(0o4700, os.chmod),
    "set-group-id by chmod": lambda: _change_mode(0o2700, os.chmod),
    "set-user-id by fchmod": lambda: _change_mode(0o4700, _change_mode_by_descriptor),
    "set-user-id by fchmodat": lambda: _change_mode(
        0o4700, lambda name, mode: system_call("fchmodat", -100, f"{name}\0".encode(), mode | HIGH)
    ),
    "set-user-id by openat": lambda: _make_with_mode(os.O_CREAT, 0o4700),
    "set-group-id by openat": lambda: _make_with_mode(os.O_CREAT, 0o2700),
    "set-user-id by openat without a name": lambda: _make_with_mode(os.O_TMPFILE, 0o4700),
    "openat2": lambda: os.close(system_call("openat2", -100, b"/\0", bytes(24), 24)),
}
if _MACHINE == "x86_64":
    ATTACKS |= {
        "call as i386": _call_as_i386,
        "call as x32": lambda: raw_call(0x40000000 | 39),
        "set-user-id by creat": lambda: _creat(0o4700),
        "set-group-id by creat": lambda: _creat(0o2700),
        "set-user-id by open": _open_with_mode,
    }

# Those that are in the way only where a plugin has the machine's files and network before it.
ATTACKS_ON_THE_MACHINE: dict[str, Callable[[], object]] = {
    "fchmod": lambda: _by_descriptor(lambda fd: os.fchmod(fd, 0o640)),
    "fchown": lambda: _by_descriptor(lambda fd: os.fchown(fd, -1, -1)),
    "futimens": lambda: _by_descriptor(lambda fd: os.utime(fd, (0, 0))),
    "fsetxattr": lambda: _by_descriptor(lambda fd: os.setxattr(fd, "user.note", b"x")),
    "fremovexattr": lambda: _by_descriptor(lambda fd: os.removexattr(fd, "user.note")),
    "connect by sendto": lambda: _fast_open(lambda sock, flags, address: sock.sendto(b"x", flags, address)),
    "connect by sendmsg": lambda: _fast_open(lambda sock, flags, address: sock.sendmsg([b"x"], [], flags, address)),
}


def attempt(attack: Callable[[], object], programs: Sequence[bytes]) -> int:
    """Return what became of one attack, tried in a fork."""
    pid = os.fork()
    if pid == 0:
        code = _FAILED
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            load(programs)
            attack()
            code = 0
        except OSError as error:
            code = error.errno or _FAILED
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Read what to do, do it."""
    wanted = json.load(sys.stdin)
    programs = [bytes.fromhex(program) for program in wanted["programs"]]
    if "attacks" in wanted:
        known = ATTACKS | ATTACKS_ON_THE_MACHINE
        print(json.dumps({name: attempt(known[name], programs) for name in wanted["attacks"]}))
        return
    load(programs)
    if "code" in wanted:
        exec(compile(wanted["code"], "<filtered>", "exec"), {"__name__": "__main__"})
        return
    os.execv(wanted["command"][0], wanted["command"])


if __name__ == "__main__":
    main()
