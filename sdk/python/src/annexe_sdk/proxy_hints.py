"""Which target the host's proxy refused, as the exceptions of HTTP clients tell it: the answer's body, which says it all, nobody prints.

Imported with ``hints``, when an error is told. Believes nothing that came over the network: looks at what was asked for, not at the answer.

Source: docs/how-to/reach-the-network.md.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["refused_target"]

_REFUSED = 403


def refused_target(error: BaseException) -> str:
    """Return ``host:port`` that the proxy answered 403 for, if it was not the server that did; empty when nobody answered 403."""
    answer: Any = getattr(error, "response", None)
    answer = error if answer is None else answer  # not by its truth: to requests a refusal is false
    if _REFUSED in (getattr(answer, "code", None), getattr(answer, "status_code", None)):
        return _of_url(str(getattr(answer, "url", "")))
    return _of_tunnel(error) if str(_REFUSED) in str(error) else ""


def _of_url(url: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(url)  # in a tunnel, as for https, the proxy answers before there is an answer to a request
    return _target(parts.hostname, parts.port or 80) if parts.scheme == "http" else ""


def _of_tunnel(error: BaseException) -> str:
    """Return what a tunnel was asked for: by ``http.client`` and all that is made of it, and by httpx."""
    trace = error.__traceback__
    while trace is not None:
        client: Any = trace.tb_frame.f_locals.get("self")
        origin = getattr(client, "_remote_origin", None)
        host = getattr(client, "_tunnel_host", None) if origin is None else origin.host
        if host:
            return _target(host, client._tunnel_port if origin is None else origin.port)
        trace = trace.tb_next
    return ""


def _target(host: "Any", port: "Any") -> str:
    host = (host.decode() if isinstance(host, bytes) else host or "").strip("[]").lower()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if host else ""
