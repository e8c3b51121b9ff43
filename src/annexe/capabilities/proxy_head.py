"""The head of a request to the proxy, and whether it brings the secret.

Pure. The grammar is that of ``http_grammar``; besides, a plain request names one address in full, and its ``Host`` is that of the address.

Source: RFC 9112, 3.2; RFC 9110, 9.3.6 (CONNECT); RFC 7617 (Basic); ADR-0073.
"""

from __future__ import annotations

import binascii
import hmac
import re
from dataclasses import dataclass
from typing import final

from annexe.capabilities.egress import Target, Url, parse_target, parse_url
from annexe.capabilities.egress_http import Headers
from annexe.capabilities.http_grammar import BadMessageError, Framing, Length, framing_of, parse_fields
from annexe.errors import InvalidParamsError

__all__ = ["ProxyRequest", "is_authorised", "parse_head"]

_MAX_HEADERS = 128
_REQUEST_LINE = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
_UNSERVED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})
_NO_BODY = Framing(Length.COUNTED, 0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRequest:
    """What is asked of the proxy.

    Attributes:
        method: As it came.
        target: Where to, not yet held against the grant.
        url: Of a plain request; None for ``CONNECT``.
        headers: As they came.
        framing: Of its body.
        is_http_10: It is of HTTP/1.0.
    """

    method: str
    target: Target
    url: Url | None
    headers: Headers
    framing: Framing
    is_http_10: bool

    def value(self, name: str) -> str | None:
        """Return a header's first value.

        Args:
            name: In lower case.
        """
        return next((value for found, value in self.headers if found.lower() == name), None)


def parse_head(head: bytes) -> ProxyRequest:
    """Read a request's head.

    Args:
        head: Up to and with the empty line that ends it.

    Raises:
        BadMessageError: It is no request to a proxy, or has more than one reading.
    """
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadMessageError("expected a request line of HTTP/1.1, such as 'CONNECT api.example.org:443 HTTP/1.1'")
    method, address, is_http_10 = match[1].decode(), match[2].decode(), match[3] == b"0"
    headers = parse_fields(lines[1:], most=_MAX_HEADERS)
    framing = framing_of(headers, is_http_10=is_http_10, otherwise=_NO_BODY)
    try:
        url = None if method == "CONNECT" else _plain_url(method, address)
        target = parse_target(address) if url is None else url.target
        request = ProxyRequest(method=method, target=target, url=url, headers=headers, framing=framing, is_http_10=is_http_10)
        _check(request)
    except InvalidParamsError as error:
        raise BadMessageError(error.message) from error
    return request


def _plain_url(method: str, address: str) -> Url:
    if method.upper() in _UNSERVED_METHODS:
        raise BadMessageError(f"method {method} is not served")
    if address.startswith("/") or address == "*":
        raise BadMessageError("this is a proxy: expected a whole address, such as http://api.example.org/")
    url = parse_url(address)
    if url.scheme != "http":
        raise BadMessageError("expected CONNECT for https addresses")
    return url


def _check(request: ProxyRequest) -> None:
    """Hold the headers against the first line."""
    if request.url is None:
        if request.framing != _NO_BODY:
            raise BadMessageError("a CONNECT with a body; expected none")
        return  # its Host is not looked at: nothing is done with it
    host = request.value("host")
    if host is None and not request.is_http_10:
        raise BadMessageError("a request without Host; expected one in HTTP/1.1")
    if host is not None and parse_target(host, default_port=80) != request.target:
        raise BadMessageError(f"a Host of {host[:60]!a} in a request for {request.target}; expected the same")


def is_authorised(request: ProxyRequest, secret: str) -> bool:
    """Say whether a request brings the secret: as the password of Basic credentials, whoever the user is."""
    scheme, _, encoded = (request.value("proxy-authorization") or "").partition(" ")
    try:
        credentials = binascii.a2b_base64(encoded.strip(), strict_mode=True)
    except ValueError:
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(credentials.partition(b":")[2], secret.encode())
