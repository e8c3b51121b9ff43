"""Unix sockets: the host's, other plugins', and names that others trust."""

from __future__ import annotations

import json
import os
import socket

from .catalogue import attack
from .outcome import judge, stopped, through
from .probes import greet, read

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_TIMEOUT_S = 2.0


def _unix(kind: int = socket.SOCK_STREAM) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_UNIX, kind)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "socket") from error
    sock.settimeout(_TIMEOUT_S)
    return sock


def _hears(targets: Targets, address: str | bytes) -> Outcome:
    with _unix() as sock:
        try:
            sock.connect(address)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "connect") from error
        return through("talked to the host's service") if targets.has_token(sock.recv(4096)) else stopped("it is not the host's")


@attack("abstract-socket", "Connect to a Unix socket that has a name and no file.", stopped_by=("namespaces", "landlock", "seccomp"))
def _abstract_socket(targets: Targets) -> Outcome:
    return _hears(targets, b"\0" + targets.abstract_name.encode())


@attack(
    "abstract-datagram",
    "Send to a Unix socket that has a name and no file, without connecting.",
    stopped_by=("namespaces", "landlock", "seccomp"),
    check="delivered",
)
def _abstract_datagram(targets: Targets) -> Outcome:
    with _unix(socket.SOCK_DGRAM) as sock:
        sock.sendto(targets.token.encode(), b"\0" + targets.abstract_datagram_name.encode())
    return judge("sent it")


@attack("abstract-name", "Take a name that others will connect to.", stopped_by=("namespaces", "seccomp"), check="name-taken")
def _abstract_name(targets: Targets) -> Outcome:
    listener = _unix()
    listener.bind(b"\0" + targets.abstract_free_name.encode())
    listener.listen(4)
    greet(targets, listener)
    return judge("took it")


@attack("path-socket", "Connect to a Unix socket in the host's home.", stopped_by=("namespaces", "seccomp"))
def _path_socket(targets: Targets) -> Outcome:
    return _hears(targets, targets.socket_path)


@attack("path-socket-by-link", "Connect to it through a link of one's own.", stopped_by=("namespaces", "seccomp"))
def _path_socket_by_link(targets: Targets) -> Outcome:
    link = os.path.join(targets.work, "link")
    os.symlink(targets.socket_path, link)
    try:
        return _hears(targets, link)
    finally:
        os.unlink(link)


@attack(
    "path-datagram",
    "Send to a Unix socket in the host's home, without connecting.",
    stopped_by=("namespaces", "seccomp"),
    check="delivered",
)
def _path_datagram(targets: Targets) -> Outcome:
    with _unix(socket.SOCK_DGRAM) as sock:
        sock.sendto(targets.token.encode(), targets.datagram_path)
    return judge("sent it")


@attack(
    "pair-redirected",
    "Send elsewhere over one end of a pair of one's own.",
    stopped_by=("namespaces", "landlock", "seccomp"),
    check="delivered",
)
def _pair_redirected(targets: Targets) -> Outcome:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.connect(b"\0" + targets.abstract_datagram_name.encode())
        ours.send(targets.token.encode())
    return judge("turned it and sent")


@attack("control-socket", "Command the host over its control socket.", stopped_by=("namespaces", "landlock", "seccomp", "uid"))
def _control_socket(targets: Targets) -> Outcome:
    token = read(targets.control_token).decode().strip()
    with _unix() as sock:
        sock.connect(targets.control_socket)
        hello = {"id": 0, "method": "hello", "params": {"token": token, "protocol": 1}}
        sock.sendall(json.dumps(hello).encode() + b"\n" + b'{"id": 1, "method": "list"}\n')
        answer = b""
        while answer.count(b"\n") < 2:
            chunk = sock.recv(65536)
            if not chunk:
                break
            answer += chunk
    return through("it listed the plugins") if targets.other_plugin.encode() in answer else stopped(answer[:100].decode(errors="replace"))


@attack("control-knock", "Reach the host's control socket at all.", stopped_by=("namespaces", "seccomp", "uid"))
def _control_knock(targets: Targets) -> Outcome:
    with _unix() as sock:
        sock.connect(targets.control_socket)
    return through("connected, without the token")
