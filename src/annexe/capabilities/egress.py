"""Where a plugin may connect to: the rules of the network permission.

Pure: no socket, no clock. ``fetch`` and ``proxy`` apply the same rules, so that neither is a way round the other.

* A target is allowed when the right ``network:host:port`` was granted, spelled as the manifest's own normal form; nothing else is compared.
* A name may lead to public addresses alone. Whoever grants an address grants that very address, whatever it is.
* A URL has one reading here or is refused: no user, no escapes in the host, no backslash, no control character, no address in a short or
  odd form.

Source: features HS6 and PE3; docs/how-to/reach-the-network.md; RFC 3986; ADR-0073.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import final
from urllib.parse import quote

from annexe.capabilities.egress_addresses import address_refusal
from annexe.errors import InvalidParamsError, PermissionDeniedError
from annexe.manifest import Manifest
from annexe.manifest.names import network_target
from annexe.manifest.values import MisfitError
from annexe.trust.grants import denial

__all__ = ["EVERY_TARGET", "EgressLimits", "EgressRules", "Target", "Url", "parse_target", "parse_url"]

_MIB = 1024 * 1024
_MAX_URL_CHARS = 8192
_MAX_HOST_CHARS = 253
_SHOWN_CHARS = 120
_DEFAULT_PORTS = {"http": 80, "https": 443}
_RIGHT = "network:"

EVERY_TARGET = f"{_RIGHT}*"
"""What a plugin has whose needs are being learned; no manifest can ask for it, and so nobody can grant it."""

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
# Blanks and control characters would end a line of the request, a backslash is a slash to some readers.
_UNFIT = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
# All that RFC 3986 lets stand as it is; "%" stays, for what is escaped already.
_STANDS = "%/:?[]@!$&'()*+,;=-._~"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EgressLimits:
    """What one plugin may take of the host's network; times in seconds.

    Attributes:
        request_bytes: Body of a request.
        response_bytes: Body of an answer, after it was unpacked. A frame must be able to hold it.
        header_bytes: Status line and headers of an answer; headers of a request.
        headers: Their number.
        pieces: Into how many chunks an answer may be cut: each costs the host, however small it is.
        redirects: Followed for one fetch.
        time_s: For one fetch, redirects included; never beyond the call's own deadline.
        connect_s: For finding an address and connecting to it.
        fetches: At once.
        connections: Through the proxy at once.
        connections_per_s: Through the proxy, made anew.
        connections_burst: So many may come at once.
        addresses: Of one name; what a resolver says beyond is not looked at.
        head_bytes: Of a request to the proxy.
        head_s: Until it is there.
        idle_s: Without a byte either way, after which a connection through the proxy ends.
        relayed_bytes: Either way through one connection of the proxy's; None: as many as there are.
    """

    request_bytes: int = 8 * _MIB
    response_bytes: int = 8 * _MIB
    header_bytes: int = 64 * 1024
    headers: int = 256
    pieces: int = 100_000
    redirects: int = 5
    time_s: float = 30.0
    connect_s: float = 10.0
    fetches: int = 8
    connections: int = 32
    connections_per_s: float = 50.0
    connections_burst: float = 100.0
    addresses: int = 8
    head_bytes: int = 16 * 1024
    head_s: float = 10.0
    idle_s: float = 60.0
    relayed_bytes: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Target:
    """One port of one host, in the manifest's normal form.

    Attributes:
        host: Name or address; an IPv6 address in brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def right(self) -> str:
        """The right that allows it."""
        return f"{_RIGHT}{self}"

    @property
    def bare_host(self) -> str:
        """The host without brackets: for resolvers, sockets and certificates."""
        return self.host.strip("[]")

    @property
    def is_address(self) -> bool:
        """Whether the host is an address and no name."""
        # The normal form has no name whose last label begins with a digit.
        return self.host.startswith("[") or self.host.rpartition(".")[2][:1].isdigit()


@final
@dataclass(frozen=True, slots=True)
class Url:
    """Where a request goes.

    Attributes:
        scheme: ``http`` or ``https``.
        path: With the query, as it stands in a request; begins with a slash, and is ASCII without blanks.
    """

    scheme: str
    target: Target
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """Host and port as the header ``Host`` has them: without the scheme's own port."""
        return self.target.host if self.target.port == _DEFAULT_PORTS[self.scheme] else str(self.target)

    @property
    def origin(self) -> tuple[str, Target]:
        """What credentials may not leave."""
        return self.scheme, self.target


def parse_url(text: str) -> Url:
    """Read an absolute URL.

    Raises:
        InvalidParamsError: It is none of ``http`` or ``https``, or has more than one reading.
    """
    if len(text) > _MAX_URL_CHARS:
        raise _misfit(text, f"at most {_MAX_URL_CHARS} characters")
    if _UNFIT.search(text):
        raise _misfit(text, "no blanks, control characters or backslashes; escape them with %")
    match = _URL.fullmatch(text)
    if match is None:
        raise _misfit(text, "http:// or https://")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    if "@" in authority:
        raise _misfit(text, "no user or password; send an Authorization header instead")
    target = parse_target(authority, default_port=_DEFAULT_PORTS[scheme])
    try:
        path = quote(path, safe=_STANDS)
    except UnicodeError as error:
        raise _misfit(text, "text that UTF-8 can hold") from error
    return Url(scheme, target, path if path.startswith("/") else f"/{path}")


def parse_target(authority: str, *, default_port: int | None = None) -> Target:
    """Read ``host:port`` and bring it into the form that rights have.

    Args:
        authority: Without a user.
        default_port: When it names none; None: it must name one.

    Raises:
        InvalidParamsError: It is not one host and one port.
    """
    match = _AUTHORITY.fullmatch(authority)
    port = (match[2] or "") if match is not None else ""
    if match is None or (not port and default_port is None):
        raise _misfit(authority, "one host and one port, such as 'api.example.org:443' or '[2001:db8::1]:443'")
    # A resolver that is handed "name." means "name"; both are one right.
    host = match[1] if match[1].startswith("[") else _ascii_host(match[1].removesuffix("."))
    try:
        normal = network_target(f"{host}:{port or default_port}")
    except MisfitError as error:
        raise _misfit(authority, error.expected) from error
    host, _, port = normal.rpartition(":")
    return Target(host, int(port))


def _ascii_host(host: str) -> str:
    """Return a name as rights have it, where it is written in other letters (and dots, and digits)."""
    if host.isascii():
        return host
    try:
        # Whatever it makes of the letters is held against the grant afterwards: a wrong reading can only be refused.
        return host.encode("idna").decode() if len(host) <= _MAX_HOST_CHARS else ""
    except UnicodeError:
        return ""


def _misfit(text: str, expected: str) -> InvalidParamsError:
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
    return InvalidParamsError(f"{shown!a} is no address to connect to: expected {expected}.", method="fetch")


@final
class EgressRules:
    """Where one plugin may connect to.

    Args:
        manifest: The plugin's.
        granted: Its rights, in normal form; those of other kinds are passed over.
        command: What grants the plugin what it asks for in this host.
    """

    def __init__(self, manifest: Manifest, granted: frozenset[str], *, command: str) -> None:
        self.plugin = manifest.id
        self._manifest = manifest
        self._rights = frozenset(right for right in granted if right.startswith(_RIGHT))
        self._command = command

    def check_target(self, target: Target) -> None:
        """Hold a target against the grant; before anything is looked up.

        Raises:
            PermissionDeniedError: It was not granted; names the manifest's line.
        """
        if target.right not in self._rights and EVERY_TARGET not in self._rights:
            raise denial(self.plugin, target.right, self._manifest, command=self._command)

    def check_address(self, target: Target, address: str) -> None:
        """Hold the address that a target led to against what names may lead to; for every address, before connecting to that very one.

        Args:
            target: Granted.
            address: As the resolver gave it, without brackets.

        Raises:
            PermissionDeniedError: It may not be connected to under this name.
        """
        if target.is_address:
            refused = "" if address == target.bare_host else "another address than the one granted"
        else:
            refused = address_refusal(address)
        if not refused:
            return
        right = _right_to(address, target.port)
        error = denial(self.plugin, right, self._manifest, command=self._command)
        cure = f"no name may lead there: use the address {right.removeprefix(_RIGHT)} in the URL"
        cure += ", which was granted" if right in self._rights else f", once that very address is granted: {error.message}"
        text = f"{target.host} leads to {address}, which is {refused}; {cure}"
        raise PermissionDeniedError.restored(text, self.plugin, error.data)


def _right_to(address: str, port: int) -> str:
    """Return the right to an address; of one interface's address, without the interface."""
    bare = address.partition("%")[0]
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        return f"{_RIGHT}{bare}:{port}"
    return f"{_RIGHT}[{ip}]:{port}" if ip.version == 6 else f"{_RIGHT}{ip}:{port}"
