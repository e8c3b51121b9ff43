"""The way out of a plugin that was granted network: a listening socket of its own, which it hands to the host before its code is loaded.

The stub makes the socket on the loopback of the network that the plugin sees, tells the plugin's HTTP clients by their usual environment
variables, sends the descriptor through the channel and closes its own. The host accepts from it, and is the proxy. So nothing inside passes
bytes on, and nothing but the plugin can come, where it has a network of its own. Where it has none, others of the machine could; there the
proxy asks for a secret.

Source: feature IS4; docs/adr/0073-egress-by-the-host.md.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from annexe.launch.descriptors import let_descriptors_pass

__all__ = ["Egress", "egress_orders", "receive_egress"]

_HANDED = b"="
_HANDING_S = 10.0
# Both spellings: curl reads http_proxy in small letters alone.
_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


@final
@dataclass(frozen=True, slots=True)
class Egress:
    """Where a plugin's HTTP clients come out.

    Attributes:
        listener: Listens, non-blocking; nobody else has it. Whoever takes it closes it.
        secret: What the proxy must ask for; None where nobody else can come.
    """

    listener: socket.socket
    secret: str | None


def egress_orders(*, in_namespaces: bool) -> dict[str, Any]:
    """Return what the stub is told: names of environment variables, and their value with ``%d`` for the port; and what it need not know."""
    secret = None if in_namespaces else _new_secret()
    return {"names": _NAMES, "url": _url("%d", secret), "secret": secret}


def receive_egress(sock: socket.socket, orders: Mapping[str, Any]) -> Egress:
    """Take the listening socket from the stub. Blocking; at most 10 seconds.

    Args:
        sock: The host's end of the channel, blocking; it lets descriptors pass since before the stub could send one, and no more then.
        orders: What the stub was told.

    Raises:
        OSError: It does not come.
    """
    sock.settimeout(_HANDING_S)
    said, handles, _, _ = socket.recv_fds(sock, 1, 2, socket.MSG_CMSG_CLOEXEC)
    let_descriptors_pass(sock, False)
    listeners = [socket.socket(fileno=handle) for handle in handles]
    if said != _HANDED or len(listeners) != 1:
        for listener in listeners:
            listener.close()
        raise ConnectionError("the stub handed no listening socket over" if said else "the stub has ended")
    listeners[0].setblocking(False)
    return Egress(listeners[0], orders["secret"])


def _new_secret() -> str:
    """Draw a secret for one launch: 192 bits, of letters that a URL takes as they are."""
    return secrets.token_urlsafe(24)


def _url(port: str, secret: str | None) -> str:
    user = f"annexe:{secret}@" if secret is not None else ""
    return f"http://{user}127.0.0.1:{port}"
