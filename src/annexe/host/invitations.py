"""Invitations to attach: one token each, good for once, for a short time, for one plugin.

* The hash of a token is kept and nothing else of it.
* A token is held against all of them, each in constant time, so that how long it takes tells nothing.
* What was shown is good no more, whatever comes of it.

No clock: times are monotonic seconds, passed in.

Source: features LC15 and WP8; ADR-0095.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from dataclasses import dataclass, field
from typing import Any, final

from annexe.errors import HostError, PluginBusyError
from annexe.supervision.attachment import Guest

__all__ = ["LINE_BYTES", "MAX_INVITATIONS", "VALID_S", "Invitation", "Invitations"]

VALID_S = 300.0
"""How long a token is good for."""

MAX_INVITATIONS = 8
"""How many are open at once."""

_PREFIX = b"annexe-attach 1 "
_TOKEN_CHARS = 64
LINE_BYTES = len(_PREFIX) + _TOKEN_CHARS + 1
"""How long the line is that shows a token."""


@final
@dataclass(slots=True, eq=False)
class Invitation:
    """A plugin that waits for a process to take its place.

    Attributes:
        plugin: Id.
        digest: SHA3-256 of the token.
        expires_at: Monotonic time.
        news: What becomes of it, for the operator: ``state`` and facts.
        guest: The process, once it has shown the token.
    """

    plugin: str
    digest: bytes
    expires_at: float
    news: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    guest: Guest | None = None

    def tell(self, state: str, **facts: Any) -> None:
        """Tell the operator."""
        self.news.put_nowait({"state": state, "plugin": self.plugin, **facts})


@final
class Invitations:
    """Those of one host that nobody has followed yet."""

    def __init__(self) -> None:
        self._open: list[Invitation] = []

    def issue(self, plugin: str, *, now: float) -> tuple[str, Invitation]:
        """Return a new token, and what it is for.

        Raises:
            PluginBusyError: Too many are open.
        """
        self._open = [one for one in self._open if one.expires_at > now]
        if len(self._open) >= MAX_INVITATIONS:
            raise PluginBusyError(f"{MAX_INVITATIONS} plugins wait for a process to attach already; try again", limit=MAX_INVITATIONS)
        token = os.urandom(_TOKEN_CHARS // 2).hex()
        invitation = Invitation(plugin, _digest(token.encode()), now + VALID_S)
        self._open.append(invitation)
        return token, invitation

    def withdraw(self, invitation: Invitation) -> None:
        """Let it be good no more. Idempotent."""
        if invitation in self._open:
            self._open.remove(invitation)

    def clear(self) -> None:
        """Withdraw all."""
        self._open.clear()

    def redeem(self, line: bytes, *, now: float) -> Invitation:
        """Return what a token is for that a process shows; it is good no more.

        Args:
            line: ``LINE_BYTES`` that came from it.
            now: Monotonic time.

        Raises:
            HostError: It is good for nothing.
        """
        token, found = line[len(_PREFIX) : -1], None
        digest = _digest(token)
        for invitation in self._open:
            if hmac.compare_digest(invitation.digest, digest):
                found = invitation
        if found is not None:
            self._open.remove(found)
        if found is None or found.expires_at <= now or line != _PREFIX + token + b"\n":
            text = f"the token is wrong, was used, or is older than {VALID_S:g} s; invite the plugin again with: annexe attach ID"
            raise HostError(text, reason="token", plugin=found.plugin if found is not None else None)
        return found


def _digest(token: bytes) -> bytes:
    import hashlib  # a millisecond, for this alone

    return hashlib.sha3_256(token).digest()
