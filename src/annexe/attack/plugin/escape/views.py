"""What can be learned of the machine and of who else is there."""

from __future__ import annotations

import os
import socket
import struct

from .catalogue import attack
from .outcome import stopped, through
from .probes import read
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []


@attack("process-list", "See which processes the machine runs.", stopped_by=("namespaces", "landlock"))
def _process_list(targets: Targets) -> Outcome:
    seen = [name for name in os.listdir("/proc") if name.isdigit()]
    return through(f"saw {len(seen)}") if str(targets.host_pid) in seen else stopped(f"saw {len(seen)}, the host not among them")


@attack("command-lines", "Read the command line of another process.", stopped_by=("namespaces", "landlock"))
def _command_lines(targets: Targets) -> Outcome:
    line = read(f"/proc/{targets.host_pid}/cmdline")
    return through(f"read {len(line)} bytes") if line else stopped("it is empty")


@attack("host-environment", "Read the host's environment from /proc.", stopped_by=("namespaces", "landlock", "uid"))
def _host_environment(targets: Targets) -> Outcome:
    content = read(f"/proc/{targets.host_pid}/environ")
    return through(f"read {len(content)} bytes") if content else stopped("it is empty")


@attack("victim-environment", "Read the environment of another process of the same user.", stopped_by=("namespaces", "landlock"))
def _victim_environment(targets: Targets) -> Outcome:
    content = read(f"/proc/{targets.victim_pid}/environ")
    return through("read it") if targets.has_token(content) else stopped("it is not the victim's")


@attack("own-environment", "Find a secret of the host's in the environment one was given.", stopped_by=("environment",))
def _own_environment(targets: Targets) -> Outcome:
    found = [name for name, value in os.environ.items() if targets.token in value]
    return through(f"found it in {found[0]}") if found else stopped(f"{len(os.environ)} names, no secret in them")


@attack("mount-table", "Learn the host's folders from the table of mounts.", stopped_by=("landlock",))
def _mount_table(_targets: Targets) -> Outcome:
    lines = read("/proc/self/mountinfo").splitlines()
    return through(f"read {len(lines)} lines") if lines else stopped("it is empty")


@attack("host-name", "Learn the machine's name.", stopped_by=("namespaces",))
def _host_name(targets: Targets) -> Outcome:
    name = os.uname().nodename
    return through(f"it is {name}") if name == targets.host_name else stopped(f"it says {name}")


@attack("network-interfaces", "Learn the machine's network interfaces and addresses.", stopped_by=("namespaces", "seccomp"))
def _network_interfaces(targets: Targets) -> Outcome:
    names = [name for _, name in socket.if_nameindex()]
    if targets.host_interfaces_count > len(names):
        return stopped(f"saw {', '.join(names)} alone")
    return through(f"saw {', '.join(names)}")


@attack("connections-table", "See the machine's connections in /proc/net.", stopped_by=("namespaces", "landlock"))
def _connections_table(targets: Targets) -> Outcome:
    port = f":{targets.tcp_port:04X} "
    table = read("/proc/self/net/tcp").decode()
    return through("saw the host's listening socket") if port in table else stopped("the host's socket is not in it")


@attack("socket-table", "See the names of the machine's Unix sockets in /proc/net.", stopped_by=("namespaces", "landlock"))
def _socket_table(targets: Targets) -> Outcome:
    with open("/proc/self/net/unix") as file:
        return through("saw the host's") if targets.abstract_name in file.read() else stopped("the host's is not in it")


@attack("peer-number", "Learn the host's process number from the channel.", stopped_by=("namespaces", "seccomp"))
def _peer_number(targets: Targets) -> Outcome:
    with socket.socket(fileno=os.dup(3)) as channel:
        pid, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return through(f"process {pid} of user {uid}") if pid == targets.host_pid else stopped(f"it says {pid}")


@attack("kernel-log", "Read the kernel's log.", stopped_by=("seccomp",), unix=True)
def _kernel_log(_targets: Targets) -> Outcome:
    buffer = bytes(4096)
    return through(f"read {syscall('syslog', 3, buffer, len(buffer))} bytes")


@attack("kernel-command-line", "Read what the kernel was started with.", stopped_by=("landlock",))
def _kernel_command_line(_targets: Targets) -> Outcome:
    return through("read it") if read("/proc/cmdline") else stopped("it is empty")


@attack("hardware", "Learn the machine's hardware from /sys.", stopped_by=("namespaces", "landlock"))
def _hardware(_targets: Targets) -> Outcome:
    return through(f"{len(os.listdir('/sys/class'))} classes of devices")


@attack("private-frame", "Find what the host told the stub still in memory.", stopped_by=("host",))
def _private_frame(targets: Targets) -> Outcome:
    import gc
    import sys

    values = [one for one in gc.get_objects() if isinstance(one, dict) and "host_pid" in one and "limits" in one]
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        values += [value for value in frame.f_locals.values() if isinstance(value, dict) and "limits" in value]
    return through("found it") if values and targets.token else stopped("it is gone")


@attack("stub-remains", "Find the stub's functions in the interpreter.", stopped_by=("host",))
def _stub_remains(_targets: Targets) -> Outcome:
    import sys

    main = sys.modules.get("__main__")
    left = [name for name in vars(main) if not name.startswith("__")] if main is not None else []
    return through(f"found {', '.join(left)}") if left else stopped("nothing of it is left in __main__")
