"""Services of the host for attacks to reach: TCP, UDP and Unix sockets, on one thread.

Whoever connects is told the token; what is sent to a datagram socket is kept. Everything listens on loopback or has a name of its own.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import final

__all__ = ["Services"]

_BACKLOG = 16


@final
class Services:
    """Listening sockets and what arrived at them.

    Args:
        folder: For sockets that have a file; every user must be able to pass it.
        token: What they say.
        name: Beginning of the names of sockets that have none.

    Attributes:
        tcp_port: On 127.0.0.1.
        tcp6_port: On ::1; 0 where there is no IPv6.
        udp_port: On 127.0.0.1.
        free_port: Where nobody listens.
        abstract_name: Of a stream socket.
        abstract_datagram_name: Of a datagram socket.
        abstract_free_name: Nobody has it.
        socket_path: Of a stream socket.
        datagram_path: Of a datagram socket.
    """

    def __init__(self, folder: Path, *, token: str, name: str) -> None:
        self._token = token.encode()
        self._selector = selectors.DefaultSelector()
        self._arrived: SimpleQueue[bytes] = SimpleQueue()
        self._stopping = False
        self.tcp_port = self._offer(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1]
        self.tcp6_port = 0
        with contextlib.suppress(OSError):
            self.tcp6_port = self._offer(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)).getsockname()[1]
        self.udp_port = self._offer(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()[1]
        self.abstract_name, self.abstract_datagram_name, self.abstract_free_name = f"{name}-s", f"{name}-d", f"{name}-f"
        self._offer(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.abstract_name}")
        self._offer(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{self.abstract_datagram_name}")
        self.socket_path, self.datagram_path = str(folder / "service"), str(folder / "mailbox")
        for kind, path in ((socket.SOCK_STREAM, self.socket_path), (socket.SOCK_DGRAM, self.datagram_path)):
            self._offer(socket.AF_UNIX, kind, path)
            Path(path).chmod(0o777)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.free_port: int = free.getsockname()[1]
        self._waker, waking = socket.socketpair()
        self._selector.register(waking, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="annexe-attack-services", daemon=True)
        self._thread.start()

    def take_arrived(self) -> bytes:
        """Return what was sent since the last time, and forget it."""
        return b"\n".join(self._arrived.get_nowait() for _ in range(self._arrived.qsize()))

    def close(self) -> None:
        """Stop listening."""
        self._stopping = True
        self._waker.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._waker.close()

    def _offer(self, family: int, kind: int, address: object) -> socket.socket:
        sock = socket.socket(family, kind)
        try:
            sock.bind(address)  # type: ignore[arg-type]  # of its family
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def _serve(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select():
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):  # gone again already
                    self._answer(key.fileobj)

    def _answer(self, sock: socket.socket) -> None:
        if sock.type != socket.SOCK_STREAM:
            self._arrived.put(sock.recv(65536))
        elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            caller, _ = sock.accept()
            with caller:
                caller.setblocking(False)
                caller.sendall(self._token)
