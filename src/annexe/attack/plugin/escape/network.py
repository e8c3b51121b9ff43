"""The network: the machine's own services, and services of the plugin's own."""

from __future__ import annotations

import os
import socket

from .catalogue import attack
from .outcome import absent, judge, stopped, through
from .probes import greet
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_TIMEOUT_S = 2.0
_IPPROTO_MPTCP = 262
_SOCK_SEQPACKET = 5


def _hears(targets: Targets, sock: socket.socket, address: object, *, kind: str) -> Outcome:
    with sock:
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.connect(address)  # type: ignore[arg-type]
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), "connect") from error
        return through(f"talked to the host's {kind}") if targets.has_token(sock.recv(4096)) else stopped("it is not the host's")


@attack("tcp", "Connect to a service on the machine's loopback.", stopped_by=("namespaces", "landlock", "seccomp"))
def _tcp(targets: Targets) -> Outcome:
    return _hears(targets, _socket(socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", targets.tcp_port), kind="TCP service")


@attack("tcp6", "The same over IPv6.", stopped_by=("namespaces", "landlock", "seccomp"))
def _tcp6(targets: Targets) -> Outcome:
    if not targets.tcp6_port:
        return absent("the machine has no IPv6")
    return _hears(targets, _socket(socket.AF_INET6, socket.SOCK_STREAM), ("::1", targets.tcp6_port), kind="TCP service")


@attack("multipath-tcp", "Connect by multipath TCP, which a rule on TCP may have forgotten.", stopped_by=("namespaces", "seccomp"))
def _multipath_tcp(targets: Targets) -> Outcome:
    sock = _socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP)
    return _hears(targets, sock, ("127.0.0.1", targets.tcp_port), kind="TCP service")


@attack("tcp-fast-open", "Connect by sending, without the call connect.", stopped_by=("namespaces", "seccomp"))
def _tcp_fast_open(targets: Targets) -> Outcome:
    with _socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.sendto(b"x", 0x20000000, ("127.0.0.1", targets.tcp_port))  # MSG_FASTOPEN
        except OSError as error:
            if error.errno != 115:  # EINPROGRESS: it is under way
                raise OSError(error.errno, error.strerror, "sendto") from error
        return through("talked to the host's service") if targets.has_token(sock.recv(4096)) else stopped("it is not the host's")


@attack(
    "tcp-listen", "Offer a service that the machine can connect to.", stopped_by=("namespaces", "landlock", "seccomp"), check="port-open"
)
def _tcp_listen(targets: Targets) -> Outcome:
    listener = _socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", targets.free_port))
        listener.listen(4)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "bind") from error
    greet(targets, listener)
    return judge(f"listens on {targets.free_port}")


@attack(
    "tcp-listen-unnamed",
    "Offer a service on a port that the kernel chooses, without the call bind.",
    stopped_by=("namespaces", "seccomp"),
    check="port-open",
)
def _tcp_listen_unnamed(targets: Targets) -> Outcome:
    listener = _socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.listen(4)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "listen") from error
    greet(targets, listener)
    return judge("listens", port=listener.getsockname()[1])


@attack("udp", "Send a datagram to a service on the machine's loopback.", stopped_by=("namespaces", "seccomp"), check="delivered")
def _udp(targets: Targets) -> Outcome:
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(targets.token.encode(), ("127.0.0.1", targets.udp_port))
    return judge("sent it")


@attack("name-service", "Ask a name server, with the secret in the name.", stopped_by=("namespaces", "seccomp"), check="delivered")
def _name_service(targets: Targets) -> Outcome:
    label = targets.token.encode()[:60]
    question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + bytes([len(label)]) + label + b"\x07invalid\x00\x00\x01\x00\x01"
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", targets.udp_port))
        sock.send(question)
    return judge("asked")


@attack("raw-socket", "Forge packets.", stopped_by=("namespaces", "seccomp"), unix=True)
def _raw_socket(_targets: Targets) -> Outcome:
    _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return through("opened a raw socket")


@attack("packet-socket", "Listen to all that passes on the wire.", stopped_by=("namespaces", "seccomp"), unix=True)
def _packet_socket(_targets: Targets) -> Outcome:
    _socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    return through("opened a packet socket")


@attack("netlink-route", "Ask the kernel for its routes over netlink.", stopped_by=("seccomp",))
def _netlink_route(_targets: Targets) -> Outcome:
    with _socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.bind((0, 0))
        # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
        sock.send(b"\x14\x00\x00\x00\x12\x00\x01\x03\x01\x00\x00\x00\x00\x00\x00\x00\x11\x00\x00\x00")
        return through(f"it answered {len(sock.recv(65536))} bytes")


@attack("netlink-events", "Listen to the kernel's news of devices over netlink.", stopped_by=("seccomp",))
def _netlink_events(_targets: Targets) -> Outcome:
    with _socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as sock:
        sock.bind((0, 1))
    return through("listened")


@attack("kernel-crypto", "Use the kernel's cryptography over a socket.", stopped_by=("seccomp",))
def _kernel_crypto(targets: Targets) -> Outcome:
    if socket.AF_ALG in targets.missing_families:
        return absent("the kernel has none")
    with _socket(socket.AF_ALG, _SOCK_SEQPACKET, 0) as sock:
        sock.bind(("hash", "sha256"))
    return through("was given a hash")


@attack("virtual-machine-socket", "Open a socket to the machine's hypervisor.", stopped_by=("seccomp",))
def _virtual_machine_socket(targets: Targets) -> Outcome:
    if socket.AF_VSOCK in targets.missing_families:
        return absent("the kernel has none")
    _socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return through("opened one")


@attack("io-uring", "Make calls through a ring, past every filter of calls.", stopped_by=("seccomp",))
def _io_uring(_targets: Targets) -> Outcome:
    parameters = bytearray(120)
    import ctypes

    buffer = (ctypes.c_char * 120).from_buffer(parameters)
    os.close(syscall("io_uring_setup", 4, ctypes.byref(buffer)))
    return through("was given a ring")


def _socket(family: int, kind: int, protocol: int = 0) -> socket.socket:
    try:
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "socket") from error
