"""What may stand in a request that the host makes for a plugin, and where a redirect leads.

Pure. Three rules keep one request one request:

* Method, header names and values are of the letters HTTP gives them: no line can be ended and begun by what a plugin sends.
* Headers that frame a message or belong to one connection (``Host``, ``Content-Length``, ``Connection``, ...) are the host's.
* A redirect is a new request: its address is read and held against the grant again, and credentials stay with the origin they were for.

Source: RFC 9110, 15.4 (redirects) and 7.6.1 (connection headers); the Fetch standard, "HTTP-redirect fetch"; ADR-0073.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final
from urllib.parse import urljoin

from annexe.capabilities.egress import EgressLimits, Url, parse_url
from annexe.errors import InvalidParamsError

__all__ = ["Headers", "HttpRequest", "check_request", "redirected", "without_connection_headers"]

Headers = tuple[tuple[str, str], ...]
"""Names and values in order; a name may come twice."""

_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_UNSERVED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
# One octet a character; no control characters but the tab, no blank at either end.
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\x20-\x7e\x80-\xff\t]*[\x21-\x7e\x80-\xff])?)?")
_CONNECTION_HEADERS = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HOSTS_OWN = _CONNECTION_HEADERS | {"content-length", "expect", "host", "http2-settings"}
_CREDENTIALS = frozenset({"authorization", "cookie"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHOWN_CHARS = 60


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, as it is made.

    Attributes:
        headers: Of the plugin's; what frames the message is added when it is sent.
    """

    url: Url
    method: str = "GET"
    headers: Headers = ()
    body: bytes | None = None


def check_request(request: HttpRequest, limits: EgressLimits) -> None:
    """Hold a plugin's request against what may be sent.

    Raises:
        InvalidParamsError: Something in it may not be, or is too much.
    """
    if _METHOD.fullmatch(request.method) is None or request.method in _UNSERVED_METHODS:
        raise _misfit(f"method {_shown(request.method)}: expected a method such as GET or POST, in capitals; not CONNECT or TRACE")
    if len(request.headers) > limits.headers:
        raise _misfit(f"{len(request.headers)} headers: expected at most {limits.headers}")
    for name, value in request.headers:
        _check_header(name, value)
    size = sum(len(name) + len(value) + 4 for name, value in request.headers)
    if size > limits.header_bytes:
        raise _misfit(f"headers of {size} bytes: expected at most {limits.header_bytes}")
    if request.body is not None and len(request.body) > limits.request_bytes:
        raise _misfit(f"a body of {len(request.body)} bytes: expected at most {limits.request_bytes}")
    if request.body is not None and request.method in ("GET", "HEAD"):
        raise _misfit(f"a {request.method} with a body: expected none, for servers differ in what they do with it")


def _check_header(name: str, value: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise _misfit(f"header {_shown(name)}: expected letters, digits and hyphens")
    if name.lower() in _HOSTS_OWN:
        raise _misfit(f"header {_shown(name)}: the host sets it itself, or it belongs to one connection")
    if _VALUE.fullmatch(value) is None:
        text = f"header {_shown(name)}: expected a value without line ends, control characters and blanks at its ends, in Latin-1"
        raise _misfit(text)


def redirected(request: HttpRequest, status: int, locations: Sequence[str]) -> HttpRequest | None:
    """Decide where an answer sends a request.

    Args:
        request: Was answered.
        status: Of the answer.
        locations: Values of its header ``Location``.

    Returns:
        The next request, not yet held against the grant; None when the answer is the answer.

    Raises:
        InvalidParamsError: It leads to what is no address to connect to, or to several.
    """
    if status not in _REDIRECTS or not locations:
        return None
    if len(locations) > 1:
        raise _misfit(f"a redirect from {request.url} to {len(locations)} places: expected one")
    url = _joined(request.url, locations[0])
    method, body, headers = request.method, request.body, request.headers
    if _becomes_get(method, status):
        method, body = "GET", None
        headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
    if url.origin != request.url.origin:
        headers = tuple(pair for pair in headers if pair[0].lower() not in _CREDENTIALS)
    return HttpRequest(url=url, method=method, headers=headers, body=body)


def _becomes_get(method: str, status: int) -> bool:
    return (status in (301, 302) and method == "POST") or (status == 303 and method not in ("GET", "HEAD"))


def _joined(base: Url, location: str) -> Url:
    # urljoin drops tabs and line ends; what has them is refused before it may.
    if not location.isprintable() or " " in location or "\\" in location:
        raise _misfit(f"a redirect from {base} to {_shown(location)}: expected a URL")
    try:
        joined = urljoin(str(base), location)
    except ValueError as error:  # brackets that do not fit
        raise _misfit(f"a redirect from {base} to {_shown(location)}: expected a URL") from error
    return parse_url(joined)


def without_connection_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """Leave out what belongs to one connection: the known headers, and those that ``Connection`` names."""
    pairs = tuple(headers)
    named = {word.strip().lower() for name, value in pairs if name.lower() == "connection" for word in value.split(",")}
    return tuple(pair for pair in pairs if pair[0].lower() not in _CONNECTION_HEADERS | named)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _misfit(text: str) -> InvalidParamsError:
    return InvalidParamsError(f"fetch: {text}.", method="fetch")
