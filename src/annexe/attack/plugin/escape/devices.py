"""Devices, and terminals of people."""

from __future__ import annotations

import fcntl
import os
import signal
import stat

from .catalogue import attack
from .outcome import judge, stopped, through

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_TIOCSTI, _TIOCSCTTY = 0x5412, 0x540E
_HARMLESS = frozenset({"null", "zero", "full", "random", "urandom", "tty", "ptmx"})


@attack("open-devices", "Open a device that every user of the machine may open.", stopped_by=("namespaces", "landlock"))
def _open_devices(_targets: Targets) -> Outcome:
    found, last = [], None
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
                if name in _HARMLESS or folder.startswith(("/dev/pts", "/dev/fd")) or not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                    continue
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
                found.append(path)
            except OSError as error:
                last = error
    if found:
        return through(f"opened {', '.join(found[:5])}")
    return stopped(f"none of them{f' ({last.strerror})' if last is not None else ''}")


@attack("disk-device", "Read the machine's disk past all files.", stopped_by=("namespaces", "landlock"), unix=True)
def _disk_device(_targets: Targets) -> Outcome:
    last = OSError(2, "no disk in sight", "/dev")
    for name in ("vda", "sda", "nvme0n1", "xvda", "loop0"):
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDONLY))
        except OSError as error:
            last = error if not isinstance(error, FileNotFoundError) else last
            continue
        return through(f"opened /dev/{name}")
    raise last


@attack("memory-device", "Read the machine's memory through a device.", stopped_by=("namespaces", "landlock"), unix=True)
def _memory_device(_targets: Targets) -> Outcome:
    for path in ("/dev/mem", "/dev/port", "/proc/kcore"):
        if os.path.exists(path):
            os.close(os.open(path, os.O_RDONLY))
            return through(f"opened {path}")
    return stopped("there is none")


@attack("kernel-message", "Write into the kernel's log.", stopped_by=("namespaces", "landlock"), unix=True)
def _kernel_message(_targets: Targets) -> Outcome:
    os.close(os.open("/dev/kmsg", os.O_WRONLY))
    return through("opened it for writing, and wrote nothing")


@attack("make-device", "Make a device of one's own.", stopped_by=("namespaces", "landlock", "seccomp"), unix=True)
def _make_device(targets: Targets) -> Outcome:
    path = os.path.join(targets.work, "device")
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))
    os.unlink(path)
    return through("made one, and removed it")


@attack("own-terminal", "Speak to the terminal that the host was started from.", stopped_by=("host",))
def _own_terminal(_targets: Targets) -> Outcome:
    os.close(os.open("/dev/tty", os.O_RDWR))
    return through("opened it")


@attack("write-terminal", "Write to a terminal of the host's user's.", stopped_by=("namespaces", "landlock", "uid"), check="shown")
def _write_terminal(targets: Targets) -> Outcome:
    fd = os.open(targets.terminal, os.O_WRONLY | os.O_NOCTTY)
    os.write(fd, targets.token.encode())
    os.close(fd)
    return judge("wrote the token")


@attack(
    "type-into-terminal",
    "Type into a terminal of the host's user's, as if a person did.",
    stopped_by=("namespaces", "landlock", "seccomp", "uid"),
    check="typed",
)
def _type_into_terminal(targets: Targets) -> Outcome:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which its closing brings
    # Without O_NOCTTY: a leader of a session without a terminal gets this one, and may then type.
    fd = os.open(targets.terminal, os.O_RDWR)
    try:
        for letter in targets.token[:8].encode() + b"\n":
            fcntl.ioctl(fd, _TIOCSTI, bytes([letter]))
    except OSError as error:
        raise OSError(error.errno, error.strerror, "TIOCSTI") from error
    finally:
        os.close(fd)
    return judge("typed it")


@attack(
    "type-past-filter",
    "Type into a terminal with a request of 64 bits, which a filter may not recognise.",
    stopped_by=("landlock", "seccomp"),
)
def _type_past_filter(_targets: Targets) -> Outcome:
    import ctypes

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which its closing brings
    main = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(main, 0x40045431, bytes(4))  # TIOCSPTLCK: unlock
        number = int.from_bytes(fcntl.ioctl(main, 0x80045430, bytes(4)), "little")  # TIOCGPTN
        side = os.open(f"/dev/pts/{number}", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        request = ctypes.c_ulong(_TIOCSTI | 1 << 32)
        result = libc.syscall(16 if os.uname().machine == "x86_64" else 29, ctypes.c_long(side), request, b"x")
        error = ctypes.get_errno()
        os.close(side)
    finally:
        os.close(main)
    if result == -1:
        raise OSError(error, os.strerror(error), "TIOCSTI")
    return through("typed into one of its own")
