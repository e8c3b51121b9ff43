"""Connect to a target that was granted, and to nothing it could be turned into.

* A name is looked up once. Every address that came of it is held against the rules, and one of those very addresses is connected to:
  nothing is looked up again, so that a second answer cannot lead elsewhere (DNS rebinding). One address that is refused refuses the name.
* Lookups run on threads of their own: one that hangs keeps neither the host's other work nor its end waiting.
* Proxies that the host's environment names are not used: they would look names up by themselves.

Source: feature HS6; ADR-0073.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import Future, StreamReader, StreamWriter
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import Protocol, final

from annexe.capabilities.egress import EgressLimits, EgressRules, Target
from annexe.errors import CallError

__all__ = ["Dialer", "Resolve", "SystemResolver"]

_STREAM_BYTES = 64 * 1024


class Resolve(Protocol):
    """Finds the addresses of a name."""

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        """Return addresses, best first, without brackets.

        Args:
            name: In ASCII; never an address.
            port: For resolvers that care.

        Raises:
            OSError: There are none.
        """


@final
class SystemResolver:
    """The machine's own resolver: DNS, its hosts file, and whatever else it is set up to ask.

    Args:
        threads: Lookups at once; further ones wait.
    """

    def __init__(self, *, threads: int = 4) -> None:
        self._free = asyncio.Semaphore(threads)

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        found: Future[list[str]] = loop.create_future()
        try:
            # A daemon: the system's resolver cannot be called off, and may take half a minute.
            Thread(target=self._look_up, args=(loop, found, name, port), name="annexe-resolver", daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        return await found

    def _look_up(self, loop: asyncio.AbstractEventLoop, found: Future[list[str]], name: str, port: int) -> None:
        addresses: list[str] = []
        fault: OSError | None = None
        try:
            infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(info[4][0]) for info in infos if info[0] in (socket.AF_INET, socket.AF_INET6)))
        except (OSError, UnicodeError) as error:
            fault = error if isinstance(error, OSError) else OSError(str(error))
        with suppress(RuntimeError):  # the loop was closed meanwhile; nobody waits
            loop.call_soon_threadsafe(self._settle, found, addresses, fault)

    def _settle(self, found: Future[list[str]], addresses: list[str], fault: OSError | None) -> None:
        self._free.release()
        if found.done():
            return
        if fault is not None:
            found.set_exception(fault)
        else:
            found.set_result(addresses)


@final
class Dialer:
    """Makes the connections of one plugin.

    Args:
        rules: The plugin's.
        limits: Bounds.
        resolve: Finds addresses; the machine's own resolver when left out.
    """

    def __init__(self, rules: EgressRules, limits: EgressLimits, *, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._limits = limits
        self._resolve = resolve or SystemResolver()

    async def connect(self, target: Target, *, tls: ssl.SSLContext | None = None) -> tuple[StreamReader, StreamWriter]:
        """Connect to a target.

        Args:
            target: Held against the grant by the caller.
            tls: To speak TLS and have the certificate hold for the target's host.

        Returns:
            Streams that the caller closes.

        Raises:
            PermissionDeniedError: The name leads to where no name may lead.
            CallError: There is no such name, or nobody answers; ``reason`` is ``dns``, ``connect`` or ``tls``.
        """
        try:
            async with asyncio.timeout(self._limits.connect_s):
                addresses = await self._addresses_of(target)
                sock = await self._first_of(addresses, target)
                return await self._streams(sock, target, tls)
        except TimeoutError as error:
            text = f"{target} did not take a connection within {self._limits.connect_s} s"
            raise self._failure(text, reason="connect") from error

    async def _addresses_of(self, target: Target) -> Sequence[str]:
        if target.is_address:
            return [target.bare_host]
        try:
            addresses = (await self._resolve(target.bare_host, target.port))[: self._limits.addresses]
        except OSError as error:
            raise self._failure(f"no address was found for {target.host}: {error}", reason="dns") from error
        for address in addresses:
            self._rules.check_address(target, address)
        return addresses

    async def _first_of(self, addresses: Sequence[str], target: Target) -> socket.socket:
        """Return a socket that is connected to the first address that answers."""
        fault: OSError | None = None
        for number, address in enumerate(addresses):
            try:
                # An address that swallows everything shall leave time for the others.
                async with asyncio.timeout(self._limits.connect_s / (len(addresses) - number)):
                    return await _connected(address, target.port)
            except OSError as error:  # a time-out is one
                fault = error
        said = f": {fault}" if fault is not None and str(fault) else ""
        raise self._failure(f"nobody took a connection at {target}{said}", reason="connect") from fault

    async def _streams(self, sock: socket.socket, target: Target, tls: ssl.SSLContext | None) -> tuple[StreamReader, StreamWriter]:
        try:
            name = target.bare_host if tls is not None else None
            return await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=_STREAM_BYTES)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise self._failure(f"no TLS connection to {target}: {error}", reason="tls") from error
            raise

    def _failure(self, text: str, *, reason: str) -> CallError:
        return CallError(f"{text}.", plugin=self._rules.plugin, method="fetch", reason=reason)


async def _connected(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
