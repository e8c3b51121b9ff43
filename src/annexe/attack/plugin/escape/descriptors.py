"""Descriptors: those one was given by mistake, too many of them, and some for the host."""

from __future__ import annotations

import os
import socket

from .catalogue import attack
from .outcome import capped, judge, stopped, through
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_CHANNEL = 3
_MEMORY = (4, 5)  # the channel's two files, which nobody can make longer or shorter
_SEALED = 1  # F_SEAL_SEAL


@attack("inherited-descriptors", "Find a descriptor of the host's that came along.", stopped_by=("descriptors",))
def _inherited_descriptors(_targets: Targets) -> Outcome:
    found = []
    for fd in range(_CHANNEL + 1, 4096):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    others = [fd for fd in found if not _is_of_the_channel(fd)]
    return through(f"found {others}") if others else stopped("the channel, its memory and the standard streams, no more")


def _is_of_the_channel(fd: int) -> bool:
    import fcntl

    try:
        return fd in _MEMORY and bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED)
    except OSError:  # something else is there
        return False


@attack("standard-input", "Read what is typed to the host.", stopped_by=("descriptors",))
def _standard_input(_targets: Targets) -> Outcome:
    os.set_blocking(0, False)
    is_null = os.path.realpath("/proc/self/fd/0") == "/dev/null" or os.fstat(0).st_rdev == os.makedev(1, 3)
    return stopped("it is /dev/null") if is_null or os.read(0, 1) == b"" else through("read from it")


@attack("descriptor-bomb", "Open more files than are allowed.", capped_by=("rlimits",))
def _descriptor_bomb(targets: Targets) -> Outcome:
    held: list[int] = []
    try:
        while len(held) < targets.open_files * 4:
            held.append(os.open("/dev/null", os.O_RDONLY))
        return through(f"{len(held)} at once, of {targets.open_files}")
    except OSError as error:
        return capped(f"{error.strerror} after {len(held)}")
    finally:
        for fd in held:
            os.close(fd)


@attack("descriptors-in-flight", "Hide open files in messages that nobody reads.", stopped_by=("seccomp",), capped_by=("rlimits",))
def _descriptors_in_flight(targets: Targets) -> Outcome:
    ours, theirs = socket.socketpair()
    null = os.open("/dev/null", os.O_RDONLY)
    sent = 0
    ours.setblocking(False)
    try:
        while sent < targets.open_files * 4:
            socket.send_fds(ours, [b"x"], [null] * 8)
            sent += 8
        return through(f"{sent} of {targets.open_files} are on their way")
    except OSError as error:
        if sent == 0:
            raise
        return capped(f"{error.strerror} after {sent}")
    finally:
        os.close(null)
        ours.close()
        theirs.close()


@attack("descriptors-for-host", "Send the host descriptors until it has no room for more.", stopped_by=("host",), check="host-descriptors")
def _descriptors_for_host(_targets: Targets) -> Outcome:
    null = os.open("/dev/null", os.O_RDONLY)
    payload = b"\x00\x00\x00\x02[]"
    sent = 0
    with socket.socket(fileno=os.dup(_CHANNEL)) as channel:
        channel.setblocking(False)
        for number in range(40):
            try:
                socket.send_fds(channel, [payload[number % len(payload) :][:1]], [null] * 8)
                sent += 8
            except OSError as error:
                if sent == 0:
                    raise OSError(error.errno, error.strerror, "sendmsg") from error
                break
    return judge(f"sent {sent}")


@attack("channel-elsewhere", "Turn the channel's end towards another socket.", stopped_by=("host",), check="delivered")
def _channel_elsewhere(targets: Targets) -> Outcome:
    """Works on a channel by TCP alone: the kernel connects no pair of Unix sockets anew."""
    with socket.socket(fileno=os.dup(_CHANNEL)) as channel:
        if channel.family == socket.AF_UNIX:
            channel.connect(b"\0" + targets.abstract_name.encode())
        else:  # a connection by TCP can be dissolved, and another made
            syscall("connect", channel.fileno(), bytes(16), 16)  # AF_UNSPEC
            channel.connect(("127.0.0.1", targets.tcp_port))
        heard = channel.recv(len(targets.token))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as teller:  # by another way: the channel no longer leads to the host
            teller.sendto(heard, ("127.0.0.1", targets.udp_port))
    except OSError:
        return through("connected it, and can tell nobody")
    return judge("connected it")


@attack("channel-second-end", "Open the host's end of the channel through /proc.", stopped_by=("host", "namespaces", "landlock"))
def _channel_second_end(_targets: Targets) -> Outcome:
    os.close(os.open(f"/proc/self/fd/{_CHANNEL}", os.O_RDWR))
    return through("opened it")


@attack(
    "host-freeze-pipe",
    "Make the host's log reading wait, by a pipe that is never read and never written.",
    stopped_by=("host",),
    check="host-answers",
)
def _host_freeze_pipe(_targets: Targets) -> Outcome:
    import fcntl

    flags = fcntl.fcntl(2, fcntl.F_GETFL)
    fcntl.fcntl(2, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    os.write(2, b"half a line without an end")
    return judge("made it a blocking one")
