"""The systems that annexe is measured against, each as small and as fast as its own documentation makes it.

Every class is one row's subject (see `worker.py`): it starts its peer in a process of its own and echoes the bytes of the benchmark's
request through it. They do less than annexe does: no types, no validation, no edit, no permissions, no record. A peer that carries
text only gets as many plain characters, none of which needs escaping.

* Imports of peers are inside the classes, because the floor runs under ``python -I -S``.
* A peer that is missing raises on start; its row then says why, and its ratios are absent.

Run as a script, this file is the other process: ``references.py CLASS ADDRESS``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Copies", "Floor", "GrpcAio", "GrpcSync", "PipeEcho", "Pyisolate", "Pyro", "Rpyc", "timed"]


_LONGEST = 64 * 1024 * 1024
_IN, _OUT, _BOTH = range(3)


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Return the microseconds of each of ``count`` calls in a row."""
    clock = time.perf_counter_ns
    samples = []
    for _ in range(count):
        began = clock()
        call()
        samples.append((clock() - began) / 1000)
    return samples


def peer(module: str) -> Any:
    """Import a peer, which the development environment need not have."""
    return importlib.import_module(module)


def expect(sent: object, got: object) -> None:
    """Raise unless the peer gave back what it was sent."""
    if sent != got:
        raise RuntimeError(f"the peer did not echo: sent {sent!r:.80}, got {got!r:.80}")


class Peer:
    """A subject whose other process is this file, run as ``references.py CLASS ADDRESS``."""

    def __init__(self, payload: str, text: str) -> None:
        self.payload = base64.b64decode(payload)
        self.text = text
        self.folder = tempfile.mkdtemp(prefix="bench-")
        self.process: subprocess.Popen[bytes] | None = None

    def address(self) -> str:
        return str(Path(self.folder) / "peer.sock")

    def spawn(self, *flags: str, address: str, pass_fds: tuple[int, ...] = ()) -> None:
        """Start the other process and wait until it says that it listens."""
        command = [sys.executable, *flags, __file__, type(self).__name__, address]
        self.process = subprocess.Popen(command, pass_fds=pass_fds, stdout=subprocess.PIPE)
        if not self.process.stdout or self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the other process of {type(self).__name__} did not start")

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Floor(Peer):
    """Blocking echo over a socket pair between two bare processes: no framing, no ids, no errors. Nothing in Python does less."""

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        self.sock = ours
        with theirs:
            self.spawn("-I", "-S", address=f"{theirs.fileno()}:{len(self.payload)}", pass_fds=(theirs.fileno(),))
        self.sock.sendall(self.payload)
        expect(self.payload, self.sock.recv(len(self.payload), socket.MSG_WAITALL))

    @staticmethod
    def serve(address: str) -> None:
        fd, size = (int(part) for part in address.split(":"))
        sock = socket.socket(fileno=fd)
        ready()
        while echoed := sock.recv(size):
            sock.sendall(echoed)

    def block(self, count: int) -> list[float]:
        # Written out rather than through `timed`: a function call more would flatter every ratio.
        clock, send, receive, payload, size = time.perf_counter_ns, self.sock.sendall, self.sock.recv, self.payload, len(self.payload)
        samples = []
        for _ in range(count):
            began = clock()
            send(payload)
            receive(size)
            samples.append((clock() - began) / 1000)
        return samples

    def rate(self, width: int, count: int) -> list[float]:
        """Return calls a second with ``width`` of them outstanding."""
        payload, size = self.payload, len(self.payload)
        began = time.perf_counter()
        self.sock.sendall(payload * width)
        sent, answered = width, 0
        while answered < count * size:
            answered += len(self.sock.recv(65536))
            more = min(count, answered // size + width) - sent
            if more > 0:
                self.sock.sendall(payload * more)
                sent += more
        return [count / (time.perf_counter() - began)]


class Copies(Peer):
    """The floor, and the copies that must be when bytes travel in shared memory: one into it to a plugin; from one, another out of it.

    The host has to take its own copy of what a plugin wrote; a plugin can read what the host wrote where it is. Both bare processes do
    their part between the floor's two messages, for a copy costs more where the last one was made by somebody else.
    """

    def start(self) -> None:
        import mmap

        files = [os.memfd_create(name) for name in ("in", "out")]
        for file in files:
            os.truncate(file, _LONGEST)
        self.to_peer, self.from_peer = (mmap.mmap(file, _LONGEST) for file in files)
        self.sock, theirs = socket.socketpair()
        with theirs:
            told = (theirs.fileno(), len(self.payload), *files)
            self.spawn("-I", "-S", address=":".join(map(str, told)), pass_fds=(theirs.fileno(), *files))
        for file in files:
            os.close(file)

    @staticmethod
    def serve(address: str) -> None:
        import mmap

        fd, size, *files = (int(part) for part in address.split(":"))
        sock = socket.socket(fileno=fd)
        from_host, to_host = (mmap.mmap(file, _LONGEST) for file in files)
        data = memoryview(bytes(range(256)) * (_LONGEST // 256))
        ready()
        while asked := sock.recv(size):
            length, way = int.from_bytes(asked[:8], "big"), asked[8]
            if way == _OUT:
                to_host[:length] = data[:length]
            elif way == _BOTH:
                to_host[:length] = memoryview(from_host)[:length]
            sock.sendall(asked)

    def block(self, size: int, way: str, count: int) -> list[float]:
        """Return microseconds of the floor with what ``in``, ``out`` or ``both`` needs."""
        clock, send, receive, to_peer, from_peer = time.perf_counter_ns, self.sock.sendall, self.sock.recv, self.to_peer, self.from_peer
        data, length, samples = os.urandom(size), len(self.payload), []
        is_in, is_out = way != "out", way != "in"
        message = size.to_bytes(8, "big") + bytes((_BOTH if is_in and is_out else _OUT if is_out else _IN,))
        message += bytes(length - len(message))
        for number in range(count + 1):  # the first touches what is there for the first time
            got = b""
            began = clock()
            if is_in:
                to_peer[:size] = data
            send(message)
            receive(length)
            if is_out:
                got = from_peer[:size]
            if number:
                samples.append((clock() - began) / 1000)
            if is_in and is_out:
                expect(data, got)
        return samples


class PipeEcho(Peer):
    """`multiprocessing.Pipe`, spawned: frames and pickle, nothing else."""

    def start(self) -> None:
        import multiprocessing

        self.connection, theirs = multiprocessing.get_context("spawn").Pipe()
        self.spawn(address=str(theirs.fileno()), pass_fds=(theirs.fileno(),))
        theirs.close()
        expect(self.payload, self.call())

    @staticmethod
    def serve(address: str) -> None:
        from multiprocessing.connection import Connection

        connection: Connection[Any, Any] = Connection(int(address))
        ready()
        with contextlib.suppress(EOFError):
            while True:
                connection.send(connection.recv())

    def call(self) -> object:
        self.connection.send(self.payload)
        return self.connection.recv()

    def block(self, count: int) -> list[float]:
        return timed(self.call, count)


class Pyro(Peer):
    """Pyro5 over a Unix socket, its default serializer (which carries bytes as base64, so it gets text)."""

    def start(self) -> None:
        self.spawn(address=self.address())
        self.proxy = peer("Pyro5.api").Proxy(f"PYRO:echo@./u:{self.address()}")
        expect(self.text, self.proxy.echo(self.text))

    @staticmethod
    def serve(address: str) -> None:
        pyro = peer("Pyro5.api")

        @pyro.expose
        class Echo:
            def echo(self, text: str) -> str:
                return text

        daemon = pyro.Daemon(unixsocket=address)
        daemon.register(Echo(), objectId="echo")
        ready()
        daemon.requestLoop()

    def block(self, count: int) -> list[float]:
        return timed(lambda: self.proxy.echo(self.text), count)


class Rpyc(Peer):
    """rpyc over a Unix socket, one thread a connection."""

    def start(self) -> None:
        self.spawn(address=self.address())
        self.connection = peer("rpyc.utils.factory").unix_connect(self.address())
        self.echo = self.connection.root.echo
        expect(self.payload, self.echo(self.payload))

    @staticmethod
    def serve(address: str) -> None:
        rpyc: Any = peer("rpyc")

        class Echo(rpyc.Service):  # type: ignore[misc]
            def exposed_echo(self, payload: bytes) -> bytes:
                return payload

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(1)
        ready()
        sock, _ = listener.accept()
        rpyc.utils.factory.connect_stream(rpyc.core.stream.SocketStream(sock), service=Echo).serve_all()

    def block(self, count: int) -> list[float]:
        return timed(lambda: self.echo(self.payload), count)


_METHOD = "/bench.Echo/Echo"


def _grpc_service(echo: Callable[[bytes, Any], Any]) -> Any:
    """Return the one-method service; without serializers gRPC carries the bytes as they are, so no generated stubs are needed."""
    grpc = peer("grpc")
    return grpc.method_handlers_generic_handler("bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})


class GrpcSync(Peer):
    """grpcio's blocking client and server over a Unix socket."""

    def start(self) -> None:
        self.spawn(address=self.address())
        self.channel = peer("grpc").insecure_channel(f"unix:{self.address()}")
        self.echo = self.channel.unary_unary(_METHOD)
        expect(self.payload, self.echo(self.payload))

    @staticmethod
    def serve(address: str) -> None:
        from concurrent import futures

        server = peer("grpc").server(futures.ThreadPoolExecutor(max_workers=4), handlers=(_grpc_service(lambda payload, _: payload),))
        server.add_insecure_port(f"unix:{address}")
        server.start()
        ready()
        server.wait_for_termination()

    def block(self, count: int) -> list[float]:
        return timed(lambda: self.echo(self.payload), count)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's loop, which annexe's rows also use: grpcio is a little faster on it."""
    import uvloop

    return uvloop.new_event_loop


class GrpcAio(Peer):
    """grpcio's asyncio client and server over a Unix socket, both on uvloop."""

    def start(self) -> None:
        self.spawn(address=self.address())
        self.runner = asyncio.Runner(loop_factory=_fastest_loop())

        async def connect() -> None:
            self.channel = peer("grpc.aio").insecure_channel(f"unix:{self.address()}")
            self.echo = self.channel.unary_unary(_METHOD)
            expect(self.payload, await self.echo(self.payload))

        self.runner.run(connect())

    @staticmethod
    def serve(address: str) -> None:
        async def echo(payload: bytes, _: Any) -> bytes:
            return payload

        async def run() -> None:
            server = peer("grpc.aio").server(handlers=(_grpc_service(echo),))
            server.add_insecure_port(f"unix:{address}")
            await server.start()
            ready()
            await server.wait_for_termination()

        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            runner.run(run())

    def block(self, count: int) -> list[float]:
        async def calls() -> list[float]:
            clock, echo, payload = time.perf_counter_ns, self.echo, self.payload
            samples = []
            for _ in range(count):
                began = clock()
                await echo(payload)
                samples.append((clock() - began) / 1000)
            return samples

        return self.runner.run(calls())

    def rate(self, width: int, count: int) -> list[float]:
        """Return calls a second with ``width`` tasks on one connection."""

        async def caller(calls: int) -> None:
            for _ in range(calls):
                await self.echo(self.payload)

        async def all_callers() -> float:
            began = time.perf_counter()
            await asyncio.gather(*(caller(count // width) for _ in range(width)))
            return count // width * width / (time.perf_counter() - began)

        return [self.runner.run(all_callers())]


class Pyisolate(Peer):
    """pyisolate's sealed worker, as its README shows it, JSON over a Unix socket; its sandbox is off.

    Off is faster, so this is the stricter reference. Its virtual environment is made before anything is timed.
    """

    _EXTENSION = "class Unused: pass\n"

    def start(self) -> None:
        import logging

        pyisolate = peer("pyisolate")
        logging.disable(logging.INFO)
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it needs its `uv`
        module = Path(self.folder) / "echo_plugin"
        module.mkdir()
        module.joinpath("__init__.py").write_text(self._EXTENSION)
        module.joinpath("echo_type.py").write_text(_PYISOLATE_TYPE)
        sys.path.insert(0, str(module))
        self.runner = asyncio.Runner()
        self.peers = pyisolate.ExtensionManager(peer("echo_type").EchoExtension, {"venv_root_path": f"{self.folder}/venvs"})
        self.config: Any = {
            "name": "echo",
            "module_path": str(module),
            "isolated": True,
            "dependencies": [],
            "apis": [],
            "share_torch": False,
            "share_cuda_ipc": False,
            "execution_model": "sealed_worker",
            "sandbox_mode": pyisolate.SandboxMode.DISABLED,
        }
        self.load()

    def load(self) -> None:
        async def first() -> None:
            self.extension: Any = self.peers.load_extension(self.config)
            expect(self.text, await self.extension.echo(self.text))

        self.runner.run(first())

    def starts(self, count: int) -> list[float]:
        """Return the milliseconds from nothing running to the first correct answer, each time."""
        samples = []
        for _ in range(count):
            self.peers.stop_all_extensions()
            began = time.perf_counter()
            self.load()
            samples.append((time.perf_counter() - began) * 1000)
        return samples

    def memory_mb(self) -> list[float]:
        """Return what the extension's process takes, in MB of PSS."""
        pids = [extension.proc.pid for extension in self.peers.extensions.values()]
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
        return [sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024]

    def block(self, count: int) -> list[float]:
        async def calls() -> list[float]:
            clock, text = time.perf_counter_ns, self.text
            echo = self.extension.proxy.echo
            samples = []
            for _ in range(count):
                began = clock()
                await echo(text)
                samples.append((clock() - began) / 1000)
            return samples

        return self.runner.run(calls())

    def close(self) -> None:
        for extension in self.peers.extensions.values():
            extension.proc.kill()
        super().close()


_PYISOLATE_TYPE = """
from pyisolate import ExtensionBase


class EchoExtension(ExtensionBase):
    async def on_module_loaded(self, module):
        pass

    async def echo(self, text):
        return text
"""


def ready() -> None:
    """Tell the starting process that this one listens."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    globals()[sys.argv[1]].serve(sys.argv[2])
